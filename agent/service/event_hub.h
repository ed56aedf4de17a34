// Carries events from the loop to those who watch.
#ifndef ESPALIER_AGENT_SERVICE_EVENT_HUB_H_
#define ESPALIER_AGENT_SERVICE_EVENT_HUB_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "absl/status/statusor.h"
#include "espalier/v1/agent.pb.h"

namespace espalier::service {

// Thread-safe. Publish never waits for a reader: one that is too slow loses
// the oldest events and is told how many.
class EventHub {
 public:
  static constexpr size_t kMaxReaders = 16;
  static constexpr size_t kMaxWaiting = 1024;

  class Reader {
   public:
    ~Reader();
    // The next event; nullopt when there was none for `wait`, or at the end.
    std::optional<v1::Event> Next(std::chrono::milliseconds wait);
    bool ended() const;

   private:
    friend class EventHub;
    explicit Reader(EventHub* hub) : hub_(hub) {}
    EventHub* const hub_;
    std::deque<v1::Event> waiting_;  // under hub_->mutex_
    uint64_t missed_ = 0;            // under hub_->mutex_
  };

  void Publish(const v1::Event& event);
  // ResourceExhausted when kMaxReaders read already. The hub outlives it.
  absl::StatusOr<std::unique_ptr<Reader>> NewReader();
  // Ends every reader; to be called before the server stops.
  void End();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<Reader*> readers_;  // under mutex_
  bool ended_ = false;         // under mutex_
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_EVENT_HUB_H_
