// The IKE header. RFC 7296 3.1.
#ifndef ESPALIER_AGENT_WIRE_HEADER_H_
#define ESPALIER_AGENT_WIRE_HEADER_H_

#include <cstddef>
#include <cstdint>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"
#include "agent/wire/verdict.h"

namespace espalier::wire {

inline constexpr size_t kHeaderSize = 28;
inline constexpr uint8_t kMajorVersion = 2;

struct Header {
  uint64_t initiator_spi = 0;  // never 0 on the wire
  uint64_t responder_spi = 0;  // 0 in the request of IKE_SA_INIT
  uint8_t minor_version = 0;   // sent as 0, ignored
  ExchangeType exchange = ExchangeType::kIkeSaInit;
  bool response = false;        // R
  bool higher_version = false;  // V; sent as 0, ignored (RFC 7296 2.5)
  bool from_initiator = false;  // I: the sender began this IKE_SA
  uint32_t message_id = 0;
  friend bool operator==(const Header&, const Header&) = default;
};

// A header as it came, with the two fields that encoding computes.
struct DecodedHeader {
  Header header;
  PayloadType first_payload = PayloadType::kNone;
  uint32_t length = 0;
};

// Reads the header of a whole datagram (non-ESP marker removed), all that is
// needed to find the IKE_SA. Drops what is too short, whose length field is
// not the datagram's, whose major version is below 2, or whose initiator SPI
// is 0. A request of a major version above 2 is answered INVALID_MAJOR_VERSION
// (2.5), a response of it is dropped.
Decoded<DecodedHeader> DecodeHeader(base::ByteSpan datagram);

// Appends the header with a length of 0; see kLengthOffset.
void EncodeHeader(const Header& header, PayloadType first_payload,
                  base::ByteWriter* writer);
inline constexpr size_t kLengthOffset = 24;

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_HEADER_H_
