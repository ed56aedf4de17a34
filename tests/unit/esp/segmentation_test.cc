#include <vector>

#include "agent/esp/coalescer.h"
#include "agent/esp/segmenter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using base::Bytes;
using testing::ChecksumsRight;
using testing::MakePacket;
using testing::MemoryTun;
using testing::PacketOptions;
using testing::SuperPacket;
using testing::TunPacket;

// Cuts, spoiling what lies behind each segment as encryption's trailer does.
std::vector<Bytes> Cut(const VirtioNetHeader& offload, Bytes packet) {
  const size_t size = packet.size();
  packet.resize(size + kMaxTrailer);
  const auto inner =
      ParseInnerPacket({packet.data(), size}, offload.gso_type != 0);
  if (!inner.has_value()) return {};
  Segmenter segmenter(offload, *inner, packet.data(), size);
  std::vector<Bytes> out;
  if (!segmenter.valid()) return out;
  size_t length;
  while (uint8_t* segment = segmenter.Next(&length)) {
    out.emplace_back(segment, segment + length);
    std::fill_n(segment + length, kMaxTrailer, 0xee);
  }
  return out;
}

std::vector<TunPacket> Join(std::vector<Bytes> packets, bool udp = true) {
  MemoryTun tun;
  Coalescer coalescer(&tun, udp);
  for (Bytes& packet : packets) {
    coalescer.Add(packet.data(), ParseInnerPacket(packet).value());
  }
  coalescer.Flush();
  return tun.packets;
}

size_t Headers(const PacketOptions& o) {
  return (o.v6 ? 40 : 20) + (o.tcp ? 20 + o.options : 8);
}

TEST(Segmenter, SegmentsAreWhatTheSenderWouldHaveSent) {
  const PacketOptions o{.payload = 10000,
                        .sequence = 0xfffff000,  // wraps
                        .flags = 0x19,           // ACK, PSH, FIN
                        .id = 0xfffe,
                        .finish_checksum = false};
  const auto segments = Cut(SuperPacket(o, 1400), MakePacket(o));
  ASSERT_EQ(segments.size(), 8u);
  const Bytes whole = MakePacket(o);
  size_t place = Headers(o);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Bytes& s = segments[i];
    const bool last = i + 1 == segments.size();
    EXPECT_TRUE(ChecksumsRight(s)) << i;
    EXPECT_EQ(s.size(), last ? Headers(o) + 200 : Headers(o) + 1400);
    EXPECT_EQ(Load32(s.data() + 24),
              static_cast<uint32_t>(0xfffff000u + 1400u * i));
    EXPECT_EQ(Load16(s.data() + 4), static_cast<uint16_t>(0xfffe + i));
    EXPECT_EQ(s[33], last ? 0x19 : 0x10);
    EXPECT_TRUE(
        std::equal(s.begin() + Headers(o), s.end(), whole.begin() + place));
    place += s.size() - Headers(o);
  }
  EXPECT_EQ(place, whole.size());
}

TEST(Segmenter, CwrStaysOnTheFirstSegmentOnly) {
  const PacketOptions o{
      .payload = 3000, .flags = 0x90, .finish_checksum = false};
  VirtioNetHeader offload = SuperPacket(o, 1000);
  offload.gso_type |= VirtioNetHeader::kGsoEcn;
  const auto segments = Cut(offload, MakePacket(o));
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[0][33], 0x90);
  EXPECT_EQ(segments[1][33], 0x10);
  EXPECT_EQ(segments[2][33], 0x10);
}

TEST(Segmenter, FinishesTheChecksumOfASinglePacket) {
  for (const bool tcp : {true, false}) {
    const PacketOptions o{.tcp = tcp, .finish_checksum = false};
    Bytes packet = MakePacket(o);
    EXPECT_FALSE(ChecksumsRight(packet));
    VirtioNetHeader offload = SuperPacket(o, 0);
    offload.gso_type = VirtioNetHeader::kGsoNone;
    const auto segments = Cut(offload, packet);
    ASSERT_EQ(segments.size(), 1u);
    EXPECT_TRUE(ChecksumsRight(segments[0]));
  }
}

