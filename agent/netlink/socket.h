// A netlink socket: requests with acknowledgements matched by sequence number,
// dumps, batches, notifications. On libmnl.
#ifndef ESPALIER_AGENT_NETLINK_SOCKET_H_
#define ESPALIER_AGENT_NETLINK_SOCKET_H_

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/netlink/async_channel.h"
#include "agent/netlink/channel.h"

struct mnl_socket;

namespace espalier::netlink {

// Synchronous through Channel, or from an event loop: Start() sends, and
// HandleReadable(), called when fd() is readable, runs what is done. One
// thread at a time. Synchronous calls also run callbacks of requests that were
// started before and complete while they wait.
class Socket : public Channel, public AsyncChannel {
 public:
  struct Options {
    int protocol = NETLINK_ROUTE;  // NETLINK_XFRM...
    // Of the receive buffer, octets (SO_RCVBUFFORCE, else SO_RCVBUF).
    int receive_buffer = 1 << 20;
    // How long a synchronous call waits for an answer.
    absl::Duration timeout = absl::Seconds(10);
  };
  using Notification = std::function<void(const Reply&)>;

  // In the calling thread's network namespace.
  static absl::StatusOr<std::unique_ptr<Socket>> Open(const Options& options);
  static absl::StatusOr<std::unique_ptr<Socket>> Open() {
    return Open(Options());
  }
  // In the namespace at `path` (/run/netns/x, /proc/123/ns/net). The calling
  // thread never leaves its own. NotFound when the path is not there.
  static absl::StatusOr<std::unique_ptr<Socket>> OpenInNamespace(
      const std::string& path, const Options& options);
  static absl::StatusOr<std::unique_ptr<Socket>> OpenInNamespace(
      const std::string& path) {
    return OpenInNamespace(path, Options());
  }
  ~Socket() override;

  absl::Status Execute(Request request) override;
  std::vector<absl::Status> ExecuteBatch(
      std::vector<Request> requests) override;
  absl::StatusOr<std::vector<Reply>> Query(Request request) override;
  absl::StatusOr<std::vector<Reply>> Dump(Request request) override;

  // --- for the loop ---
  int fd() const;
  // Sends; `done` runs from HandleReadable (or from here when sending fails).
  // The kernel runs one dump a socket at a time (EBUSY): others wait here.
  void Start(Request request, Completion done) override;
  void HandleReadable();
  // Joins multicast groups (RTNLGRP_*, XFRMNLGRP_*). Use a socket of its own
  // for these. `overrun` runs when messages were lost (ENOBUFS): whatever was
  // learnt from notifications has to be read anew by a dump.
  absl::Status Subscribe(const std::vector<uint32_t>& groups,
                         Notification notify, std::function<void()> overrun);

 private:
  struct Pending {
    uint32_t sequence = 0;
    std::string what;
    Completion done;
    bool dump = false;
    bool interrupted = false;
    std::vector<Reply> replies;
  };

  Socket(mnl_socket* socket, const Options& options);
  absl::Status SendAll(std::vector<Request>* requests);
  void Enqueue(Request* request, bool dump, Completion done);
  // Reads once; false when there was nothing to read.
  bool ReceiveOnce(bool wait, absl::Status* error);
  void HandleBuffer(base::ByteSpan bytes);
  void HandleMessage(const nlmsghdr& header, base::ByteSpan payload);
  void Complete(uint32_t sequence, absl::Status status);
  void FailAll(const absl::Status& status);
  void StartWaitingDump();
  // Runs the loop until nothing up to `sequence` is pending.
  absl::Status WaitFor(uint32_t sequence);

  mnl_socket* socket_;
  Options options_;
  uint32_t port_ = 0;
  uint32_t next_sequence_ = 1;
  std::deque<Pending> pending_;
  std::deque<std::pair<Request, Completion>> waiting_dumps_;
  base::Bytes receive_;
  Notification notify_;
  std::function<void()> overrun_;
};

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_SOCKET_H_
