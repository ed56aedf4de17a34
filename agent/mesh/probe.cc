#include "agent/mesh/probe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"

namespace espalier::mesh {
namespace {

constexpr uint32_t kMagic = 0x45535050;  // "ESPP"
constexpr uint8_t kVersion = 1;
constexpr uint16_t kNodeTrafficFlag = 1;
// An answer to one of the last rounds still counts.
constexpr uint64_t kRoundsRemembered = 4;

}  // namespace

base::Bytes EncodeProbe(const ProbeMessage& message) {
  base::ByteWriter writer;
  writer.WriteU32(kMagic);
  writer.WriteU8(kVersion);
  writer.WriteU8(static_cast<uint8_t>(message.kind));
  writer.WriteU16(message.node_traffic ? kNodeTrafficFlag : 0);
  writer.WriteU64(message.nonce);
  return writer.Take();
}

std::optional<ProbeMessage> DecodeProbe(base::ByteSpan bytes) {
  base::ByteReader reader(bytes);
  uint32_t magic = 0;
  uint8_t version = 0, kind = 0;
  uint16_t flags = 0;
  ProbeMessage message;
  if (!reader.ReadU32(&magic) || !reader.ReadU8(&version) ||
      !reader.ReadU8(&kind) || !reader.ReadU16(&flags) ||
      !reader.ReadU64(&message.nonce) || !reader.empty()) {
    return std::nullopt;
  }
  if (magic != kMagic || version != kVersion ||
      (flags & ~kNodeTrafficFlag) != 0) {
    return std::nullopt;
  }
  message.node_traffic = flags == kNodeTrafficFlag;
  message.kind = static_cast<ProbeMessage::Kind>(kind);
  if (message.kind != ProbeMessage::Kind::kRequest &&
      message.kind != ProbeMessage::Kind::kReply) {
    return std::nullopt;
  }
  return message;
}

std::vector<base::IpAddress> TunnelAddresses(
    const std::vector<base::IpPrefix>& pod_cidrs) {
  std::vector<base::IpAddress> addresses;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    std::optional<base::IpPrefix> lowest;
    for (const base::IpPrefix& cidr : pod_cidrs) {
      // Shorter by two: it holds more than the network and a broadcast.
      if (cidr.family() == family &&
          cidr.length() < cidr.address().bits() - 1 &&
          (!lowest || cidr < *lowest)) {
        lowest = cidr;
      }
    }
    if (lowest) addresses.push_back(lowest->First().Plus(1));
  }
  return addresses;
}

const char* ProbeVerdictName(ProbeVerdict verdict) {
  switch (verdict) {
    case ProbeVerdict::kOff:
      return "off";
    case ProbeVerdict::kWaiting:
      return "waiting";
    case ProbeVerdict::kPassing:
      return "passing";
    case ProbeVerdict::kFailing:
      return "failing";
  }
  return "";
}

// One family of one peer.
struct Prober::Way {
  base::IpAddress local, remote;
  uint64_t first_nonce = 0;
  bool answered = false;  // in this round
  // Tokens of the bucket that echoes come out of.
  double tokens = 0;
  base::Instant refilled;
};

struct Prober::Received {
  Target* target;
  Way* way;
  ProbeMessage message;
};

struct Prober::Target {
  ike::PeerId peer;
  std::vector<base::IpAddress> remotes;
  std::vector<Way> ways;
  bool running = false;
  uint64_t round = 0;
  // When each of the last rounds began.
  base::Instant sent_at[kRoundsRemembered];
  int misses = 0;  // rounds in a row without all answers
  absl::Duration try_time;
  base::EventLoop::TimerId timer = 0;
  ProbeStatus status;
};

Prober::Prober(base::EventLoop* loop, base::Clock* clock,
               base::RandomSource* random, ProbeLink* link,
               std::function<void(ike::PeerId)> changed, Options options)
    : loop_(loop),
      clock_(clock),
      random_(random),
      link_(link),
      changed_(std::move(changed)),
      options_(options) {}

Prober::~Prober() {
  for (const auto& [peer, target] : targets_) loop_->CancelTimer(target->timer);
}

void Prober::SetLocal(const std::vector<base::IpAddress>& addresses) {
  if (link_ == nullptr || addresses == local_) return;
  local_ = addresses;
  link_->SetLocal(addresses);
}

