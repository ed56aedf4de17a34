#include "agent/ike/tasks/informational.h"

#include <algorithm>
#include <utility>

#include "agent/ike/ike_sa.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

constexpr size_t kMaxEarlyDeletes = 8;

void SendDelete(IkeSa& sa, wire::DeletePayload payload) {
  sa.SendRequest(wire::ExchangeType::kInformational,
                 {Payload::Of(std::move(payload))});
}

class Informational : public Task {
 public:
  Informational() : Task(wire::ExchangeKind::kInformational) {}
};

class DeleteIke : public Informational {
 public:
  Progress Start(IkeSa& sa) override {
    // A replaced one stays that: it has nothing to take down with it.
    if (sa.stage() == IkeSa::Stage::kEstablished) {
      sa.set_stage(IkeSa::Stage::kClosing);
    }
    SendDelete(sa, {.protocol = wire::ProtocolId::kIke});
    return Progress::kRunning;
  }
  Progress HandleResponse(IkeSa& sa, const wire::Payloads&) override {
    sa.Close(IkeSa::Ending::kSilent, "deleted");
    return Progress::kDone;
  }
};

class DeleteChild : public Informational {
 public:
  explicit DeleteChild(ChildSaId child) : child_(child) {}
  Progress Start(IkeSa& sa) override {
    ChildSa* child = sa.peer()->tunnels.Find(child_);
    if (child == nullptr || child->owner != sa.id() ||
        child->state == ChildSa::State::kRetired) {
      return Progress::kDone;
    }
    child->deleting = true;
    SendDelete(sa, {.protocol = ToWire(child->suite.protocol),
                    .spis = {child->inbound_spi}});
    return Progress::kRunning;
  }
  Progress HandleResponse(IkeSa& sa, const wire::Payloads&) override {
    Tunnels& tunnels = sa.peer()->tunnels;
    if (ChildSa* child = tunnels.Find(child_)) {
      tunnels.Retire(sa.ctx(), *child);
    }
    if (!tunnels.HasLive(sa.id())) {
      sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
    }
    return Progress::kDone;
  }

 private:
  ChildSaId child_;
};

class DeleteSpi : public Informational {
 public:
  DeleteSpi(base::IpsecProtocol protocol, InboundSpi spi)
      : protocol_(protocol), spi_(std::move(spi)) {}
  Progress Start(IkeSa& sa) override {
    SendDelete(sa, {.protocol = ToWire(protocol_), .spis = {spi_.value()}});
    return Progress::kRunning;
  }
  Progress HandleResponse(IkeSa& sa, const wire::Payloads&) override {
    if (!sa.peer()->tunnels.HasLive(sa.id())) {
      sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
    }
    return Progress::kDone;
  }

 private:
  const base::IpsecProtocol protocol_;
  InboundSpi spi_;
};

class Liveness : public Informational {
 public:
  Progress Start(IkeSa& sa) override {
    sa.SendRequest(wire::ExchangeType::kInformational, {});
    return Progress::kRunning;
  }
};

class AuthenticationFailed : public Informational {
 public:
  Progress Start(IkeSa& sa) override {
    sa.SendRequest(
        wire::ExchangeType::kInformational,
        {Payload::Of(NotifyPayload::Of(NotifyType::kAuthenticationFailed))});
    sa.set_close_at(sa.ctx().now + absl::Seconds(5));
    return Progress::kRunning;
  }
  Progress HandleResponse(IkeSa& sa, const wire::Payloads&) override {
    sa.Close(IkeSa::Ending::kSilent, "the peer failed to authenticate");
    return Progress::kDone;
  }
};

class InformationalResponder : public Informational {
 public:
  explicit InformationalResponder(wire::Payloads request)
      : request_(std::move(request)) {}

  Progress Start(IkeSa& sa) override {
    bool whole = wire::FindNotify(request_,
                                  NotifyType::kAuthenticationFailed) != nullptr;
    wire::Payloads response;
    for (const auto* del : wire::FindAll<wire::DeletePayload>(request_)) {
      if (del->protocol == wire::ProtocolId::kIke) {
        whole = true;
        continue;
      }
      wire::DeletePayload answer{.protocol = del->protocol};
      DeleteChildren(sa, *del, &answer);
      if (!answer.spis.empty()) {
        response.push_back(Payload::Of(std::move(answer)));
      }
    }
    if (!whole) sa.peer()->tunnels.PeerRequested(sa.ctx(), sa.id());
    // RFC 7296 1.4.1: the Delete of an IKE_SA is answered by an empty message.
    if (whole) response.clear();
    sa.SendResponse(wire::ExchangeType::kInformational, response);
    if (whole) {
      sa.Close(IkeSa::Ending::kSilent, "the peer deleted it");
      return Progress::kDone;
    }
    if (deleted_ && sa.stage() == IkeSa::Stage::kEstablished &&
        !sa.peer()->tunnels.HasLive(sa.id())) {
      sa.ctx().Notify(Notice::Kind::kChildDeleted, sa.id());
    }
    return Progress::kDone;
  }

 private:
  void DeleteChildren(IkeSa& sa, const wire::DeletePayload& del,
                      wire::DeletePayload* answer) {
    Tunnels& tunnels = sa.peer()->tunnels;
    for (base::Spi spi : del.spis) {
      // The peer names what it receives on: our outbound SA.
      // While both ends rekey the IKE_SA, it may still be the old one's here.
      ChildSa* child = tunnels.FindOutbound(spi);
      if (child != nullptr && ToWire(child->suite.protocol) != del.protocol) {
        continue;
      }
      if (child == nullptr || child->state == ChildSa::State::kInstalling) {
        // Perhaps of the answer that we still work on.
        if (sa.own_task() != nullptr &&
            sa.early_deletes.size() < kMaxEarlyDeletes) {
          sa.early_deletes.push_back(spi);
        }
        continue;
      }
      if (child->state == ChildSa::State::kRetired) continue;
      // 1.4.1: when both delete it at once, neither names it in the answer.
      if (!child->deleting) answer->spis.push_back(child->inbound_spi);
      // A CPU whose traffic the peer has no more use for goes without.
      if (child->cpu && !tunnels.Replaced(*child)) {
        sa.peer()->cpus.wanted.erase(*child->cpu);
      }
      tunnels.DeletedByPeer(sa.ctx(), *child);
      deleted_ = true;
    }
  }

  wire::Payloads request_;
  bool deleted_ = false;
};

}  // namespace

std::unique_ptr<Task> MakeDeleteIke() { return std::make_unique<DeleteIke>(); }

std::unique_ptr<Task> MakeDeleteChild(ChildSaId child) {
  return std::make_unique<DeleteChild>(child);
}

std::unique_ptr<Task> MakeDeleteSpi(base::IpsecProtocol protocol,
                                    InboundSpi spi) {
  return std::make_unique<DeleteSpi>(protocol, std::move(spi));
}

std::unique_ptr<Task> MakeLiveness() { return std::make_unique<Liveness>(); }

std::unique_ptr<Task> MakeAuthenticationFailed() {
  return std::make_unique<AuthenticationFailed>();
}

std::unique_ptr<Task> MakeInformationalResponder(
    const wire::Payloads& request) {
  return std::make_unique<InformationalResponder>(request);
}

}  // namespace espalier::ike
