// Stands between the mesh and a driver: keeps what is desired, retries what
// may be retried, and never installs a key twice.
#ifndef ESPALIER_AGENT_DATAPATH_TRACKER_H_
#define ESPALIER_AGENT_DATAPATH_TRACKER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/base/reconciliation.h"
#include "agent/base/security_association.h"
#include "agent/datapath/datapath.h"

namespace espalier::datapath {

// One SA as the tracker knows it.
struct TrackedSa {
  enum class State : uint8_t {
    kInstalling,
    kInstalled,
    kAdopted,   // found in the datapath, left by an earlier agent
    kRemoving,  // until the driver has said that it is gone
  };
  State state = State::kInstalling;
  SaKey key;
  base::IpAddress outer_source;
  base::Reqid reqid;
  base::EspSuite suite;
  bool encapsulated = false;
  bool expired = false;       // a hard limit was reached
  base::SaCounters counters;  // as of the last Refresh
};

struct TrackerOptions {
  absl::Duration first_retry = absl::Milliseconds(200);
  absl::Duration longest_retry = absl::Seconds(30);
  // What somebody removes by hand is noticed this often.
  absl::Duration refresh = absl::Seconds(10);
  // After a sign that somebody did.
  absl::Duration refresh_soon = absl::Milliseconds(50);
};

// One thread, the loop's. A `done` may run inside the call.
class Tracker {
 public:
  struct TrackerEvents {
    // The backend answers (again) and what it holds is known: sas() has the
    // adopted ones.
    std::function<void()> ready;
    std::function<void(const SaKey&, bool hard)> expired;
    std::function<void(const SaKey&)> inbound_seen;
    std::function<void(base::Reqid)> acquire;
    // Counters were read anew.
    std::function<void()> refreshed;
    // An SA that was installed is no longer there: the backend was restarted,
    // or somebody removed it. Its key must never be installed again.
    std::function<void(const TrackedSa&)> vanished;
  };
  using Options = TrackerOptions;

  // Takes the driver's events. Both outlive the tracker, which outlives the
  // driver's last callback or is destroyed with the loop stopped.
  Tracker(base::EventLoop* loop, base::Clock* clock, Datapath* datapath,
          Options options = Options());
  ~Tracker();
  Tracker(const Tracker&) = delete;
  Tracker& operator=(const Tracker&) = delete;

  void SetEvents(TrackerEvents events) { events_ = std::move(events); }

  // Tried once. After any failure the SA counts as possibly installed: it is
  // removed, and `done` has the error so that another key is negotiated.
  // AlreadyExists, without a try, when an SA of that key is known here.
  void InstallSa(base::EspSa sa, Done done);
  // Tried until it succeeds; `done` (may be null) runs once, with OK, when the
  // SA is gone.
  void RemoveSa(const SaKey& key, Done done);
  // Lasts until the first packet, also across reconnections.
  void WatchInbound(const SaKey& key);

  // Replaces all policies that are desired.
  void SetPolicies(const std::vector<Policy>& policies);
  // From now on policies of Espalier's own that are not desired are removed.
  void SetInSync();

  // Reads SAs, counters and policies anew; SAs that are missing have vanished.
  // Also done by itself at each connection.
  void Refresh(Done done);

  const std::map<SaKey, TrackedSa>& sas() const { return sas_; }
  std::string tunnel_interface() const { return datapath_->tunnel_interface(); }
  bool ready() const { return ready_; }
  // What has failed and is being retried, for people.
  std::vector<std::string> Problems() const;

 private:
  struct Removal {
    std::vector<Done> waiting;
    bool in_flight = false;
    absl::Duration retry;
    base::Instant not_before = absl::InfinitePast();
    absl::Status problem;
  };

  void HandleReady();
  void HandleLost(const absl::Status& why);
  void HandleSas(const std::vector<SaKey>& installed_before,
                 const std::vector<InstalledSa>& listed);
  void HandlePolicies(const std::vector<Policy>& listed);
  void StartRemoval(const SaKey& key);
  void EndRemoval(const SaKey& key, const absl::Status& status);
  void ApplyPolicies();
  void RefreshLater();
  // A look soon, one for all that asks for it meanwhile.
  void RefreshSoon();
  void ArmTimer();
  void HandleTimer();

  base::EventLoop* loop_;
  base::Clock* clock_;
  Datapath* datapath_;
  Options options_;
  TrackerEvents events_;
  std::map<SaKey, TrackedSa> sas_;
  std::map<SaKey, Removal> removals_;
  std::map<SaKey, bool> watched_;
  base::Reconciliation<base::Reqid, Policy> policies_;
  bool policies_known_ = false;
  bool in_sync_ = false;
  bool ready_ = false;
  // Of the last connection: answers of an earlier one are ignored.
  uint64_t connection_ = 0;
  base::EventLoop::TimerId timer_ = 0;
  base::EventLoop::TimerId refresh_timer_ = 0;
  base::EventLoop::TimerId soon_timer_ = 0;
  // Answers that come after the tracker's end find it gone.
  std::shared_ptr<Tracker*> self_;
};

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_TRACKER_H_