void Prober::SetPeer(ike::PeerId peer,
                     const std::vector<base::IpAddress>& remotes) {
  const auto found = targets_.find(peer);
  if (found != targets_.end()) {
    if (found->second->remotes == remotes) return;
    RemovePeer(peer);
  }
  if (link_ == nullptr) return;
  auto target = std::make_unique<Target>();
  target->peer = peer;
  target->remotes = remotes;
  for (const base::IpAddress& remote : remotes) {
    for (const base::IpAddress& local : local_) {
      if (local.family() != remote.family()) continue;
      // Random, so that no answer to an earlier agent's request fits.
      target->ways.push_back({.local = local,
                              .remote = remote,
                              .first_nonce = random_->U64(),
                              .tokens = options_.echo_burst,
                              .refilled = clock_->Now()});
      by_remote_[remote] = target.get();
    }
  }
  if (target->ways.empty()) return;
  target->status.verdict = ProbeVerdict::kWaiting;
  targets_[peer] = std::move(target);
}

void Prober::RemovePeer(ike::PeerId peer) {
  const auto found = targets_.find(peer);
  if (found == targets_.end()) return;
  loop_->CancelTimer(found->second->timer);
  std::erase_if(by_remote_, [&](const auto& entry) {
    return entry.second == found->second.get();
  });
  targets_.erase(found);
}

void Prober::Start(ike::PeerId peer) {
  const auto found = targets_.find(peer);
  if (found == targets_.end()) return;
  Target* const target = found->second.get();
  if (!target->running) {
    target->running = true;
    target->misses = 0;
    target->status.verdict = ProbeVerdict::kWaiting;
  }
  target->try_time = options_.first_try;
  // Not from here: the owner is in the middle of what it tells.
  Schedule(target, absl::ZeroDuration(), /*end_of_round=*/false);
}

void Prober::Stop(ike::PeerId peer) {
  const auto found = targets_.find(peer);
  if (found == targets_.end()) return;
  Target* const target = found->second.get();
  loop_->CancelTimer(target->timer);
  target->running = false;
  target->status.verdict = ProbeVerdict::kWaiting;
  target->status.reason.clear();
}

void Prober::Schedule(Target* target, absl::Duration delay, bool end_of_round) {
  loop_->CancelTimer(target->timer);
  target->timer = loop_->RunAfter(delay, [this, target, end_of_round] {
    target->timer = 0;
    if (end_of_round) {
      EndRound(target);
    } else {
      Round(target);
    }
  });
}

// A mesh must not probe in one instant.
absl::Duration Prober::Jittered(absl::Duration duration) {
  const double part = static_cast<double>(random_->U32() % 1024) / 1024;
  return duration * (0.8 + 0.4 * part);
}

void Prober::Round(Target* target) {
  ++target->round;
  target->sent_at[target->round % kRoundsRemembered] = clock_->Now();
  for (Way& way : target->ways) {
    way.answered = false;
    ++target->status.sent;
    ++target->status.packets_out;
    // A datagram that the kernel refuses is one without an answer.
    (void)link_->Send(way.local, way.remote,
                      EncodeProbe({.kind = ProbeMessage::Kind::kRequest,
                                   .nonce = way.first_nonce + target->round,
                                   .node_traffic = node_traffic_}));
  }
  Schedule(target, target->try_time, /*end_of_round=*/true);
}

void Prober::EndRound(Target* target) {
  std::vector<std::string> silent;
  for (const Way& way : target->ways) {
    if (!way.answered) silent.push_back(way.remote.ToString());
  }
  if (silent.empty()) {
    target->misses = 0;
    target->try_time = options_.first_try;
    Schedule(target, Jittered(options_.interval), /*end_of_round=*/false);
    return;
  }
  ++target->misses;
  if (target->misses < options_.tries) {
    target->try_time = std::min(2 * target->try_time, options_.slowest_try);
    Round(target);
    return;
  }
  target->status.reason =
      absl::StrCat("IKE is up but packets do not pass: no answer to ",
                   target->misses, " probes in a row to ",
                   absl::StrJoin(silent, " and "), " through the tunnel");
  target->try_time = options_.slowest_try;
  Schedule(target, Jittered(options_.failing_interval), /*end_of_round=*/false);
  Judge(target, ProbeVerdict::kFailing);
}

