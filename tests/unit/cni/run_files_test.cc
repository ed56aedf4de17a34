#include "cni/run_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace espalier::cni {
namespace {

class RunFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "run-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    directory_ = root_ + "/run";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static std::string Contents(const std::string& path) {
    std::ifstream stream(path);
    std::stringstream out;
    out << stream.rdbuf();
    return out.str();
  }

  void WriteHeartbeat(const std::string& text) {
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ + "/heartbeat") << text;
  }

  std::string BootId() {
    std::string id = Contents("/proc/sys/kernel/random/boot_id");
    id.pop_back();
    return id;
  }

  std::string root_, directory_;
};

TEST_F(RunFilesTest, QueuesADeletionOnce) {
  v1::DeleteRequest request;
  request.set_network("n");
  request.mutable_attachment()->set_container_id("c1");
  request.mutable_attachment()->set_interface_name("eth0");
  RunFiles files(directory_);
  ASSERT_TRUE(files.QueueDeletion(request).ok());
  ASSERT_TRUE(files.QueueDeletion(request).ok());
  const std::string queue = base::RunDirectory(directory_).DeletionQueue();
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(queue)) {
    ++count;
    EXPECT_EQ(entry.path().filename(), "c1@eth0");
    v1::DeleteRequest read;
    ASSERT_TRUE(read.ParseFromString(Contents(entry.path())));
    EXPECT_EQ(read.SerializeAsString(), request.SerializeAsString());
  }
  EXPECT_EQ(count, 1);
  struct stat info{};
  ASSERT_EQ(stat(queue.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(RunFilesTest, SaysWhyItCannotQueue) {
  std::ofstream(directory_) << "a file in the folder's place";
  const absl::Status status = RunFiles(directory_).QueueDeletion({});
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(directory_), absl::string_view::npos);
}

TEST_F(RunFilesTest, ReadsTheHeartbeatOfThisBootOnly) {
  RunFiles files(directory_);
  EXPECT_EQ(files.HeartbeatAge(), std::nullopt);
  const base::Instant then = base::SteadyClock().Now() - absl::Seconds(40);
  WriteHeartbeat(base::Heartbeat{BootId(), then}.ToString());
  ASSERT_TRUE(files.HeartbeatAge().has_value());
  EXPECT_GE(*files.HeartbeatAge(), absl::Seconds(40));
  EXPECT_LT(*files.HeartbeatAge(), absl::Seconds(600));
  WriteHeartbeat(base::Heartbeat{"another-boot", then}.ToString());
  EXPECT_EQ(files.HeartbeatAge(), std::nullopt);
  for (const char* bad : {"", "x", "x y", "a b c", "\n"}) {
    WriteHeartbeat(bad);
    EXPECT_EQ(files.HeartbeatAge(), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace espalier::cni
