#include "agent/controller/controller.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/controller/api_calls.h"
#include "agent/controller/weakening.h"
#include "agent/kube/client.h"
#include "agent/kube/informer.h"
#include "agent/service/serial_worker.h"

namespace espalier::controller {
namespace {

using kube::EspalierNode;
using kube::NamespaceMeta;

// A write that began while this one led ends before another can lead: what is
// left of a Lease after renew_deadline is longer.
constexpr absl::Duration kWriteTimeout = absl::Seconds(4);
constexpr absl::Duration kLeaseTimeout = absl::Seconds(4);
constexpr absl::Duration kListTimeout = absl::Seconds(30);
// Between tries to read what a term begins with.
constexpr absl::Duration kTermRetry = absl::Seconds(2);
constexpr absl::Duration kStopTimeout = absl::Seconds(8);

}  // namespace

class Controller::Impl {
 public:
  Impl(ControllerOptions options, kube::Transport* transport,
       runtime::Loop* loop, base::Clock* clock, base::RandomSource* random)
      : loop_(loop),
        clock_(clock),
        client_(transport),
        election_(options.election, random),
        reconciler_(options.reconciler),
        weakening_(options.default_mode),
        nodes_(transport, {kube::kNodes, {}}, loop, random,
               Consumer<kube::Node>(
                   [this](const kube::Update<kube::Node>& update) {
                     reconciler_.Handle(clock_->Now(), update);
                   })),
        espalier_nodes_(transport, {kube::kEspalierNodes, {}}, loop, random,
                        Consumer<EspalierNode>(
                            [this](const kube::Update<EspalierNode>& update) {
                              reconciler_.Handle(clock_->Now(), update);
                            })),
        namespaces_(transport, {kube::kNamespaces, {}}, loop, random,
                    Consumer<NamespaceMeta>(
                        [this](const kube::Update<NamespaceMeta>& update) {
                          weakening_.Handle(clock_->Now(), update);
                        })) {}

  ~Impl() {
    cancellation_.Cancel();
    nodes_.Stop();
    espalier_nodes_.Stop();
    namespaces_.Stop();
    lease_worker_.Stop();
    write_worker_.Stop();
    if (timer_ != 0) loop_->CancelTimer(timer_);
    *alive_ = false;
  }

  void Start() {
    nodes_.Start();
    espalier_nodes_.Start();
    namespaces_.Start();
    Step();
  }

  void Stop(std::function<void()> done) {
    if (stopping_) return;
    stopping_ = true;
    stopped_ = std::move(done);
    cancellation_.Cancel();
    reconciler_.EndTerm();
    loop_->RunAfter(kStopTimeout, [this, alive = alive_] {
      if (*alive) FinishStop();
    });
    if (!election_.request_under_way()) GiveBackLease();
  }

  ControllerState State() const {
    const base::Instant now = clock_->Now();
    ControllerState state;
    state.leader = election_.IsLeader(now);
    state.holder = election_.holder();
    state.waiting = reconciler_.waiting();
    state.events = events_;
    state.tally = reconciler_.tally();
    state.counters = reconciler_.counters();
    state.in_sync = true;
    const auto add = [&](const char* kind, const kube::ListWatchStats& stats) {
      const double silent =
          stats.last_contact == absl::InfinitePast()
              ? -1
              : absl::ToDoubleSeconds(now - stats.last_contact);
      state.watches.push_back({kind, stats.in_sync, silent, stats.events});
      if (stats.in_sync) return;
      state.in_sync = false;
      absl::StrAppend(&state.not_synced, "the list of ", kind,
                      " has not been read", stats.last_failure.ok() ? "" : ": ",
                      stats.last_failure.ok() ? absl::string_view()
                                              : stats.last_failure.message(),
                      "\n");
    };
    add(kube::Node::kKind, nodes_.Stats());
    add(EspalierNode::kKind, espalier_nodes_.Stats());
    add(NamespaceMeta::kKind, namespaces_.Stats());
    return state;
  }

