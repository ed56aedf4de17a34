#include "agent/esp/sa_database.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::esp {
namespace {

// RFC 4303 3.3.3: without ESN the counter must not cycle.
constexpr uint64_t kLastSequence = 0xffffffff;
// When so many are used a rekey is asked for, whatever limits were given.
constexpr uint64_t kSoftSequence = 0xc0000000;

Selectors MakeSelectors(const base::EspSa& sa) {
  return sa.direction == base::Direction::kOutbound
             ? Selectors(sa.local_selectors, sa.remote_selectors)
             : Selectors(sa.remote_selectors, sa.local_selectors);
}

}  // namespace

Sa::Sa(base::EspSa values, std::unique_ptr<crypto::EspCipher> keyed,
       base::Instant now)
    : key{values.direction, values.outer_destination, values.spi},
      config(std::move(values)),
      layout(config.suite),
      cipher(std::move(keyed)),
      selectors(MakeSelectors(config)),
      installed(now),
      replay(config.replay_window, config.suite.esn) {}

absl::Status SaDatabase::CheckNew(const base::EspSa& sa) {
  const base::SaKey key{sa.direction, sa.outer_destination, sa.spi};
  const bool inbound = key.direction == base::Direction::kInbound;
  // RFC 4303 2.1: 0 to 255 are reserved; 0 would be the non-ESP marker.
  if (key.spi.value() < 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("SA ", key.ToString(), ": SPIs below 256 are reserved"));
  }
  if (sa.outer_source.family() != sa.outer_destination.family()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "SA ", key.ToString(), ": its outer addresses are of two families"));
  }
  if (size() >= kMaxSas) {
    return absl::ResourceExhaustedError(
        absl::StrCat("SA ", key.ToString(), ": ", kMaxSas, " SAs are held"));
  }
  if ((inbound && inbound_.contains(key.spi)) || Find(key) != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("SA ", key.ToString(), " is already installed"));
  }
  return absl::OkStatus();
}

bool SaDatabase::AddUsedKey(uint64_t fingerprint) {
  if (!used_keys_.insert(fingerprint).second) return false;
  used_keys_order_.push_back(fingerprint);
  if (used_keys_order_.size() > kMaxUsedKeys) {
    used_keys_.erase(used_keys_order_.front());
    used_keys_order_.pop_front();
  }
  return true;
}

absl::StatusOr<Sa*> SaDatabase::Install(base::EspSa sa, base::Instant now) {
  ESPALIER_RETURN_IF_ERROR(CheckNew(sa));
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<crypto::EspCipher> cipher,
                            MakeCipher(sa, choice_));
  const uint64_t fingerprint =
      crypto::KeyFingerprint(sa.encryption_key.span(), sa.integrity_key.span());
  if (!AddUsedKey(fingerprint)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "SA ",
        base::SaKey{sa.direction, sa.outer_destination, sa.spi}.ToString(),
        ": its key was installed before; a key is installed once, ever"));
  }
  return Insert(std::move(sa), std::move(cipher), now);
}

absl::StatusOr<Sa*> SaDatabase::Adopt(base::EspSa sa, base::Instant now) {
  ESPALIER_RETURN_IF_ERROR(CheckNew(sa));
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<crypto::EspCipher> cipher,
                            MakeCipher(sa, choice_));
  return Insert(std::move(sa), std::move(cipher), now);
}

Sa* SaDatabase::Insert(base::EspSa sa,
                       std::unique_ptr<crypto::EspCipher> cipher,
                       base::Instant now) {
  ++generation_;
  const base::Spi spi = sa.spi;
  const bool inbound = sa.direction == base::Direction::kInbound;
  const base::Reqid reqid = sa.reqid;
  auto made = std::make_unique<Sa>(std::move(sa), std::move(cipher), now);
  Sa* result = made.get();
  if (inbound) {
    inbound_.emplace(spi, std::move(made));
  } else {
    outbound_[reqid].push_back(std::move(made));
    ++outbound_size_;
  }
  return result;
}

