#include "agent/main/cni_install.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class CniInstallTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "espalier-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    fs::create_directory(folder_ + "/bin");
    fs::create_directory(folder_ + "/conf");
    std::ofstream(folder_ + "/espalier-cni") << "the binary";
    options_ = {.binary = folder_ + "/espalier-cni",
                .binary_directory = folder_ + "/bin",
                .config_directory = folder_ + "/conf",
                .run_directory = "/run/x"};
  }
  void TearDown() override { fs::remove_all(folder_); }
  void Portmap(const std::string& script) {
    const std::string path = folder_ + "/bin/portmap";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    ASSERT_EQ(chmod(path.c_str(), 0755), 0);
  }
  std::string Conflist() {
    return Read(folder_ + "/conf/00-espalier.conflist");
  }

  std::string folder_;
  CniInstallOptions options_;
};

constexpr char kOld[] =
    R"(read input; [ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}')";
constexpr char kNew[] =
    R"(echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}')";

TEST_F(CniInstallTest, NamesNoVersionThatPortmapDoesNotSpeak) {
  Portmap(kOld);
  ASSERT_TRUE(InstallCni(options_).ok());
  EXPECT_THAT(Conflist(), HasSubstr(R"("cniVersion": "1.0.0")"));
  EXPECT_THAT(Conflist(), Not(HasSubstr("1.1.0")));
  EXPECT_THAT(Conflist(), HasSubstr(R"("runDirectory": "/run/x")"));
  // A newer one is asked anew.
  Portmap(kNew);
  ASSERT_TRUE(InstallCni(options_).ok());
  EXPECT_THAT(Conflist(), HasSubstr("1.1.0"));
}

TEST_F(CniInstallTest, PlacesBothWholeAndReadable) {
  Portmap(kOld);
  ASSERT_TRUE(InstallCni(options_).ok());
  EXPECT_EQ(Read(folder_ + "/bin/espalier-cni"), "the binary");
  struct stat info{};
  ASSERT_EQ(stat((folder_ + "/bin/espalier-cni").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0755u);
  ASSERT_EQ(stat((folder_ + "/conf/00-espalier.conflist").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u);
  const auto count = [&](const char* name) {
    return std::distance(fs::directory_iterator(folder_ + name), {});
  };
  EXPECT_EQ(count("/conf"), 1);
  EXPECT_EQ(count("/bin"), 2);
  // What is right is left alone: a runtime would read it again.
  const ino_t inode = info.st_ino;
  ASSERT_TRUE(InstallCni(options_).ok());
  ASSERT_EQ(stat((folder_ + "/conf/00-espalier.conflist").c_str(), &info), 0);
  EXPECT_EQ(info.st_ino, inode);
}

TEST_F(CniInstallTest, WithoutPortmapNothingIsInstalled) {
  const absl::Status status = InstallCni(options_);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("portmap"));
  EXPECT_EQ(Conflist(), "");
  EXPECT_FALSE(fs::exists(folder_ + "/bin/espalier-cni"));
}

TEST_F(CniInstallTest, APortmapTooOldIsRefused) {
  Portmap(R"(echo '{"supportedVersions":["0.3.1"]}')");
  EXPECT_EQ(InstallCni(options_).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Conflist(), "");
}

TEST_F(CniInstallTest, APortmapThatCannotBeAskedIsTakenForTheOldest) {
  Portmap("exit 1");
  ASSERT_TRUE(InstallCni(options_).ok());
  EXPECT_THAT(Conflist(), Not(HasSubstr("1.1.0")));
}

TEST_F(CniInstallTest, WhatSomebodyTouchesIsPutBackAndSaid) {
  Portmap(kOld);
  CniFiles files(options_);
  const auto keep = [&] {
    const absl::StatusOr<CniFiles::Kept> kept = files.Keep();
    EXPECT_TRUE(kept.ok()) << kept.status();
    return kept.value_or(CniFiles::Kept());
  };
  EXPECT_TRUE(keep().installed);
  const std::string conflist = Conflist();
  ASSERT_THAT(conflist, HasSubstr("espalier-cni"));
  EXPECT_FALSE(keep().installed);
  EXPECT_EQ(keep().repaired, "");

  const std::string path = folder_ + "/conf/00-espalier.conflist";
  fs::remove(path);
  EXPECT_EQ(keep().repaired, path + " was removed");
  EXPECT_EQ(Conflist(), conflist);
  EXPECT_EQ(keep().repaired, "");
  std::ofstream(path) << R"({"plugins":[{"type":"bridge"}]})";
  EXPECT_EQ(keep().repaired, path + " was changed");
  EXPECT_EQ(Conflist(), conflist);
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(keep().repaired, path + " was changed");
  const std::string binary = folder_ + "/bin/espalier-cni";
  fs::remove(binary);
  EXPECT_EQ(keep().repaired, binary + " was removed");
  std::ofstream(binary) << "another";
  EXPECT_EQ(keep().repaired, binary + " was changed");
  EXPECT_EQ(Read(binary), "the binary");
  EXPECT_EQ(keep().repaired, "");
}

TEST_F(CniInstallTest, WhatCannotBePutBackIsTriedAgain) {
  Portmap(kOld);
  CniFiles files(options_);
  ASSERT_TRUE(files.Keep().ok());
  fs::remove(folder_ + "/conf/00-espalier.conflist");
  fs::remove(folder_ + "/bin/portmap");
  EXPECT_TRUE(absl::IsNotFound(files.Keep().status()));
  Portmap(kOld);
  const absl::StatusOr<CniFiles::Kept> kept = files.Keep();
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_THAT(kept->repaired, HasSubstr("removed"));
  EXPECT_NE(Conflist(), "");
}

TEST_F(CniInstallTest, TheConfigurationComesLast) {
  Portmap(kOld);
  options_.binary = folder_ + "/absent";
  EXPECT_FALSE(InstallCni(options_).ok());
  EXPECT_EQ(Conflist(), "");
}

TEST_F(CniInstallTest, IsRemovedWithNothingElse) {
  Portmap(kOld);
  ASSERT_TRUE(InstallCni(options_).ok());
  std::ofstream(folder_ + "/conf/10-other.conflist") << "{}";
  // Of an installation that was cut short.
  std::ofstream(folder_ + "/conf/.00-espalier.conflist.new") << "{";
  const auto removed = RemoveCni(options_);
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_THAT(*removed, ElementsAre(folder_ + "/conf/00-espalier.conflist",
                                    folder_ + "/conf/.00-espalier.conflist.new",
                                    folder_ + "/bin/espalier-cni"));
  EXPECT_TRUE(fs::exists(folder_ + "/conf/10-other.conflist"));
  EXPECT_TRUE(fs::exists(folder_ + "/bin/portmap"));
  EXPECT_THAT(RemoveCni(options_).value(), ElementsAre()) << "again";
}

TEST_F(CniInstallTest, TheConfigurationThatStaysIsNamed) {
  fs::create_directory(folder_ + "/conf/00-espalier.conflist");
  std::ofstream(folder_ + "/bin/espalier-cni") << "the binary";
  EXPECT_THAT(RemoveCni(options_).status().message(),
              HasSubstr("/conf/00-espalier.conflist"));
  EXPECT_TRUE(fs::exists(folder_ + "/bin/espalier-cni"));
}

}  // namespace
}  // namespace espalier::agent
