// Proposals as a file writes them: algorithm words joined by '-', after the
// manner of strongSwan's, so that a gateway's operator reads them at once.
#ifndef ESPALIER_AGENT_MESH_CONFIG_PROPOSALS_H_
#define ESPALIER_AGENT_MESH_CONFIG_PROPOSALS_H_

#include <string>

#include "absl/status/statusor.h"
#include "agent/ike/config.h"

namespace espalier::mesh {

// "aes256gcm16-prfsha384-x25519": a cipher, then an integrity algorithm when
// the cipher is not combined, then PRFs and groups in the order of preference.
// Without a PRF it is the integrity algorithm's hash. The error says which
// word is wrong and what may stand there.
absl::StatusOr<ike::IkeProposal> ParseIkeProposal(const std::string& text);

// "aes256gcm16-x25519", "aes128-sha256-modp2048-noesn"; without a group there
// is no perfect forward secrecy on rekeys, without "noesn" ESN is preferred.
// "ah-sha256-x25519" is AH (RFC 4302).
absl::StatusOr<ike::ChildProposal> ParseChildProposal(const std::string& text);

// What an IKE_SA came to use, in the same words:
// "aes256gcm16-prfsha384-x25519".
std::string IkeSuiteText(crypto::Cipher cipher, uint16_t key_bits,
                         crypto::Prf prf, crypto::Group group);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_PROPOSALS_H_
