// The connections of agents to espd.
#ifndef ESPALIER_AGENT_ESP_CONTROL_SERVER_H_
#define ESPALIER_AGENT_ESP_CONTROL_SERVER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/esp/control/channel.h"
#include "agent/esp/control/messages.h"
#include "agent/esp/engine.h"

namespace espalier::esp {

class ControlServer {
 public:
  // The owner's loop: watch this fd, or no more. Called before the close.
  using Watch = std::function<void(int fd, bool readable, bool writable)>;
  using Unwatch = std::function<void(int fd)>;

  // Takes over `listener` (control::Listen). `instance` names this process.
  ControlServer(int listener, uint64_t instance, std::string tunnel_interface,
                Watch watch, Unwatch unwatch);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  void SetEngine(Engine* engine) { engine_ = engine; }

  int listener() const { return listener_; }
  void HandleAccept();
  void HandleClient(int fd, bool readable, bool writable);

  // To the subscribed agent; false when there is none, or when it does not
  // keep up and the event is one that may be lost.
  bool SendEvent(control::Message event);
  // What HandOver on this connection asks for; true when it was done. Then
  // handed_over() says so, and nothing here may be used any more.
  using OnHandOver = std::function<bool(int fd)>;
  void SetOnHandOver(OnHandOver on_hand_over) {
    on_hand_over_ = std::move(on_hand_over);
  }
  bool handed_over() const { return handed_over_; }

  bool has_agent() const { return agent_ >= 0; }

 private:
  struct Client {
    std::unique_ptr<control::Channel> channel;
    bool greeted = false;
    bool watching_writable = false;
  };
  // IKE datagrams are dropped, as on any full queue, past this.
  static constexpr size_t kMaxQueuedDatagrams = 256;

  void Drop(int fd);
  bool Send(int fd, control::Frame frame);
  // False when the client is gone.
  bool Handle(int fd, control::Frame frame);
  bool HandleHello(int fd, uint32_t id, const control::Hello& hello);
  bool SendSaList(int fd, uint32_t id);
  bool SendPolicyList(int fd, uint32_t id);
  void UpdateWatch(int fd);

  int listener_;
  uint64_t instance_;
  std::string tunnel_interface_;
  Watch watch_;
  Unwatch unwatch_;
  Engine* engine_ = nullptr;
  std::map<int, Client> clients_;
  int agent_ = -1;
  OnHandOver on_hand_over_;
  bool handed_over_ = false;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_CONTROL_SERVER_H_
