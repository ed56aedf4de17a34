#include "agent/base/proc_sys.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace espalier::base {
namespace {

TEST(ProcSysTest, TakesTheHostsOnlyWhereItIsMounted) {
  const std::string host = testing::TempDir() + "/host/proc/sys/";
  EXPECT_EQ(ProcSysPath("net/core/somaxconn", host),
            "/proc/sys/net/core/somaxconn");
  std::filesystem::create_directories(host + "net/core");
  std::ofstream(host + "net/core/somaxconn") << "1\n";
  EXPECT_EQ(ProcSysPath("net/core/somaxconn", host),
            host + "net/core/somaxconn");
  // Only net/ is mounted there.
  EXPECT_EQ(ProcSysPath("kernel/random/boot_id", host),
            "/proc/sys/kernel/random/boot_id");
  std::filesystem::remove_all(testing::TempDir() + "/host");
}

}  // namespace
}  // namespace espalier::base
