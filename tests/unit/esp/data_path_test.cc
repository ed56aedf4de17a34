// Two ends: what leaves one TUN comes out of the other, and what must not
// pass does not.
#include "agent/esp/ecn.h"
#include "agent/esp/path_mtu.h"
#include "agent/esp/too_big.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using base::Bytes;
using base::Direction;
using base::EspSuite;
using testing::ChecksumsRight;
using testing::Connect;
using testing::End;
using ::testing::IsEmpty;
using testing::MakePacket;
using testing::MakeSa;
using testing::PacketOptions;
using ::testing::SizeIs;
using testing::SuperPacket;
using testing::WirePacket;

const EspSuite kGcm;

struct Pair {
  explicit Pair(const EspSuite& suite = kGcm) { Connect(one, two, suite); }
  Sa* out() {
    return one.sas.FindOutbound(
        MakeSa(Direction::kOutbound, 0x1000, kGcm).outer_destination,
        base::Spi(0x1000));
  }
  Sa* in() { return two.sas.FindInbound(base::Spi(0x1000)); }
  std::vector<WirePacket> Take() { return std::exchange(one.wire.packets, {}); }
  End one{1};
  End two{2};
};

TEST(DataPath, CarriesPacketsOfBothFamilies) {
  Pair pair;
  for (const bool v6 : {false, true}) {
    const Bytes packet = MakePacket({.v6 = v6});
    pair.one.FromPod(packet);
    auto wire = pair.Take();
    ASSERT_THAT(wire, SizeIs(1));
    EXPECT_EQ(std::search(wire[0].bytes.begin(), wire[0].bytes.end(),
                          packet.end() - 32, packet.end()),
              wire[0].bytes.end())
        << "plaintext in the ESP packet";
    pair.two.FromWire(std::move(wire));
    ASSERT_THAT(pair.two.tun.packets, SizeIs(1));
    EXPECT_EQ(pair.two.tun.packets[0].bytes, packet);
    pair.two.tun.packets.clear();
  }
  EXPECT_EQ(pair.out()->counters.packets, 2u);
  EXPECT_EQ(pair.in()->counters.packets, 2u);
  EXPECT_EQ(pair.in()->counters.bytes, pair.out()->counters.bytes);
}

TEST(DataPath, CarriesSuperPacketsWhole) {
  for (const bool tcp : {true, false}) {
    Pair pair;
    const PacketOptions o{
        .tcp = tcp, .payload = 30000, .finish_checksum = false};
    pair.one.FromPod(MakePacket(o), SuperPacket(o, 1300));
    EXPECT_THAT(pair.one.wire.packets, SizeIs(24));
    pair.two.FromWire(pair.Take());
    ASSERT_THAT(pair.two.tun.packets, SizeIs(1));
    EXPECT_EQ(pair.two.tun.packets[0].bytes, MakePacket(o));
    EXPECT_EQ(pair.two.tun.packets[0].offload.gso_size, 1300);
  }
}

TEST(DataPath, RefusesReplaysAndCountsThem) {
  Pair pair;
  pair.one.FromPod(MakePacket({}));
  const auto wire = pair.Take();
  pair.two.FromWire(wire);
  pair.two.FromWire(wire);
  EXPECT_THAT(pair.two.tun.packets, SizeIs(1));
  EXPECT_EQ(pair.in()->counters.replayed, 1u);
}

TEST(DataPath, AForgedNumberDoesNotMoveTheWindow) {
  Pair pair;
  pair.one.FromPod(MakePacket({}));
  auto forged = pair.one.wire.packets;
  Store32(1000000, forged[0].bytes.data() + 4);
  pair.two.FromWire(forged);
  EXPECT_THAT(pair.two.tun.packets, IsEmpty());
  EXPECT_EQ(pair.in()->counters.bad_icv, 1u);
  EXPECT_EQ(pair.in()->replay.top(), 0u);
  pair.two.FromWire(pair.Take());
  EXPECT_THAT(pair.two.tun.packets, SizeIs(1));
}

