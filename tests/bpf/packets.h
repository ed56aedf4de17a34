// Frames for BPF_PROG_TEST_RUN, made octet by octet: the programs must judge
// also what no ordinary stack sends.
#ifndef ESPALIER_TESTS_BPF_PACKETS_H_
#define ESPALIER_TESTS_BPF_PACKETS_H_

#include <array>
#include <cstdint>
#include <string>

#include "agent/base/ip_address.h"

namespace espalier::testing {

using Mac = std::array<uint8_t, 6>;

inline base::IpAddress Ip(const std::string& text) {
  return base::IpAddress::Parse(text).value();
}

inline std::string Octets(std::initializer_list<int> values) {
  std::string out;
  for (const int value : values) out.push_back(static_cast<char>(value));
  return out;
}
inline std::string Big16(uint16_t value) {
  return Octets({value >> 8, value & 0xff});
}
inline std::string Raw(const base::IpAddress& address) {
  const base::ByteSpan bytes = address.bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}
inline std::string Raw(const Mac& mac) {
  return std::string(mac.begin(), mac.end());
}

inline std::string Frame(const Mac& source, uint16_t type,
                         const std::string& payload,
                         const std::string& tags = "") {
  return Octets({2, 0, 0, 0, 0, 1}) + Raw(source) + tags + Big16(type) +
         payload;
}
inline std::string VlanTag(uint16_t id, uint16_t type = 0x8100) {
  return Big16(type) + Big16(id);
}

struct Ipv4Fields {
  uint16_t fragment = 0;  // flags and offset as they stand in the header
  std::string options;    // of whole words
};
inline std::string Ipv4(const base::IpAddress& source,
                        const base::IpAddress& destination, uint8_t protocol,
                        const std::string& payload,
                        const Ipv4Fields& fields = {}) {
  const size_t header = 20 + fields.options.size();
  return Octets({static_cast<int>(0x40 | header / 4), 0}) +
         Big16(static_cast<uint16_t>(header + payload.size())) + Big16(7) +
         Big16(fields.fragment) + Octets({64, protocol, 0, 0}) + Raw(source) +
         Raw(destination) + fields.options + payload;
}

inline std::string Ipv6(const base::IpAddress& source,
                        const base::IpAddress& destination, uint8_t next,
                        const std::string& payload, uint8_t hop_limit = 64) {
  return Octets({0x60, 0, 0, 0}) +
         Big16(static_cast<uint16_t>(payload.size())) +
         Octets({next, hop_limit}) + Raw(source) + Raw(destination) + payload;
}
// An extension header of eight octets in front of `next`.
inline std::string Extension(uint8_t next) {
  return Octets({next, 0, 1, 4, 0, 0, 0, 0});
}
inline std::string FragmentHeader(uint8_t next, uint16_t offset, bool more) {
  return Octets({next, 0}) + Big16(static_cast<uint16_t>(offset << 3 | more)) +
         Octets({0, 0, 0, 9});
}

inline std::string Udp(uint16_t source, uint16_t destination) {
  return Big16(source) + Big16(destination) + Big16(12) + Big16(0) + "data";
}
inline std::string Tcp(uint16_t source, uint16_t destination) {
  return Big16(source) + Big16(destination) + std::string(8, '\0') +
         Octets({0x50, 2}) + std::string(6, '\0');
}
inline std::string Icmp(uint8_t type, const std::string& body = "") {
  return Octets({type, 0, 0, 0, 0, 0, 0, 0}) + body;
}
inline std::string Icmp6(uint8_t type, const std::string& body) {
  return Octets({type, 0, 0, 0}) + body;
}

// Either family, by the addresses.
inline std::string Packet(const base::IpAddress& source,
                          const base::IpAddress& destination, uint8_t protocol,
                          const std::string& payload) {
  return source.is_v4() ? Ipv4(source, destination, protocol, payload)
                        : Ipv6(source, destination, protocol, payload);
}
inline uint16_t Type(const base::IpAddress& address) {
  return address.is_v4() ? 0x0800 : 0x86dd;
}

// RFC 4861 4.3 to 4.5; `option` 1 or 2 with a link address, 0: none.
inline std::string Nd(uint8_t type, const base::IpAddress& target, int option,
                      const Mac& mac) {
  std::string body = Octets({0, 0, 0, 0}) + Raw(target);
  if (option != 0) body += Octets({option, 1}) + Raw(mac);
  return Icmp6(type, body);
}

inline std::string Arp(uint16_t operation, const Mac& sender_mac,
                       const base::IpAddress& sender,
                       const base::IpAddress& target) {
  return Big16(1) + Big16(0x0800) + Octets({6, 4}) + Big16(operation) +
         Raw(sender_mac) + Raw(sender) + std::string(6, '\0') + Raw(target);
}

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_BPF_PACKETS_H_
