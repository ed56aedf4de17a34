// SAs under a real kernel: limits, windows, keepalives, CPUs, the kernel's
// other protocol and mode, and notifications that are lost.
#include "agent/netlink/socket.h"
#include "tests/guest/two_nodes.h"

namespace espalier::datapath {
namespace {

using base::IpPrefix;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Linux 6.13, and what Debian calls 6.12.
bool HasSasPerCpu() {
  return std::string(std::getenv("ESPALIER_GUEST")) != "6.1";
}

TEST_F(KernelDatapathTest, FeaturesAreWhatThisKernelStores) {
  const std::string kernel = std::getenv("ESPALIER_GUEST");
  const bool young = kernel != "6.1";
  EXPECT_EQ(a_->datapath->features().direction, young);
  EXPECT_EQ(a_->datapath->features().nat_keepalive, young);
  EXPECT_EQ(a_->datapath->features().per_cpu, HasSasPerCpu());
  EXPECT_THAT(Sas(a_.get()), IsEmpty()) << "the probe leaves nothing behind";
}

TEST_F(KernelDatapathTest, LimitsBecomeEvents) {
  const std::pair<const char*, base::SaLimits> kinds[] = {
      {"packets", {.soft_packets = 3, .hard_packets = 6}},
      // Of inner packets, of 29 octets each.
      {"octets", {.soft_bytes = 90, .hard_bytes = 180}},
      {"time", {.soft_time = absl::Seconds(1), .hard_time = absl::Seconds(3)}}};
  SetPolicies(base::Family::kIpv4);
  for (const auto& [kind, limits] : kinds) {
    SCOPED_TRACE(kind);
    ++next_spi_;
    base::EspSa in =
        Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
    base::EspSa out = Sa(*a_, *b_, base::Direction::kOutbound, {},
                         base::Family::kIpv4, false);
    out.limits = limits;
    const SaKey key{out.direction, out.outer_destination, out.spi};
    ASSERT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
    ASSERT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
    const bool sends = limits.soft_time == absl::ZeroDuration();
    EXPECT_TRUE(loop_.RunUntil([&] {
      if (sends) a_->Send(b_->inner(base::Family::kIpv4));
      usleep(20000);
      return a_->expired.size() >= 2;
    }));
    EXPECT_THAT(a_->expired,
                ElementsAre(std::pair(key, false), std::pair(key, true)));
    a_->expired.clear();
    EXPECT_THAT(Sas(a_.get()), IsEmpty()) << "the hard limit ends it";
  }
}

// Not as what was asked for, but as the kernel tells it.
TEST_F(KernelDatapathTest, TheKernelHasTheWindowAndTheLongNumbers) {
  b_->Enter();
  const auto socket = *netlink::Socket::Open({.protocol = NETLINK_XFRM});
  for (bool esn : {true, false}) {
    SCOPED_TRACE(esn);
    const SaKey key = InstallPair(a_.get(), b_.get(), {.esn = esn},
                                  base::Family::kIpv4, false);
    auto replies = socket->Query(netlink::GetStateRequest(key));
    ASSERT_TRUE(replies.ok()) << replies.status();
    ASSERT_EQ(replies->size(), 1u);
    const auto state = netlink::DecodeState(replies->front().payload);
    base::Wipe(replies->front().payload);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->replay_window, 4096u);
    EXPECT_EQ(state->suite.esn, esn);
  }
}

TEST_F(KernelDatapathTest, TheKernelSendsNatKeepalives) {
  a_->datapath.reset();
  a_->Enter();
  a_->nat_keepalive = absl::Seconds(1);
  a_->Start("");
  const auto keepalives = [&] {
    const std::vector<base::Bytes> all = UdpOnWire();
    return std::ranges::count_if(all, [](const base::Bytes& udp) {
      return IsTo(udp, 4500) && udp.size() == 9 && udp[8] == 0xff;
    });
  };
  if (!a_->datapath->features().nat_keepalive) {
    EXPECT_STREQ(std::getenv("ESPALIER_GUEST"), "6.1");
    return;  // the agent sends them
  }
  // The SA that Start() probes the kernel with may have sent one. That of a_'s
  // first start waits for b_ to answer ARP, which is asked each second.
  sleep(3);
  keepalives();
  for (base::Family outer : {base::Family::kIpv4, base::Family::kIpv6}) {
    SCOPED_TRACE(static_cast<int>(outer));
    // The control: none without an SA in UDP.
    InstallPair(a_.get(), b_.get(), {}, outer, /*udp=*/false);
    sleep(2);
    EXPECT_EQ(keepalives(), 0);
    InstallPair(a_.get(), b_.get(), {}, outer, /*udp=*/true);
    int64_t seen = 0;
    // Nothing that was there before makes them late.
    EXPECT_TRUE(loop_.RunUntil([&] { return (seen += keepalives()) >= 2; }));
    a_->Enter();
    Shell("ip xfrm state flush");
    usleep(100000);
    keepalives();
  }
}

TEST_F(KernelDatapathTest, AfterLostNotificationsSoftLimitsAreToldByTheList) {
  SetPolicies(base::Family::kIpv4);
  ++next_spi_;
  base::EspSa in =
      Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
  base::EspSa out =
      Sa(*a_, *b_, base::Direction::kOutbound, {}, base::Family::kIpv4, false);
  out.limits.soft_packets = 2;
  const SaKey key{out.direction, out.outer_destination, out.spi};
  ASSERT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
  ASSERT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
  ASSERT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    return !a_->expired.empty();
  }));
  a_->expired.clear();
  Sas(a_.get());
  EXPECT_THAT(a_->expired, IsEmpty()) << "told once";
  a_->ready = false;
  a_->datapath->HandleOverrun();
  EXPECT_TRUE(a_->ready);
  Sas(a_.get());
  EXPECT_THAT(a_->expired, ElementsAre(std::pair(key, false)));
}