// RFC 4301 5.2: a peer cannot send as another.
TEST(DataPath, InnerAddressesMustMatchTheSelectors) {
  Pair pair;
  // A sender that does not keep to what was negotiated.
  base::EspSa wide = MakeSa(Direction::kOutbound, 0x2000, kGcm, 9);
  wide.local_selectors = wide.remote_selectors = {
      base::TrafficSelector::FromPrefix(testing::Prefix("0.0.0.0/0"))};
  ASSERT_TRUE(pair.two.sas
                  .Install(MakeSa(Direction::kInbound, 0x2000, kGcm, 9),
                           pair.two.clock.now)
                  .ok());
  auto sender = pair.one.sas.Install(std::move(wide), pair.one.clock.now);
  ASSERT_TRUE(sender.ok());
  (*sender)->inner_mtu = 1438;
  base::TunnelPolicy policy = pair.one.policies.policies().begin()->second;
  policy.local = policy.remote = {testing::Prefix("0.0.0.0/0")};
  ASSERT_TRUE(pair.one.policies.Set(policy).ok());

  pair.one.FromPod(MakePacket({.source = "10.3.0.5"}));
  pair.one.FromPod(MakePacket({.destination = "10.3.0.5"}));
  pair.two.FromWire(pair.Take());
  EXPECT_THAT(pair.two.tun.packets, IsEmpty());
  EXPECT_EQ(
      (*pair.two.sas.FindInbound(base::Spi(0x2000))).counters.selector_mismatch,
      2u);
  pair.one.FromPod(MakePacket({}));  // the control: this one may pass
  pair.two.FromWire(pair.Take());
  EXPECT_THAT(pair.two.tun.packets, SizeIs(1));
}

TEST(DataPath, WithoutSaNothingLeavesAndAnAcquireIsSent) {
  End end(1);
  for (int i = 0; i < 10; ++i) end.FromPod(MakePacket({}));
  EXPECT_THAT(end.wire.packets, IsEmpty());
  EXPECT_THAT(end.acquires, SizeIs(1));
  EXPECT_EQ(end.statistics.drop_no_sa, 10u);
  end.clock.now += absl::Seconds(2);
  end.FromPod(MakePacket({}));
  EXPECT_THAT(end.acquires, SizeIs(2));
}

TEST(DataPath, WithoutPolicyNothingLeaves) {
  Pair pair;
  pair.one.FromPod(MakePacket({.destination = "10.3.0.1"}));
  pair.one.FromPod(MakePacket({.source = "10.3.0.1"}));
  EXPECT_THAT(pair.one.wire.packets, IsEmpty());
  EXPECT_EQ(pair.one.statistics.drop_no_policy, 2u);
  EXPECT_THAT(pair.one.acquires, IsEmpty());
}

TEST(DataPath, TheNewestSaSendsAndTheOlderTakesOverWhenItGoes) {
  Pair pair;
  Connect(pair.one, pair.two, kGcm, 0x1001, 99);
  const auto spi = [&] {
    pair.one.FromPod(MakePacket({}));
    return ReadHeader(pair.Take()[0].bytes)->spi;
  };
  EXPECT_EQ(spi(), base::Spi(0x1001));
  EXPECT_TRUE(
      pair.one.sas.Remove({Direction::kOutbound, testing::Address("192.0.2.2"),
                           base::Spi(0x1001)}));
  EXPECT_EQ(spi(), base::Spi(0x1000));
}

TEST(DataPath, AKeyIsInstalledOnceEver) {
  Pair pair;
  const auto install = [&](uint32_t spi, uint8_t key) {
    return pair.one.sas
        .Install(MakeSa(Direction::kOutbound, spi, kGcm, key),
                 pair.one.clock.now)
        .status();
  };
  EXPECT_TRUE(absl::IsAlreadyExists(install(0x1000, 50)));  // same SA
  EXPECT_TRUE(absl::IsAlreadyExists(install(0x3000, 7)));   // same key
  EXPECT_TRUE(pair.one.sas.Remove(pair.out()->key));
  EXPECT_TRUE(absl::IsAlreadyExists(install(0x1000, 7)));
  EXPECT_TRUE(absl::IsAlreadyExists(install(0x3000, 7)));
  EXPECT_TRUE(install(0x3000, 51).ok());  // the control: another key may
  EXPECT_TRUE(absl::IsInvalidArgument(install(255, 52)));
}

