#include "agent/guard/nftables_guard.h"

#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"

namespace espalier::guard {
namespace {

constexpr char kName[] = "nftables";

std::string Item() { return absl::StrCat("table inet ", kGuardTable); }

std::string ListTable() { return absl::StrCat("list ", Item(), "\n"); }

}  // namespace

absl::StatusOr<std::unique_ptr<NftablesGuard>> NftablesGuard::Open(
    base::EventLoop* loop, base::Clock* clock, Options options) {
  ESPALIER_ASSIGN_OR_RETURN(
      std::unique_ptr<netlink::Socket> notifications,
      netlink::Socket::Open({.protocol = NETLINK_NETFILTER}));
  auto guard = std::make_unique<NftablesGuard>(
      loop, clock, std::make_unique<netlink::Nftables>(),
      std::move(notifications), options);
  NftablesGuard* const raw = guard.get();
  // Which table a notification is of is for nft to say: the look compares.
  ESPALIER_RETURN_IF_ERROR(raw->notifications_->Subscribe(
      {NFNLGRP_NFTABLES},
      [raw](const netlink::Reply&) { raw->ResyncSoon(raw->options_.settle); },
      [raw] { raw->ResyncSoon(raw->options_.settle); }));
  loop->Watch(raw->notifications_->fd(), /*readable=*/true,
              /*writable=*/false,
              [raw](bool, bool) { raw->notifications_->HandleReadable(); });
  return guard;
}

NftablesGuard::NftablesGuard(base::EventLoop* loop, base::Clock* clock,
                             std::unique_ptr<netlink::Nftables> nftables,
                             std::unique_ptr<netlink::Socket> notifications,
                             Options options)
    : loop_(loop),
      clock_(clock),
      nftables_(std::move(nftables)),
      notifications_(std::move(notifications)),
      options_(options) {}

NftablesGuard::~NftablesGuard() {
  loop_->CancelTimer(timer_);
  if (notifications_ != nullptr) loop_->Unwatch(notifications_->fd());
}

void NftablesGuard::SetDesired(DesiredGuard desired) {
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    if (!desired.in_sync && !desired_ &&
        nftables_->RunStateless(ListTable()).ok()) {
      // The last agent knew more than this one does.
      return;
    }
    if (!desired.in_sync && desired_ && desired_->in_sync) return;
    desired_ = std::move(desired);
    status = ApplyLocked();
  }
  if (status.ok()) {
    retry_ = absl::ZeroDuration();
    ResyncSoon(options_.resync);
    return;
  }
  retry_ = retry_ == absl::ZeroDuration()
               ? options_.first_retry
               : std::min(2 * retry_, options_.longest_retry);
  ResyncSoon(retry_);
}

absl::Status NftablesGuard::Protect(const GuardedPod& pod) {
  const std::lock_guard lock(mutex_);
  if (!desired_ || !desired_->in_sync) {
    return absl::UnavailableError(
        "the nftables guard does not know yet what is inside the cluster");
  }
  std::vector<GuardedPod> before = desired_->pods;
  std::erase_if(desired_->pods, [&](const GuardedPod& other) {
    return other.host_interface == pod.host_interface;
  });
  desired_->pods.push_back(pod);
  const absl::Status status = ApplyLocked();
  if (!status.ok()) desired_->pods = std::move(before);
  return status;
}

absl::Status NftablesGuard::ApplyLocked() {
  GuardTable wanted = TableOf(*desired_);
  absl::Status status;
  bool changed = true;
  if (standing_) {
    const std::vector<std::string> steps = ChangeTable(*standing_, &wanted);
    changed = !steps.empty();
    status = CarryOutLocked(steps);
  }
  if (!standing_ || !status.ok()) {
    // The whole, whatever stands there: somebody may have changed it.
    changed = true;
    wanted.side =
        FreeSide(nftables_->RunStateless(ListTable()).value_or(std::string()));
    status = CarryOutLocked(RefillTable(wanted));
    if (!status.ok()) {
      // It was declared otherwise, by another version or by hand.
      KeepCountersLocked();
      status = CarryOutLocked({ReplaceTable(wanted)});
    }
  }
  problem_ = base::Annotate(status, Item());
  if (!status.ok()) {
    standing_.reset();
    base::Log(base::LogLevel::kError, "nftables guard not changed",
              {{"error", status}});
    return problem_;
  }
  standing_ = std::move(wanted);
  if (changed) listed_ = nftables_->RunStateless(ListTable()).value_or("");
  return absl::OkStatus();
}