 private:
  template <typename T, typename Handle>
  typename kube::Informer<T>::Consumer Consumer(Handle handle) {
    return [this, handle](std::vector<kube::Update<T>> updates) {
      for (const kube::Update<T>& update : updates) handle(update);
      Step();
    };
  }

  // Runs `work` on the worker and `then` with its result on the loop.
  template <typename Result>
  void Run(service::SerialWorker* worker, std::function<Result()> work,
           std::function<void(Result)> then) {
    worker->Post([loop = loop_, alive = alive_, work = std::move(work),
                  then = std::move(then)]() mutable {
      auto result = std::make_shared<Result>(work());
      loop->Post([alive, result, then = std::move(then)] {
        if (*alive) then(std::move(*result));
      });
    });
  }

  void Step() {
    if (stopping_) return;
    const base::Instant now = clock_->Now();
    if (std::optional<LeaderElection::Request> request =
            election_.Poll(now, absl::Now())) {
      Ask(*std::move(request));
    }
    const bool leads = election_.IsLeader(now);
    if (leads != told_leader_) {
      told_leader_ = leads;
      base::Log(base::LogLevel::kInfo, leads ? "leading" : "not leading",
                {{"holder", election_.holder()}});
    }
    if (!leads || term_ != election_.term()) {
      if (reconciler_.leading()) reconciler_.EndTerm();
      term_ = 0;
    }
    if (leads && term_ == 0 && reconciler_.in_sync() && !reading_term_ &&
        now >= term_retry_) {
      ReadTerm(election_.term());
    }
    if (leads && !writing_) WriteNext(now);
    SetTimer(now);
  }

  void SetTimer(base::Instant now) {
    base::Instant next = now + absl::Seconds(1);
    if (!election_.request_under_way()) {
      next = std::min(next, election_.NextTimeout());
    }
    if (reconciler_.leading() && !writing_) {
      next = std::min(next, reconciler_.NextTimeout());
    }
    if (timer_ != 0) loop_->CancelTimer(timer_);
    timer_ = loop_->RunAfter(std::max(next - now, absl::Milliseconds(1)),
                             [this, alive = alive_] {
                               if (!*alive) return;
                               timer_ = 0;
                               Step();
                             });
  }

  void Ask(LeaderElection::Request request) {
    Run<absl::StatusOr<kube::Lease>>(
        &lease_worker_,
        // Not cancelled by Stop: the Lease is given back with what it answers.
        [this, request = std::move(request)] {
          return CarryOut(&client_, request, kLeaseTimeout, nullptr);
        },
        [this](absl::StatusOr<kube::Lease> answer) {
          const absl::Status status = answer.status();
          if (!status.ok() && !absl::IsNotFound(status) &&
              !absl::IsAborted(status) && !absl::IsAlreadyExists(status)) {
            base::Log(base::LogLevel::kWarning, "cannot use the Lease",
                      {{"error", status}});
          }
          election_.HandleAnswer(clock_->Now(), std::move(answer));
          if (stopping_) {
            GiveBackLease();
          } else {
            Step();
          }
        });
  }

  void ReadTerm(uint64_t term) {
    reading_term_ = true;
    Run<absl::StatusOr<TermView>>(
        &write_worker_,
        [this] { return ReadTermView(&client_, kListTimeout, &cancellation_); },
        [this, term](absl::StatusOr<TermView> view) {
          reading_term_ = false;
          const base::Instant now = clock_->Now();
          if (!view.ok()) {
            term_retry_ = now + kTermRetry;
            base::Log(base::LogLevel::kWarning, "cannot begin to lead",
                      {{"error", view.status()}});
          } else if (!stopping_ && election_.IsLeader(now) &&
                     election_.term() == term) {
            term_ = term;
            reconciler_.BeginTerm(now, std::move(view->nodes), view->reports);
          }
          Step();
        });
  }