TEST(DataPath, LimitsWarnOnceThenStop) {
  End one(1), two(2);
  base::EspSa out = MakeSa(Direction::kOutbound, 0x1000, kGcm);
  out.limits.soft_packets = 3;
  out.limits.hard_packets = 5;
  auto sa = one.sas.Install(std::move(out), one.clock.now);
  ASSERT_TRUE(sa.ok());
  (*sa)->inner_mtu = 1438;
  EXPECT_FALSE((*sa)->config.encryption_key.empty());  // for a hand-over
  for (int i = 0; i < 9; ++i) one.FromPod(MakePacket({}));
  EXPECT_TRUE((*sa)->config.encryption_key.empty());
  EXPECT_THAT(one.wire.packets, SizeIs(5));
  ASSERT_THAT(one.expired, SizeIs(2));
  EXPECT_FALSE(one.expired[0].second);
  EXPECT_TRUE(one.expired[1].second);
  EXPECT_TRUE((*sa)->expired());
}

TEST(DataPath, ByteAndTimeLimits) {
  End one(1);
  base::EspSa out = MakeSa(Direction::kOutbound, 0x1000, kGcm);
  out.limits.hard_bytes = 300;
  auto sa = one.sas.Install(std::move(out), one.clock.now);
  ASSERT_TRUE(sa.ok());
  (*sa)->inner_mtu = 1438;
  for (int i = 0; i < 9; ++i) one.FromPod(MakePacket({}));  // 152 octets each
  EXPECT_THAT(one.wire.packets, SizeIs(2));

  base::EspSa timed = MakeSa(Direction::kInbound, 0x1001, kGcm, 44);
  timed.limits.soft_time = absl::Seconds(10);
  timed.limits.hard_time = absl::Seconds(20);
  auto in = one.sas.Install(std::move(timed), one.clock.now);
  ASSERT_TRUE(in.ok());
  one.expired.clear();
  one.sas.Tick(one.clock.now + absl::Seconds(9));
  EXPECT_THAT(one.expired, IsEmpty());
  one.sas.Tick(one.clock.now + absl::Seconds(10));
  one.sas.Tick(one.clock.now + absl::Seconds(11));
  EXPECT_THAT(one.expired, SizeIs(1));
  one.sas.Tick(one.clock.now + absl::Seconds(20));
  EXPECT_THAT(one.expired, SizeIs(2));
  EXPECT_TRUE((*in)->expired());
}

TEST(DataPath, SoftBytesWarnOnceAndPacketsGoOn) {
  End one(1);
  base::EspSa out = MakeSa(Direction::kOutbound, 0x1000, kGcm);
  out.limits.soft_bytes = 300;
  auto sa = one.sas.Install(std::move(out), one.clock.now);
  ASSERT_TRUE(sa.ok());
  (*sa)->inner_mtu = 1438;
  one.FromPod(MakePacket({}));  // 152 octets
  EXPECT_THAT(one.expired, IsEmpty());
  for (int i = 0; i < 8; ++i) one.FromPod(MakePacket({}));
  EXPECT_THAT(one.wire.packets, SizeIs(9));
  ASSERT_THAT(one.expired, SizeIs(1));
  EXPECT_FALSE(one.expired[0].second);
  EXPECT_FALSE((*sa)->expired());
}

// What comes in on a used-up SA is dropped, however authentic.
TEST(DataPath, InboundLimitsStopWhatComesIn) {
  base::SaLimits packets, bytes;
  packets.hard_packets = 3;
  bytes.hard_bytes = 300;  // 128 octets each
  for (const base::SaLimits& limits : {packets, bytes}) {
    End one(1), two(2);
    auto out = one.sas.Install(MakeSa(Direction::kOutbound, 0x1000, kGcm),
                               one.clock.now);
    base::EspSa limited = MakeSa(Direction::kInbound, 0x1000, kGcm);
    limited.limits = limits;
    auto in = two.sas.Install(std::move(limited), two.clock.now);
    ASSERT_TRUE(out.ok() && in.ok());
    (*out)->inner_mtu = 1438;
    for (int i = 0; i < 9; ++i) {
      one.FromPod(MakePacket({.tcp = false}));
      two.FromWire(std::exchange(one.wire.packets, {}));
    }
    EXPECT_THAT(two.tun.packets, SizeIs(3));
    EXPECT_TRUE((*in)->expired());
    ASSERT_THAT(two.expired, SizeIs(1));
    EXPECT_TRUE(two.expired[0].second);
    EXPECT_EQ(two.statistics.drop_expired_sa, 6u);
  }
}

