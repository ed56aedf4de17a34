// The Internet checksum (RFC 1071) as partial sums, in the machine's order of
// octets: the one's complement sum does not care, as long as what is added and
// what is stored are 16-bit words read the same way (RFC 1071 2 B).
#ifndef ESPALIER_AGENT_ESP_CHECKSUM_H_
#define ESPALIER_AGENT_ESP_CHECKSUM_H_

#include <arpa/inet.h>

#include <cstddef>
#include <cstdint>

namespace espalier::esp {

// `sum` plus the 16-bit words of data[0, size); an odd last octet counts as
// if a zero followed. Sums of up to 2^32 octets do not overflow.
uint64_t PartialSum(const uint8_t* data, size_t size, uint64_t sum = 0);

// What a 16-bit value in host order adds when it stands in a packet.
inline uint64_t WordSum(uint16_t value) { return htons(value); }

inline uint16_t FoldSum(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// The value to store in a checksum field, by memcpy.
inline uint16_t FinishSum(uint64_t sum) {
  return static_cast<uint16_t>(~FoldSum(sum));
}

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_CHECKSUM_H_
