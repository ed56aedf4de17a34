// The datapath driver for espalier-espd: speaks esp/control over the owner's
// loop, and carries IKE on port 4500, whose socket espd alone reads.
#ifndef ESPALIER_AGENT_DATAPATH_USER_USER_DATAPATH_H_
#define ESPALIER_AGENT_DATAPATH_USER_USER_DATAPATH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/event_loop.h"
#include "agent/datapath/datapath.h"
#include "agent/esp/control/channel.h"
#include "agent/esp/control/messages.h"

namespace espalier::datapath {

// Connects on Start and again, every retry interval, whenever the connection
// is lost: Events::ready follows each connection, Events::lost one to another
// espd process than before (all SAs are gone). Calls made while there is no
// connection, and those under way when it is lost, end in Unavailable. One
// thread, the loop's; `done` may run inside the call.
class UserDatapath : public Datapath {
 public:
  using StatisticsDone = std::function<void(
      absl::StatusOr<std::vector<std::pair<std::string, uint64_t>>>)>;
  // An IKE message that came in on port 4500, without the non-ESP marker,
  // with this node's address and the sender's.
  using IkeHandler =
      std::function<void(const base::Endpoint& local,
                         const base::Endpoint& remote, base::ByteSpan bytes)>;

  struct Options {
    std::string socket_path = "/run/espalier/espd.sock";
    absl::Duration retry = absl::Milliseconds(500);
  };

  // `loop` outlives the driver.
  UserDatapath(base::EventLoop* loop, Options options);
  ~UserDatapath() override;

  // After SetEvents and SetIkeHandler. Never fails: it goes on trying.
  void Start();
  bool connected() const { return connected_; }

  void SetIkeHandler(IkeHandler handler) { ike_handler_ = std::move(handler); }
  // Lost silently, as any datagram may be, while there is no connection.
  void SendIke(const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes);
  // Sends one keepalive; espd repeats it by itself while no agent is there.
  void SendKeepalive(const base::Endpoint& local, const base::Endpoint& remote);
  // espd's own counters (drops by reason and the like).
  void GetStatistics(StatisticsDone done);

  void SetEvents(Events events) override { events_ = std::move(events); }
  void InstallSa(base::EspSa sa, Done done) override;
  void RemoveSa(const SaKey& key, Done done) override;
  void WatchInbound(const SaKey& key) override;
  void SetPolicy(const Policy& policy, Done done) override;
  void RemovePolicy(base::Reqid reqid, Done done) override;
  void ListSas(std::function<void(absl::StatusOr<std::vector<InstalledSa>>)>
                   done) override;
  void ListPolicies(
      std::function<void(absl::StatusOr<std::vector<Policy>>)> done) override;
  // As espd last told it; empty before the first connection.
  std::string tunnel_interface() const override { return tunnel_interface_; }
  std::string name() const override { return "user"; }

 private:
  using Message = esp::control::Message;
  // True when the answer is complete; false when more frames follow.
  using OnAnswer = std::function<bool(absl::StatusOr<Message>)>;

  void TryConnect();
  void Disconnect(const absl::Status& why);
  void HandleReady(bool readable, bool writable);
  void Dispatch(esp::control::Frame frame);
  void HandleHello(const esp::control::HelloReply& hello);
  void HandleEvent(Message message);
  void UpdateWatch();
  void Request(Message message, OnAnswer on_answer);
  void RequestStatus(Message message, Done done);
  void Post(Message message);

  base::EventLoop* loop_;
  Options options_;
  Events events_;
  IkeHandler ike_handler_;
  std::unique_ptr<esp::control::Channel> channel_;
  bool connected_ = false;  // espd has answered Hello
  std::optional<uint64_t> instance_;
  std::string tunnel_interface_;
  uint32_t last_id_ = 0;
  std::map<uint32_t, OnAnswer> waiting_;
  base::EventLoop::TimerId retry_timer_ = 0;
  bool watching_writable_ = false;
};

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_USER_USER_DATAPATH_H_
