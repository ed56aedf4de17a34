// The hand-over of all that espd holds to the next espd, over the control
// socket (DESIGN section 7). Neither end's packets are lost: what arrives
// meanwhile waits in the TUN and in the sockets.
//
//   next: Hello, HandOver
//   old:  HandOverBegin with the descriptors, then the state
//         (control/messages.h), HandOverEnd
//   next: builds everything, then HandedOver
//
// Two processes must never use one key, and one has to be left whatever fails:
// so the keys belong to whoever HandedOver makes their owner. The next espd
// reads and sends nothing before it has put that frame into the connection.
// The old one does nothing else meanwhile, and goes on only once the frame is
// not there and cannot come any more: the other end is gone, or the connection
// was shut down from this end.
#ifndef ESPALIER_AGENT_ESP_HAND_OVER_H_
#define ESPALIER_AGENT_ESP_HAND_OVER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/esp/control/channel.h"
#include "agent/esp/control/messages.h"
#include "agent/esp/engine.h"
#include "agent/esp/outer_sockets.h"

namespace espalier::esp {

struct Descriptors {
  int listener = -1;
  int tun = -1;
  OuterSockets::Descriptors outer = {-1, -1, -1, -1};
};

// A control connection as the hand-over uses it: frame by frame, each end
// waiting for the other, until a deadline.
class HandOverLink {
 public:
  // Borrows `fd`.
  HandOverLink(int fd, absl::Duration limit);

  // Unavailable when the other end is gone, DeadlineExceeded.
  absl::Status Send(control::Message message,
                    const std::vector<int>& descriptors = {});
  // Descriptors that came along are the caller's, also after an error.
  absl::StatusOr<control::Message> Receive(std::vector<int>* descriptors);

  // The old end's last word: whether the other end is the owner now. After
  // false it never becomes it.
  bool WaitForHandedOver();

 private:
  bool Wait(short events) const;

  int fd_;
  absl::Time deadline_;
};

// What the old espd does on HandOver. Blocks for up to `limit`. True: the
// other end serves, and this process must not touch keys, TUN and sockets any
// more. False: nothing has changed.
bool HandOverTo(int connection, const control::HandOverBegin& begin,
                const Descriptors& descriptors, Engine* engine,
                absl::Duration limit);

// What the next espd has been given.
class Inheritance {
 public:
  // NotFound when no espd serves `socket_path`; any other error leaves the one
  // that does as it is.
  static absl::StatusOr<std::unique_ptr<Inheritance>> Ask(
      const std::string& socket_path, absl::Duration limit);
  ~Inheritance();
  Inheritance(const Inheritance&) = delete;
  Inheritance& operator=(const Inheritance&) = delete;

  const control::HandOverBegin& begin() const { return begin_; }
  // The caller owns them from here on.
  Descriptors TakeDescriptors();
  // The rest of the state, into an engine that has none yet.
  absl::Status ReceiveState(Engine* engine);
  // After OK the old espd is on its way out, and this process serves.
  absl::Status Claim();

 private:
  Inheritance(std::unique_ptr<control::Channel> channel, absl::Duration limit)
      : channel_(std::move(channel)), link_(channel_->fd(), limit) {}
  absl::Status Begin();

  std::unique_ptr<control::Channel> channel_;
  HandOverLink link_;
  control::HandOverBegin begin_;
  Descriptors descriptors_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_HAND_OVER_H_