void Prober::Judge(Target* target, ProbeVerdict verdict) {
  if (verdict != ProbeVerdict::kFailing) target->status.reason.clear();
  // While it fails the owner is told each time: how often is in the reason.
  if (target->status.verdict == verdict && verdict != ProbeVerdict::kFailing) {
    return;
  }
  target->status.verdict = verdict;
  changed_(target->peer);
}

void Prober::HandleReply(Target* target, Way* way, uint64_t nonce,
                         bool by_node) {
  const uint64_t age = target->round - (nonce - way->first_nonce);
  if (!target->running || age >= std::min(kRoundsRemembered, target->round)) {
    ++dropped_;
    return;
  }
  ++target->status.answered;
  const base::Instant now = clock_->Now();
  target->status.last_answer = now;
  target->status.by_node = by_node;
  target->status.round_trip =
      now - target->sent_at[(target->round - age) % kRoundsRemembered];
  way->answered = true;
  if (std::ranges::all_of(target->ways, &Way::answered)) {
    target->misses = 0;
    Judge(target, ProbeVerdict::kPassing);
  }
}

std::pair<Prober::Target*, Prober::Way*> Prober::Find(
    const base::IpAddress& local, const base::IpAddress& remote) {
  const auto found = by_remote_.find(remote);
  if (found == by_remote_.end()) return {nullptr, nullptr};
  for (Way& way : found->second->ways) {
    if (way.remote == remote && way.local == local) {
      return {found->second, &way};
    }
  }
  return {nullptr, nullptr};
}

std::optional<Prober::Received> Prober::Receive(const base::IpAddress& local,
                                                const base::IpAddress& remote,
                                                base::ByteSpan bytes) {
  const auto [target, way] = Find(local, remote);
  const std::optional<ProbeMessage> message = DecodeProbe(bytes);
  if (target == nullptr || !message) {
    ++dropped_;
    return std::nullopt;
  }
  ++target->status.packets_in;
  return Received{target, way, *message};
}

void Prober::HandleUnreachable(const base::IpAddress& local,
                               const base::IpAddress& remote,
                               base::ByteSpan bytes) {
  const std::optional<Received> received = Receive(local, remote, bytes);
  if (!received || received->message.kind != ProbeMessage::Kind::kRequest) {
    return;
  }
  HandleReply(received->target, received->way, received->message.nonce,
              /*by_node=*/true);
}

void Prober::HandleDatagram(const base::IpAddress& local,
                            const base::IpAddress& remote,
                            base::ByteSpan bytes) {
  const std::optional<Received> received = Receive(local, remote, bytes);
  if (!received) return;
  const auto& [target, way, message] = *received;
  NoteNodeTraffic(target, message.node_traffic);
  if (message.kind == ProbeMessage::Kind::kReply) {
    HandleReply(target, way, message.nonce, /*by_node=*/false);
    return;
  }
  const base::Instant now = clock_->Now();
  way->tokens =
      std::min(options_.echo_burst,
               way->tokens + options_.echoes_per_second *
                                 absl::ToDoubleSeconds(now - way->refilled));
  way->refilled = now;
  if (way->tokens < 1) {
    ++dropped_;
    return;
  }
  way->tokens -= 1;
  ++target->status.packets_out;
  (void)link_->Send(local, remote,
                    EncodeProbe({.kind = ProbeMessage::Kind::kReply,
                                 .nonce = message.nonce,
                                 .node_traffic = node_traffic_}));
}

void Prober::NoteNodeTraffic(Target* target, bool tunnelled) {
  if (std::exchange(target->status.node_traffic, tunnelled) != tunnelled) {
    changed_(target->peer);
  }
}

ProbeVerdict Prober::Verdict(ike::PeerId peer) const {
  const auto found = targets_.find(peer);
  return found == targets_.end() ? ProbeVerdict::kOff
                                 : found->second->status.verdict;
}

ProbeStatus Prober::Status(ike::PeerId peer) const {
  const auto found = targets_.find(peer);
  return found == targets_.end() ? ProbeStatus() : found->second->status;
}

}  // namespace espalier::mesh