TEST(DataPath, SequenceNumbersNeverRepeat) {
  EspSuite suite;
  suite.esn = false;
  Pair pair(suite);
  pair.out()->last_sequence = 0xfffffffe;
  pair.one.FromPod(MakePacket({}));
  pair.one.FromPod(MakePacket({}));
  const auto wire = pair.Take();
  ASSERT_THAT(wire, SizeIs(1));
  EXPECT_EQ(ReadHeader(wire[0].bytes)->sequence, 0xffffffffu);
  // Past three quarters of the numbers: the soft limit, then the hard one.
  ASSERT_THAT(pair.one.expired, SizeIs(2));
  EXPECT_FALSE(pair.one.expired[0].second);
  EXPECT_TRUE(pair.one.expired[1].second);

  Pair extended;  // with ESN the same place is nothing special
  extended.out()->last_sequence = 0xfffffffe;
  ASSERT_TRUE(extended.in()->replay.Accept(0xfffffff0));
  for (int i = 0; i < 3; ++i) extended.one.FromPod(MakePacket({}));
  extended.two.FromWire(extended.Take());
  EXPECT_EQ(extended.in()->counters.packets, 3u);
  EXPECT_EQ(extended.in()->replay.top(), 0x100000001u);
}

TEST(DataPath, WatchTellsOfTheFirstPacketOnce) {
  Pair pair;
  pair.in()->watched = true;
  pair.one.FromPod(MakePacket({}));
  pair.one.FromPod(MakePacket({}));
  auto wire = pair.Take();
  auto forged = wire;
  forged[0].bytes.back() ^= 1;
  pair.two.FromWire({forged[0]});
  EXPECT_THAT(pair.two.seen, IsEmpty());
  pair.two.FromWire(wire);
  EXPECT_THAT(pair.two.seen, SizeIs(1));
}

TEST(DataPath, DummyPacketsAreAcceptedAndDropped) {
  Pair pair;
  auto cipher = MakeCipher(MakeSa(Direction::kOutbound, 0x1000, kGcm),
                           CipherChoice::kFastest);
  ASSERT_TRUE(cipher.ok());
  Bytes plain(64 + kMaxTrailer, 0);
  const size_t padded = WriteTrailer(plain.data(), 64, 4, kProtocolNone);
  const EspLayout layout(kGcm);
  WirePacket packet{Bytes(layout.packet(64))};
  WriteHeader({base::Spi(0x1000), 9}, packet.bytes.data());
  ASSERT_TRUE((*cipher)->Seal(9, plain.data(), padded, packet.bytes.data()));
  pair.two.FromWire({packet});
  EXPECT_EQ(pair.two.statistics.dummies_received, 1u);
  EXPECT_THAT(pair.two.tun.packets, IsEmpty());
}

TEST(DataPath, CongestionMarksCrossTheTunnel) {
  Pair pair;
  pair.one.FromPod(MakePacket({.traffic_class = 0xba}));  // AF and ECT(0)
  auto wire = pair.Take();
  EXPECT_EQ(wire[0].traffic_class, 0xba);
  wire[0].traffic_class |= kCe;
  pair.two.FromWire(wire);
  ASSERT_THAT(pair.two.tun.packets, SizeIs(1));
  EXPECT_EQ(pair.two.tun.packets[0].bytes[1], 0xbb);
  EXPECT_TRUE(ChecksumsRight(pair.two.tun.packets[0].bytes));

  pair.one.FromPod(MakePacket({.v6 = true, .traffic_class = 0x02}));
  wire = pair.Take();
  wire[0].traffic_class |= kCe;
  pair.two.FromWire(wire);
  ASSERT_THAT(pair.two.tun.packets, SizeIs(2));
  EXPECT_EQ(ParseInnerPacket(pair.two.tun.packets[1].bytes)->traffic_class, 3);

  pair.one.FromPod(MakePacket({}));  // Not-ECT meets CE: dropped
  wire = pair.Take();
  wire[0].traffic_class |= kCe;
  pair.two.FromWire(wire);
  EXPECT_THAT(pair.two.tun.packets, SizeIs(2));
  EXPECT_EQ(pair.two.statistics.drop_ecn, 1u);
}

