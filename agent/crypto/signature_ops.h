// The arithmetic behind Sign and VerifySignature jobs. Not for other folders.
#ifndef ESPALIER_AGENT_CRYPTO_SIGNATURE_OPS_H_
#define ESPALIER_AGENT_CRYPTO_SIGNATURE_OPS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/crypto/job.h"

namespace espalier::crypto {

absl::StatusOr<Signature> RunSign(const Sign& job);
absl::Status RunVerify(const VerifySignature& job);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_SIGNATURE_OPS_H_
