// This node's private key on disk.
#ifndef ESPALIER_AGENT_MAIN_NODE_KEY_H_
#define ESPALIER_AGENT_MAIN_NODE_KEY_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/crypto/keys.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {

// Reads it, or makes an Ed25519 key when it is absent and may be made: the key
// appears under its name whole, or not at all, with mode 0600 from the first
// moment; its public half is written beside it as NAME.pub.
absl::StatusOr<std::shared_ptr<const crypto::PrivateKey>> LoadNodeKey(
    const mesh::PrivateKeySource& source);

// Since the key's file was written; nullopt when there is none. A key change
// renames files, which keeps their times.
std::optional<absl::Duration> KeyAge(const std::string& path, absl::Time now);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_NODE_KEY_H_
