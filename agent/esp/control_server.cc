#include "agent/esp/control_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/base/log.h"

namespace espalier::esp {
namespace {

// Policies vary in size; few of the largest fit a frame.
constexpr size_t kPoliciesPerFrame = 4;
// Frames of one client before the packets get their turn.
constexpr int kFramesPerTurn = 64;

}  // namespace

ControlServer::ControlServer(int listener, uint64_t instance,
                             std::string tunnel_interface, Watch watch,
                             Unwatch unwatch)
    : listener_(listener),
      instance_(instance),
      tunnel_interface_(std::move(tunnel_interface)),
      watch_(std::move(watch)),
      unwatch_(std::move(unwatch)) {
  watch_(listener_, true, false);
}

ControlServer::~ControlServer() {
  while (!clients_.empty()) Drop(clients_.begin()->first);
  unwatch_(listener_);
  close(listener_);
}

void ControlServer::HandleAccept() {
  absl::StatusOr<std::unique_ptr<control::Channel>> channel =
      control::Channel::Accept(listener_, clients_.size());
  if (!channel.ok()) {
    base::Log(base::LogLevel::kWarning, "control connection refused",
              {{"error", channel.status()}});
    return;
  }
  if (*channel == nullptr) return;
  const int fd = (*channel)->fd();
  clients_[fd].channel = *std::move(channel);
  watch_(fd, true, false);
}

void ControlServer::Drop(int fd) {
  unwatch_(fd);
  clients_.erase(fd);
  if (agent_ == fd) {
    agent_ = -1;
    base::Log(base::LogLevel::kInfo, "agent disconnected");
  }
}

void ControlServer::UpdateWatch(int fd) {
  const auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  Client& client = found->second;
  if (client.channel->wants_write() == client.watching_writable) return;
  client.watching_writable = client.channel->wants_write();
  watch_(fd, true, client.watching_writable);
}

bool ControlServer::Send(int fd, control::Frame frame) {
  const auto found = clients_.find(fd);
  if (found == clients_.end()) return false;
  if (absl::Status status = found->second.channel->Send(frame); !status.ok()) {
    base::Log(base::LogLevel::kWarning, "control connection lost",
              {{"error", status}});
    Drop(fd);
    return false;
  }
  UpdateWatch(fd);
  return true;
}

bool ControlServer::SendEvent(control::Message event) {
  const auto found = clients_.find(agent_);
  if (found == clients_.end()) return false;
  if (std::holds_alternative<control::IkeDatagram>(event) &&
      found->second.channel->queued() >= kMaxQueuedDatagrams) {
    return false;
  }
  return Send(agent_, {0, std::move(event)});
}

void ControlServer::HandleClient(int fd, bool readable, bool writable) {
  const auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  control::Channel& channel = *found->second.channel;
  if (writable && channel.wants_write() && !channel.Flush().ok()) {
    Drop(fd);
    return;
  }
  for (int i = 0; readable && i < kFramesPerTurn; ++i) {
    absl::StatusOr<std::optional<control::Frame>> frame = channel.Receive();
    if (!frame.ok()) {
      if (absl::IsInvalidArgument(frame.status()) ||
          absl::IsUnimplemented(frame.status())) {
        base::Log(base::LogLevel::kWarning, "control frame refused",
                  {{"error", frame.status()}});
      }
      Drop(fd);
      return;
    }
    if (!frame->has_value()) break;
    if (!Handle(fd, **std::move(frame))) return;
  }
  UpdateWatch(fd);
}

bool ControlServer::HandleHello(int fd, uint32_t id,
                                const control::Hello& hello) {
  clients_.at(fd).greeted = true;
  if (!Send(fd, {id, control::HelloReply{instance_, tunnel_interface_}})) {
    return false;
  }
  if (!hello.subscribe || agent_ == fd) return true;
  if (agent_ >= 0) Drop(agent_);
  agent_ = fd;
  base::Log(base::LogLevel::kInfo, "agent connected");
  engine_->RepeatEvents();
  return clients_.contains(fd);
}

bool ControlServer::Handle(int fd, control::Frame frame) {
  if (const auto* hello = std::get_if<control::Hello>(&frame.message)) {
    return HandleHello(fd, frame.id, *hello);
  }
  if (!clients_.at(fd).greeted) {
    Drop(fd);
    return false;
  }
  if (std::holds_alternative<control::HandOver>(frame.message)) {
    handed_over_ = on_hand_over_ && on_hand_over_(fd);
    if (!handed_over_) Drop(fd);
    return false;
  }
  const auto reply = [&](absl::Status status) {
    return Send(fd, {frame.id, control::Reply{std::move(status)}});
  };
  if (auto* install = std::get_if<control::InstallSa>(&frame.message)) {
    return reply(engine_->InstallSa(std::move(install->sa)));
  }
  if (auto* remove = std::get_if<control::RemoveSa>(&frame.message)) {
    engine_->RemoveSa(remove->key);
    return reply(absl::OkStatus());
  }
  if (auto* watch = std::get_if<control::WatchInbound>(&frame.message)) {
    return reply(engine_->WatchInbound(watch->key));
  }
  if (auto* set = std::get_if<control::SetPolicy>(&frame.message)) {
    return reply(engine_->SetPolicy(std::move(set->policy)));
  }
  if (auto* remove = std::get_if<control::RemovePolicy>(&frame.message)) {
    engine_->RemovePolicy(remove->reqid);
    return reply(absl::OkStatus());
  }
  if (auto* ike = std::get_if<control::SendIke>(&frame.message)) {
    engine_->SendIke(*ike);
    return true;
  }
  if (auto* alive = std::get_if<control::SendKeepalive>(&frame.message)) {
    engine_->SendKeepalive(*alive);
    return true;
  }
  if (std::holds_alternative<control::ListSas>(frame.message)) {
    return SendSaList(fd, frame.id);
  }
  if (std::holds_alternative<control::ListPolicies>(frame.message)) {
    return SendPolicyList(fd, frame.id);
  }
  if (std::holds_alternative<control::GetStatistics>(frame.message)) {
    return Send(fd,
                {frame.id, control::Statistics{engine_->statistics().List()}});
  }
  return reply(absl::InvalidArgumentError("a frame that only espd may send"));
}

bool ControlServer::SendSaList(int fd, uint32_t id) {
  const std::vector<base::InstalledSa> all = engine_->ListSas();
  size_t place = 0;
  do {
    const size_t end =
        std::min(all.size(), place + control::kMaxEntriesPerFrame);
    control::SaList list{end < all.size(),
                         {all.begin() + place, all.begin() + end}};
    if (!Send(fd, {id, std::move(list)})) return false;
    place = end;
  } while (place < all.size());
  return true;
}

bool ControlServer::SendPolicyList(int fd, uint32_t id) {
  const std::vector<base::TunnelPolicy> all = engine_->ListPolicies();
  size_t place = 0;
  do {
    const size_t end = std::min(all.size(), place + kPoliciesPerFrame);
    control::PolicyList list{end < all.size(),
                             {all.begin() + place, all.begin() + end}};
    if (!Send(fd, {id, std::move(list)})) return false;
    place = end;
  } while (place < all.size());
  return true;
}

}  // namespace espalier::esp
