// lab-witness: sees every frame that anybody puts on the wires of a namespace,
// for as long as it runs, and judges each: a pod's packet that is not inside
// ESP is a violation. Shares no code with Espalier or with
// tests/lab/capture.py.
//
//   lab-witness NETNS
// Commands on stdin, each answered with one line of JSON on stdout:
//   cidr PREFIX/LENGTH     of pods; several
//   disabled ADDRESS       of a pod that may speak in plaintext: its packets
//                          with another such pod are "disabled", no violation
//   required ADDRESS       not any more
//   unguarded PREFIX/LEN   of a node that nothing protects: packets from there
//                          are "unguarded", and show what a leak looks like
//   attacker INDEX         frames that come in at that device are "attacker"
//   bridge INDEX           a bridge itself: its ports are looked at
//   stats
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/lab/lab_io.h"

namespace espalier::lab {
namespace {

constexpr size_t kSnap = 400;
constexpr unsigned kBatch = 64;
constexpr int kBuffer = 64 << 20;
constexpr size_t kMaxKept = 12;
constexpr int kPacketIgnoreOutgoing = 23;  // PACKET_IGNORE_OUTGOING
constexpr uint16_t kVlan = 0x8100, kQinQ = 0x88a8;
constexpr uint8_t kHopByHop = 0, kUdp = 17, kRouting = 43, kFragment = 44,
                  kEsp = 50, kDestination = 60;
constexpr uint16_t kIkePort = 500, kNatPort = 4500;

struct Cidr {
  std::string address;  // 4 or 16 octets
  unsigned length = 0;

  bool Contains(std::string_view other) const {
    if (other.size() != address.size()) return false;
    for (unsigned bit = 0; bit < length; ++bit) {
      const int mask = 0x80 >> (bit % 8);
      if ((address[bit / 8] & mask) != (other[bit / 8] & mask)) return false;
    }
    return true;
  }
};

std::string Octets(const std::string& text) {
  std::array<char, 16> out;
  if (inet_pton(AF_INET, text.c_str(), out.data()) == 1) {
    return {out.data(), 4};
  }
  if (inet_pton(AF_INET6, text.c_str(), out.data()) == 1) {
    return {out.data(), 16};
  }
  Die("not an address: " + text);
}

Cidr ParseCidr(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) Die("not a prefix: " + text);
  return {Octets(text.substr(0, slash)),
          static_cast<unsigned>(std::atoi(text.substr(slash + 1).c_str()))};
}

uint16_t Number16(std::string_view data, size_t at) {
  return static_cast<uint16_t>((static_cast<uint8_t>(data[at]) << 8) |
                               static_cast<uint8_t>(data[at + 1]));
}

// What the judge needs of an IP packet; the payload is empty in later
// fragments.
struct Ip {
  int family = 0;  // 0: not IP
  std::string_view source, destination, payload;
  uint8_t protocol = 0;
};

Ip DecodeIpv4(std::string_view packet) {
  if (packet.size() < 20) return {};
  const size_t header = static_cast<size_t>(packet[0] & 15) * 4;
  Ip ip = {4,
           packet.substr(12, 4),
           packet.substr(16, 4),
           {},
           static_cast<uint8_t>(packet[9])};
  if ((Number16(packet, 6) & 0x1fff) == 0 && packet.size() >= header) {
    ip.payload = packet.substr(header);
  }
  return ip;
}

Ip DecodeIpv6(std::string_view packet) {
  if (packet.size() < 40) return {};
  Ip ip = {6,
           packet.substr(8, 16),
           packet.substr(24, 16),
           {},
           static_cast<uint8_t>(packet[6])};
  size_t at = 40;
  bool first = true;
  while (packet.size() >= at + 8) {
    size_t size;
    if (ip.protocol == kHopByHop || ip.protocol == kRouting ||
        ip.protocol == kDestination) {
      size = (static_cast<uint8_t>(packet[at + 1]) + size_t{1}) * 8;
    } else if (ip.protocol == kFragment) {
      first = first && (Number16(packet, at + 2) & 0xfff8) == 0;
      size = 8;
    } else {
      break;
    }
    ip.protocol = static_cast<uint8_t>(packet[at]);
    at += size;
  }
  if (first && at <= packet.size()) ip.payload = packet.substr(at);
  return ip;
}

Ip Decode(std::string_view frame) {
  size_t at = 12;
  while (frame.size() >= at + 6 &&
         (Number16(frame, at) == kVlan || Number16(frame, at) == kQinQ)) {
    at += 4;
  }
  if (frame.size() < at + 2) return {};
  const uint16_t type = Number16(frame, at);
  const std::string_view packet = frame.substr(at + 2);
  if (type == ETHERTYPE_IP) return DecodeIpv4(packet);
  if (type == ETHERTYPE_IPV6) return DecodeIpv6(packet);
  return {};
}

const char* OuterKind(const Ip& ip) {
  if (ip.protocol == kEsp) return "esp";
  if (ip.protocol != kUdp || ip.payload.size() < 8) return "other";
  const uint16_t source = Number16(ip.payload, 0);
  const uint16_t destination = Number16(ip.payload, 2);
  if (source == kIkePort || destination == kIkePort) return "ike";
  if (source != kNatPort && destination != kNatPort) return "other";
  if (ip.payload.size() == 9) return "keepalive";
  if (ip.payload.size() < 12) return "other";
  const bool marker =
      Number16(ip.payload, 8) == 0 && Number16(ip.payload, 10) == 0;
  return marker ? "ike" : "esp_udp";
}

class Witness {
 public:
  explicit Witness(const std::string& netns) {
    fd_ = SocketIn(netns, AF_PACKET, SOCK_RAW, 0, kBuffer);
    const int on = 1;
    if (setsockopt(fd_, SOL_PACKET, kPacketIgnoreOutgoing, &on, sizeof on) !=
        0) {
      Die("PACKET_IGNORE_OUTGOING: " + std::string(std::strerror(errno)));
    }
    // Every device, those that come later too: a frame is seen where it
    // enters the wire, whether or not anybody takes it.
    sockaddr_ll all = {};
    all.sll_family = AF_PACKET;
    all.sll_protocol = htons(ETH_P_ALL);
    if (bind(fd_, reinterpret_cast<sockaddr*>(&all), sizeof all) != 0) {
      Die("binding the witness: " + std::string(std::strerror(errno)));
    }
  }

