// Two nodes as namespaces under a real kernel with ESP: what the driver
// installs carries packets, and what it doesn't install doesn't.
#include "agent/datapath/kernel/removal.h"
#include "tests/guest/two_nodes.h"

namespace espalier::datapath {
namespace {

using base::IpPrefix;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(KernelDatapathTest, CarriesEverySuiteFamilyAndEncapsulation) {
  const base::EspSuite suites[] = {
      {.cipher = base::EspCipher::kAesGcm16, .key_bits = 256},
      {.cipher = base::EspCipher::kAesGcm16, .key_bits = 128, .esn = false},
      {.cipher = base::EspCipher::kChaCha20Poly1305, .key_bits = 256},
      {.cipher = base::EspCipher::kAesCbc,
       .key_bits = 256,
       .integrity = base::EspIntegrity::kHmacSha2_256_128},
      {.cipher = base::EspCipher::kAesCbc,
       .key_bits = 128,
       .integrity = base::EspIntegrity::kHmacSha2_512_256,
       .esn = false}};
  for (base::Family outer : {base::Family::kIpv4, base::Family::kIpv6}) {
    SetPolicies(outer);
    for (const base::EspSuite& suite : suites) {
      for (bool udp : {false, true}) {
        SCOPED_TRACE(absl::StrCat(suite.ToString(), " outer ",
                                  static_cast<int>(outer), udp ? " udp" : ""));
        const SaKey key = InstallPair(a_.get(), b_.get(), suite, outer, udp);
        b_->datapath->WatchInbound(key);
        for (base::Family inner : {base::Family::kIpv4, base::Family::kIpv6}) {
          EXPECT_TRUE(Delivers(*a_, *b_, inner));
        }
        EXPECT_TRUE(loop_.RunUntil([&] { return !b_->seen.empty(); }));
        EXPECT_THAT(b_->seen, ElementsAre(key));
        b_->seen.clear();
        const std::vector<InstalledSa> sas = Sas(b_.get());
        ASSERT_EQ(sas.size(), 1u);
        EXPECT_EQ(sas[0].key, key);
        EXPECT_EQ(sas[0].suite, suite);
        EXPECT_EQ(sas[0].encapsulated, udp);
        EXPECT_GE(sas[0].counters.packets, 2u);
        for (Node* node : {a_.get(), b_.get()}) {
          SaKey here = key;
          here.direction = node == b_.get() ? base::Direction::kInbound
                                            : base::Direction::kOutbound;
          EXPECT_EQ(Wait([&](Done done) {
                      node->datapath->RemoveSa(here, std::move(done));
                    }),
                    absl::OkStatus());
          EXPECT_THAT(Sas(node), IsEmpty());
        }
        EXPECT_EQ(PlaintextOnWire(), 0);
      }
    }
  }
}

TEST_F(KernelDatapathTest, WithoutAnSaNothingLeavesAndAnAcquireIsReported) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  EXPECT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
  EXPECT_THAT(a_->acquired, ::testing::Each(kReqid));
  usleep(200000);
  EXPECT_EQ(PlaintextOnWire(), 0);
  EXPECT_EQ(b_->Receive(base::Family::kIpv4), 0);

  // Control: routed past the tunnel, the same datagram is seen on the wire.
  a_->Enter();
  Shell("ip route replace 10.0.2.0/24 via 192.0.2.2 dev wire src 10.0.1.1");
  int seen = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    seen += PlaintextOnWire();
    return seen > 0;
  }));
}

TEST_F(KernelDatapathTest, AKeyIsInstalledOnce) {
  SetPolicies(base::Family::kIpv4);
  const SaKey key =
      InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  base::EspSa again =
      Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
  EXPECT_TRUE(absl::IsAlreadyExists(Install(b_.get(), std::move(again))));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(
        Wait([&](Done done) { b_->datapath->RemoveSa(key, std::move(done)); }),
        absl::OkStatus())
        << "the second time it is already gone";
  }
}

