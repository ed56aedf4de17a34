// A datapath in memory: for tests and the simulator.
#ifndef ESPALIER_AGENT_DATAPATH_FAKE_FAKE_DATAPATH_H_
#define ESPALIER_AGENT_DATAPATH_FAKE_FAKE_DATAPATH_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/datapath/datapath.h"

namespace espalier::datapath {

// Answers when Run() is called, in the order of the calls, so that a test
// decides what happens in between. Keeps the promise of all drivers, that a key
// is installed once ever, and counts who breaks it.
class FakeDatapath : public Datapath {
 public:
  enum class Failure : uint8_t {
    kBefore,  // the call has no effect, and fails
    kAfter,   // the call has its effect, and its answer says Unavailable
  };

  // --- for the test ---

  // The n-th call from now (1 is the next) that can fail does so.
  void FailCall(uint64_t n, Failure how = Failure::kBefore) {
    fail_at_ = calls_ + n;
    failure_ = how;
  }
  // Calls so far, of those that can fail.
  uint64_t calls() const { return calls_; }
  // Executes and answers all that was asked, and what the answers ask.
  void Run();
  // One of them; false when there is none.
  bool RunOne();
  // The backend answers (again).
  void Connect();
  // The backend died and is back: everything is gone.
  void Restart();
  // A packet went through; counts it, and tells of the first on a watched SA.
  // False when there is no such SA.
  bool Pass(const SaKey& key, uint64_t octets = 100);
  void Expire(const SaKey& key, bool hard);
  void Acquire(base::Reqid reqid);
  // Somebody removed it behind the agent's back.
  void RemoveByHand(const SaKey& key) { sas_.erase(key); }

  // The SA that outbound traffic of this reqid takes: the newest. Of a CPU its
  // own, while it has one (RFC 9611).
  const base::EspSa* Outbound(base::Reqid reqid,
                              std::optional<uint32_t> cpu = std::nullopt) const;
  const std::map<SaKey, base::EspSa>& sas() const { return sas_; }
  const std::map<base::Reqid, Policy>& policies() const { return policies_; }
  // How often an encryption key came a second time.
  int repeated_keys() const { return repeated_keys_; }
  // In the order of execution: "install in 0x... ", "remove ...".
  const std::vector<std::string>& log() const { return log_; }

  // --- Datapath ---

  void SetEvents(Events events) override { events_ = std::move(events); }
  void InstallSa(base::EspSa sa, Done done) override;
  void RemoveSa(const SaKey& key, Done done) override;
  void WatchInbound(const SaKey& key) override;
  void SetPolicy(const Policy& policy, Done done) override;
  void RemovePolicy(base::Reqid reqid, Done done) override;
  void ListSas(std::function<void(absl::StatusOr<std::vector<InstalledSa>>)>
                   done) override;
  void ListPolicies(
      std::function<void(absl::StatusOr<std::vector<Policy>>)> done) override;
  std::string tunnel_interface() const override { return "esp0"; }
  std::string name() const override { return "fake"; }

 private:
  // `effect` gives the call's own status.
  void Enqueue(std::function<absl::Status()> effect, Done done);
  absl::Status Install(base::EspSa sa);

  Events events_;
  std::deque<std::function<void()>> queue_;
  uint64_t calls_ = 0;
  uint64_t fail_at_ = 0;
  Failure failure_ = Failure::kBefore;
  std::map<SaKey, base::EspSa> sas_;
  std::map<SaKey, base::SaCounters> counters_;
  std::map<SaKey, uint64_t> order_;
  std::set<SaKey> expired_;
  std::set<SaKey> watched_;
  std::map<base::Reqid, Policy> policies_;
  std::set<base::Bytes> keys_ever_;
  uint64_t installs_ = 0;
  int repeated_keys_ = 0;
  std::vector<std::string> log_;
};

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_FAKE_FAKE_DATAPATH_H_
