#include "agent/kube/informer.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "agent/base/clock.h"
#include "agent/base/log.h"

namespace espalier::kube {
namespace {

// Batches that wait on the executor; beyond it, reading stops.
constexpr int kMostWaiting = 64;
// A failure that lasts is told again this often.
constexpr absl::Duration kTellAgain = absl::Minutes(1);

}  // namespace

class RawInformer::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(const ObjectType& type, Transport* transport, Resource resource,
       base::Executor* executor, base::RandomSource* random, Consumer consumer,
       ListWatchOptions options)
      : transport_(transport),
        executor_(executor),
        consumer_(std::move(consumer)),
        core_(type, std::move(resource), options, random) {}

  void Start() {
    thread_ = std::thread([this] { Run(); });
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    cancellation_.Cancel();
    if (thread_.joinable()) thread_.join();
    // A task that is still queued keeps this alive, but not what the consumer
    // refers to.
    consumer_ = nullptr;
  }

  ListWatchStats Stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void Run() {
    while (!Stopped()) {
      auto next = core_.Next(clock_.Now());
      if (const auto* wait = std::get_if<ListWatch::Wait>(&next)) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock,
                          absl::ToChronoNanoseconds(wait->until - clock_.Now()),
                          [this] { return stopped_; });
        continue;
      }
      auto& request = std::get<ListWatch::Request>(next);
      request.http.cancellation = &cancellation_;
      Transport::Sink sink;
      if (request.kind == ListWatch::RequestKind::kWatch) {
        sink = [this](absl::string_view octets) {
          const bool more = core_.OnWatchOctets(clock_.Now(), octets);
          return Publish() && more;
        };
      }
      core_.OnAnswer(clock_.Now(), transport_->Do(request.http, sink));
      if (Stopped()) return;
      Publish();
      Tell();
    }
  }

  bool Stopped() const {
    const std::lock_guard lock(mutex_);
    return stopped_;
  }

  // False when stopped.
  bool Publish() {
    {
      std::unique_lock lock(mutex_);
      stats_ = core_.stats();
      if (core_.has_updates()) {
        changed_.wait(lock,
                      [this] { return stopped_ || waiting_ < kMostWaiting; });
      }
      if (stopped_) return false;
      if (!core_.has_updates()) return true;
      ++waiting_;
    }
    executor_->Post(
        [self = shared_from_this(), updates = core_.TakeUpdates()]() mutable {
          self->Deliver(std::move(updates));
        });
    return true;
  }

  // On the executor.
  void Deliver(std::vector<RawUpdate> updates) {
    {
      const std::lock_guard lock(mutex_);
      --waiting_;
      if (stopped_) return;
    }
    changed_.notify_all();
    // Stop() is on this same thread, so it cannot come in between.
    consumer_(std::move(updates));
  }

  // One line when trouble begins, each minute of it, and when it is over.
  void Tell() {
    const ListWatchStats& stats = core_.stats();
    const std::string& collection = core_.resource().collection;
    if (stats.failures == 0) {
      if (std::exchange(troubled_, false)) {
        base::Log(base::LogLevel::kInfo, "api server answers again",
                  {{"collection", collection}});
      }
      return;
    }
    const base::Instant now = clock_.Now();
    if (troubled_ && now < told_ + kTellAgain) return;
    troubled_ = true;
    told_ = now;
    base::Log(base::LogLevel::kWarning,
              "api server does not answer as it should",
              {{"collection", collection},
               {"error", stats.last_failure},
               {"failures", stats.failures},
               {"in sync", stats.in_sync}});
  }

  Transport* const transport_;
  base::Executor* const executor_;
  Consumer consumer_;
  base::SteadyClock clock_;
  Cancellation cancellation_;
  std::thread thread_;
  ListWatch core_;  // on thread_ alone
  bool troubled_ = false;
  base::Instant told_ = absl::InfinitePast();

  std::condition_variable changed_;
  mutable std::mutex mutex_;  // of what follows
  bool stopped_ = false;
  int waiting_ = 0;
  ListWatchStats stats_;
};

RawInformer::RawInformer(const ObjectType& type, Transport* transport,
                         Resource resource, base::Executor* executor,
                         base::RandomSource* random, Consumer consumer,
                         ListWatchOptions options)
    : impl_(std::make_shared<Impl>(type, transport, std::move(resource),
                                   executor, random, std::move(consumer),
                                   options)) {}

RawInformer::~RawInformer() { impl_->Stop(); }
void RawInformer::Start() { impl_->Start(); }
void RawInformer::Stop() { impl_->Stop(); }
ListWatchStats RawInformer::Stats() const { return impl_->Stats(); }

}  // namespace espalier::kube
