// Encrypted payload SK (RFC 7296 3.14) and Encrypted Fragment payload SKF
// (RFC 7383 2.5): where its parts lie. Encryption itself is the caller's.
#ifndef ESPALIER_AGENT_WIRE_ENCRYPTED_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_ENCRYPTED_PAYLOAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/wire/header.h"
#include "agent/wire/iana.h"
#include "agent/wire/verdict.h"

namespace espalier::wire {

// RFC 7383 2.5: 1 <= number <= total.
struct FragmentPlace {
  uint16_t number = 1;
  uint16_t total = 1;
  friend bool operator==(const FragmentPlace&, const FragmentPlace&) = default;
};

// SK or SKF as it came. Spans borrow from the datagram.
struct EncryptedPart {
  // Present: an SKF.
  std::optional<FragmentPlace> fragment;
  // Of the first payload inside; kNone in all fragments but the first.
  PayloadType first_inner = PayloadType::kNone;
  // The message from its start up to the IV: associated data of combined-mode
  // ciphers (RFC 5282 5.1, RFC 7383 2.5).
  base::ByteSpan associated_data;
  // IV, ciphertext, ICV; the sizes are the negotiated suite's.
  base::ByteSpan body;
  // The whole message; without its last ICV octets it is what a separate
  // integrity algorithm covers (RFC 7296 3.14).
  base::ByteSpan message;
};

// The sizes in octets of a cipher's parts. `block_size` is 1 for combined-mode
// ciphers (no padding, RFC 5282 3), 16 for AES-CBC.
struct CipherSizes {
  size_t iv = 8;
  size_t icv = 16;
  size_t block = 1;
};

// The largest SK or SKF message that may be asked for, UDP's limit.
inline constexpr size_t kMaxMessageSize = 65507;

// A message laid out in full, but for what a cipher writes: IV and ICV are
// zeros, the plaintext (chain, padding, pad length) is in its place and is
// encrypted there.
class SealedMessage {
 public:
  base::ByteSpan associated_data() const;
  base::MutableByteSpan iv();
  base::MutableByteSpan plaintext();
  base::MutableByteSpan icv();
  // All before the ICV: the input of a separate integrity algorithm.
  base::ByteSpan integrity_input() const;
  base::ByteSpan span() const { return bytes_; }
  base::Bytes Take() { return std::move(bytes_); }

 private:
  friend SealedMessage LayOut(const Header&, PayloadType, base::ByteSpan,
                              std::optional<FragmentPlace>, CipherSizes);
  base::Bytes bytes_;
  size_t iv_offset_ = 0;
  size_t plaintext_offset_ = 0;
  size_t icv_offset_ = 0;
};

// Lays out header and SK (or SKF, when `fragment` is set) around `chain`,
// which EncodeChain wrote. `first_inner` is the type it returned; of fragments
// only number 1 carries it. The result must fit kMaxMessageSize.
SealedMessage LayOut(const Header& header, PayloadType first_inner,
                     base::ByteSpan chain,
                     std::optional<FragmentPlace> fragment, CipherSizes sizes);

// How large LayOut's result will be for a chain of `chain_size` octets.
size_t SealedSize(size_t chain_size, bool fragment, CipherSizes sizes);

// Cuts `chain` into the pieces of SKF messages of at most `max_message`
// octets (RFC 7383 2.5); empty when that leaves no room for content or makes
// more than 65535 pieces. Borrows from `chain`.
std::vector<base::ByteSpan> SplitIntoFragments(base::ByteSpan chain,
                                               size_t max_message,
                                               CipherSizes sizes);

// Takes padding and pad length off a decrypted body (RFC 7296 3.14): what is
// left borrows from `plaintext`; nullopt when the pad length exceeds it. The
// contents of the padding are the sender's choice.
std::optional<base::ByteSpan> RemovePadding(base::ByteSpan plaintext);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_ENCRYPTED_PAYLOAD_H_
