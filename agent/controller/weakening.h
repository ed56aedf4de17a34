// Notices when a namespace's annotations let more traffic go in plaintext, or
// outside, than before. No IO, no clock.
#ifndef ESPALIER_AGENT_CONTROLLER_WEAKENING_H_
#define ESPALIER_AGENT_CONTROLLER_WEAKENING_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/mode.h"
#include "agent/kube/informer.h"

namespace espalier::controller {

inline constexpr char kEncryption[] = "espalier.dev/encryption";
inline constexpr char kOutside[] = "espalier.dev/outside";
inline constexpr char kOutsideIn[] = "espalier.dev/outside-in";

// What was weakened, for people; empty when nothing was. Absent and unknown
// words mean what they mean to the agents.
std::string WeakenedBy(const kube::ObjectMeta& before,
                       const kube::ObjectMeta& after, base::Mode default_mode);

class WeakeningWatch {
 public:
  explicit WeakeningWatch(base::Mode default_mode)
      : default_mode_(default_mode) {}

  void Handle(base::Instant now,
              const kube::Update<kube::NamespaceMeta>& update);
  bool in_sync() const { return in_sync_; }

  // The next event to create, or nullopt. All candidates watch, the leader
  // takes: what was seen shortly before the leader changed is told by the next
  // one, under a name that makes a second telling impossible.
  std::optional<kube::Event> Take(base::Instant now, absl::Time wall);

 private:
  using Known = std::map<std::string, kube::Object<kube::NamespaceMeta>>;
  struct Seen {
    base::Instant at;
    kube::Event event;
  };

  void Compare(base::Instant now, const kube::Object<kube::NamespaceMeta>& to);

  const base::Mode default_mode_;
  bool in_sync_ = false;
  Known known_;
  std::deque<Seen> seen_;
};

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_WEAKENING_H_
