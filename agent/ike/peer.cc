#include "agent/ike/peer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/ike/proposal.h"

namespace espalier::ike {
namespace {

std::string Key(const Identity& identity) {
  std::string key(1, static_cast<char>(identity.type));
  key.append(identity.data.begin(), identity.data.end());
  return key;
}

bool SameProposal(const IkeProposal& a, const IkeProposal& b) {
  return a.cipher == b.cipher && a.key_bits == b.key_bits &&
         a.integrity == b.integrity && a.prfs == b.prfs && a.groups == b.groups;
}

void Merge(const std::vector<IkeProposal>& more,
           std::vector<IkeProposal>* all) {
  for (const IkeProposal& proposal : more) {
    const bool known = std::any_of(
        all->begin(), all->end(),
        [&](const IkeProposal& p) { return SameProposal(p, proposal); });
    if (!known) all->push_back(proposal);
  }
}

// Of one peer; each is a CHILD_SA, and three while all are rekeyed.
constexpr uint32_t kMaxCpuSas = 256;

absl::Status Check(const PeerConfig& config) {
  const auto invalid = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer \"", config.name, "\": ", what));
  };
  if (config.identity.data.empty()) return invalid("identity is empty");
  if (config.ike_proposals.empty()) return invalid("ike_proposals is empty");
  if (config.child_proposals.empty()) {
    return invalid("child_proposals is empty");
  }
  if (config.ike_proposals.size() > 255 || config.child_proposals.size() > 255)
    return invalid("more than 255 proposals");
  for (const IkeProposal& p : config.ike_proposals) {
    ESPALIER_RETURN_IF_ERROR(base::Annotate(
        Validate(p), absl::StrCat("peer \"", config.name, "\"")));
  }
  for (const ChildProposal& p : config.child_proposals) {
    ESPALIER_RETURN_IF_ERROR(base::Annotate(
        Validate(p), absl::StrCat("peer \"", config.name, "\"")));
  }
  const base::IpsecProtocol protocol = config.child_proposals.front().protocol;
  for (const ChildProposal& p : config.child_proposals) {
    if (p.protocol != protocol) {
      return invalid("proposals for ESP and for AH");
    }
  }
  if (protocol == base::IpsecProtocol::kAh && config.force_encapsulation) {
    return invalid("AH cannot be encapsulated in UDP");
  }
  if (config.max_cpu_sas > kMaxCpuSas) {
    return invalid(absl::StrCat("max_cpu_sas is more than ", kMaxCpuSas));
  }
  if (config.local_selectors.empty())
    return invalid("local_selectors is empty");
  if (config.remote_selectors.empty()) {
    return invalid("remote_selectors is empty");
  }
  if (config.local_selectors.size() > kMaxSelectors ||
      config.remote_selectors.size() > kMaxSelectors) {
    return invalid(absl::StrCat("more than ", kMaxSelectors, " selectors"));
  }
  if (const auto* psk = std::get_if<PskAuth>(&config.auth)) {
    if (psk->secret.empty()) return invalid("the shared key is empty");
  } else if (const auto* keys = std::get_if<PublicKeyAuth>(&config.auth)) {
    if (keys->peer_keys.empty()) return invalid("peer_keys is empty");
    for (const auto& key : keys->peer_keys) {
      if (key == nullptr) return invalid("one of peer_keys is null");
    }
  }
  return absl::OkStatus();
}

}  // namespace

// On demand, with nothing that is still in use.
constexpr int kOnDemandTries = 5;

void Establishing::Want(Context& ctx, const PeerConfig& config, bool at_once) {
  at_once_ = at_once_ || at_once;
  const bool pending = wanted_ && attempt_at_;
  wanted_ = true;
  if (pending && !at_once) return;
  const bool now = config.initiate || config.on_demand || at_once;
  attempt_at_ = now ? ctx.now : ctx.now + config.grace;
}

void Establishing::Replace(Context& ctx) {
  // Names rise in time.
  replace_before_ = ctx.NextIkeSaId();
  attempt_at_ = ctx.now;
}

void Establishing::Stop() {
  failures_ = 0;
  replace_before_.reset();
  wanted_ = false;
  at_once_ = false;
  attempt_at_.reset();
}

