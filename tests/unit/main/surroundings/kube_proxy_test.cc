#include "agent/main/surroundings/kube_proxy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::HasSubstr;
using Support = KubeProxyVerdict::Support;

class FakeFacts : public KubeProxyFactsSource {
 public:
  absl::StatusOr<KubeProxyFacts> Read() override { return facts; }
  absl::StatusOr<KubeProxyFacts> facts = KubeProxyFacts();
};

class KubeProxyTest : public ::testing::Test {
 protected:
  KubeProxyVerdict Look(KubeProxyFacts facts, bool policy_based = false) {
    source_.facts = std::move(facts);
    return LookAtKubeProxy(&source_, policy_based);
  }
  FakeFacts source_;
};

TEST_F(KubeProxyTest, NftablesAndIptablesAreSupported) {
  for (const bool policy_based : {false, true}) {
    EXPECT_EQ(Look({.tables = {"ip kube-proxy"}}, policy_based).support,
              Support::kYes);
    const KubeProxyVerdict verdict =
        Look({.chains = {"ip6 nat KUBE-SERVICES"}}, policy_based);
    EXPECT_EQ(verdict.support, Support::kYes);
    EXPECT_EQ(verdict.reason, "Iptables");
    EXPECT_EQ(Look({.legacy_iptables = true}, policy_based).reason,
              "IptablesLegacy");
  }
  EXPECT_EQ(Look({.tables = {"ip6 kube-proxy"}}).reason, "Nftables");
}

TEST_F(KubeProxyTest, IpvsOnlyWithRouteBasedTunnels) {
  const KubeProxyFacts facts = {.links = {"kube-ipvs0"},
                                .chains = {"ip nat KUBE-SERVICES"}};
  const KubeProxyVerdict by_route = Look(facts);
  EXPECT_EQ(by_route.support, Support::kYes);
  EXPECT_EQ(by_route.reason, "Ipvs");
  const KubeProxyVerdict by_policy = Look(facts, /*policy_based=*/true);
  EXPECT_EQ(by_policy.support, Support::kNo);
  EXPECT_EQ(by_policy.reason, "IpvsWithPolicyBased");
  EXPECT_THAT(by_policy.message, HasSubstr("datapath.kernel.routing"));
}

TEST_F(KubeProxyTest, AReplacementIsNotSupportedWhateverIsLeftBehind) {
  for (const char* program : {"cil_from_netdev", "cil_sock4_conne",
                              "cali_tc_preambl", "calico_connect_"}) {
    for (const bool left_behind : {false, true}) {
      KubeProxyFacts facts = {.programs = {"espalier_from", program}};
      if (left_behind) facts.chains = {"ip nat KUBE-SERVICES"};
      const KubeProxyVerdict verdict = Look(facts);
      EXPECT_EQ(verdict.support, Support::kNo) << program;
      EXPECT_EQ(verdict.reason, "EbpfReplacement");
      EXPECT_THAT(verdict.message, HasSubstr(program));
    }
  }
}

TEST_F(KubeProxyTest, OthersProgramsAreNoReplacementBesideKubeProxy) {
  EXPECT_EQ(Look({.tables = {"ip kube-proxy"},
                  .programs = {"from_pod", "sd_devices", "tracer"},
                  .connect_programs = {"tracer"}})
                .support,
            Support::kYes);
  // Where nobody else translates, who sees connect() may be the one.
  const KubeProxyVerdict alone = Look({.connect_programs = {"balancer4"}});
  EXPECT_EQ(alone.support, Support::kNo);
  EXPECT_THAT(alone.message, HasSubstr("balancer4"));
}

TEST_F(KubeProxyTest, WhatIsNotSeenIsNotKnown) {
  const KubeProxyVerdict none = Look({.links = {"eth0"},
                                      .tables = {"inet espalier_guard"},
                                      .programs = {"from_pod"}});
  EXPECT_EQ(none.support, Support::kUnknown);
  EXPECT_EQ(none.reason, "NoKubeProxy");
  source_.facts = absl::PermissionDeniedError("netlink: no");
  const KubeProxyVerdict failed = LookAtKubeProxy(&source_, false);
  EXPECT_EQ(failed.support, Support::kUnknown);
  EXPECT_THAT(failed.message, HasSubstr("netlink: no"));
}

// Whatever runs here: reading changes nothing and does not fail.
TEST(KernelKubeProxyFacts, CanBeRead) {
  KernelKubeProxyFacts source;
  const absl::StatusOr<KubeProxyFacts> facts = source.Read();
  // Without CAP_NET_ADMIN the kernel does not tell of tables.
  EXPECT_TRUE(facts.ok() || absl::IsPermissionDenied(facts.status()))
      << facts.status();
}

}  // namespace
}  // namespace espalier::agent
