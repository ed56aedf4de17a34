// The walk along a chain of payloads that message.cc and payload.cc share.
// RFC 7296 3.2.
#ifndef ESPALIER_AGENT_WIRE_PAYLOAD_CHAIN_H_
#define ESPALIER_AGENT_WIRE_PAYLOAD_CHAIN_H_

#include <optional>
#include <string>

#include "agent/base/byte_reader.h"
#include "agent/wire/payload.h"

namespace espalier::wire {

enum class ChainError : uint8_t {
  kSyntax,
  kUnsupportedCritical,  // `critical_type` says which
};

struct Chain {
  Payloads payloads;
  // SK or SKF where it ended the chain: its type, its own next payload field,
  // and its body.
  PayloadType encrypted_type = PayloadType::kNone;
  PayloadType first_inner = PayloadType::kNone;
  base::ByteSpan encrypted_body;
  // When walking failed.
  std::optional<ChainError> error;
  PayloadType critical_type = PayloadType::kNone;
  std::string why;
};

// Walks to the end of `bytes`. With `outer`, an SK or SKF ends the chain and
// must be the last payload (3.14); without, one is a syntax error.
Chain WalkChain(PayloadType first, base::ByteSpan bytes, bool outer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_PAYLOAD_CHAIN_H_