// --- path MTU ---

TEST(TooBig, IsAnsweredWithTheExactInnerMtu) {
  Pair pair;
  pair.out()->inner_mtu = 1300;
  pair.one.FromPod(MakePacket({.payload = 1300 - 52}));
  EXPECT_THAT(pair.Take(), SizeIs(1));
  EXPECT_THAT(pair.one.tun.packets, IsEmpty());

  const Bytes big = MakePacket({.payload = 1301 - 52});
  pair.one.FromPod(big);
  EXPECT_THAT(pair.Take(), IsEmpty());
  ASSERT_THAT(pair.one.tun.packets, SizeIs(1));
  const Bytes& icmp = pair.one.tun.packets[0].bytes;
  const auto inner = ParseInnerPacket(icmp);
  ASSERT_TRUE(inner.has_value());
  EXPECT_EQ(inner->destination().ToString(), "10.1.0.5");
  EXPECT_EQ(inner->protocol, kProtocolIcmp);
  EXPECT_EQ(icmp[20], 3);
  EXPECT_EQ(icmp[21], 4);
  EXPECT_EQ(Load16(icmp.data() + 26), 1300);
  EXPECT_EQ(FoldSum(PartialSum(icmp.data() + 20, icmp.size() - 20)), 0xffff);
  EXPECT_EQ(FoldSum(PartialSum(icmp.data(), 20)), 0xffff);
  EXPECT_LE(icmp.size(), 576u);
  EXPECT_TRUE(std::equal(icmp.begin() + 28, icmp.end(), big.begin()));
}

TEST(TooBig, Ipv6IsAnsweredAndNeverBelow1280) {
  Pair pair;
  pair.out()->inner_mtu = 1400;
  pair.one.FromPod(MakePacket({.v6 = true, .payload = 1400}));
  ASSERT_THAT(pair.one.tun.packets, SizeIs(1));
  const Bytes& icmp = pair.one.tun.packets[0].bytes;
  EXPECT_EQ(icmp[40], 2);
  EXPECT_EQ(Load32(icmp.data() + 44), 1400u);
  EXPECT_TRUE(ChecksumsRight(icmp));
  EXPECT_LE(icmp.size(), 1280u);

  // RFC 8200 5: 1280 must pass, if need be in outer fragments.
  pair.out()->inner_mtu = 1200;
  pair.one.FromPod(MakePacket({.v6 = true, .payload = 1280 - 72}));
  auto wire = pair.Take();
  ASSERT_THAT(wire, SizeIs(1));
  EXPECT_TRUE(wire[0].fragment);
  pair.one.FromPod(MakePacket({.v6 = true, .payload = 1281 - 72}));
  EXPECT_THAT(pair.Take(), IsEmpty());
  EXPECT_EQ(Load32(pair.one.tun.packets[1].bytes.data() + 44), 1280u);
}

TEST(TooBig, AnswersAreRareAndOneForASuperPacket) {
  Pair pair;
  pair.out()->inner_mtu = 1000;
  const PacketOptions o{.payload = 30000, .finish_checksum = false};
  pair.one.FromPod(MakePacket(o), SuperPacket(o, 1300));
  EXPECT_THAT(pair.one.tun.packets, SizeIs(1));
  for (int i = 0; i < 500; ++i) pair.one.FromPod(MakePacket({.payload = 1400}));
  EXPECT_THAT(pair.one.tun.packets, SizeIs(50));
}

TEST(TooBig, NoAnswerToErrorsAndLaterFragments) {
  const auto answered = [](const Bytes& packet) {
    return !MakeTooBig(ParseInnerPacket(packet).value(), packet, 1300).empty();
  };
  Bytes packet = MakePacket({});
  EXPECT_TRUE(answered(packet));
  packet[9] = kProtocolIcmp;
  packet[20] = 8;  // echo
  EXPECT_TRUE(answered(packet));
  packet[20] = 3;  // an error
  EXPECT_FALSE(answered(packet));
  packet = MakePacket({});
  packet[7] = 5;
  EXPECT_FALSE(answered(packet));
  EXPECT_FALSE(answered(MakePacket({.destination = "224.0.0.1"})));
  EXPECT_FALSE(answered(MakePacket({.source = "0.0.0.0"})));
  packet = MakePacket({.v6 = true});
  packet[6] = kProtocolIcmpv6;
  packet[40] = 1;
  EXPECT_FALSE(answered(packet));
  packet[40] = 128;
  EXPECT_TRUE(answered(packet));
}