TEST(Segmenter, RefusesVirtioHeadersThatDoNotFit) {
  const PacketOptions o{.payload = 3000, .finish_checksum = false};
  const Bytes packet = MakePacket(o);
  VirtioNetHeader good = SuperPacket(o, 1000);
  EXPECT_EQ(Cut(good, packet).size(), 3u);

  VirtioNetHeader bad = good;
  bad.gso_size = 0;
  EXPECT_TRUE(Cut(bad, packet).empty());
  bad = good;
  bad.gso_type = VirtioNetHeader::kGsoUdp;  // but it is TCP
  EXPECT_TRUE(Cut(bad, packet).empty());
  bad = good;
  bad.gso_type = 77;
  EXPECT_TRUE(Cut(bad, packet).empty());
  bad.gso_type = VirtioNetHeader::kGsoNone;
  bad.checksum_start = 0xffff;
  EXPECT_TRUE(Cut(bad, packet).empty());
  bad.checksum_start = static_cast<uint16_t>(packet.size() - 1);
  bad.checksum_offset = 0;
  EXPECT_TRUE(Cut(bad, packet).empty());

  Bytes short_header = packet;
  short_header[32] = 0x40;  // TCP header of 16 octets
  EXPECT_TRUE(Cut(good, short_header).empty());
  short_header[32] = 0xf0;
  short_header.resize(60);  // shorter than its TCP header says
  EXPECT_TRUE(Cut(good, short_header).empty());
}

TEST(Coalescer, JoinsWhatFollowsAndKeepsWhatDoesNot) {
  std::vector<Bytes> packets;
  for (uint32_t i = 0; i < 3; ++i) {
    packets.push_back(MakePacket({.sequence = 1000 + 100 * i}));
  }
  packets.push_back(MakePacket({.sequence = 5000}));  // a hole before it
  const auto joined = Join(packets);
  ASSERT_EQ(joined.size(), 2u);
  EXPECT_EQ(joined[0].bytes.size(), packets[0].size() + 200);
  EXPECT_EQ(joined[0].offload.gso_type, VirtioNetHeader::kGsoTcp4);
  EXPECT_EQ(joined[0].offload.gso_size, 100);
  EXPECT_EQ(joined[0].offload.flags, VirtioNetHeader::kNeedsChecksum);
  EXPECT_EQ(joined[1].bytes, packets[3]);
  EXPECT_EQ(joined[1].offload.flags, VirtioNetHeader::kDataValid);
}

TEST(Coalescer, NeverVouchesForAWrongChecksum) {
  Bytes bad = MakePacket({.sequence = 1100});
  bad.back() ^= 1;
  const auto joined =
      Join({MakePacket({}), bad, MakePacket({.sequence = 1200})});
  ASSERT_EQ(joined.size(), 3u);
  int unverified = 0;
  for (const TunPacket& packet : joined) {
    if (packet.offload.flags != 0) continue;
    ++unverified;
    EXPECT_EQ(packet.bytes, bad);
  }
  EXPECT_EQ(unverified, 1);
  // The same packet with its right checksum is vouched for.
  EXPECT_EQ(Join({MakePacket({})})[0].offload.flags,
            VirtioNetHeader::kDataValid);
}

TEST(Coalescer, UdpWithoutChecksumIsNotVouchedFor) {
  Bytes packet = MakePacket({.tcp = false});
  Store16(0, packet.data() + 26);
  const auto joined = Join({packet, packet});
  ASSERT_EQ(joined.size(), 2u);
  EXPECT_EQ(joined[0].offload.flags, 0);
}

TEST(Coalescer, DifferencesThatMustNotBeLost) {
  const PacketOptions first{.sequence = 1000};
  PacketOptions next{.sequence = 1100};
  EXPECT_EQ(Join({MakePacket(first), MakePacket(next)}).size(), 1u);
  const auto kept_apart = [&](PacketOptions o) {
    return Join({MakePacket(first), MakePacket(o)}).size() == 2;
  };
  PacketOptions o = next;
  o.traffic_class = 3;  // CE
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.flags = 0x50;  // ECE
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.flags = 0x12;  // SYN
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.payload = 101;  // longer than the first
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.options = 16;
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.source_port = 40001;
  EXPECT_TRUE(kept_apart(o));
  o = next;
  o.source = "10.1.0.7";
  EXPECT_TRUE(kept_apart(o));

  Bytes window = MakePacket(next);
  Store16(4999, window.data() + 34);
  // Only the window differs, so the checksum has to be made right again.
  Store16(0, window.data() + 36);
  const uint64_t pseudo = PartialSum(window.data() + 12, 8) + WordSum(6) +
                          WordSum(static_cast<uint16_t>(window.size() - 20));
  StoreRaw16(
      FinishSum(PartialSum(window.data() + 20, window.size() - 20, pseudo)),
      window.data() + 36);
  ASSERT_TRUE(ChecksumsRight(window));
  EXPECT_EQ(Join({MakePacket(first), window}).size(), 2u);
}

