#include "agent/main/surroundings/cni_configs.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kOurs[] =
    R"({"cniVersion":"1.0.0","name":"espalier","plugins":[
        {"type":"espalier-cni"},{"type":"portmap"}]})";
constexpr char kShaped[] =
    R"({"cniVersion":"1.0.0","name":"espalier","plugins":[
        {"type":"espalier-cni"},{"type":"portmap"},
        {"type":"bandwidth","capabilities":{"bandwidth":true}}]})";
constexpr char kPlain[] =
    R"({"cniVersion":"1.0.0","name":"plain","plugins":[
        {"type":"ptp"},{"type":"bandwidth"}]})";

class CniConfigsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-conf-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    Write(kConflistName, kOurs);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  CniConfigs Read() {
    absl::StatusOr<CniConfigs> configs = ReadCniConfigs(folder_);
    EXPECT_TRUE(configs.ok()) << configs.status();
    return configs.value_or(CniConfigs());
  }
  std::string folder_;
};

TEST_F(CniConfigsTest, OursAloneIsNoFinding) {
  EXPECT_EQ(Read(), CniConfigs());
  // Nor what a runtime does not read, or what is no network.
  Write("10-plain.conflist.bak", kPlain);
  Write(".00-espalier.conflist.new", kPlain);
  Write("99-loopback.conf", R"({"name":"lo","type":"loopback"})");
  Write("20-more.conflist", kOurs);
  EXPECT_EQ(Read(), CniConfigs());
}

TEST_F(CniConfigsTest, OthersAreFoundWithTheirPlaceInTheOrder) {
  Write("10-plain.conflist", kPlain);
  Write("00-a.conf", R"({"name":"first","type":"bridge"})");
  Write("z.json", R"({"name":"last","type":"macvlan"})");
  EXPECT_THAT(Read().foreign,
              ElementsAre(ForeignCniConfig{"00-a.conf", "first", true},
                          ForeignCniConfig{"10-plain.conflist", "plain", false},
                          ForeignCniConfig{"z.json", "last", false}));
}

TEST_F(CniConfigsTest, WhatARuntimeCannotReadComesBeforeNothing) {
  Write("00-a.conflist", "{");
  Write("00-b.conflist", "[]");
  Write("00-c.conflist", R"({"name":"n","plugins":[]})");
  Write("00-d.conflist", R"({"name":"n","plugins":7})");
  Write("00-e.conf", std::string(size_t{2} << 20, ' ') + kPlain);
  std::filesystem::create_directory(folder_ + "/00-d.conf");
  const std::string deep(1000, '[');
  Write("00-dd.conf", absl::StrCat(R"({"type":"x","a":)", deep));
  const CniConfigs configs = Read();
  EXPECT_THAT(configs.foreign, SizeIs(7));
  for (const ForeignCniConfig& config : configs.foreign) {
    EXPECT_FALSE(config.before_ours) << config.file;
    EXPECT_EQ(config.network, "") << config.file;
  }
}

TEST_F(CniConfigsTest, AListThatChainsBandwidthBehindOurs) {
  // Somebody else's, without us, is not.
  Write("10-plain.conflist", kPlain);
  EXPECT_EQ(Read().with_bandwidth, "");
  Write("05-shaped.conflist", kShaped);
  EXPECT_EQ(Read().with_bandwidth, "05-shaped.conflist");
  std::filesystem::remove(folder_ + "/05-shaped.conflist");
  EXPECT_EQ(Read().with_bandwidth, "");
  Write(kConflistName, kShaped);
  EXPECT_EQ(Read().with_bandwidth, kConflistName);
}

TEST_F(CniConfigsTest, IsBounded) {
  for (size_t i = 0; i < kMostCniConfigs + 10; ++i) {
    Write(absl::StrCat("x", i, ".conf"), R"({"name":"n","type":"bridge"})");
  }
  // Ours is one of those that were read.
  EXPECT_THAT(Read().foreign, SizeIs(kMostCniConfigs - 1));
  EXPECT_TRUE(
      absl::IsUnavailable(ReadCniConfigs(folder_ + "/absent").status()));
}

}  // namespace
}  // namespace espalier::agent