void Establishing::ReplaceAgain(Context& ctx) {
  attempt_at_ = ctx.now + ctx.Jitter(ctx.config.retry_base, 0.25);
}

void Establishing::Succeeded(bool wanted) {
  wanted_ = wanted_ || wanted;
  failures_ = 0;
  at_once_ = false;
  attempt_at_.reset();
}

void Establishing::Failed(Context& ctx, const PeerConfig& config, bool held) {
  if (!wanted_ && !replace_before_) return;
  absl::Duration wait = ctx.config.retry_base;
  for (int i = 0; i < failures_ && wait < ctx.config.retry_max; ++i) wait *= 2;
  ++failures_;
  if (config.on_demand && !held && failures_ >= kOnDemandTries) return Stop();
  attempt_at_ =
      ctx.now + ctx.Jitter(std::min(wait, ctx.config.retry_max), 0.25);
}

void Establishing::Lost(Context& ctx, const PeerConfig& config, bool deleted) {
  if (config.on_demand && deleted) return Stop();
  if (!wanted_) return;
  attempt_at_ =
      ctx.now + (config.initiate ? ctx.Jitter(ctx.config.retry_base, 0.25)
                                 : ctx.Jitter(config.grace, 0.25));
}

absl::Status PeerTable::Upsert(PeerConfig config) {
  ESPALIER_RETURN_IF_ERROR(Check(config));
  const Peer* same = FindByIdentity(config.identity);
  if (same != nullptr && same->id != config.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer \"", config.name, "\": peer \"", same->config->name,
                     "\" has the same identity ", config.identity.ToString()));
  }
  std::unique_ptr<Peer>& peer = peers_[config.id];
  if (peer == nullptr) {
    peer = std::make_unique<Peer>(config.id);
  } else if (!peer->removed) {
    Unindex(*peer);
  }
  peer->removed = false;
  peer->config = std::make_shared<const PeerConfig>(std::move(config));
  Index(*peer);
  return absl::OkStatus();
}

void PeerTable::Index(const Peer& peer) {
  by_identity_[Key(peer.config->identity)] = peer.id;
  by_address_[peer.config->remote.address].push_back(peer.id);
  all_proposals_.reset();
}

void PeerTable::Unindex(const Peer& peer) {
  by_identity_.erase(Key(peer.config->identity));
  auto at = by_address_.find(peer.config->remote.address);
  if (at != by_address_.end()) {
    std::erase(at->second, peer.id);
    if (at->second.empty()) by_address_.erase(at);
  }
  all_proposals_.reset();
}

void PeerTable::Remove(Peer& peer) {
  if (peer.removed) return;
  Unindex(peer);
  peer.removed = true;
}

void PeerTable::Erase(PeerId id) {
  auto at = peers_.find(id);
  if (at == peers_.end()) return;
  Remove(*at->second);
  peers_.erase(at);
}

Peer* PeerTable::Find(PeerId id) {
  auto at = peers_.find(id);
  return at == peers_.end() ? nullptr : at->second.get();
}

Peer* PeerTable::FindByIdentity(const Identity& identity) {
  auto at = by_identity_.find(Key(identity));
  return at == by_identity_.end() ? nullptr : Find(at->second);
}

std::vector<const Peer*> PeerTable::Candidates(
    const base::IpAddress& address) const {
  std::vector<const Peer*> result;
  if (auto at = by_address_.find(address); at != by_address_.end()) {
    for (PeerId id : at->second) result.push_back(peers_.at(id).get());
    return result;
  }
  for (const auto& [id, peer] : peers_) {
    if (!peer->removed) result.push_back(peer.get());
  }
  return result;
}

std::vector<IkeProposal> PeerTable::ProposalsFor(
    const base::IpAddress& address) const {
  std::vector<IkeProposal> result;
  if (auto at = by_address_.find(address); at != by_address_.end()) {
    for (PeerId id : at->second) {
      Merge(peers_.at(id)->config->ike_proposals, &result);
    }
    return result;
  }
  if (!all_proposals_) {
    all_proposals_.emplace();
    for (const auto& [id, peer] : peers_) {
      if (!peer->removed) Merge(peer->config->ike_proposals, &*all_proposals_);
    }
  }
  return *all_proposals_;
}

}  // namespace espalier::ike
