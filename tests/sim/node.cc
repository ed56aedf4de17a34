#include "tests/sim/node.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/crypto/job.h"

namespace espalier::sim {
namespace {

// As both datapaths limit it.
constexpr absl::Duration kAcquireInterval = absl::Seconds(1);
// As the mesh does when it has looked at the counters, which is less often.
constexpr absl::Duration kAliveInterval = absl::Seconds(1);
// HandleTimeout calls in one instant of virtual time.
constexpr int kMaxTimeoutsAtOnce = 100;
constexpr int kRepeats = 50;

std::string ToString(const ike::Event& event) {
  static constexpr const char* kNames[] = {"IKE_SA up",
                                           "IKE_SA down",
                                           "IKE_SA rekeyed",
                                           "CHILD_SA up",
                                           "CHILD_SA down",
                                           "CHILD_SA rekeyed",
                                           "AUTHENTICATION_FAILED",
                                           "NO_PROPOSAL_CHOSEN",
                                           "TS_UNACCEPTABLE",
                                           "peer unreachable",
                                           "protocol error"};
  const auto kind = static_cast<size_t>(event.kind);
  return absl::StrCat(kind < std::size(kNames) ? kNames[kind] : "event",
                      " peer ", event.peer.value(), " ike ",
                      event.ike_sa.value(), " child ", event.child.value(), " ",
                      event.detail);
}

}  // namespace

Node::Node(int index, const base::IpAddress& address,
           const Surroundings& around, MakeConfig make_config,
           MakePeer make_peer)
    : index_(index),
      address_(address),
      around_(around),
      make_config_(std::move(make_config)),
      make_peer_(std::move(make_peer)),
      datapath_(index, around.ledger) {
  around_.network->Attach(
      address, [this](const ike::Path& path, const base::Bytes& bytes) {
        if (!running() || deaf_) return;
        core_->HandleDatagram(now(), path, bytes);
        Pump();
      });
}

void Node::Trace(const std::string& text) const {
  if (around_.record->tracing()) {
    around_.record->Trace(absl::StrCat("node ", index_, ": ", text));
  }
}

void Node::Start() {
  Trace("starts");
  ++epoch_;
  armed_ = absl::InfiniteFuture();
  random_ = std::make_unique<SeededRandom>(around_.chance->U64());
  core_ = std::make_unique<ike::Core>(make_config_(), random_.get());
  for (int other : peers_) AddPeer(other);
  Pump();
}

void Node::Crash() {
  Trace("crashes");
  core_.reset();
  sweeping_.clear();
}

void Node::Connect(int other) {
  peers_.push_back(other);
  if (!running()) return;
  AddPeer(other);
  Pump();
}

void Node::AddPeer(int other) {
  const ike::PeerId peer = PeerIdOf(other);
  const absl::Status status = core_->UpsertPeer(now(), make_peer_(other));
  if (!status.ok()) Trace(status.ToString());
  const bool older = datapath_.HasOlder(peer, epoch_);
  if (!on_demand_ || older) core_->Establish(now(), peer, older);
  for (uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    core_->WantCpuSa(now(), peer, cpu);
  }
}

void Node::RekeyIkeSa(int other) {
  if (!running()) return;
  Trace(absl::StrCat("told to rekey the IKE_SA with node ", other));
  core_->RekeyIkeSa(now(), PeerIdOf(other));
  Pump();
}

void Node::RekeyChildSa(int other) {
  if (!running()) return;
  Trace(absl::StrCat("told to rekey the CHILD_SA with node ", other));
  core_->RekeyChildSa(now(), PeerIdOf(other));
  Pump();
}

void Node::Delete(int other) {
  if (!running()) return;
  Trace(absl::StrCat("told to delete the IKE_SA with node ", other));
  core_->Delete(now(), PeerIdOf(other));
  core_->Establish(now(), PeerIdOf(other));
  Pump();
}

void Node::Close(int other) {
  if (!running()) return;
  Trace(absl::StrCat("closes the idle tunnel with node ", other));
  const ike::PeerId peer = PeerIdOf(other);
  core_->StopEstablishing(now(), peer);
  core_->Delete(now(), peer);
  datapath_.RemoveOlder(peer, epoch_, base::Direction::kOutbound);
  datapath_.RemoveOlder(peer, epoch_, base::Direction::kInbound);
  Pump();
}

void Node::Reconfigure(int other, bool anew) {
  if (!running()) return;
  Trace(absl::StrCat("is told a new configuration of node ", other));
  const absl::Status status = core_->UpsertPeer(now(), make_peer_(other));
  if (!status.ok()) Trace(status.ToString());
  if (anew) core_->Reestablish(now(), PeerIdOf(other));
  Pump();
}

void Node::Later(absl::Duration delay, std::function<void()> what) {
  around_.scheduler->After(delay,
                           [this, epoch = epoch_, what = std::move(what)] {
                             if (!running() || epoch != epoch_) return;
                             what();
                             Pump();
                           });
}

void Node::Pump() {
  if (!running()) return;
  while (std::optional<ike::Action> action = core_->PollAction()) {
    std::visit([this](auto&& a) { Do(std::move(a)); }, *std::move(action));
  }
  Arm();
}

void Node::Arm() {
  const std::optional<base::Instant> next = core_->NextTimeout();
  if (!next.has_value() || (*next >= armed_ && armed_ > now())) return;
  armed_ = std::max(*next, now());
  around_.scheduler->At(armed_, [this, epoch = epoch_, at = armed_] {
    if (!running() || epoch != epoch_ || at != armed_) return;
    armed_ = absl::InfiniteFuture();
    timeouts_at_once_ = last_timeout_ == now() ? timeouts_at_once_ + 1 : 0;
    last_timeout_ = now();
    if (timeouts_at_once_ > kMaxTimeoutsAtOnce) {
      around_.record->Broken(Invariant::kNoSpin,
                             absl::StrCat("node ", index_, " is stuck"));
      Crash();
      return;
    }
    core_->HandleTimeout(now());
    Pump();
  });
}

void Node::Do(ike::SendDatagram action) {
  const int copies = sabotage_ == Sabotage::kRepeatDatagrams ? kRepeats : 1;
  for (int i = 0; i < copies; ++i) {
    around_.network->Send(action.path, action.bytes);
  }
}

// Keepalives hold NAT mappings, which here are held until Rebind.
void Node::Do(ike::SendNatKeepalive) {}
void Node::Do(ike::LogIkeKeys) {}

void Node::Do(ike::Event action) { Trace(ToString(action)); }

void Node::Do(ike::WatchInbound action) { datapath_.Watch(action.spi); }

void Node::Do(ike::RunCrypto action) {
  const absl::Duration delay =
      around_.chance->Between(absl::ZeroDuration(), faults_.max_crypto_delay);
  const bool fails = around_.chance->Happens(faults_.crypto_failure);
  // std::function copies; jobs hold secrets, which do not.
  auto job = std::make_shared<crypto::Job>(std::move(action.job));
  Later(delay, [this, id = action.id, job, fails] {
    if (fails) Trace("crypto job fails");
    core_->HandleCryptoDone(
        now(), id,
        fails ? crypto::Result(absl::InternalError("injected"))
              : crypto::Run(*job));
  });
}

absl::Duration Node::DatapathDelay() {
  // One after the other, as over one socket.
  const absl::Duration delay =
      around_.chance->Between(absl::ZeroDuration(), faults_.max_datapath_delay);
  datapath_done_ = std::max(datapath_done_, now() + delay);
  return datapath_done_ - now();
}

void Node::Do(ike::InstallSa action) {
  const bool inbound = action.sa.direction == base::Direction::kInbound;
  Trace(absl::StrCat("installs ", inbound ? "inbound " : "outbound ",
                     absl::Hex(action.sa.spi.value()), " of child ",
                     action.child.value(), " peer ", action.peer.value()));
  datapath_.Asked(action);
  if (sabotage_ == Sabotage::kInstallTwice) datapath_.Asked(action);
  if (sabotage_ == Sabotage::kDropOldOutbound && !inbound) {
    datapath_.RemoveOutbound(action.peer);
  }
  const absl::Duration delay = DatapathDelay();
  const bool fails = around_.chance->Happens(faults_.datapath_failure);
  // A failed call may have taken effect all the same.
  const bool applied = !fails || around_.chance->Happens(0.2);
  const absl::Duration effect = sabotage_ == Sabotage::kConfirmEarly && inbound
                                    ? absl::Seconds(3)
                                    : absl::ZeroDuration();
  auto held = std::make_shared<ike::InstallSa>(std::move(action));
  // The datapath is not the core: it finishes what it was asked for even when
  // the core has died in between.
  around_.scheduler->After(
      delay + effect, [this, held, applied, inbound, epoch = epoch_] {
        if (!applied) return;
        if (sabotage_ == Sabotage::kDropOldInbound && inbound) {
          datapath_.RemoveOtherInbound(held->peer, held->sa.spi);
        }
        datapath_.Install(*held, epoch);
        if (!inbound && running() && epoch == epoch_) {
          // As the mesh: the switch has happened, older outbound SAs go.
          Later(absl::Seconds(1), [this, peer = held->peer] {
            datapath_.RemoveOlder(peer, epoch_, base::Direction::kOutbound);
          });
        }
      });
  Later(delay, [this, op = held->op, fails] {
    if (fails) Trace(absl::StrCat("datapath operation ", op.value(), " fails"));
    core_->HandleDatapathDone(
        now(), op,
        fails ? absl::UnavailableError("injected") : absl::OkStatus());
  });
}

void Node::Do(ike::RemoveSa action) {
  Trace(absl::StrCat(
      "removes ",
      action.direction == base::Direction::kInbound ? "inbound " : "outbound ",
      absl::Hex(action.spi.value()), " of child ", action.child.value(),
      " peer ", action.peer.value()));
  const absl::Duration delay = DatapathDelay();
  // It does not fail: the datapath's owner tries until the SA is gone.
  around_.scheduler->After(delay, [this, action] {
    if (sabotage_ != Sabotage::kIgnoreRemove) datapath_.Remove(action);
  });
  Later(delay, [this, op = action.op] {
    core_->HandleDatapathDone(now(), op, absl::OkStatus());
  });
}

void Node::Report(const std::optional<DatapathModel::Limit>& limit) {
  if (!limit) return;
  Trace(absl::StrCat(limit->hard ? "hard" : "soft", " limit of ",
                     absl::Hex(limit->spi.value())));
  Later(absl::Milliseconds(1), [this, limit = *limit] {
    core_->HandleSaExpired(now(), limit.direction, limit.destination, limit.spi,
                           limit.hard);
  });
}

std::optional<DatapathModel::Packet> Node::SendPacket(int other, uint32_t cpu) {
  std::optional<DatapathModel::Limit> limit;
  const auto packet = datapath_.Send(PeerIdOf(other), cpu, &limit);
  Report(limit);
  if (!packet && on_demand_ && running() &&
      now() - acquired_[other] >= kAcquireInterval) {
    acquired_[other] = now();
    core_->Establish(now(), PeerIdOf(other));
    Pump();
  }
  return packet;
}

bool Node::ReceivePacket(int from, const DatapathModel::Packet& packet) {
  bool watched = false;
  std::optional<DatapathModel::Limit> limit;
  const DatapathModel::Sa* sa = datapath_.Receive(packet, &watched, &limit);
  if (sa == nullptr) return false;
  Report(limit);
  if (!running()) return true;
  const ike::PeerId peer = PeerIdOf(from);
  // As the mesh: the new SA carries traffic, so what an earlier core left may
  // go once nothing is under way any more.
  if (sa->epoch == epoch_ && datapath_.HasOlder(peer, epoch_) &&
      !std::exchange(sweeping_[peer], true)) {
    Later(drain_, [this, peer] {
      datapath_.RemoveOlder(peer, epoch_, base::Direction::kInbound);
      sweeping_[peer] = false;
    });
  }
  base::Instant& told = told_alive_[packet.spi];
  if (now() - told >= kAliveInterval) {
    told = now();
    core_->HandleInboundTraffic(now(), packet.spi);
    Pump();
  }
  if (watched) {
    Later(absl::Milliseconds(1),
          [this, spi = packet.spi] { core_->HandleInboundSeen(now(), spi); });
  }
  return true;
}

}  // namespace espalier::sim