TEST(Coalescer, WithoutDontFragmentIdentificationsMustCount) {
  const PacketOptions a{.sequence = 1000, .id = 9, .dont_fragment = false};
  PacketOptions b = a;
  b.sequence = 1100;
  b.id = 10;
  EXPECT_EQ(Join({MakePacket(a), MakePacket(b)}).size(), 1u);
  b.id = 11;
  EXPECT_EQ(Join({MakePacket(a), MakePacket(b)}).size(), 2u);
}

TEST(Coalescer, FlowsKeepTheirOrder) {
  std::vector<Bytes> packets;
  for (uint32_t i = 0; i < 40; ++i) {
    for (uint16_t flow = 0; flow < 20; ++flow) {  // more than it holds
      packets.push_back(
          MakePacket({.sequence = 1000 + 100 * i,
                      .flags = static_cast<uint8_t>(i % 7 == 3 ? 0x18 : 0x10),
                      .source_port = static_cast<uint16_t>(1000 + flow)}));
    }
  }
  std::map<uint16_t, uint32_t> next;
  size_t payload = 0;
  for (const TunPacket& packet : Join(packets)) {
    const uint16_t port = Load16(packet.bytes.data() + 20);
    const uint32_t sequence = Load32(packet.bytes.data() + 24);
    if (next.contains(port)) EXPECT_EQ(sequence, next[port]);
    next[port] = sequence + static_cast<uint32_t>(packet.bytes.size() - 52);
    payload += packet.bytes.size() - 52;
  }
  EXPECT_EQ(payload, 40u * 20 * 100);
}

TEST(Coalescer, UdpOnlyWhereTheTunTakesIt) {
  const PacketOptions o{.tcp = false};
  EXPECT_EQ(Join({MakePacket(o), MakePacket(o)}, true).size(), 1u);
  EXPECT_EQ(Join({MakePacket(o), MakePacket(o)}, false).size(), 2u);
}

// Joining undoes cutting: the super-packet comes back octet by octet, with a
// checksum field that only lacks the finishing both times.
TEST(Segmentation, JoiningUndoesCutting) {
  for (const bool v6 : {false, true}) {
    for (const bool tcp : {false, true}) {
      for (const size_t payload : {1401, 2800, 7777, 60000}) {
        const PacketOptions o{.v6 = v6,
                              .tcp = tcp,
                              .payload = payload,
                              .flags = 0x18,
                              .finish_checksum = false};
        const Bytes whole = MakePacket(o);
        const VirtioNetHeader offload = SuperPacket(o, 1400);
        const auto segments = Cut(offload, whole);
        ASSERT_EQ(segments.size(), (payload + 1399) / 1400);
        for (const Bytes& segment : segments) {
          ASSERT_TRUE(ChecksumsRight(segment));
        }
        const auto joined = Join(segments);
        ASSERT_EQ(joined.size(), 1u) << v6 << tcp << payload;
        EXPECT_EQ(joined[0].bytes, whole) << v6 << tcp << payload;
        EXPECT_EQ(joined[0].offload.gso_type, offload.gso_type);
        EXPECT_EQ(joined[0].offload.gso_size, offload.gso_size);
        EXPECT_EQ(joined[0].offload.header_size, offload.header_size);
        EXPECT_EQ(joined[0].offload.checksum_start, offload.checksum_start);
      }
    }
  }
}

TEST(Checksum, SumsAnySizeAndAlignment) {
  Bytes data(300);
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<uint8_t>(i * 37);
  for (size_t start = 0; start < 4; ++start) {
    for (size_t size = 0; size + start <= data.size(); ++size) {
      uint64_t expected = 0;  // RFC 1071's own words
      for (size_t i = 0; i < size; i += 2) {
        uint8_t pair[2] = {data[start + i],
                           i + 1 < size ? data[start + i + 1] : uint8_t{0}};
        uint16_t word;
        std::memcpy(&word, pair, 2);
        expected += word;
      }
      while (expected >> 16 != 0) {
        expected = (expected & 0xffff) + (expected >> 16);
      }
      const uint16_t got = FoldSum(PartialSum(data.data() + start, size));
      ASSERT_EQ(got, expected) << start << " " << size;
    }
  }
}

}  // namespace
}  // namespace espalier::esp
