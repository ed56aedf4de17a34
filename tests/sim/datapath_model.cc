#include "tests/sim/datapath_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/bytes.h"

namespace espalier::sim {
namespace {

constexpr uint64_t kPacketSize = 1000;

std::string KeyOf(const base::EspSa& sa) {
  return base::ToHex(sa.encryption_key.span()) +
         base::ToHex(sa.integrity_key.span());
}

}  // namespace

void KeyLedger::InboundInstalled(int node, base::Spi spi,
                                 const std::string& key) {
  Entry& entry = entries_[key];
  if (entry.inbound_node >= 0) {
    record_->Broken(Invariant::kKeyInstalledOnce,
                    absl::StrCat("inbound at node ", node, ", before at node ",
                                 entry.inbound_node));
  }
  entry.inbound_node = node;
  entry.spi = spi;
}

void KeyLedger::OutboundAsked(int node, base::Spi spi, const std::string& key,
                              bool own_inbound_stands, bool only) {
  Entry& entry = entries_[key];
  const std::string what =
      absl::StrCat("outbound ", absl::Hex(spi.value()), " at node ", node);
  if (entry.outbound_node >= 0) {
    record_->Broken(
        Invariant::kKeyInstalledOnce,
        absl::StrCat(what, ", before at node ", entry.outbound_node));
  }
  entry.outbound_node = node;
  if (!own_inbound_stands) {
    record_->Broken(Invariant::kInboundBeforeOutbound,
                    absl::StrCat(what, ": its inbound twin does not stand"));
  }
  if (entry.inbound_node < 0) {
    if (only || !hitless_) return;
    record_->Broken(Invariant::kInboundBeforeOutbound,
                    absl::StrCat(what, ": the peer has no inbound SA for it"));
  } else if (entry.inbound_node == node || entry.spi != spi) {
    record_->Broken(Invariant::kKeyInstalledOnce,
                    absl::StrCat(what, ": inbound it has another place"));
  }
}

bool KeyLedger::HasInbound(const std::string& key) const {
  const auto entry = entries_.find(key);
  return entry != entries_.end() && entry->second.inbound_node >= 0;
}

void DatapathModel::Asked(const ike::InstallSa& action) {
  if (action.sa.direction != base::Direction::kOutbound) return;
  const bool twin = std::any_of(inbound_.begin(), inbound_.end(),
                                [&action](const auto& entry) {
                                  return entry.second.child == action.child &&
                                         entry.second.peer == action.peer;
                                });
  ledger_->OutboundAsked(node_, action.sa.spi, KeyOf(action.sa), twin,
                         Outbound(action.peer).empty());
}

void DatapathModel::Install(const ike::InstallSa& action, int epoch) {
  Sa sa = {.peer = action.peer,
           .child = action.child,
           .spi = action.sa.spi,
           .destination = action.sa.outer_destination,
           .key = KeyOf(action.sa),
           .cpu = action.sa.cpu,
           .epoch = epoch,
           .limits = action.sa.limits};
  if (action.sa.direction == base::Direction::kInbound) {
    ledger_->InboundInstalled(node_, sa.spi, sa.key);
    inbound_[sa.spi] = std::move(sa);
  } else {
    outbound_.push_back(std::move(sa));
  }
}

void DatapathModel::Remove(const ike::RemoveSa& action) {
  if (action.direction == base::Direction::kInbound) {
    inbound_.erase(action.spi);
    return;
  }
  std::erase_if(outbound_, [&action](const Sa& sa) {
    return sa.spi == action.spi && sa.peer == action.peer &&
           sa.destination == action.outer_destination;
  });
}

void DatapathModel::Watch(base::Spi spi) {
  if (const auto sa = inbound_.find(spi); sa != inbound_.end()) {
    sa->second.watched = true;
  }
}

std::optional<DatapathModel::Limit> DatapathModel::Count(
    base::Direction direction, Sa* sa) {
  sa->bytes += kPacketSize;
  ++sa->packets;
  const base::SaLimits& limits = sa->limits;
  const auto reached = [sa](uint64_t bytes, uint64_t packets) {
    return (bytes > 0 && sa->bytes >= bytes) ||
           (packets > 0 && sa->packets >= packets);
  };
  const Limit limit = {direction, sa->spi, sa->destination};
  if (reached(limits.hard_bytes, limits.hard_packets) &&
      !std::exchange(sa->hard_expired, true)) {
    return Limit{limit.direction, limit.spi, limit.destination, true};
  }
  if (reached(limits.soft_bytes, limits.soft_packets) &&
      !std::exchange(sa->soft_expired, true)) {
    return limit;
  }
  return std::nullopt;
}

DatapathModel::Sa* DatapathModel::Choose(ike::PeerId peer,
                                         std::optional<uint32_t> cpu) {
  for (auto sa = outbound_.rbegin(); sa != outbound_.rend(); ++sa) {
    if (sa->peer == peer && !sa->hard_expired && sa->cpu == cpu) return &*sa;
  }
  return nullptr;
}

std::optional<DatapathModel::Packet> DatapathModel::Send(
    ike::PeerId peer, uint32_t cpu, std::optional<Limit>* limit) {
  Sa* sa = Choose(peer, cpu);
  if (sa == nullptr) sa = Choose(peer, std::nullopt);
  if (sa == nullptr) return std::nullopt;
  *limit = Count(base::Direction::kOutbound, sa);
  return Packet{sa->spi, sa->key,
                Outbound(peer).size() == 1 && !ledger_->HasInbound(sa->key)};
}

const DatapathModel::Sa* DatapathModel::Receive(const Packet& packet,
                                                bool* first,
                                                std::optional<Limit>* limit) {
  const auto found = inbound_.find(packet.spi);
  if (found == inbound_.end() || found->second.key != packet.key) {
    return nullptr;
  }
  Sa& sa = found->second;
  // Dead, which is no loss that a rekey should have prevented: the limit that
  // asks for it was much lower.
  if (sa.hard_expired) return nullptr;
  *limit = Count(base::Direction::kInbound, &sa);
  *first = sa.watched;
  sa.watched = false;
  sa.seen = true;
  return &sa;
}

bool DatapathModel::HasOlder(ike::PeerId peer, int epoch) const {
  const auto older = [peer, epoch](const Sa& sa) {
    return sa.peer == peer && sa.epoch < epoch;
  };
  return std::any_of(outbound_.begin(), outbound_.end(), older) ||
         std::any_of(inbound_.begin(), inbound_.end(),
                     [&older](const auto& e) { return older(e.second); });
}

void DatapathModel::RemoveOlder(ike::PeerId peer, int epoch,
                                base::Direction direction) {
  const auto older = [peer, epoch](const Sa& sa) {
    return sa.peer == peer && sa.epoch < epoch;
  };
  if (direction == base::Direction::kOutbound) {
    std::erase_if(outbound_, older);
  } else {
    std::erase_if(inbound_,
                  [&older](const auto& e) { return older(e.second); });
  }
}

void DatapathModel::RemoveOtherInbound(ike::PeerId peer, base::Spi keep) {
  std::erase_if(inbound_, [peer, keep](const auto& entry) {
    return entry.second.peer == peer && entry.first != keep;
  });
}

void DatapathModel::RemoveOutbound(ike::PeerId peer) {
  std::erase_if(outbound_, [peer](const Sa& sa) { return sa.peer == peer; });
}

std::vector<const DatapathModel::Sa*> DatapathModel::Inbound(
    ike::PeerId peer) const {
  std::vector<const Sa*> found;
  for (const auto& [spi, sa] : inbound_) {
    if (sa.peer == peer) found.push_back(&sa);
  }
  return found;
}

std::vector<const DatapathModel::Sa*> DatapathModel::Outbound(
    ike::PeerId peer) const {
  std::vector<const Sa*> found;
  for (const Sa& sa : outbound_) {
    if (sa.peer == peer) found.push_back(&sa);
  }
  return found;
}

}  // namespace espalier::sim
