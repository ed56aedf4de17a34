#include "agent/main/process.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

TEST(InstanceLock, OneHolderWhoIsNamed) {
  std::string pattern =
      std::filesystem::temp_directory_path() / "espalier-lock-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const std::string folder = pattern + "/deep/run";
  {
    auto first = InstanceLock::Take(folder);
    ASSERT_TRUE(first.ok()) << first.status();
    struct stat info{};
    ASSERT_EQ(stat(folder.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    const auto second = InstanceLock::Take(folder);
    EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
    EXPECT_THAT(std::string(second.status().message()),
                ::testing::HasSubstr(absl::StrCat("process ", getpid())));
  }
  EXPECT_TRUE(InstanceLock::Take(folder).ok());
  std::filesystem::remove_all(pattern);
}

}  // namespace
}  // namespace espalier::agent
