// Netlink requests whose answers come later, from the event loop.
#ifndef ESPALIER_AGENT_NETLINK_ASYNC_CHANNEL_H_
#define ESPALIER_AGENT_NETLINK_ASYNC_CHANNEL_H_

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "agent/netlink/message.h"

namespace espalier::netlink {

// One thread, the loop's. Errors are Channel's.
class AsyncChannel {
 public:
  using Completion =
      std::function<void(absl::Status, std::vector<Reply> replies)>;
  virtual ~AsyncChannel() = default;

  // Sends; a request with NLM_F_DUMP asks for all. `done` runs later, or from
  // here when sending fails. A dump that changes interrupted is Aborted.
  virtual void Start(Request request, Completion done) = 0;
};

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_ASYNC_CHANNEL_H_
