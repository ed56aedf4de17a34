#include "agent/crypto/job.h"

#include <utility>

#include "agent/base/status_macros.h"
#include "agent/crypto/key_exchange_key.h"
#include "agent/crypto/signature_ops.h"

namespace espalier::crypto {
namespace {

Result RunOne(const GenerateKeyExchange& job) {
  KeyExchangeGenerated generated;
  ESPALIER_ASSIGN_OR_RETURN(generated.key, KeyExchangeKey::Generate(job.group));
  ESPALIER_ASSIGN_OR_RETURN(generated.public_value,
                            generated.key->PublicValue());
  return generated;
}

Result RunOne(const ComputeSharedSecret& job) {
  if (job.key == nullptr) {
    return absl::InvalidArgumentError("a key exchange without our own key");
  }
  SharedSecret shared;
  ESPALIER_ASSIGN_OR_RETURN(shared.secret, job.key->Derive(job.peer_public));
  return shared;
}

Result RunOne(const Sign& job) {
  ESPALIER_ASSIGN_OR_RETURN(Signature signature, RunSign(job));
  return signature;
}

Result RunOne(const VerifySignature& job) {
  ESPALIER_RETURN_IF_ERROR(RunVerify(job));
  return SignatureValid{};
}

}  // namespace

Result Run(const Job& job) {
  return std::visit([](const auto& one) { return RunOne(one); }, job);
}

}  // namespace espalier::crypto