TEST_F(KernelDatapathTest, APeerCannotSendAsAnother) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4)) << "control";
  b_->Receive(base::Family::kIpv4);
  // A source that is not A's: its own policies let it out, B's must not.
  a_->Enter();
  Shell("ip addr add 10.0.3.1/32 dev lo");
  Policy wide = PolicyBetween(*a_, *b_, base::Family::kIpv4);
  wide.local.push_back(*IpPrefix::Parse("10.0.3.0/24"));
  ASSERT_EQ(SetPolicy(a_.get(), wide), absl::OkStatus());
  Shell("ip route replace 10.0.2.0/24 dev espalier0 src 10.0.3.1");
  const uint64_t before = Sas(b_.get())[0].counters.packets;
  for (int i = 0; i < 10; ++i) {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(10000);
  }
  EXPECT_EQ(Sas(b_.get())[0].counters.packets, before + 10)
      << "they came out of the SA";
  EXPECT_EQ(b_->Receive(base::Family::kIpv4), 0) << "and went no further";
}

TEST_F(KernelDatapathTest, PoliciesAreListedReplacedAndLeftAloneWhenForeign) {
  b_->Enter();
  Shell(
      "ip xfrm state add src 192.0.2.9 dst 192.0.2.2 proto esp spi 0x99 reqid "
      "42 mode tunnel aead 'rfc4106(gcm(aes))' 0x" +
      std::string(40, 'a') + " 128");
  EXPECT_THAT(Sas(b_.get()), IsEmpty()) << "foreign";
  Shell(
      "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out tmpl src "
      "192.0.2.2 dst 192.0.2.9 proto esp reqid 42 mode tunnel");
  Policy policy = PolicyBetween(*b_, *a_, base::Family::kIpv4);
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  policy.remote.pop_back();
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  // One of the parts deleted by hand is noticed.
  Shell(
      "ip xfrm policy delete src 10.0.1.0/24 dst 10.0.2.0/24 dir fwd if_id "
      "0x45500001");
  ASSERT_EQ(Policies(b_.get()).size(), 1u);
  EXPECT_NE(Policies(b_.get())[0], policy);
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  EXPECT_EQ(Wait([&](Done done) {
              b_->datapath->RemovePolicy(kReqid, std::move(done));
            }),
            absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), IsEmpty());
  // Nor does an uninstallation touch them.
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  ASSERT_EQ(Install(b_.get(), Sa(*a_, *b_, base::Direction::kInbound, {},
                                 base::Family::kIpv4, false)),
            absl::OkStatus());
  const auto xfrm = netlink::Socket::Open({.protocol = NETLINK_XFRM});
  ASSERT_TRUE(xfrm.ok()) << xfrm.status();
  const auto removed = RemoveTunnels(xfrm->get());
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->sas, 1u);
  EXPECT_GT(removed->policies, 0u);
  EXPECT_THAT(Sas(b_.get()), IsEmpty());
  EXPECT_THAT(Policies(b_.get()), IsEmpty());
  Shell("ip xfrm policy list | grep -q 10.9.0.0/16");
  Shell("ip xfrm state list | grep -q 'spi 0x00000099'");
}

TEST_F(KernelDatapathTest, AnotherAgentFindsWhatTheFirstLeft) {
  SetPolicies(base::Family::kIpv4);
  const SaKey key =
      InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  const Policy policy = PolicyBetween(*b_, *a_, base::Family::kIpv4);
  b_->datapath.reset();
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4))
      << "SAs flow on without an agent";
  b_->Enter();
  crypto::SystemRandom random;
  b_->datapath = std::make_unique<KernelDatapath>(
      &loop_, &random,
      KernelDatapath::Options{
          .local_addresses = {b_->outer(base::Family::kIpv4)}});
  ASSERT_EQ(b_->datapath->Start(), absl::OkStatus());
  const std::vector<InstalledSa> sas = Sas(b_.get());
  ASSERT_EQ(sas.size(), 1u);
  EXPECT_EQ(sas[0].key, key);
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
}

TEST_F(KernelDatapathTest, TrafficThatWaitedBeforeTheAgentIsAnAcquire) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  ASSERT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
  a_->datapath.reset();
  a_->Enter();
  a_->acquired.clear();
  a_->Start("");
  EXPECT_THAT(Sas(a_.get()), IsEmpty()) << "a larval state is no SA";
  EXPECT_THAT(a_->acquired, ElementsAre(kReqid));
}

