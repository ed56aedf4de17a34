#include "agent/runtime/ike_driver.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

namespace espalier::runtime {
namespace {

// One turn of the loop carries out at most so many actions, so that sockets
// and timers keep their share in a storm.
constexpr int kActionsPerTurn = 1024;

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

IkeDriver::IkeDriver(ike::CoreConfig config, base::RandomSource* random,
                     base::Clock* clock, base::EventLoop* loop,
                     base::Executor* executor, WorkerPool* workers)
    : clock_(clock),
      loop_(loop),
      executor_(executor),
      workers_(workers),
      core_(std::move(config), random),
      self_(std::make_shared<IkeDriver*>(this)) {}

IkeDriver::~IkeDriver() {
  *self_ = nullptr;
  loop_->CancelTimer(timer_);
}

void IkeDriver::Wake() {
  if (waking_) return;
  waking_ = true;
  int actions = 0;
  while (actions < kActionsPerTurn) {
    std::optional<ike::Action> action = core_.PollAction();
    if (!action) break;
    ++actions;
    Execute(*std::move(action));
  }
  waking_ = false;
  if (actions == kActionsPerTurn) WakeSoon();
  ArmTimer();
}

void IkeDriver::WakeSoon() {
  if (wake_posted_) return;
  wake_posted_ = true;
  executor_->Post([self = self_] {
    if (*self == nullptr) return;
    (*self)->wake_posted_ = false;
    (*self)->Wake();
  });
}

void IkeDriver::HandleDatagram(const ike::Path& path, base::ByteSpan bytes) {
  core_.HandleDatagram(Now(), path, bytes);
  Wake();
}

void IkeDriver::Execute(ike::Action action) {
  std::visit(
      Overloaded{
          [&](ike::SendDatagram& send) { hooks_.send(send.path, send.bytes); },
          [&](ike::SendNatKeepalive& keepalive) {
            hooks_.send_keepalive(keepalive.path);
          },
          [&](ike::RunCrypto& run) { RunJob(std::move(run)); },
          [&](ike::LogIkeKeys& keys) { hooks_.log_keys(keys); },
          [&](auto&) { hooks_.mesh(action); },
      },
      action);
}

void IkeDriver::RunJob(ike::RunCrypto run) {
  const ike::CryptoJobId id = run.id;
  const auto deliver = [self = self_, id](crypto::Result result) {
    if (*self == nullptr) return;
    IkeDriver& driver = **self;
    driver.core_.HandleCryptoDone(driver.Now(), id, std::move(result));
    driver.Wake();
  };
  auto job = std::make_shared<crypto::Job>(std::move(run.job));
  base::Executor* executor = executor_;
  const bool taken = workers_->Submit([job, deliver, executor] {
    // Shared, because a task is copied and a secret is not.
    auto result = std::make_shared<crypto::Result>(crypto::Run(*job));
    executor->Post([deliver, result] { deliver(std::move(*result)); });
  });
  if (taken) return;
  ++refused_jobs_;
  executor_->Post([deliver] {
    deliver(absl::ResourceExhaustedError(
        "too many key exchanges and signatures are waiting"));
  });
}

void IkeDriver::ArmTimer() {
  const std::optional<base::Instant> next = core_.NextTimeout();
  const base::Instant at = next.value_or(absl::InfiniteFuture());
  if (timer_ != 0 && at == timer_at_) return;
  loop_->CancelTimer(timer_);
  timer_ = 0;
  timer_at_ = at;
  if (!next) return;
  timer_ = loop_->RunAfter(std::max(at - Now(), absl::ZeroDuration()), [this] {
    timer_ = 0;
    core_.HandleTimeout(Now());
    Wake();
  });
}

}  // namespace espalier::runtime