TEST(TooBig, Ipv4WithoutDfIsFragmentedBeforeEsp) {
  Pair pair;
  pair.out()->inner_mtu = 1000;
  const Bytes whole =
      MakePacket({.tcp = false, .payload = 2500, .dont_fragment = false});
  pair.one.FromPod(whole);
  EXPECT_THAT(pair.one.wire.packets, SizeIs(3));
  pair.two.FromWire(pair.Take());
  ASSERT_THAT(pair.two.tun.packets, SizeIs(3));
  Bytes joined(whole.begin(), whole.begin() + 20);
  size_t place = 0;
  for (const auto& fragment : pair.two.tun.packets) {
    EXPECT_LE(fragment.bytes.size(), 1000u);
    EXPECT_EQ(FoldSum(PartialSum(fragment.bytes.data(), 20)), 0xffff);
    const uint16_t field = Load16(fragment.bytes.data() + 6);
    EXPECT_EQ((field & 0x1fffu) * 8, place);
    place += fragment.bytes.size() - 20;
    EXPECT_EQ((field & 0x2000) != 0, place != whole.size() - 20);
    joined.insert(joined.end(), fragment.bytes.begin() + 20,
                  fragment.bytes.end());
  }
  EXPECT_EQ(joined, whole);
}

TEST(TooBig, FragmentsOfAFragmentKeepItsPlace) {
  Bytes packet =
      MakePacket({.tcp = false, .payload = 992, .dont_fragment = false});
  Store16(0x2000 | 100, packet.data() + 6);
  const auto pieces =
      FragmentIpv4(ParseInnerPacket(packet).value(), packet, 600);
  ASSERT_THAT(pieces, SizeIs(2));
  EXPECT_EQ(Load16(pieces[0].data() + 6), 0x2000 | 100);
  EXPECT_EQ(Load16(pieces[1].data() + 6), 0x2000 | (100 + 72));
  EXPECT_THAT(FragmentIpv4(ParseInnerPacket(packet).value(), packet, 27),
              IsEmpty());
}

TEST(PathMtu, OnlyPlausibleValuesLower) {
  PathMtuTable table([](const auto&, const auto&) { return 1500; });
  const auto a = testing::Address("192.0.2.1"),
             b = testing::Address("192.0.2.2");
  const auto six = testing::Address("2001:db8::2");
  const base::Instant now = absl::FromUnixSeconds(100);
  EXPECT_EQ(table.Get(a, b, now), 1500u);
  EXPECT_FALSE(table.Lower(a, b, 1500, now));
  EXPECT_FALSE(table.Lower(a, b, 9000, now));
  EXPECT_FALSE(table.Lower(a, b, 575, now));
  EXPECT_FALSE(table.Lower(six, six, 1279, now));
  EXPECT_TRUE(table.Lower(six, six, 1280, now));
  EXPECT_TRUE(table.Lower(a, b, 1400, now));
  EXPECT_FALSE(table.Lower(a, b, 1450, now));
  EXPECT_EQ(table.Get(a, b, now + absl::Minutes(9)), 1400u);
  EXPECT_EQ(table.Get(a, b, now + absl::Minutes(11)), 1500u);
}

TEST(Udp, DatagramsAreToldApart) {
  EXPECT_EQ(Classify(Bytes{0xff}), UdpKind::kKeepalive);
  EXPECT_EQ(Classify(Bytes{0xfe}), UdpKind::kMalformed);
  EXPECT_EQ(Classify(Bytes{}), UdpKind::kMalformed);
  EXPECT_EQ(Classify(Bytes(7, 1)), UdpKind::kMalformed);
  EXPECT_EQ(Classify(Bytes(32, 0)), UdpKind::kIke);
  EXPECT_EQ(Classify(Bytes(32, 0xff)), UdpKind::kEsp);
}

}  // namespace
}  // namespace espalier::esp
