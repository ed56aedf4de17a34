// A whole IKE message as it is on the wire. RFC 7296 3.1, 3.2, 3.14.
//
// In:  DecodeHeader (finds the IKE_SA), DecodeMessage (payloads in the clear
//      and where the encrypted part lies), decryption, RemovePadding,
//      DecodeInner, CheckPayloads (exchange_rules.h).
// Out: EncodeMessage for IKE_SA_INIT; EncodeChain and LayOut for the rest.
#ifndef ESPALIER_AGENT_WIRE_MESSAGE_H_
#define ESPALIER_AGENT_WIRE_MESSAGE_H_

#include <optional>

#include "agent/base/bytes.h"
#include "agent/wire/encrypted_payload.h"
#include "agent/wire/header.h"
#include "agent/wire/iana.h"
#include "agent/wire/payload.h"
#include "agent/wire/verdict.h"

namespace espalier::wire {

struct Message {
  Header header;
  // In the clear. Outside IKE_SA_INIT only what stands in SK counts.
  Payloads payloads;
  // Absent: nothing is encrypted. IKE_SA_INIT never has one.
  std::optional<EncryptedPart> encrypted;
};

// Decodes a datagram (non-ESP marker removed); spans in the result borrow from
// it. Nothing is authenticated yet, so bad syntax is dropped; an unsupported
// critical payload in a request of IKE_SA_INIT is answered (RFC 7296 2.5).
Decoded<Message> DecodeMessage(base::ByteSpan datagram);

// A message in the clear.
base::Bytes EncodeMessage(const Header& header, const Payloads& payloads);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_MESSAGE_H_
