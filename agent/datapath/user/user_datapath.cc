#include "agent/datapath/user/user_datapath.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"

namespace espalier::datapath {
namespace control = esp::control;

namespace {

absl::Status UnexpectedAnswer() {
  return absl::InternalError("espalier-espd answered with an unexpected frame");
}

}  // namespace

UserDatapath::UserDatapath(base::EventLoop* loop, Options options)
    : loop_(loop), options_(std::move(options)) {}

UserDatapath::~UserDatapath() {
  loop_->CancelTimer(retry_timer_);
  if (channel_ != nullptr) loop_->Unwatch(channel_->fd());
}

void UserDatapath::Start() { TryConnect(); }

void UserDatapath::TryConnect() {
  retry_timer_ = 0;
  absl::StatusOr<std::unique_ptr<control::Channel>> channel =
      control::Channel::Connect(options_.socket_path);
  if (!channel.ok()) {
    Disconnect(channel.status());
    return;
  }
  channel_ = *std::move(channel);
  watching_writable_ = false;
  loop_->Watch(channel_->fd(), true, false,
               [this](bool r, bool w) { HandleReady(r, w); });
  Request(
      control::Hello{.subscribe = true},
      [this](absl::StatusOr<Message> answer) {
        if (!answer.ok()) return true;
        if (const auto* hello = std::get_if<control::HelloReply>(&*answer)) {
          HandleHello(*hello);
        } else if (const auto* reply = std::get_if<control::Reply>(&*answer);
                   reply != nullptr && !reply->status.ok()) {
          Disconnect(reply->status);
        } else {
          Disconnect(UnexpectedAnswer());
        }
        return true;
      });
}

void UserDatapath::HandleHello(const control::HelloReply& hello) {
  const bool restarted = instance_.has_value() && *instance_ != hello.instance;
  instance_ = hello.instance;
  tunnel_interface_ = hello.tunnel_interface;
  connected_ = true;
  base::Log(base::LogLevel::kInfo, "espd connected",
            {{"socket", options_.socket_path},
             {"interface", tunnel_interface_},
             {"restarted", restarted}});
  if (restarted && events_.lost) {
    events_.lost(absl::DataLossError(
        "espalier-espd was restarted: its SAs are gone and have to be "
        "negotiated anew"));
  }
  if (events_.ready) events_.ready();
}

void UserDatapath::Disconnect(const absl::Status& why) {
  if (channel_ != nullptr) {
    base::Log(base::LogLevel::kWarning, "espd connection lost",
              {{"socket", options_.socket_path}, {"error", why}});
    loop_->Unwatch(channel_->fd());
    channel_.reset();
  }
  connected_ = false;
  if (retry_timer_ == 0) {
    retry_timer_ = loop_->RunAfter(options_.retry, [this] { TryConnect(); });
  }
  std::map<uint32_t, OnAnswer> waiting;
  waiting.swap(waiting_);
  for (auto& [id, on_answer] : waiting) {
    on_answer(absl::UnavailableError(why.message()));
  }
}

void UserDatapath::HandleReady(bool readable, bool writable) {
  if (writable && channel_->wants_write()) {
    if (absl::Status status = channel_->Flush(); !status.ok()) {
      Disconnect(status);
      return;
    }
  }
  // A bounded number at a time: other fds of the loop want their turn.
  for (int i = 0; readable && i < 64 && channel_ != nullptr; ++i) {
    absl::StatusOr<std::optional<control::Frame>> frame = channel_->Receive();
    if (!frame.ok()) {
      Disconnect(frame.status());
      return;
    }
    if (!frame->has_value()) break;
    Dispatch(**std::move(frame));
  }
  UpdateWatch();
}

void UserDatapath::Dispatch(control::Frame frame) {
  if (frame.id == 0) {
    HandleEvent(std::move(frame.message));
    return;
  }
  const auto found = waiting_.find(frame.id);
  if (found == waiting_.end()) return;
  OnAnswer on_answer = std::move(found->second);
  waiting_.erase(found);
  if (!on_answer(std::move(frame.message))) {
    waiting_.emplace(frame.id, std::move(on_answer));
  }
}

void UserDatapath::HandleEvent(Message message) {
  if (const auto* ike = std::get_if<control::IkeDatagram>(&message)) {
    if (ike_handler_) ike_handler_(ike->local, ike->remote, ike->bytes);
  } else if (const auto* seen = std::get_if<control::InboundSeen>(&message)) {
    if (events_.inbound_seen) events_.inbound_seen(seen->key);
  } else if (const auto* gone = std::get_if<control::SaExpired>(&message)) {
    if (events_.expired) events_.expired(gone->key, gone->hard);
  } else if (const auto* acquire = std::get_if<control::Acquire>(&message)) {
    if (events_.acquire) events_.acquire(acquire->reqid);
  }
}

void UserDatapath::UpdateWatch() {
  if (channel_ == nullptr || channel_->wants_write() == watching_writable_) {
    return;
  }
  watching_writable_ = channel_->wants_write();
  loop_->Watch(channel_->fd(), true, watching_writable_,
               [this](bool r, bool w) { HandleReady(r, w); });
}

void UserDatapath::Request(Message message, OnAnswer on_answer) {
  const bool hello = std::holds_alternative<control::Hello>(message);
  if (channel_ == nullptr || (!connected_ && !hello)) {
    on_answer(absl::UnavailableError(absl::StrCat(
        "no connection to espalier-espd at ", options_.socket_path)));
    return;
  }
  do {
    ++last_id_;
  } while (last_id_ == 0 || waiting_.contains(last_id_));
  waiting_.emplace(last_id_, std::move(on_answer));
  if (absl::Status sent = channel_->Send({last_id_, std::move(message)});
      !sent.ok()) {
    Disconnect(sent);
    return;
  }
  UpdateWatch();
}

void UserDatapath::RequestStatus(Message message, Done done) {
  Request(std::move(message),
          [done = std::move(done)](absl::StatusOr<Message> answer) {
            if (!answer.ok()) {
              done(answer.status());
            } else if (auto* reply = std::get_if<control::Reply>(&*answer)) {
              done(reply->status);
            } else {
              done(UnexpectedAnswer());
            }
            return true;
          });
}

void UserDatapath::Post(Message message) {
  if (!connected_) return;
  if (absl::Status sent = channel_->Send({0, std::move(message)}); !sent.ok()) {
    Disconnect(sent);
    return;
  }
  UpdateWatch();
}

void UserDatapath::SendIke(const base::Endpoint& local,
                           const base::Endpoint& remote, base::ByteSpan bytes) {
  Post(
      control::SendIke{local, remote, base::Bytes(bytes.begin(), bytes.end())});
}

void UserDatapath::SendKeepalive(const base::Endpoint& local,
                                 const base::Endpoint& remote) {
  Post(control::SendKeepalive{local, remote});
}

void UserDatapath::InstallSa(base::EspSa sa, Done done) {
  if (sa.local_selectors.size() > control::kMaxSelectors ||
      sa.remote_selectors.size() > control::kMaxSelectors) {
    done(absl::InvalidArgumentError(absl::StrCat(
        "an SA holds at most ", control::kMaxSelectors, " selectors a side")));
    return;
  }
  RequestStatus(control::InstallSa{std::move(sa)}, std::move(done));
}

void UserDatapath::RemoveSa(const SaKey& key, Done done) {
  RequestStatus(control::RemoveSa{key}, std::move(done));
}

void UserDatapath::WatchInbound(const SaKey& key) {
  RequestStatus(control::WatchInbound{key}, [](const absl::Status&) {});
}

void UserDatapath::SetPolicy(const Policy& policy, Done done) {
  if (policy.local.size() > control::kMaxPrefixes ||
      policy.remote.size() > control::kMaxPrefixes) {
    done(absl::InvalidArgumentError(absl::StrCat(
        "a policy holds at most ", control::kMaxPrefixes, " prefixes a side")));
    return;
  }
  RequestStatus(control::SetPolicy{policy}, std::move(done));
}

void UserDatapath::RemovePolicy(base::Reqid reqid, Done done) {
  RequestStatus(control::RemovePolicy{reqid}, std::move(done));
}

void UserDatapath::ListSas(
    std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done) {
  Request(control::ListSas{},
          [done = std::move(done), all = std::vector<InstalledSa>()](
              absl::StatusOr<Message> answer) mutable {
            if (!answer.ok()) {
              done(answer.status());
              return true;
            }
            auto* list = std::get_if<control::SaList>(&*answer);
            if (list == nullptr) {
              done(UnexpectedAnswer());
              return true;
            }
            all.insert(all.end(), list->sas.begin(), list->sas.end());
            if (list->more) return false;
            done(std::move(all));
            return true;
          });
}

void UserDatapath::ListPolicies(
    std::function<void(absl::StatusOr<std::vector<Policy>>)> done) {
  Request(control::ListPolicies{},
          [done = std::move(done), all = std::vector<Policy>()](
              absl::StatusOr<Message> answer) mutable {
            if (!answer.ok()) {
              done(answer.status());
              return true;
            }
            auto* list = std::get_if<control::PolicyList>(&*answer);
            if (list == nullptr) {
              done(UnexpectedAnswer());
              return true;
            }
            all.insert(all.end(), list->policies.begin(), list->policies.end());
            if (list->more) return false;
            done(std::move(all));
            return true;
          });
}

void UserDatapath::GetStatistics(StatisticsDone done) {
  Request(control::GetStatistics{},
          [done = std::move(done)](absl::StatusOr<Message> answer) {
            if (!answer.ok()) {
              done(answer.status());
            } else if (auto* s = std::get_if<control::Statistics>(&*answer)) {
              done(std::move(s->counters));
            } else {
              done(UnexpectedAnswer());
            }
            return true;
          });
}

}  // namespace espalier::datapath
