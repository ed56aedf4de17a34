// Checking the peer's AUTH payload: at once with a shared key, by jobs with
// signatures (RFC 7296 2.15, RFC 7427).
#ifndef ESPALIER_AGENT_IKE_PEER_PROOF_H_
#define ESPALIER_AGENT_IKE_PEER_PROOF_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/crypto/job.h"
#include "agent/ike/ike_sa.h"

namespace espalier::ike {

class PeerProof {
 public:
  enum class Verdict { kGood, kBad, kRunJob };

  // `config` is what the peer's identity stands for; `id` as it came.
  Verdict Begin(const IkeSa& sa, const PeerConfig& config,
                const wire::IdPayload& id, const wire::Payloads& payloads);
  // After kRunJob: the job, then its result.
  crypto::Job NextJob();
  Verdict HandleResult(const crypto::Result& result);

  // After kGood with a signature: the key that it proved.
  const std::shared_ptr<const crypto::PublicKey>& key() const { return key_; }
  const std::string& why() const { return why_; }  // after kBad

 private:
  std::vector<crypto::VerifySignature> jobs_;
  std::shared_ptr<const crypto::PublicKey> key_;
  std::string why_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_PEER_PROOF_H_
