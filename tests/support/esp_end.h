// One end of an ESP tunnel in memory: espd's whole data path between a TUN and
// a wire that are vectors.
#ifndef ESPALIER_TESTS_SUPPORT_ESP_END_H_
#define ESPALIER_TESTS_SUPPORT_ESP_END_H_

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/random.h"
#include "agent/esp/checksum.h"
#include "agent/esp/inbound.h"
#include "agent/esp/octets.h"
#include "agent/esp/outbound.h"
#include "agent/esp/policy_table.h"
#include "agent/esp/sa_database.h"

namespace espalier::esp::testing {

inline base::IpAddress Address(const std::string& text) {
  return base::IpAddress::Parse(text).value();
}
inline base::IpPrefix Prefix(const std::string& text) {
  return base::IpPrefix::Parse(text).value();
}

class FixedClock : public base::Clock {
 public:
  base::Instant Now() override { return now; }
  base::Instant now = absl::FromUnixSeconds(1000);
};

struct TunPacket {
  VirtioNetHeader offload;
  base::Bytes bytes;
};

class MemoryTun : public TunSink {
 public:
  void Write(const VirtioNetHeader& offload, iovec* parts,
             size_t count) override {
    TunPacket packet{offload, {}};
    for (size_t i = 1; i < count; ++i) {
      const auto* data = static_cast<const uint8_t*>(parts[i].iov_base);
      packet.bytes.insert(packet.bytes.end(), data, data + parts[i].iov_len);
    }
    packets.push_back(std::move(packet));
  }
  std::vector<TunPacket> packets;
};

struct WirePacket {
  base::Bytes bytes;
  uint8_t traffic_class = 0;
  bool fragment = false;
};

class MemoryWire : public PacketSink {
 public:
  uint8_t* Reserve(Sa*, size_t size, uint8_t traffic_class,
                   bool fragment) override {
    next_ = {base::Bytes(size), traffic_class, fragment};
    return next_.bytes.data();
  }
  void Commit() override { packets.push_back(std::move(next_)); }
  void Flush() override { ++flushes; }

  std::vector<WirePacket> packets;
  int flushes = 0;

 private:
  WirePacket next_;
};

inline const char kLocal[] = "10.1.0.0/16";
inline const char kRemote[] = "10.2.0.0/16";
inline const char kLocal6[] = "fd00:1::/32";
inline const char kRemote6[] = "fd00:2::/32";
inline constexpr base::Reqid kReqid{base::kOwnedReqidFirst};

// Node 1 (10.1.0.0/16) and node 2 (10.2.0.0/16) as seen by either.
struct End {
  explicit End(int number, CipherChoice choice = CipherChoice::kFastest)
      : number(number),
        sas(choice, [this](const Sa& sa,
                           bool hard) { expired.emplace_back(sa.key, hard); }),
        outbound(&sas, &policies, &wire, &tun, &statistics, &clock,
                 [this](base::Reqid reqid) { acquires.push_back(reqid); }),
        inbound(&sas, &tun, /*udp_offload=*/true, &statistics,
                [this](const Sa& sa) { seen.push_back(sa.key); }) {
    base::TunnelPolicy policy;
    policy.reqid = kReqid;
    policy.local = {Prefix(number == 1 ? kLocal : kRemote),
                    Prefix(number == 1 ? kLocal6 : kRemote6)};
    policy.remote = {Prefix(number == 1 ? kRemote : kLocal),
                     Prefix(number == 1 ? kRemote6 : kLocal6)};
    if (!policies.Set(policy).ok()) std::abort();
  }