  void WriteNext(base::Instant now) {
    if (std::optional<kube::Event> event = weakening_.Take(now, absl::Now())) {
      CreateEvent(*std::move(event));
      return;
    }
    if (!reconciler_.leading()) return;
    std::optional<Write> write = reconciler_.Next(now, absl::Now());
    if (!write.has_value()) return;
    writing_ = true;
    auto shared = std::make_shared<const Write>(*std::move(write));
    Run<absl::StatusOr<EspalierNode>>(
        &write_worker_,
        [this, shared,
         until = election_.LeaderUntil()]() -> absl::StatusOr<EspalierNode> {
          if (clock_->Now() >= until) {
            return absl::CancelledError("this controller leads no more");
          }
          return CarryOut(&client_, *shared, kWriteTimeout, &cancellation_);
        },
        [this, shared](const absl::StatusOr<EspalierNode>& answer) {
          writing_ = false;
          if (!stopping_) reconciler_.Done(clock_->Now(), *shared, answer);
          Step();
        });
  }

  void CreateEvent(kube::Event event) {
    writing_ = true;
    base::Log(base::LogLevel::kWarning, "namespace weakened",
              {{"namespace", event.about.name}, {"how", event.message}});
    Run<absl::Status>(
        &write_worker_,
        [this, event = std::move(event)] {
          return client_
              .Create(kube::EventsPath(event.meta.name_space),
                      kube::Encode(event), kWriteTimeout, &cancellation_)
              .status();
        },
        [this](const absl::Status& status) {
          writing_ = false;
          if (status.ok()) {
            ++events_;
          } else if (!absl::IsAlreadyExists(status)) {
            base::Log(base::LogLevel::kWarning, "cannot create an event",
                      {{"error", status}});
          }
          Step();
        });
  }

  void GiveBackLease() {
    std::optional<LeaderElection::Request> request =
        election_.Release(clock_->Now(), absl::Now());
    if (!request.has_value()) {
      FinishStop();
      return;
    }
    Run<absl::Status>(
        &lease_worker_,
        [this, request = *std::move(request)] {
          return CarryOut(&client_, request, kLeaseTimeout, nullptr).status();
        },
        [this](const absl::Status& status) {
          if (!status.ok()) {
            base::Log(base::LogLevel::kWarning, "cannot give back the Lease",
                      {{"error", status}});
          }
          FinishStop();
        });
  }

  void FinishStop() {
    if (stopped_ == nullptr) return;
    std::exchange(stopped_, nullptr)();
  }

  runtime::Loop* const loop_;
  base::Clock* const clock_;
  // Callbacks on the loop may be left over when this ends.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  kube::Client client_;
  kube::Cancellation cancellation_;
  LeaderElection election_;
  Reconciler reconciler_;
  WeakeningWatch weakening_;
  uint64_t term_ = 0;  // that the reconciler has begun
  bool told_leader_ = false;
  bool reading_term_ = false;
  base::Instant term_retry_ = absl::InfinitePast();
  bool writing_ = false;
  bool stopping_ = false;
  uint64_t events_ = 0;
  std::function<void()> stopped_;
  base::EventLoop::TimerId timer_ = 0;
  service::SerialWorker lease_worker_;
  service::SerialWorker write_worker_;
  kube::Informer<kube::Node> nodes_;
  kube::Informer<EspalierNode> espalier_nodes_;
  kube::Informer<NamespaceMeta> namespaces_;
};

Controller::Controller(ControllerOptions options, kube::Transport* transport,
                       runtime::Loop* loop, base::Clock* clock,
                       base::RandomSource* random)
    : impl_(std::make_unique<Impl>(std::move(options), transport, loop, clock,
                                   random)) {}
Controller::~Controller() = default;
void Controller::Start() { impl_->Start(); }
void Controller::Stop(std::function<void()> done) {
  impl_->Stop(std::move(done));
}
ControllerState Controller::State() const { return impl_->State(); }

}  // namespace espalier::controller
