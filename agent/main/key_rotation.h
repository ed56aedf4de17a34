// Changes this node's key without a lost packet: the new public key is
// published beside the old, IKE_SAs are made anew with it once peers had time
// to read it, and the old one is withdrawn once none rests on it. Each step is
// on disk before it is taken: an agent that is killed goes on where it was.
#ifndef ESPALIER_AGENT_MAIN_KEY_ROTATION_H_
#define ESPALIER_AGENT_MAIN_KEY_ROTATION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/crypto/keys.h"

namespace espalier::agent {

// Over `node.key` in a folder, with `node.key.next` and `node.key.old` beside
// it while a change is under way, and `node.key.rotated`, the last request that
// was begun. No IO but these files; one thread.
class KeyRotation {
 public:
  using Key = std::shared_ptr<const crypto::PrivateKey>;
  // From the publication of the new key to its use, and from its use to the
  // withdrawal of the old.
  static constexpr absl::Duration kLearn = absl::Seconds(30);
  static constexpr absl::Duration kDrain = absl::Seconds(60);

  // Reads what is there, or makes the first key.
  static absl::StatusOr<std::unique_ptr<KeyRotation>> Open(
      const std::string& key_file);

  const Key& key() const { return key_; }
  // DER, to be published; the one in use first.
  std::vector<base::Bytes> public_keys() const;
  bool under_way() const { return next_ != nullptr || old_ != nullptr; }

  // The annotation as it is now, again and again; another than the last that
  // was carried out begins a change, unless one is under way. A value that is
  // found with a key made only now is taken as carried out.
  absl::Status Request(const std::string& value);
  // `published`: the API server has public_keys(). `replaced`: no IKE_SA is
  // older than key(). True when key() has become another.
  absl::StatusOr<bool> Advance(base::Instant now, bool published,
                               bool replaced);

 private:
  explicit KeyRotation(std::string file) : file_(std::move(file)) {}
  absl::Status Note(const std::string& value);

  const std::string file_;
  Key key_, next_, old_;
  std::string done_;  // the request begun last
  bool made_now_ = false;
  // Since when the present step's condition holds.
  base::Instant since_ = absl::InfiniteFuture();
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_KEY_ROTATION_H_