bool SaDatabase::Remove(const base::SaKey& key) {
  ++generation_;
  last_inbound_ = nullptr;
  if (key.direction == base::Direction::kInbound) {
    const auto found = inbound_.find(key.spi);
    if (found == inbound_.end() || found->second->key != key) return false;
    inbound_.erase(found);
    return true;
  }
  for (auto entry = outbound_.begin(); entry != outbound_.end(); ++entry) {
    auto& sas = entry->second;
    const auto found = std::find_if(
        sas.begin(), sas.end(), [&](const auto& sa) { return sa->key == key; });
    if (found == sas.end()) continue;
    sas.erase(found);
    --outbound_size_;
    if (sas.empty()) outbound_.erase(entry);
    return true;
  }
  return false;
}

Sa* SaDatabase::Find(const base::SaKey& key) {
  if (key.direction == base::Direction::kOutbound) {
    return FindOutbound(key.outer_destination, key.spi);
  }
  const auto found = inbound_.find(key.spi);
  if (found == inbound_.end() || found->second->key != key) return nullptr;
  return found->second.get();
}

Sa* SaDatabase::FindOutbound(base::Reqid reqid, const InnerPacket& inner,
                             base::ByteSpan packet) {
  const auto found = outbound_.find(reqid);
  if (found == outbound_.end()) return nullptr;
  auto& sas = found->second;
  for (auto sa = sas.rbegin(); sa != sas.rend(); ++sa) {
    if (!(*sa)->expired() && (*sa)->selectors.Match(inner, packet)) {
      return sa->get();
    }
  }
  return nullptr;
}

Sa* SaDatabase::FindOutbound(const base::IpAddress& destination,
                             base::Spi spi) {
  for (auto& [reqid, sas] : outbound_) {
    for (auto& sa : sas) {
      if (sa->key.spi == spi && sa->key.outer_destination == destination) {
        return sa.get();
      }
    }
  }
  return nullptr;
}

std::optional<uint64_t> SaDatabase::NextSequence(Sa* sa) {
  const uint64_t last = sa->config.suite.esn ? UINT64_MAX : kLastSequence;
  if (sa->last_sequence == last) {
    ExpireHard(sa);
    return std::nullopt;
  }
  ++sa->last_sequence;
  // Not only at that number: a hand-over leaves some out.
  if (sa->last_sequence >= kSoftSequence && !sa->config.suite.esn) {
    ExpireSoft(sa);
  }
  return sa->last_sequence;
}

void SaDatabase::CheckLimits(Sa* sa) {
  const base::SaLimits& l = sa->config.limits;
  const base::SaCounters& c = sa->counters;
  const auto reached = [](uint64_t limit, uint64_t value) {
    return limit != 0 && value >= limit;
  };
  if (reached(l.hard_packets, c.packets) || reached(l.hard_bytes, c.bytes)) {
    ExpireHard(sa);
  } else if (reached(l.soft_packets, c.packets) ||
             reached(l.soft_bytes, c.bytes)) {
    ExpireSoft(sa);
  }
}

void SaDatabase::ExpireSoft(Sa* sa) {
  if (sa->soft_expired || sa->expired()) return;
  sa->soft_expired = true;
  on_expired_(*sa, /*hard=*/false);
}

void SaDatabase::ExpireHard(Sa* sa) {
  if (sa->expired()) return;
  sa->cipher.reset();
  sa->config.encryption_key = base::SecretBytes();
  sa->config.integrity_key = base::SecretBytes();
  ++generation_;
  on_expired_(*sa, /*hard=*/true);
}

void SaDatabase::Tick(base::Instant now) {
  const auto reached = [&](const Sa& sa, absl::Duration limit) {
    return limit > absl::ZeroDuration() && now - sa.installed >= limit;
  };
  ForEach([&](Sa& sa) {
    if (reached(sa, sa.config.limits.hard_time)) {
      ExpireHard(&sa);
    } else if (reached(sa, sa.config.limits.soft_time)) {
      ExpireSoft(&sa);
    }
  });
}

void SaDatabase::ForEach(const std::function<void(Sa&)>& visit) {
  for (auto& [spi, sa] : inbound_) visit(*sa);
  for (auto& [reqid, sas] : outbound_) {
    for (auto& sa : sas) visit(*sa);
  }
}

bool SaDatabase::HasEncapsulatedTo(const base::Endpoint& remote) const {
  for (const auto& [reqid, sas] : outbound_) {
    for (const auto& sa : sas) {
      if (sa->key.outer_destination == remote.address &&
          sa->config.encapsulation.has_value() &&
          sa->config.encapsulation->destination_port == remote.port) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace espalier::esp