  void Tick() {
    static char data[kBatch][kSnap];
    sockaddr_ll from[kBatch];
    iovec vectors[kBatch];
    mmsghdr messages[kBatch] = {};
    for (;;) {
      for (unsigned i = 0; i < kBatch; ++i) {
        vectors[i] = {data[i], kSnap};
        messages[i].msg_hdr = {};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &from[i];
        messages[i].msg_hdr.msg_namelen = sizeof from[i];
      }
      int count = recvmmsg(fd_, messages, kBatch, MSG_DONTWAIT, nullptr);
      if (count <= 0) return;
      for (int i = 0; i < count; ++i) {
        Judge({data[i], messages[i].msg_len}, from[i].sll_ifindex);
      }
      if (static_cast<unsigned>(count) < kBatch) return;
    }
  }

  void Command(const std::vector<std::string>& words) {
    if (words.size() == 2 && words[0] == "cidr") {
      cidrs_.push_back(ParseCidr(words[1]));
    } else if (words.size() == 2 && words[0] == "disabled") {
      disabled_.insert(Octets(words[1]));
    } else if (words.size() == 2 && words[0] == "required") {
      disabled_.erase(Octets(words[1]));
    } else if (words.size() == 2 && words[0] == "unguarded") {
      unguarded_.push_back(ParseCidr(words[1]));
    } else if (words.size() == 2 && words[0] == "attacker") {
      attackers_.insert(std::atoi(words[1].c_str()));
    } else if (words.size() == 2 && words[0] == "bridge") {
      bridges_.insert(std::atoi(words[1].c_str()));
    } else if (words.size() != 1 || words[0] != "stats") {
      Die("no such command: " + (words.empty() ? "" : words[0]));
    }
    Tick();
    Report();
  }

 private:
  // Kinds end in the family, so that each is judged by itself.
  void Judge(std::string_view frame, int device) {
    // A bridge hands up what came in at one of its ports before.
    if (bridges_.contains(device)) return;
    if (attackers_.contains(device)) {
      ++counts_["attacker"];
      return;
    }
    const Ip ip = Decode(frame);
    if (ip.family == 0) {
      ++counts_["not_ip"];
      return;
    }
    const std::string family = std::to_string(ip.family);
    const bool source_inside = Inside(cidrs_, ip.source);
    const bool destination_inside = Inside(cidrs_, ip.destination);
    const bool marked = frame.find(kTrafficMark) != std::string_view::npos;
    if (!source_inside && !destination_inside && !marked) {
      ++counts_[OuterKind(ip) + family];
    } else if (frame.find(kControlMark) != std::string_view::npos) {
      ++counts_["control" + family];
    } else if (Inside(unguarded_, ip.source)) {
      ++counts_["unguarded" + family];
    } else if (disabled_.contains(ip.source) &&
               disabled_.contains(ip.destination)) {
      ++counts_["disabled" + family];
    } else {
      ++counts_["plaintext" + family];
      if (kept_.size() < kMaxKept) {
        kept_.push_back({Now(), device, std::string(frame.substr(0, 120))});
      }
    }
  }

  static bool Inside(const std::vector<Cidr>& cidrs, std::string_view address) {
    return std::any_of(cidrs.begin(), cidrs.end(), [&](const Cidr& cidr) {
      return cidr.Contains(address);
    });
  }

  void Report() {
    tpacket_stats lost = {};
    socklen_t size = sizeof lost;
    getsockopt(fd_, SOL_PACKET, PACKET_STATISTICS, &lost, &size);
    lost_ += lost.tp_drops;
    std::string out = "{\"lost\":" + std::to_string(lost_);
    for (const auto& [kind, count] : counts_) {
      out += "," + Quoted(kind) + ":" + std::to_string(count);
    }
    out += ",\"violations\":[";
    for (const Kept& kept : kept_) {
      std::string hex;
      for (char c : kept.frame) {
        char text[3];
        std::snprintf(text, sizeof text, "%02x", static_cast<uint8_t>(c));
        hex += text;
      }
      out += (out.back() == '[' ? "[" : ",[") + std::to_string(kept.time) +
             "," + std::to_string(kept.device) + "," + Quoted(hex) + "]";
    }
    std::printf("%s]}\n", out.c_str());
  }

  struct Kept {
    double time;
    int device;
    std::string frame;
  };

  int fd_ = -1;
  std::vector<Cidr> cidrs_, unguarded_;
  std::set<std::string, std::less<>> disabled_;
  std::set<int> attackers_, bridges_;
  std::map<std::string, uint64_t> counts_;
  std::vector<Kept> kept_;
  uint64_t lost_ = 0;
};

}  // namespace
}  // namespace espalier::lab

int main(int argc, char** argv) {
  if (argc != 2) espalier::lab::Die("lab-witness NETNS");
  espalier::lab::Witness witness(argv[1]);
  espalier::lab::Run(
      10'000'000, [&] { witness.Tick(); },
      [&](const auto& words) { witness.Command(words); });
}
