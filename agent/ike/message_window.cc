#include "agent/ike/message_window.h"

#include <algorithm>
#include <utility>

namespace espalier::ike {
namespace {

constexpr absl::Duration kRememberResponse = absl::Minutes(3);

}  // namespace

void RequestWindow::Sent(Packets packets, base::Instant now,
                         const CoreConfig& config) {
  in_flight_ = InFlight{.id = next_id_,
                        .packets = std::move(packets),
                        .next = now + config.retransmit_base,
                        .interval = config.retransmit_base};
  ++next_id_;
}

void RequestWindow::ResentAs(Packets packets, base::Instant now,
                             const CoreConfig& config) {
  if (!in_flight_) return;
  const uint32_t id = in_flight_->id;
  in_flight_ = InFlight{.id = id,
                        .packets = std::move(packets),
                        .next = now + config.retransmit_base,
                        .interval = config.retransmit_base};
}

bool RequestWindow::Settle(uint32_t id) {
  if (!Awaits(id)) return false;
  in_flight_.reset();
  return true;
}

std::optional<base::Instant> RequestWindow::deadline() const {
  if (!in_flight_) return std::nullopt;
  return in_flight_->next;
}

RequestWindow::Verdict RequestWindow::Retransmit(base::Instant now,
                                                 const CoreConfig& config) {
  if (!in_flight_ || now < in_flight_->next) return Verdict::kWait;
  if (in_flight_->tries >= config.retransmit_tries) return Verdict::kGiveUp;
  ++in_flight_->tries;
  in_flight_->interval =
      std::min(in_flight_->interval * 2, config.retransmit_max);
  in_flight_->next = now + in_flight_->interval;
  return Verdict::kRetransmit;
}

ResponseWindow::Verdict ResponseWindow::Classify(uint32_t id) const {
  if (id == expected_) return Verdict::kNew;
  if (expected_ != 0 && id == expected_ - 1) return Verdict::kDuplicate;
  return Verdict::kOutside;
}

void ResponseWindow::Answered(Packets packets, base::Instant now) {
  cached_ = std::move(packets);
  forget_at_ = now + kRememberResponse;
}

const Packets* ResponseWindow::cached() const {
  return cached_.empty() ? nullptr : &cached_;
}

void ResponseWindow::ForgetOld(base::Instant now) {
  if (!forget_at_ || now < *forget_at_) return;
  cached_ = Packets();
  forget_at_.reset();
}

}  // namespace espalier::ike
