#include "agent/ipam/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/unit/ipam/fault_file_system.h"

namespace espalier::ipam {
namespace {

using base::IpAddress;
using base::IpPrefix;
using ::testing::HasSubstr;

State Sample(const std::string& owner = "c1@eth0") {
  State state;
  state.pools = {{*IpPrefix::Parse("10.1.0.0/24"),
                  *IpAddress::Parse("10.1.0.4"),
                  {*IpAddress::Parse("10.1.0.3")}},
                 {*IpPrefix::Parse("fd00::/126"), std::nullopt, {}}};
  state.leases = {
      {owner,
       {*IpAddress::Parse("10.1.0.2"), *IpAddress::Parse("fd00::2")},
       {{"pod", "a\"b\n"}}}};
  return state;
}

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "checkpoint-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = directory_ + "/pods.json";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void WriteFile(const std::string& text) { std::ofstream(path_) << text; }
  size_t FileCount() {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(directory_)) {
      ++count;
    }
    return count;
  }

  FaultFileSystem files_;
  std::string directory_, path_;
};

TEST_F(CheckpointTest, FormatsAndParses) {
  const auto parsed = ParseState(FormatState(Sample(), "boot"));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->state, Sample());
  EXPECT_EQ(parsed->boot_id, "boot");
}

TEST_F(CheckpointTest, EveryCutAndFlipIsAVerdict) {
  const std::string text = FormatState(Sample(), "boot");
  for (size_t length = 0; length + 2 < text.size(); ++length) {
    EXPECT_FALSE(ParseState(text.substr(0, length)).ok()) << length;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = text;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      (void)ParseState(flipped);  // must return
    }
  }
}

TEST_F(CheckpointTest, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "parse error"},
      {"[]", "the document"},
      {"{}", "version"},
      {R"({"version":2})", "version 2"},
      {R"({"version":1})", "bootId"},
      {R"({"version":1,"bootId":"b"})", "pools"},
      {R"({"version":1,"bootId":"b","pools":[{}],"leases":[]})", "cidr"},
      {R"({"version":1,"bootId":"b","pools":[{"cidr":"10.0.0.1/8"}]})",
       "10.0.0.1"},
      {R"({"version":1,"bootId":"b","pools":[]})", "leases"},
      {R"({"version":1,"bootId":"b","pools":[],"leases":[7]})", "leases"},
      {R"({"version":1,"bootId":"b","pools":[],
           "leases":[{"owner":"a","addresses":["10.0.0.1"]}]})",
       "labels"},
      {R"({"version":1,"bootId":"b","pools":[],
           "leases":[{"owner":"a","addresses":["10.0.0"],"labels":{}}]})",
       "10.0.0"},
      {R"({"version":1,"bootId":"b","pools":[],"leases":[
           {"owner":"a","addresses":["10.0.0.1"],"labels":{}},
           {"owner":"b","addresses":["10.0.0.1"],"labels":{}}]})",
       "taken"},
  };
  for (const auto& [text, part] : bad) {
    const auto status = ParseState(text).status();
    EXPECT_FALSE(status.ok()) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part)) << text;
  }
  EXPECT_FALSE(
      ParseState(std::string(100000, '[') + std::string(100000, ']')).ok());
}

TEST_F(CheckpointTest, SavesAndLoads) {
  Checkpoint checkpoint(&files_, path_);
  const auto nothing = checkpoint.Load();
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->state, State());
  EXPECT_EQ(nothing->kept_aside, "");
  ASSERT_TRUE(checkpoint.Save(Sample(), "boot").ok());
  const auto loaded = checkpoint.Load();
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->state, Sample());
  EXPECT_EQ(loaded->boot_id, "boot");
  EXPECT_EQ(FileCount(), 1u);
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(CheckpointTest, KeepsAnUnusableFileAside) {
  WriteFile("{\"version\": 1, \"boot");
  Checkpoint checkpoint(&files_, path_);
  const auto loaded = checkpoint.Load();
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->state, State());
  EXPECT_EQ(loaded->kept_aside, path_ + ".unusable");
  EXPECT_THAT(loaded->reason, HasSubstr("parse error"));
  std::ifstream kept(loaded->kept_aside);
  std::stringstream text;
  text << kept.rdbuf();
  EXPECT_EQ(text.str(), "{\"version\": 1, \"boot");
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(CheckpointTest, DoesNotGoOnWithoutAFileItCannotRead) {
  Checkpoint checkpoint(&files_, path_);
  ASSERT_TRUE(checkpoint.Save(Sample(), "boot").ok());
  files_.FailAt(1);
  EXPECT_FALSE(checkpoint.Load().ok());
  EXPECT_TRUE(std::filesystem::exists(path_));
  WriteFile("rubbish");
  files_.FailAt(2);  // reading succeeds, putting it aside does not
  EXPECT_FALSE(checkpoint.Load().ok());
  EXPECT_TRUE(std::filesystem::exists(path_));
}

// Each operation of Save in turn: the file holds the old state or the new one,
// whole, and the error is told.
TEST_F(CheckpointTest, EveryOperationOfSaveMayFail) {
  Checkpoint checkpoint(&files_, path_);
  bool failed = true;
  int operations = 0;
  for (int n = 1; failed; ++n) {
    files_.Reset();
    ASSERT_TRUE(checkpoint.Save(Sample("old"), "boot").ok());
    files_.FailAt(n);
    const absl::Status status = checkpoint.Save(Sample("new"), "boot");
    failed = files_.failed();
    EXPECT_EQ(status.ok(), !failed) << n;
    files_.Reset();
    const auto loaded = checkpoint.Load();
    ASSERT_TRUE(loaded.ok());
    EXPECT_EQ(loaded->kept_aside, "");
    EXPECT_TRUE(loaded->state == Sample("old") ||
                loaded->state == Sample("new"))
        << n;
    EXPECT_EQ(FileCount(), 1u) << n;
    operations = n - 1;
  }
  EXPECT_EQ(operations, 6);  // create, write, sync, close, rename, sync
}

TEST_F(CheckpointTest, FileSystemErrorsNameThePath) {
  FileSystem files;
  EXPECT_TRUE(absl::IsNotFound(files.Read(path_, 10).status()));
  WriteFile("0123456789a");
  EXPECT_TRUE(absl::IsResourceExhausted(files.Read(path_, 10).status()));
  EXPECT_EQ(*files.Read(path_, 11), "0123456789a");
  const absl::Status status = files.MakeDirectory(path_ + "/x");
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  EXPECT_TRUE(files.MakeDirectory(directory_ + "/a/b/c").ok());
  EXPECT_TRUE(files.MakeDirectory(directory_ + "/a/b/c").ok());
  EXPECT_TRUE(files.List(directory_ + "/none")->empty());
  EXPECT_EQ(files.List(directory_)->size(), 1u);
  EXPECT_TRUE(files.Remove(path_).ok());
  EXPECT_TRUE(files.Remove(path_).ok());
}

}  // namespace
}  // namespace espalier::ipam
