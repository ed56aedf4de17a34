// The expensive arithmetic of IKEv2 as values: the protocol core asks for a
// Job, a worker runs it (crypto::Run), the Result goes back to the core. So
// the core never blocks, and a simulator can delay or fail each of them.
#ifndef ESPALIER_AGENT_CRYPTO_JOB_H_
#define ESPALIER_AGENT_CRYPTO_JOB_H_

#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"
#include "agent/crypto/algorithms.h"

namespace espalier::crypto {

class PrivateKey;  // signature key, immutable and shareable between threads
class PublicKey;
class KeyExchangeKey;  // one ephemeral private value, used once

// Makes an ephemeral key of the group (RFC 7296 1.2, KE payload).
struct GenerateKeyExchange {
  Group group;
};
// Combines our ephemeral private value with the peer's public one. A public
// value that fails the group's checks (RFC 6989) is InvalidArgument.
struct ComputeSharedSecret {
  std::shared_ptr<KeyExchangeKey> key;
  base::Bytes peer_public;
};
// RFC 7427: signs `data` with the method that `scheme` names.
struct Sign {
  std::shared_ptr<const PrivateKey> key;
  SignatureScheme scheme;
  base::Bytes data;
};
// `algorithm_identifier` is the DER AlgorithmIdentifier out of the AUTH
// payload (RFC 7427 3). A signature that does not verify is
// PermissionDenied; a scheme we refuse (SHA-1) is InvalidArgument.
struct VerifySignature {
  std::shared_ptr<const PublicKey> key;
  base::Bytes algorithm_identifier;
  base::Bytes data;
  base::Bytes signature;
};
using Job = std::variant<GenerateKeyExchange, ComputeSharedSecret, Sign,
                         VerifySignature>;

struct KeyExchangeGenerated {
  std::shared_ptr<KeyExchangeKey> key;
  base::Bytes public_value;  // as the KE payload carries it
};
struct SharedSecret {
  base::SecretBytes secret;
};
struct Signature {
  base::Bytes algorithm_identifier;  // DER, for the AUTH payload
  base::Bytes signature;
};
struct SignatureValid {};
using Result = absl::StatusOr<std::variant<KeyExchangeGenerated, SharedSecret,
                                           Signature, SignatureValid>>;

// Runs a job to its end on the calling thread; any thread. Milliseconds at
// worst (MODP-4096).
Result Run(const Job& job);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_JOB_H_
