// Message ids, retransmission and the response cache of one IKE_SA (RFC 7296
// 2.1 to 2.3), with a window of one in each direction.
#ifndef ESPALIER_AGENT_IKE_MESSAGE_WINDOW_H_
#define ESPALIER_AGENT_IKE_MESSAGE_WINDOW_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/ike/config.h"

namespace espalier::ike {

// One IKE message as it goes on the wire: one datagram, or its fragments.
using Packets = std::vector<base::Bytes>;

// The requests that we send: one in flight, repeated until it is answered.
class RequestWindow {
 public:
  bool in_flight() const { return in_flight_.has_value(); }
  // The id that the next request takes.
  uint32_t next_id() const { return next_id_; }
  // True once ids are used up: the IKE_SA has to be closed (2.2).
  bool exhausted(const CoreConfig& config) const {
    return next_id_ > config.last_message_id;
  }

  // Takes next_id(); nothing may be in flight.
  void Sent(Packets packets, base::Instant now, const CoreConfig& config);
  // The same id with other bytes: IKE_SA_INIT with a COOKIE or another group
  // (2.6, 1.2), always id 0. The count of tries starts again.
  void ResentAs(Packets packets, base::Instant now, const CoreConfig& config);
  // True when `id` answers the request in flight; it is then settled and its
  // packets are freed.
  bool Settle(uint32_t id);
  bool Awaits(uint32_t id) const { return in_flight_ && in_flight_->id == id; }
  // The exchange is abandoned; its id stays used.
  void Abandon() { in_flight_.reset(); }

  // When Retransmit wants to be called.
  std::optional<base::Instant> deadline() const;
  enum class Verdict { kWait, kRetransmit, kGiveUp };
  // kRetransmit: packets() go out again.
  Verdict Retransmit(base::Instant now, const CoreConfig& config);
  const Packets& packets() const { return in_flight_->packets; }

 private:
  struct InFlight {
    uint32_t id = 0;
    Packets packets;
    int tries = 1;
    base::Instant next;
    absl::Duration interval;
  };
  std::optional<InFlight> in_flight_;
  uint32_t next_id_ = 0;
};

// The requests that come in: each is processed once and answered with the same
// octets however often it is repeated.
class ResponseWindow {
 public:
  enum class Verdict {
    kNew,        // the next request
    kDuplicate,  // the last one again: cached() is the answer, if there is one
    kOutside,    // neither; it is dropped
  };
  Verdict Classify(uint32_t id) const;
  // The request with expected() is being worked on; until Answered, repeats
  // of it are duplicates without an answer yet.
  void Accept() { ++expected_; }
  uint32_t expected() const { return expected_; }
  void Answered(Packets packets, base::Instant now);
  // nullptr while the answer is not there, or was forgotten.
  const Packets* cached() const;

  // RFC 7296 2.1 allows to forget a response after several minutes.
  std::optional<base::Instant> deadline() const { return forget_at_; }
  void ForgetOld(base::Instant now);

 private:
  uint32_t expected_ = 0;
  Packets cached_;
  std::optional<base::Instant> forget_at_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_MESSAGE_WINDOW_H_
