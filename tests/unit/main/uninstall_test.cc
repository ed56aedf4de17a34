#include "agent/main/uninstall.h"

#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Notes what is asked of it, in order; one step may fail.
class FakeNode : public InstalledNode {
 public:
  absl::Status CheckStopped() override { return stopped; }
  absl::StatusOr<std::vector<std::string>> AttachedPods() override {
    return pods;
  }
  absl::StatusOr<std::string> RemoveCniPlugin() override { return Do("cni"); }
  absl::StatusOr<std::string> RemovePodInterfaces() override {
    return Do("pods");
  }
  absl::StatusOr<std::string> RemoveTunnels() override { return Do("sas"); }
  absl::StatusOr<std::string> RemoveTunnelInterface() override {
    return Do("interface");
  }
  absl::StatusOr<std::string> RemoveRoutes() override { return Do("routes"); }
  absl::StatusOr<std::string> RemoveMasquerading() override {
    return Do("nat");
  }
  absl::StatusOr<std::string> RemoveNftablesGuard() override {
    return Do("nftables");
  }
  absl::StatusOr<std::string> RemoveBpfGuard() override { return Do("bpf"); }
  absl::StatusOr<std::string> RemoveState() override { return Do("state"); }

  absl::Status stopped;
  absl::StatusOr<std::vector<std::string>> pods = std::vector<std::string>();
  std::string fails;
  std::vector<std::string> made;

 private:
  absl::StatusOr<std::string> Do(const std::string& step) {
    made.push_back(step);
    if (step == fails) return absl::PermissionDeniedError("not allowed");
    return step == "nat" ? "" : absl::StrCat("removed ", step);
  }
};

const std::vector<std::string> kAll = {"cni",       "pods",   "sas",
                                       "interface", "routes", "nat",
                                       "nftables",  "bpf",    "state"};

class UninstallTest : public ::testing::Test {
 protected:
  UninstallResult Run(bool force = false) {
    out_.str("");
    return Uninstall(&node_, force, out_);
  }
  std::vector<std::string> Lines() const {
    return absl::StrSplit(out_.str(), '\n', absl::SkipEmpty());
  }

  FakeNode node_;
  std::ostringstream out_;
};

TEST_F(UninstallTest, TheConfigurationFirstAndTheGuardsLast) {
  EXPECT_EQ(Run(), UninstallResult::kDone);
  EXPECT_THAT(node_.made, ElementsAreArray(kAll));
  EXPECT_THAT(
      Lines(),
      ElementsAre("CNI plugin: removed cni", "pods' interfaces: removed pods",
                  "SAs and policies: removed sas",
                  "tunnel's interface: removed interface",
                  "routes and rules: removed routes",
                  "masquerading: nothing there",
                  "nftables guard: removed nftables", "eBPF guard: removed bpf",
                  "state: removed state"));
}

TEST_F(UninstallTest, RefusedWhilePodsAreAttached) {
  node_.pods = {{"shop/web", "shop/db"}};
  EXPECT_EQ(Run(), UninstallResult::kPodsAttached);
  EXPECT_THAT(node_.made, IsEmpty());
  EXPECT_THAT(Lines(), ElementsAre(AllOf(HasSubstr("refused"),
                                         HasSubstr("shop/db, shop/web"),
                                         HasSubstr("--force"))));
  EXPECT_EQ(Run(/*force=*/true), UninstallResult::kDone);
  EXPECT_THAT(node_.made, ElementsAreArray(kAll));
  EXPECT_THAT(Lines().front(), HasSubstr("forced: 2 pods"));
}

TEST_F(UninstallTest, RefusedWhilePodsAreNotKnown) {
  node_.pods = absl::UnavailableError("netlink");
  EXPECT_EQ(Run(), UninstallResult::kRefused);
  EXPECT_THAT(node_.made, IsEmpty());
  EXPECT_EQ(Run(/*force=*/true), UninstallResult::kDone);
}

TEST_F(UninstallTest, RefusedWhileEspdRunsForcedOrNot) {
  node_.stopped = absl::FailedPreconditionError("espalier-espd runs");
  for (const bool force : {false, true}) {
    EXPECT_EQ(Run(force), UninstallResult::kRefused);
    EXPECT_THAT(node_.made, IsEmpty());
    EXPECT_THAT(out_.str(), HasSubstr("espalier-espd runs"));
  }
}

TEST_F(UninstallTest, WithoutTheFirstStepNothingIsTouched) {
  node_.fails = "cni";
  EXPECT_EQ(Run(), UninstallResult::kIncomplete);
  EXPECT_THAT(node_.made, ElementsAre("cni"));
  EXPECT_THAT(Lines(), ElementsAre("CNI plugin: FAILED: not allowed"));
}

TEST_F(UninstallTest, AnyStepThatFailsKeepsTheGuardsAndTheState) {
  for (const char* step : {"pods", "sas", "interface", "routes", "nat"}) {
    node_.made.clear();
    node_.fails = step;
    EXPECT_EQ(Run(), UninstallResult::kIncomplete) << step;
    EXPECT_THAT(node_.made, ElementsAreArray(kAll.begin(), kAll.begin() + 6))
        << step;
    EXPECT_THAT(out_.str(), AllOf(HasSubstr("FAILED: not allowed"),
                                  HasSubstr("nftables guard: left as it is"),
                                  HasSubstr("eBPF guard: left as it is"),
                                  HasSubstr("state: left as it is")));
  }
  // The next run goes on.
  node_.fails.clear();
  EXPECT_EQ(Run(), UninstallResult::kDone);
}

TEST_F(UninstallTest, OneGuardThatStaysKeepsTheOther) {
  node_.fails = "nftables";
  EXPECT_EQ(Run(), UninstallResult::kIncomplete);
  EXPECT_THAT(node_.made, Not(Contains("bpf")));
  EXPECT_THAT(node_.made, Not(Contains("state")));
}

TEST_F(UninstallTest, ManyPodsAreOneLine) {
  std::vector<std::string> many;
  for (int i = 0; i < 100; ++i) many.push_back(absl::StrCat("shop/", i));
  node_.pods = many;
  EXPECT_EQ(Run(), UninstallResult::kPodsAttached);
  EXPECT_THAT(Lines(), ElementsAre(AllOf(HasSubstr("100 pods"),
                                         HasSubstr("and 80 more"))));
}

}  // namespace
}  // namespace espalier::agent