// The kernel keeps a larval state when anybody heard its acquire: here another
// daemon, while the driver's own queue ran over.
TEST_F(KernelDatapathTest, AfterARealOverrunWaitingTrafficIsAnAcquire) {
  SetPolicies(base::Family::kIpv4);
  a_->Enter();
  int heard = 0;
  const auto other = *netlink::Socket::Open({.protocol = NETLINK_XFRM});
  ASSERT_EQ(other->Subscribe(
                {XFRMNLGRP_ACQUIRE}, [&](const auto&) { ++heard; }, [] {}),
            absl::OkStatus());
  const auto filler = *netlink::Socket::Open({.protocol = NETLINK_XFRM});
  a_->ready = false;
  // Each is a notification; the queue is full long before the last.
  for (int i = 0; i < 40; ++i) {
    std::vector<netlink::Request> foreign;
    for (int j = 0; j < 250; ++j) {
      foreign.push_back(netlink::SetPolicyRequest(
          {.source = *IpPrefix::Parse("10.9.0.0/16"),
           .destination = *IpPrefix::Parse(absl::StrCat("10.8.", j, ".0/24")),
           .reqid = base::Reqid(42),
           .outer_source = a_->outer(base::Family::kIpv4),
           .outer_destination = A("192.0.2.9")}));
    }
    for (const absl::Status& set : filler->ExecuteBatch(std::move(foreign))) {
      ASSERT_EQ(set, absl::OkStatus());
    }
  }
  a_->Send(b_->inner(base::Family::kIpv4));
  usleep(100000);
  other->HandleReadable();
  ASSERT_GE(heard, 1);
  ASSERT_TRUE(loop_.RunUntil([&] { return a_->ready; })) << "the overrun";
  EXPECT_THAT(a_->acquired, IsEmpty()) << "its notification was lost";
  EXPECT_THAT(Sas(a_.get()), IsEmpty());
  EXPECT_THAT(a_->acquired, ElementsAre(kReqid));
}

constexpr base::EspSuite kAh{.integrity = base::EspIntegrity::kHmacSha2_256_128,
                             .protocol = base::IpsecProtocol::kAh};

TEST_F(KernelDatapathTest, CarriesAh) {
  for (base::Family outer : {base::Family::kIpv4, base::Family::kIpv6}) {
    SCOPED_TRACE(static_cast<int>(outer));
    for (const auto& [from, to] :
         {std::pair(a_.get(), b_.get()), std::pair(b_.get(), a_.get())}) {
      Policy policy = PolicyBetween(*from, *to, outer);
      policy.protocol = base::IpsecProtocol::kAh;
      ASSERT_EQ(SetPolicy(from, policy), absl::OkStatus());
      EXPECT_THAT(Policies(from), ElementsAre(policy));
    }
    const SaKey key =
        InstallPair(a_.get(), b_.get(), kAh, outer, /*udp=*/false);
    b_->datapath->WatchInbound(key);
    for (base::Family inner : {base::Family::kIpv4, base::Family::kIpv6}) {
      EXPECT_TRUE(Delivers(*a_, *b_, inner));
    }
    EXPECT_TRUE(loop_.RunUntil([&] { return !b_->seen.empty(); }));
    b_->seen.clear();
    const std::vector<InstalledSa> sas = Sas(b_.get());
    ASSERT_EQ(sas.size(), 1u);
    EXPECT_EQ(sas[0].suite.ToString(), kAh.ToString());
    b_->Enter();
    Shell("ip xfrm state | grep -q 'proto ah'");
    for (Node* node : {a_.get(), b_.get()}) {
      SaKey here = key;
      if (node == a_.get()) here.direction = base::Direction::kOutbound;
      EXPECT_EQ(Wait([&](Done done) {
                  node->datapath->RemoveSa(here, std::move(done));
                }),
                absl::OkStatus());
      EXPECT_THAT(Sas(node), IsEmpty());
    }
    EXPECT_EQ(PlaintextOnWire(), 0) << "not outside of AH";
  }
}

