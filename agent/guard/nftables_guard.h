// The guard by nftables: the second, of another kind than the first.
#ifndef ESPALIER_AGENT_GUARD_NFTABLES_GUARD_H_
#define ESPALIER_AGENT_GUARD_NFTABLES_GUARD_H_

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/guard/guard.h"
#include "agent/guard/nftables_rules.h"
#include "agent/netlink/nftables.h"
#include "agent/netlink/socket.h"

namespace espalier::guard {

struct NftablesGuardOptions {
  absl::Duration first_retry = absl::Milliseconds(200);
  absl::Duration longest_retry = absl::Seconds(30);
  // A change whose notification was lost is noticed this often.
  absl::Duration resync = absl::Seconds(30);
  // Notifications come in swarms: one look for all within this time.
  absl::Duration settle = absl::Milliseconds(20);
};

// One table of family inet, espalier_guard, in every datapath. It stays when
// this goes: the packets of the time between two agents meet it too. It has
// counters, and tells of no single packet.
//
// What it doesn't see: what is not IP, and the link addresses; those are the
// first guard's.
class NftablesGuard : public Guard {
 public:
  using Options = NftablesGuardOptions;

  // On the network namespace of the calling thread; all other calls must come
  // from threads of the same one.
  static absl::StatusOr<std::unique_ptr<NftablesGuard>> Open(
      base::EventLoop* loop, base::Clock* clock, Options options = Options());
  // Over what a test brings. `notifications` may be null.
  NftablesGuard(base::EventLoop* loop, base::Clock* clock,
                std::unique_ptr<netlink::Nftables> nftables,
                std::unique_ptr<netlink::Socket> notifications,
                Options options);
  ~NftablesGuard() override;

  void SetDesired(DesiredGuard desired) override;
  absl::Status Protect(const GuardedPod& pod) override;
  std::vector<GuardProblem> Problems() const override;
  std::vector<VerdictCount> Counters() const override;
  void OnDrop(DropCallback) override {}
  void OnRepair(RepairCallback callback) override {
    repaired_ = std::move(callback);
  }

  // Compares the table with what it was left as, and makes good what differs.
  void Resync();

 private:
  absl::Status ApplyLocked();
  absl::Status CarryOutLocked(const std::vector<std::string>& transactions);
  void KeepCountersLocked();
  absl::StatusOr<std::map<std::string, uint64_t>> ReadCountersLocked() const;
  void ResyncSoon(absl::Duration delay);

  base::EventLoop* const loop_;
  base::Clock* const clock_;
  const std::unique_ptr<netlink::Nftables> nftables_;
  const std::unique_ptr<netlink::Socket> notifications_;
  const Options options_;
  RepairCallback repaired_;
  base::EventLoop::TimerId timer_ = 0;
  base::Instant next_look_ = absl::InfiniteFuture();
  absl::Duration retry_;

  mutable std::mutex mutex_;
  // The rest under mutex_.
  std::optional<DesiredGuard> desired_;
  // Unset: what stands is not known.
  std::optional<GuardTable> standing_;
  std::string listed_;  // nft's own text of it
  absl::Status problem_;
  // Of tables that were replaced.
  std::map<std::string, uint64_t> earlier_;
};

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_NFTABLES_GUARD_H_
