// What must hold of any ESP packet: no changed, cut or lengthened packet is
// ever accepted, in any suite.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using base::Bytes;
using base::EspCipher;
using base::EspIntegrity;
using base::EspSuite;
using testing::Connect;
using testing::End;
using testing::MakePacket;
using testing::PacketOptions;
using testing::SuperPacket;
using testing::WirePacket;

class EverySuite : public ::testing::TestWithParam<EspSuite> {};

INSTANTIATE_TEST_SUITE_P(
    Suites, EverySuite,
    ::testing::Values(
        EspSuite{EspCipher::kAesGcm16, 128, EspIntegrity::kNone, true},
        EspSuite{EspCipher::kAesGcm16, 256, EspIntegrity::kNone, false},
        EspSuite{EspCipher::kChaCha20Poly1305, 256, EspIntegrity::kNone, true},
        EspSuite{EspCipher::kAesCbc, 128, EspIntegrity::kHmacSha2_256_128,
                 true},
        EspSuite{EspCipher::kAesCbc, 256, EspIntegrity::kHmacSha2_512_256,
                 false}));

TEST_P(EverySuite, NoChangedPacketIsAccepted) {
  for (const CipherChoice choice :
       {CipherChoice::kFastest, CipherChoice::kOpenssl}) {
    End one(1, choice), two(2, choice);
    Connect(one, two, GetParam());
    one.FromPod(MakePacket({.payload = 40}));
    const Bytes packet = one.wire.packets.at(0).bytes;

    const auto accepted = [&](Bytes changed) {
      two.FromWire({WirePacket{std::move(changed)}});
      return !std::exchange(two.tun.packets, {}).empty();
    };
    for (size_t bit = 0; bit < packet.size() * 8; ++bit) {
      Bytes changed = packet;
      changed[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      ASSERT_FALSE(accepted(std::move(changed))) << "bit " << bit;
    }
    for (size_t size = 0; size < packet.size(); ++size) {
      ASSERT_FALSE(accepted(Bytes(packet.begin(), packet.begin() + size)))
          << "cut to " << size;
    }
    for (size_t extra = 1; extra < 40; ++extra) {
      Bytes longer = packet;
      longer.resize(packet.size() + extra);
      ASSERT_FALSE(accepted(std::move(longer))) << "and " << extra;
    }
    EXPECT_TRUE(accepted(packet)) << "the control";
    EXPECT_FALSE(accepted(packet)) << "a replay";
  }
}

TEST_P(EverySuite, AnotherKeyOpensNothing) {
  End one(1), two(2);
  base::EspSa in =
      testing::MakeSa(base::Direction::kInbound, 0x1000, GetParam(), 200);
  ASSERT_TRUE(two.sas.Install(std::move(in), two.clock.now).ok());
  base::EspSa out =
      testing::MakeSa(base::Direction::kOutbound, 0x1000, GetParam());
  auto sa = one.sas.Install(std::move(out), one.clock.now);
  ASSERT_TRUE(sa.ok());
  (*sa)->inner_mtu = 1400;
  for (int i = 0; i < 50; ++i) one.FromPod(MakePacket({}));
  two.FromWire(one.wire.packets);
  EXPECT_TRUE(two.tun.packets.empty());
  EXPECT_EQ(two.statistics.drop_bad_icv, 50u);
}

// Any mix of flows, sizes and kinds comes out as it went in: per flow the
// same octets in the same order, and every checksum right or left to finish.
TEST_P(EverySuite, TrafficComesOutAsItWentIn) {
  End one(1), two(2);
  Connect(one, two, GetParam());
  uint64_t state = 0x9e3779b97f4a7c15ull;
  const auto random = [&](uint64_t bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % bound;
  };
  std::map<uint16_t, Bytes> sent, received;
  std::map<uint16_t, uint32_t> sequence;
  for (int round = 0; round < 60; ++round) {
    for (int i = 0; i < 10; ++i) {
      PacketOptions o;
      o.source_port = static_cast<uint16_t>(1000 + random(12));
      o.tcp = o.source_port % 3 != 0;
      o.v6 = o.source_port % 2 == 0;
      o.payload = 1 + random(random(3) == 0 ? 40000 : 1200);
      o.fill = static_cast<uint8_t>(random(256));
      o.sequence = sequence[o.source_port];
      o.flags = random(4) == 0 ? 0x18 : 0x10;
      o.finish_checksum = o.payload <= 1200;
      sequence[o.source_port] += static_cast<uint32_t>(o.payload);
      const Bytes packet = MakePacket(o);
      const size_t headers = packet.size() - o.payload;
      Bytes& flow = sent[o.source_port];
      flow.insert(flow.end(), packet.begin() + headers, packet.end());
      one.FromPod(packet,
                  o.finish_checksum ? VirtioNetHeader{} : SuperPacket(o, 1300));
    }
    two.FromWire(std::exchange(one.wire.packets, {}));
  }
  for (const auto& out : two.tun.packets) {
    const auto inner = ParseInnerPacket(out.bytes);
    ASSERT_TRUE(inner.has_value());
    if (out.offload.gso_type == VirtioNetHeader::kGsoNone) {
      EXPECT_TRUE(testing::ChecksumsRight(out.bytes));
    }
    const uint8_t* t = out.bytes.data() + inner->transport;
    const size_t headers =
        inner->transport +
        (inner->protocol == kProtocolTcp ? (t[12] >> 4) * 4u : size_t{8});
    Bytes& flow = received[Load16(t)];
    flow.insert(flow.end(), out.bytes.begin() + headers, out.bytes.end());
  }
  EXPECT_EQ(received, sent);
}

}  // namespace
}  // namespace espalier::esp
