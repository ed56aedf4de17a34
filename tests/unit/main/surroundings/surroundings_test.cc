#include "agent/main/surroundings/surroundings.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

kube::Condition Of(const Surroundings& surroundings, const char* type) {
  const std::vector<kube::Condition> conditions = surroundings.Conditions();
  const kube::Condition* found = kube::FindCondition(conditions, type);
  EXPECT_NE(found, nullptr) << type;
  return found == nullptr ? kube::Condition() : *found;
}

UnprotectedPod Pod(const std::string& name, base::Mode mode) {
  return {.pod_namespace = "shop", .pod_name = name, .mode = mode};
}

TEST(Surroundings, NothingFoundIsAsExpected) {
  const Surroundings surroundings;
  for (const char* type : {"PodsProtected", "CniConfigured", "FamiliesMatch"}) {
    EXPECT_EQ(Of(surroundings, type).status, "True") << type;
  }
  // No look yet.
  EXPECT_EQ(Of(surroundings, "KubeProxySupported").status, "Unknown");
  EXPECT_TRUE(surroundings.Refusal().ok());
  EXPECT_THAT(surroundings.Problems(), IsEmpty());
}

TEST(Surroundings, UnprotectedPodsAreCountedAndTheWorstNamedFirst) {
  Surroundings surroundings;
  std::vector<UnprotectedPod> pods;
  for (int i = 0; i < 50; ++i) {
    pods.push_back(Pod(absl::StrCat("p", i), base::Mode::kPreferred));
  }
  pods.push_back(Pod("vault", base::Mode::kRequired));
  surroundings.SetPods(pods);
  const kube::Condition condition = Of(surroundings, "PodsProtected");
  EXPECT_EQ(condition.status, "False");
  EXPECT_EQ(condition.reason, "ForeignPods");
  EXPECT_THAT(condition.message, HasSubstr("51 pods"));
  EXPECT_THAT(condition.message,
              HasSubstr("shop/vault (required), shop/p0 (preferred)"));
  EXPECT_THAT(condition.message, HasSubstr("and 41 more"));
  EXPECT_LT(condition.message.size(), 1000u);
  surroundings.SetPods({});
  EXPECT_EQ(Of(surroundings, "PodsProtected").status, "True");
}

TEST(Surroundings, OtherConfigurationsAndTheirPlace) {
  Surroundings surroundings;
  CniConfigs configs;
  configs.foreign = {{"10-plain.conflist", "plain", false}};
  surroundings.SetCniConfigs(configs);
  EXPECT_EQ(Of(surroundings, "CniConfigured").reason, "ForeignConfig");
  configs.foreign = {{"00-a.conf", "first", true},
                     {"10-plain.conflist", "plain", false}};
  surroundings.SetCniConfigs(configs);
  const kube::Condition condition = Of(surroundings, "CniConfigured");
  EXPECT_EQ(condition.reason, "ForeignConfigFirst");
  EXPECT_THAT(condition.message, HasSubstr("00-a.conf (first)"));
  EXPECT_THAT(condition.message, Not(HasSubstr("10-plain")));
  // Neither keeps a pod from being attached.
  EXPECT_TRUE(surroundings.Refusal().ok());
}

TEST(Surroundings, BandwidthBehindOursIsRefusedUntilItIsGone) {
  Surroundings surroundings;
  surroundings.SetCniConfigs({.with_bandwidth = "05-shaped.conflist"});
  EXPECT_EQ(Of(surroundings, "CniConfigured").reason, "BandwidthChained");
  EXPECT_THAT(surroundings.Refusal().message(),
              HasSubstr("05-shaped.conflist chains the bandwidth plugin"));
  surroundings.SetCniConfigs({});
  EXPECT_TRUE(surroundings.Refusal().ok());
  EXPECT_EQ(Of(surroundings, "CniConfigured").status, "True");
}

TEST(Surroundings, AProblemIsWhatIsFalse) {
  Surroundings surroundings;
  surroundings.SetKubeProxy(
      {KubeProxyVerdict::Support::kUnknown, "NoKubeProxy", "none"});
  EXPECT_THAT(surroundings.Problems(), IsEmpty());
  surroundings.SetKubeProxy(
      {KubeProxyVerdict::Support::kNo, "EbpfReplacement", "cil_x"});
  surroundings.SetMissingFamilies({"n2 lacks IPv6"});
  EXPECT_THAT(
      surroundings.Problems(),
      ElementsAre(
          "cil_x",
          "what one end has no pod CIDR for is dropped: n2 lacks IPv6"));
}

base::IpPrefix Prefix(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

TEST(MissingFamilies, EitherEndMayLackOne) {
  const base::IpPrefix v4 = Prefix("10.1.1.0/24");
  const base::IpPrefix v6 = Prefix("fd00:1::/64");
  std::vector<mesh::Peer> peers(3);
  peers[0].name = "both";
  peers[0].pod_cidrs = {Prefix("10.1.2.0/24"), Prefix("fd00:2::/64")};
  peers[1].name = "four";
  peers[1].pod_cidrs = {Prefix("10.1.3.0/24")};
  peers[2].name = "six";
  peers[2].pod_cidrs = {Prefix("fd00:4::/64")};
  EXPECT_THAT(MissingFamilies({v4, v6}, peers),
              ElementsAre("four lacks IPv6", "six lacks IPv4"));
  EXPECT_THAT(MissingFamilies({v4}, peers),
              ElementsAre("this node lacks IPv6, both has it", "six lacks IPv4",
                          "this node lacks IPv6, six has it"));
  EXPECT_THAT(FamiliesLacking({v4, v6}, {v4, v6}), IsEmpty());
}

}  // namespace
}  // namespace espalier::agent
