#include "agent/main/node_key.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "agent/mesh/config/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

class NodeKeyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-key-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    source_.file.path = folder_ / "node.key";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
  mesh::PrivateKeySource source_;
};

TEST_F(NodeKeyTest, IsMadeOnceAndThenRead) {
  source_.generate = true;
  const auto made = LoadNodeKey(source_);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ((*made)->type(), crypto::KeyType::kEd25519);
  struct stat info{};
  ASSERT_EQ(stat(source_.file.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const auto read = LoadNodeKey(source_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*(*read)->public_key(), *(*made)->public_key());
  // The public half beside it is what peers are to be given.
  std::ifstream stream(source_.file.path + ".pub");
  const std::string pem{std::istreambuf_iterator<char>(stream), {}};
  const auto der = mesh::ParsePublicKey(pem);
  ASSERT_TRUE(der.ok()) << der.status();
  EXPECT_EQ(*der, (*made)->public_key()->der());
  // Nothing half-made is left.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 2);
}

TEST_F(NodeKeyTest, ItsAgeIsThatOfItsFile) {
  EXPECT_EQ(KeyAge("", absl::Now()), std::nullopt);
  EXPECT_EQ(KeyAge(source_.file.path, absl::Now()), std::nullopt);
  source_.generate = true;
  ASSERT_TRUE(LoadNodeKey(source_).ok());
  const timespec made[2] = {{.tv_sec = 1'000'000}, {.tv_sec = 1'000'000}};
  ASSERT_EQ(utimensat(AT_FDCWD, source_.file.path.c_str(), made, 0), 0);
  const absl::Time now = absl::FromUnixSeconds(1'000'090);
  EXPECT_EQ(KeyAge(source_.file.path, now), absl::Seconds(90));
  // Of a clock that went back.
  EXPECT_EQ(KeyAge(source_.file.path, now - absl::Hours(1)),
            absl::ZeroDuration());
  // As the switch of a key change does.
  const std::string other = folder_ / "other";
  std::filesystem::rename(source_.file.path, other);
  EXPECT_EQ(KeyAge(other, now), absl::Seconds(90));
}

TEST_F(NodeKeyTest, IsNotMadeUnasked) {
  EXPECT_FALSE(LoadNodeKey(source_).ok());
  EXPECT_FALSE(std::filesystem::exists(source_.file.path));
}

TEST_F(NodeKeyTest, ABrokenOrOpenKeyIsNeitherUsedNorReplaced) {
  source_.generate = true;
  std::ofstream(source_.file.path) << "no key";
  ASSERT_EQ(chmod(source_.file.path.c_str(), 0600), 0);
  EXPECT_FALSE(LoadNodeKey(source_).ok());
  EXPECT_EQ(std::filesystem::file_size(source_.file.path), 6u);
  ASSERT_EQ(chmod(source_.file.path.c_str(), 0644), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(LoadNodeKey(source_).status()));
}

}  // namespace
}  // namespace espalier::agent
