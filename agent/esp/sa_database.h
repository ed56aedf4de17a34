// The SAs that espd holds, and what it counts for each.
#ifndef ESPALIER_AGENT_ESP_SA_DATABASE_H_
#define ESPALIER_AGENT_ESP_SA_DATABASE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/clock.h"
#include "agent/base/security_association.h"
#include "agent/crypto/esp_cipher.h"
#include "agent/esp/cipher.h"
#include "agent/esp/inner_packet.h"
#include "agent/esp/packet.h"
#include "agent/esp/replay_window.h"
#include "agent/esp/selectors.h"
#include "agent/esp/token_bucket.h"

namespace espalier::esp {

// One direction of a tunnel as it runs. Lives until it is removed.
struct Sa {
  Sa(base::EspSa values, std::unique_ptr<crypto::EspCipher> keyed,
     base::Instant now);

  base::SaKey key;
  // As installed. The keys are for a hand-over to the next process; a hard
  // limit wipes them.
  base::EspSa config;
  EspLayout layout;
  // Null once a hard limit was reached: nothing passes any more.
  std::unique_ptr<crypto::EspCipher> cipher;
  Selectors selectors;
  base::SaCounters counters;
  base::Instant installed;

  uint64_t last_sequence = 0;  // outbound: the last one used
  ReplayWindow replay;         // inbound

  size_t inner_mtu = 0;  // outbound; set by PathMtuTable
  TokenBucket too_big{50, 50};

  bool expired() const { return cipher == nullptr; }
  bool soft_expired = false;
  bool watched = false;  // tell the agent of the first packet
};

class SaDatabase {
 public:
  // Called inside the calls below; must not change the database.
  using OnExpired = std::function<void(const Sa&, bool hard)>;

  SaDatabase(CipherChoice choice, OnExpired on_expired)
      : choice_(choice), on_expired_(std::move(on_expired)) {}

  // A key is installed once, ever (DESIGN section 4): AlreadyExists when the
  // SA is there, or when its key has been in use since this process started,
  // under whatever name. ResourceExhausted past kMaxSas.
  absl::StatusOr<Sa*> Install(base::EspSa sa, base::Instant now);
  // The same for an SA that the process before has handed over, whose key is
  // among the used ones.
  absl::StatusOr<Sa*> Adopt(base::EspSa sa, base::Instant now);

  // Fingerprints of the keys installed so far, the oldest first.
  const std::deque<uint64_t>& used_keys() const { return used_keys_order_; }
  // False when it was there.
  bool AddUsedKey(uint64_t fingerprint);
  // False when it is not there.
  bool Remove(const base::SaKey& key);

  Sa* Find(const base::SaKey& key);
  // By the SPI alone: it is this node that chose it (RFC 4301 4.1).
  Sa* FindInbound(base::Spi spi) {
    if (last_inbound_ != nullptr && last_inbound_->key.spi == spi) {
      return last_inbound_;
    }
    const auto found = inbound_.find(spi);
    if (found == inbound_.end()) return nullptr;
    return last_inbound_ = found->second.get();
  }
  // The newest live SA of the reqid whose selectors take the packet.
  Sa* FindOutbound(base::Reqid reqid, const InnerPacket& inner,
                   base::ByteSpan packet);
  // To which an ICMP error that quotes this ESP packet may belong.
  Sa* FindOutbound(const base::IpAddress& destination, base::Spi spi);

  // Counts a packet that passed `sa`, and enforces its limits.
  void Count(Sa* sa, size_t inner_size) {
    ++sa->counters.packets;
    sa->counters.bytes += inner_size;
    if (sa->counters.packets >= PacketAlarm(*sa) ||
        sa->counters.bytes >= ByteAlarm(*sa)) {
      CheckLimits(sa);
    }
  }
  // The next number of an outbound SA; nullopt when they are used up, which
  // is a hard limit (RFC 4303 3.3.3).
  std::optional<uint64_t> NextSequence(Sa* sa);

  // Time limits. To be called about once a second.
  void Tick(base::Instant now);

  void ForEach(const std::function<void(Sa&)>& visit);
  size_t size() const { return inbound_.size() + outbound_size_; }
  // Whether an encapsulated outbound SA leads to this endpoint.
  bool HasEncapsulatedTo(const base::Endpoint& remote) const;
  // Changes whenever an SA appears, goes or dies: caches compare it.
  uint64_t generation() const { return generation_; }

  static constexpr size_t kMaxSas = 65536;
  static constexpr size_t kMaxUsedKeys = 1 << 20;

 private:
  static uint64_t PacketAlarm(const Sa& sa) {
    const base::SaLimits& l = sa.config.limits;
    const uint64_t limit = sa.soft_expired || l.soft_packets == 0
                               ? l.hard_packets
                               : l.soft_packets;
    return limit == 0 ? UINT64_MAX : limit;
  }
  static uint64_t ByteAlarm(const Sa& sa) {
    const base::SaLimits& l = sa.config.limits;
    const uint64_t limit =
        sa.soft_expired || l.soft_bytes == 0 ? l.hard_bytes : l.soft_bytes;
    return limit == 0 ? UINT64_MAX : limit;
  }
  // OK when the SA makes sense and its name is free.
  absl::Status CheckNew(const base::EspSa& sa);
  Sa* Insert(base::EspSa sa, std::unique_ptr<crypto::EspCipher> cipher,
             base::Instant now);
  void CheckLimits(Sa* sa);
  void ExpireSoft(Sa* sa);
  void ExpireHard(Sa* sa);

  CipherChoice choice_;
  OnExpired on_expired_;
  std::unordered_map<base::Spi, std::unique_ptr<Sa>> inbound_;
  // Newest last.
  std::unordered_map<base::Reqid, std::vector<std::unique_ptr<Sa>>> outbound_;
  size_t outbound_size_ = 0;
  // Fingerprints of the keys installed so far (the newest kMaxUsedKeys).
  std::unordered_set<uint64_t> used_keys_;
  std::deque<uint64_t> used_keys_order_;
  Sa* last_inbound_ = nullptr;
  uint64_t generation_ = 1;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_SA_DATABASE_H_