absl::Status NftablesGuard::CarryOutLocked(
    const std::vector<std::string>& transactions) {
  for (const std::string& commands : transactions) {
    ESPALIER_RETURN_IF_ERROR(nftables_->Run(commands).status());
  }
  return absl::OkStatus();
}

void NftablesGuard::Resync() {
  bool made_good = false;
  std::string what;
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    next_look_ = clock_->Now() + options_.resync;
    if (!desired_) return;
    const absl::StatusOr<std::string> listed =
        nftables_->RunStateless(ListTable());
    const bool same = standing_ && listed.ok() && *listed == listed_;
    if (!same) {
      const bool stood = standing_.has_value();
      what = listed.ok() ? "somebody changed it" : "somebody deleted it";
      standing_.reset();
      status = ApplyLocked();
      made_good = stood && status.ok();
    }
  }
  if (made_good) {
    base::Log(base::LogLevel::kError, "nftables guard made good",
              {{"table", kGuardTable}, {"why", what}});
    if (repaired_) {
      repaired_({.guard = kName,
                 .item = Item(),
                 .status = absl::AbortedError(what),
                 .repaired = true});
    }
  }
  if (status.ok()) {
    retry_ = absl::ZeroDuration();
    ResyncSoon(options_.resync);
  } else {
    retry_ = retry_ == absl::ZeroDuration()
                 ? options_.first_retry
                 : std::min(2 * retry_, options_.longest_retry);
    ResyncSoon(retry_);
  }
}

void NftablesGuard::ResyncSoon(absl::Duration delay) {
  const base::Instant due = clock_->Now() + delay;
  if (timer_ != 0 && next_look_ <= due) return;
  next_look_ = due;
  loop_->CancelTimer(timer_);
  timer_ = loop_->RunAfter(delay, [this] {
    timer_ = 0;
    Resync();
  });
}

std::vector<GuardProblem> NftablesGuard::Problems() const {
  const std::lock_guard lock(mutex_);
  if (problem_.ok()) return {};
  return {{.guard = kName, .item = Item(), .status = problem_}};
}

// "counter inet espalier_guard leak_from_pod {\n packets 3 bytes 252\n}"
absl::StatusOr<std::map<std::string, uint64_t>>
NftablesGuard::ReadCountersLocked() const {
  ESPALIER_ASSIGN_OR_RETURN(
      const std::string text,
      nftables_->Run(absl::StrCat("list counters ", Item(), "\n")));
  std::map<std::string, uint64_t> counters;
  std::string name;
  const std::vector<std::string> words =
      absl::StrSplit(text, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "counter") name = words[i + 1];
    uint64_t packets = 0;
    if (words[i] == "packets" && absl::SimpleAtoi(words[i + 1], &packets)) {
      counters[name] = packets;
    }
  }
  return counters;
}

void NftablesGuard::KeepCountersLocked() {
  const absl::StatusOr<std::map<std::string, uint64_t>> now =
      ReadCountersLocked();
  if (!now.ok()) return;
  for (const auto& [name, packets] : *now) earlier_[name] += packets;
}

std::vector<VerdictCount> NftablesGuard::Counters() const {
  const std::lock_guard lock(mutex_);
  const std::map<std::string, uint64_t> now =
      ReadCountersLocked().value_or(std::map<std::string, uint64_t>());
  std::vector<VerdictCount> out;
  for (const GuardCounter& counter : GuardCounters()) {
    const auto standing = now.find(counter.name);
    const auto earlier = earlier_.find(counter.name);
    out.push_back(
        {.verdict = counter.name,
         .text = counter.text,
         .drop = true,
         .packets = (standing == now.end() ? 0 : standing->second) +
                    (earlier == earlier_.end() ? 0 : earlier->second)});
  }
  return out;
}

}  // namespace espalier::guard
