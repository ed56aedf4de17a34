// Judges IKE_SA_INIT requests before anything is kept of them (RFC 7296 1.2,
// 2.6, 2.7).
#ifndef ESPALIER_AGENT_IKE_INIT_GATE_H_
#define ESPALIER_AGENT_IKE_INIT_GATE_H_

#include <memory>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/ike/context.h"
#include "agent/ike/cookie.h"
#include "agent/ike/nat_detection.h"
#include "agent/ike/rate_limit.h"
#include "agent/ike/tasks/task.h"
#include "agent/wire/message.h"

namespace espalier::ike {

class InitGate {
 public:
  explicit InitGate(base::RandomSource* random) : cookies_(random) {}

  struct Decision {
    // A stateless answer: COOKIE, INVALID_KE_PAYLOAD, NO_PROPOSAL_CHOSEN or
    // the verdict on a malformed request.
    std::optional<base::Bytes> reply;
    // A COOKIE: it costs nothing, and without it nobody gets in.
    bool solicited = false;
    // Or the work of an IKE_SA that may be made.
    std::unique_ptr<Task> task;
    NatVerdict nat;  // as seen with a responder SPI of 0
    bool fragmentation = false;
  };
  // Neither set: the request is dropped. `raw` is the datagram; `half_open`
  // counts IKE_SAs that wait for IKE_AUTH.
  Decision Judge(Context& ctx, const Path& path, base::ByteSpan raw,
                 size_t half_open);

 private:
  bool HasCookie(Context& ctx, const Path& path, const wire::Message& request);
  void Choose(Context& ctx, const Path& path, const wire::Message& message,
              base::ByteSpan raw, Decision* decision);

  CookieJar cookies_;
  // Strangers do not fill the log.
  RateLimit reports_{1};
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_INIT_GATE_H_