TEST_F(KernelDatapathTest, TransportModeProtectsWhatTheNodesSend) {
  constexpr auto kV4 = base::Family::kIpv4;
  const auto delivers = [&] {
    a_->Send(b_->outer(kV4));
    usleep(100000);
    return b_->Receive(kV4) > 0;
  };
  // The control: without a policy it is in plaintext.
  ASSERT_TRUE(loop_.RunUntil(delivers));
  EXPECT_GT(PlaintextOnWire(), 0);
  for (const auto& [from, to] :
       {std::pair(a_.get(), b_.get()), std::pair(b_.get(), a_.get())}) {
    const Policy policy{.reqid = kReqid,
                        .local = {IpPrefix::Host(from->outer(kV4))},
                        .remote = {IpPrefix::Host(to->outer(kV4))},
                        .outer_source = from->outer(kV4),
                        .outer_destination = to->outer(kV4),
                        .mode = base::SaMode::kTransport};
    ASSERT_EQ(SetPolicy(from, policy), absl::OkStatus());
    EXPECT_THAT(Policies(from), ElementsAre(policy));
  }
  EXPECT_FALSE(delivers()) << "without an SA nothing passes";
  ++next_spi_;
  for (auto direction :
       {base::Direction::kInbound, base::Direction::kOutbound}) {
    base::EspSa sa = Sa(*a_, *b_, direction, {}, kV4, false);
    sa.mode = base::SaMode::kTransport;
    Node* const node =
        direction == base::Direction::kInbound ? b_.get() : a_.get();
    ASSERT_EQ(Install(node, std::move(sa)), absl::OkStatus());
  }
  EXPECT_TRUE(loop_.RunUntil(delivers));
  EXPECT_EQ(PlaintextOnWire(), 0);
  EXPECT_GE(Sas(b_.get())[0].counters.packets, 1u);
}

TEST_F(KernelDatapathTest, EachCpuSendsOnItsOwnSa) {
  if (!HasSasPerCpu()) {
    base::EspSa out = Sa(*a_, *b_, base::Direction::kOutbound, {},
                         base::Family::kIpv4, false);
    out.cpu = 0;
    EXPECT_TRUE(absl::IsUnimplemented(Install(a_.get(), std::move(out))));
    return;
  }
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) return;  // the boot with --cpus 2
  SetPolicies(base::Family::kIpv4);
  const auto pair = [&](std::optional<uint32_t> cpu) {
    ++next_spi_;
    base::EspSa in =
        Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
    base::EspSa out = Sa(*a_, *b_, base::Direction::kOutbound, {},
                         base::Family::kIpv4, false);
    out.cpu = cpu;
    EXPECT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
    EXPECT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
    return base::Spi(next_spi_);
  };
  const auto send_from = [&](int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    for (int i = 0; i < 5; ++i) a_->Send(b_->inner(base::Family::kIpv4));
  };
  const auto packets = [&](base::Spi spi) {
    for (const InstalledSa& sa : Sas(a_.get())) {
      if (sa.key.spi == spi) return sa.counters.packets;
    }
    return uint64_t{0};
  };
  const base::Spi fallback = pair(std::nullopt);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  // Until a CPU has its own, its traffic takes the fallback SA. (With the
  // kernel's XFRM_POLICY_CPU_ACQUIRE it would wait for an answer instead: seen
  // on 6.18, behind an xfrm interface.)
  const uint64_t start = packets(fallback);
  send_from(0);
  send_from(1);
  const base::Spi first = pair(0);
  const base::Spi second = pair(1);
  const uint64_t before = packets(fallback);
  EXPECT_EQ(before, start + 10);
  send_from(0);
  EXPECT_EQ(packets(first), 5u);
  EXPECT_EQ(packets(second), 0u);
  send_from(1);
  EXPECT_EQ(packets(first), 5u);
  EXPECT_EQ(packets(second), 5u);
  EXPECT_EQ(packets(fallback), before);
  EXPECT_EQ(PlaintextOnWire(), 0);
}

}  // namespace
}  // namespace espalier::datapath
