// The engine's state on its way from one process to the next.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/esp/engine.h"

namespace espalier::esp {
namespace {

// Numbers that the next process leaves out: the old one has stopped sending,
// and still none that it may have used is ever used again. Less than the
// smallest replay window, or packets under way would fall out of it.
constexpr uint64_t kSequenceMargin = 256;
static_assert(kSequenceMargin < kMinReplayWindow);

uint64_t WithMargin(uint64_t last, bool esn) {
  const uint64_t end = esn ? UINT64_MAX : 0xffffffff;
  return last > end - kSequenceMargin ? end : last + kSequenceMargin;
}

}  // namespace

absl::Status Engine::HandOver(
    absl::FunctionRef<absl::Status(control::Message)> send) {
  const base::Instant now = clock_->Now();
  const std::deque<uint64_t>& keys = sas_.used_keys();
  for (size_t place = 0; place < keys.size();
       place += control::kUsedKeysPerFrame) {
    const size_t end =
        std::min(keys.size(), place + control::kUsedKeysPerFrame);
    ESPALIER_RETURN_IF_ERROR(
        send(control::UsedKeys{{keys.begin() + static_cast<ptrdiff_t>(place),
                                keys.begin() + static_cast<ptrdiff_t>(end)}}));
  }
  for (const auto& [reqid, policy] : policies_.policies()) {
    ESPALIER_RETURN_IF_ERROR(send(control::SetPolicy{policy}));
  }
  for (const auto& [remote, path] : keepalives_) {
    ESPALIER_RETURN_IF_ERROR(
        send(control::SendKeepalive{path.local, path.remote}));
  }
  absl::Status status;
  path_mtu_.ForEach(now, [&](const base::IpAddress& destination, size_t mtu,
                             absl::Duration remaining) {
    if (!status.ok()) return;
    status = send(
        control::PathMtu{destination, static_cast<uint32_t>(mtu), remaining});
  });
  sas_.ForEach([&](Sa& sa) {
    // An expired one has no key left; to the agent it is gone either way.
    if (!status.ok() || sa.expired()) return;
    status = send(control::AdoptSa{.counters = sa.counters,
                                   .last_sequence = sa.last_sequence,
                                   .replay_top = sa.replay.top(),
                                   .replay_words = sa.replay.words(),
                                   .age = now - sa.installed,
                                   .soft_expired = sa.soft_expired,
                                   .watched = sa.watched,
                                   .sa = sa.config.Clone()});
  });
  return status;
}

absl::Status Engine::Adopt(control::Message message) {
  const base::Instant now = clock_->Now();
  if (const auto* keys = std::get_if<control::UsedKeys>(&message)) {
    for (const uint64_t key : keys->fingerprints) sas_.AddUsedKey(key);
    return absl::OkStatus();
  }
  if (auto* set = std::get_if<control::SetPolicy>(&message)) {
    return policies_.Set(std::move(set->policy));
  }
  if (const auto* alive = std::get_if<control::SendKeepalive>(&message)) {
    keepalives_[alive->remote] = {alive->local, alive->remote, now};
    return absl::OkStatus();
  }
  if (const auto* path = std::get_if<control::PathMtu>(&message)) {
    path_mtu_.Adopt(path->destination, path->mtu, now + path->remaining);
    return absl::OkStatus();
  }
  auto* adopt = std::get_if<control::AdoptSa>(&message);
  if (adopt == nullptr) {
    return absl::InvalidArgumentError("not a frame of a hand-over");
  }
  const bool esn = adopt->sa.suite.esn;
  ESPALIER_ASSIGN_OR_RETURN(Sa * sa, sas_.Adopt(std::move(adopt->sa), now));
  sa->counters = adopt->counters;
  sa->installed = now - adopt->age;
  sa->soft_expired = adopt->soft_expired;
  sa->watched = adopt->watched;
  if (!sa->replay.Restore(adopt->replay_top, adopt->replay_words)) {
    return absl::InvalidArgumentError(
        absl::StrCat("SA ", sa->key.ToString(), ": its replay window is of ",
                     adopt->replay_words.size(), " words"));
  }
  if (sa->key.direction == base::Direction::kOutbound) {
    sa->last_sequence = WithMargin(adopt->last_sequence, esn);
  }
  UpdateInnerMtu(sa, now);
  return absl::OkStatus();
}

}  // namespace espalier::esp