  // The pods' kernel sends a packet, uncut when `offload` says so.
  void FromPod(base::Bytes packet, const VirtioNetHeader& offload = {}) {
    base::Bytes frame(sizeof offload);
    std::memcpy(frame.data(), &offload, sizeof offload);
    frame.insert(frame.end(), packet.begin(), packet.end());
    const size_t size = frame.size();
    frame.resize(size + kMaxTrailer);
    outbound.HandleFrame(frame.data(), size);
    outbound.Flush();
  }
  // All of these arrive at once, as one receive gives them.
  void FromWire(std::vector<WirePacket> packets) {
    for (WirePacket& packet : packets) {
      inbound.HandleEsp(packet.bytes, packet.traffic_class);
    }
    inbound.Flush();
  }

  int number;
  FixedClock clock;
  Statistics statistics;
  PolicyTable policies;
  MemoryTun tun;
  MemoryWire wire;
  std::vector<std::pair<base::SaKey, bool>> expired;
  std::vector<base::Reqid> acquires;
  std::vector<base::SaKey> seen;
  SaDatabase sas;
  Outbound outbound;
  Inbound inbound;
};

// An SA from node 1 to node 2, as the end of that direction installs it.
inline base::EspSa MakeSa(base::Direction direction, uint32_t spi,
                          const base::EspSuite& suite, uint8_t key = 7) {
  base::EspSa sa;
  sa.direction = direction;
  sa.spi = base::Spi(spi);
  sa.outer_source = Address("192.0.2.1");
  sa.outer_destination = Address("192.0.2.2");
  sa.encapsulation = base::EspSa::Encapsulation{};
  sa.suite = suite;
  sa.encryption_key = base::SecretBytes(suite.encryption_key_size());
  sa.integrity_key = base::SecretBytes(suite.integrity_key_size());
  for (auto* secret : {&sa.encryption_key, &sa.integrity_key}) {
    uint8_t octet = key;
    for (uint8_t& place : secret->mutable_span()) place = octet += 11;
  }
  sa.reqid = kReqid;
  std::vector<base::TrafficSelector> one = {
      base::TrafficSelector::FromPrefix(Prefix(kLocal)),
      base::TrafficSelector::FromPrefix(Prefix(kLocal6))};
  std::vector<base::TrafficSelector> two = {
      base::TrafficSelector::FromPrefix(Prefix(kRemote)),
      base::TrafficSelector::FromPrefix(Prefix(kRemote6))};
  const bool out = direction == base::Direction::kOutbound;
  sa.local_selectors = out ? one : two;
  sa.remote_selectors = out ? two : one;
  return sa;
}

// Both halves of an SA from `sender` (node 1) to `receiver` (node 2).
inline void Connect(End& sender, End& receiver, const base::EspSuite& suite,
                    uint32_t spi = 0x1000, uint8_t key = 7) {
  auto in = receiver.sas.Install(
      MakeSa(base::Direction::kInbound, spi, suite, key), receiver.clock.now);
  auto out = sender.sas.Install(
      MakeSa(base::Direction::kOutbound, spi, suite, key), sender.clock.now);
  if (!in.ok() || !out.ok()) std::abort();
  (*out)->inner_mtu = 1438;
}

struct PacketOptions {
  bool v6 = false;
  bool tcp = true;
  size_t payload = 100;
  uint32_t sequence = 1000;
  uint8_t flags = 0x10;  // ACK
  uint8_t traffic_class = 0;
  uint16_t id = 1;
  bool dont_fragment = true;
  uint16_t source_port = 40000;
  size_t options = 12;  // octets of TCP options
  std::string source = "10.1.0.5";
  std::string destination = "10.2.0.6";
  uint8_t fill = 0x40;
  bool finish_checksum = true;  // false: the pseudo-header's sum alone
};

// A TCP or UDP packet with right checksums.
inline base::Bytes MakePacket(PacketOptions o) {
  if (o.v6 && o.source.find('.') != std::string::npos) o.source = "fd00:1::5";
  if (o.v6 && o.destination.find('.') != std::string::npos) {
    o.destination = "fd00:2::6";
  }
  const size_t ip = o.v6 ? 40 : 20;
  const size_t transport = o.tcp ? 20 + o.options : 8;
  base::Bytes p(ip + transport + o.payload);
  const size_t length = transport + o.payload;
  const uint8_t protocol = o.tcp ? 6 : 17;
  const base::IpAddress source = Address(o.source);
  const base::IpAddress destination = Address(o.destination);
  if (o.v6) {
    Store32(0x60000000u | static_cast<uint32_t>(o.traffic_class) << 20,
            p.data());
    Store16(static_cast<uint16_t>(length), p.data() + 4);
    p[6] = protocol;
    p[7] = 63;
  } else {
    p[0] = 0x45;
    p[1] = o.traffic_class;
    Store16(static_cast<uint16_t>(p.size()), p.data() + 2);
    Store16(o.id, p.data() + 4);
    p[6] = o.dont_fragment ? 0x40 : 0;
    p[8] = 63;
    p[9] = protocol;
  }
  const size_t addresses = o.v6 ? 8 : 12;
  std::memcpy(p.data() + addresses, source.bytes().data(),
              source.bytes().size());
  std::memcpy(p.data() + addresses + source.bytes().size(),
              destination.bytes().data(), destination.bytes().size());
  if (!o.v6) StoreRaw16(FinishSum(PartialSum(p.data(), 20)), p.data() + 10);
  uint8_t* t = p.data() + ip;
  Store16(o.source_port, t);
  Store16(443, t + 2);
  if (o.tcp) {
    Store32(o.sequence, t + 4);
    Store32(77, t + 8);
    t[12] = static_cast<uint8_t>((20 + o.options) / 4 << 4);
    t[13] = o.flags;
    Store16(5000, t + 14);
    for (size_t i = 0; i < o.options; ++i) t[20 + i] = 1;  // no-operation
  } else {
    Store16(static_cast<uint16_t>(length), t + 4);
  }
  for (size_t i = 0; i < o.payload; ++i) {
    t[transport + i] = static_cast<uint8_t>(o.fill + i * 7);
  }
  const uint64_t pseudo = PartialSum(p.data() + addresses, o.v6 ? 32 : 8) +
                          WordSum(protocol) +
                          WordSum(static_cast<uint16_t>(length));
  uint8_t* field = t + (o.tcp ? 16 : 6);
  StoreRaw16(o.finish_checksum ? FinishSum(PartialSum(t, length, pseudo))
                               : FoldSum(pseudo),
             field);
  return p;
}

// Whether the IP header's and the transport checksum are right.
inline bool ChecksumsRight(const base::Bytes& p) {
  const auto inner = ParseInnerPacket(p);
  if (!inner.has_value() || inner->size != p.size()) return false;
  if (inner->is_v4() &&
      FoldSum(PartialSum(p.data(), inner->transport)) != 0xffff) {
    return false;
  }
  const size_t length = p.size() - inner->transport;
  const uint64_t pseudo = (inner->is_v4() ? PartialSum(p.data() + 12, 8)
                                          : PartialSum(p.data() + 8, 32)) +
                          WordSum(inner->protocol) +
                          WordSum(static_cast<uint16_t>(length));
  return FoldSum(PartialSum(p.data() + inner->transport, length, pseudo)) ==
         0xffff;
}

inline VirtioNetHeader SuperPacket(const PacketOptions& o, uint16_t segment) {
  VirtioNetHeader h;
  h.flags = VirtioNetHeader::kNeedsChecksum;
  h.gso_type = !o.tcp ? VirtioNetHeader::kGsoUdp
               : o.v6 ? VirtioNetHeader::kGsoTcp6
                      : VirtioNetHeader::kGsoTcp4;
  h.gso_size = segment;
  h.checksum_start = o.v6 ? 40 : 20;
  h.checksum_offset = o.tcp ? 16 : 6;
  h.header_size =
      static_cast<uint16_t>(h.checksum_start + (o.tcp ? 20 + o.options : 8));
  return h;
}

}  // namespace espalier::esp::testing

#endif  // ESPALIER_TESTS_SUPPORT_ESP_END_H_
