// One end of a control connection: whole frames over a non-blocking
// SOCK_SEQPACKET unix socket.
#ifndef ESPALIER_AGENT_ESP_CONTROL_CHANNEL_H_
#define ESPALIER_AGENT_ESP_CONTROL_CHANNEL_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/secret_bytes.h"
#include "agent/esp/control/messages.h"

namespace espalier::esp::control {

// Frames that wait for the other end to read. Past that the other end is
// taken for stuck, and Send fails.
inline constexpr size_t kMaxQueuedFrames = 4096;

// Connections at a time: the agent, the next agent, and people who look in.
inline constexpr size_t kMaxClients = 8;

// Listens at `path` (mode 0600), in place of a socket that a dead process
// left. The caller owns the returned fd. AlreadyExists when another process
// answers there.
absl::StatusOr<int> Listen(const std::string& path);

// Only processes of root or of this process's own user may take part
// (SO_PEERCRED); anyone else is PermissionDenied. Used by both ends.
absl::Status CheckPeer(int fd);

class Channel {
 public:
  // Takes `fd` over, which must be connected and non-blocking.
  explicit Channel(int fd) : fd_(fd) {}
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Unavailable when nobody listens at `path`.
  static absl::StatusOr<std::unique_ptr<Channel>> Connect(
      const std::string& path);

  // The next connection to `listener`; null when none waits. An error is about
  // one connection, which is closed: PermissionDenied (CheckPeer),
  // ResourceExhausted when there are `others` of at most kMaxClients.
  static absl::StatusOr<std::unique_ptr<Channel>> Accept(int listener,
                                                         size_t others);

  int fd() const { return fd_; }

  // Sends, or queues while the other end is slow. An error means that the
  // connection is over: Unavailable (closed), ResourceExhausted (stuck).
  absl::Status Send(const Frame& frame);
  bool wants_write() const { return !queue_.empty(); }
  size_t queued() const { return queue_.size(); }  // frames
  // Call when the fd is writable and wants_write().
  absl::Status Flush();

  // The next frame; nullopt when there is none for the moment. Unavailable
  // when the other end has closed, InvalidArgument for a frame that does not
  // decode: either way the connection is of no more use.
  absl::StatusOr<std::optional<Frame>> Receive();

 private:
  // True when sent, false when the socket is full.
  absl::StatusOr<bool> TrySend(base::ByteSpan octets);

  int fd_;
  std::deque<base::SecretBytes> queue_;
  base::SecretBytes buffer_{kMaxFrame};
};

}  // namespace espalier::esp::control

#endif  // ESPALIER_AGENT_ESP_CONTROL_CHANNEL_H_
