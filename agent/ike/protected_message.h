// Messages under the IKE_SA's keys: SK (RFC 7296 3.14) and, where both ends
// support it, SKF (RFC 7383).
#ifndef ESPALIER_AGENT_IKE_PROTECTED_MESSAGE_H_
#define ESPALIER_AGENT_IKE_PROTECTED_MESSAGE_H_

#include <cstdint>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/crypto/cipher_suite.h"
#include "agent/ike/key_derivation.h"
#include "agent/ike/message_window.h"
#include "agent/wire/message.h"

namespace espalier::ike {

// One direction's keys; borrows.
struct ProtectionKeys {
  const crypto::CipherSuite& suite;
  base::ByteSpan encryption;
  base::ByteSpan integrity;
};

// The keys that the end which began the IKE_SA seals with, or the other's.
ProtectionKeys KeysOf(const IkeSuite& suite, const IkeKeys& keys,
                      bool initiator);

// Seals `payloads` into one SK message, or into SKF messages of at most
// `fragment_size` octets each when that is not 0 and one SK message would be
// larger. `*iv_counter` moves by one a datagram. Empty when the payloads are
// more than any message can hold.
Packets Seal(const ProtectionKeys& keys, const wire::Header& header,
             const wire::Payloads& payloads, size_t fragment_size,
             uint64_t* iv_counter);

// Verifies and decrypts one datagram's encrypted part: the chain of payloads,
// or a fragment of it, without padding. nullopt: it did not verify.
std::optional<base::Bytes> Open(const ProtectionKeys& keys,
                                const wire::EncryptedPart& part);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_PROTECTED_MESSAGE_H_