TEST_F(KernelDatapathTest, NoErrorReachesThePodBeforeTheFirstSa) {
  SendWithoutSa();
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  EXPECT_EQ(PlaintextOnWire(), 0);
}

TEST_F(KernelDatapathTest, WhatHandsRemoveIsNoticed) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  a_->Enter();
  // The interface comes back with its if_id: once routed again, traffic flows.
  Shell("ip link delete espalier0");
  ASSERT_TRUE(loop_.RunUntil([] { return if_nametoindex("espalier0") != 0; }));
  a_->RouteTo(*b_);
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  Shell("ip link set espalier0 down");
  ASSERT_TRUE(loop_.RunUntil([] {
    return std::system("ip link show espalier0 | grep -q '[<,]UP[,>]'") == 0;
  }));
  // Policies: told at once. The SA: by the acquire that its traffic causes.
  a_->disturbed = 0;
  Shell("ip xfrm policy flush");
  EXPECT_TRUE(loop_.RunUntil([&] { return a_->disturbed > 0; }));
  EXPECT_THAT(Policies(a_.get()), IsEmpty());
  SetPolicies(base::Family::kIpv4);
  a_->acquired.clear();
  a_->Enter();
  Shell("ip xfrm state flush");
  a_->RouteTo(*b_);
  a_->Send(b_->inner(base::Family::kIpv4));
  EXPECT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
}

TEST_F(KernelDatapathTest, MarksTellWhatCameOutOfEsp) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  b_->Enter();
  Shell(absl::StrCat(
      "nft 'table inet t {\n chain i {\n type filter hook input priority 0;\n"
      "udp dport 7777 meta mark & ",
      base::kDefaultMarkMask,
      " == ", base::MarkValue(base::kDefaultMarkMask, base::Mark::kFromEsp),
      " counter\n }\n}'"));
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  Shell("nft list table inet t | grep -q 'packets [1-9]'");
}

class PolicyBasedTest : public KernelDatapathTest {
 protected:
  std::string uplink() const override { return "wire"; }
};

TEST_F(PolicyBasedTest, PacketsAreHeldUntilTheFirstSa) {
  SendWithoutSa();
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  int got = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    usleep(20000);
    got += b_->Receive(base::Family::kIpv4);
    return got > 0;
  })) << "the first packet was held, not dropped";
  EXPECT_EQ(PlaintextOnWire(), 0);
}

TEST_F(PolicyBasedTest, CarriesPacketsAndFailsClosed) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  usleep(100000);
  EXPECT_EQ(PlaintextOnWire(), 0);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  for (base::Family inner : {base::Family::kIpv4, base::Family::kIpv6}) {
    EXPECT_TRUE(Delivers(*a_, *b_, inner));
  }
  EXPECT_EQ(PlaintextOnWire(), 0);
  // What is between the nodes themselves stays theirs.
  for (const auto& [from, to] :
       {std::pair(a_.get(), b_.get()), std::pair(b_.get(), a_.get())}) {
    Policy nodes = PolicyBetween(*from, *to, base::Family::kIpv4);
    nodes.local.push_back(
        base::IpPrefix::Host(from->outer(base::Family::kIpv4)));
    nodes.remote.push_back(
        base::IpPrefix::Host(to->outer(base::Family::kIpv4)));
    ASSERT_EQ(SetPolicy(from, nodes), absl::OkStatus());
    EXPECT_THAT(Policies(from), ElementsAre(nodes));
  }
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  a_->Enter();
  Shell("ping -n -q -c 1 -W 5 192.0.2.2");
  // Control: without the policy the same datagram goes out in plaintext.
  EXPECT_EQ(Wait([&](Done done) {
              a_->datapath->RemovePolicy(kReqid, std::move(done));
            }),
            absl::OkStatus());
  int seen = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    seen += PlaintextOnWire();
    return seen > 0;
  }));
}

}  // namespace
}  // namespace espalier::datapath
