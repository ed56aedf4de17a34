// From the TUN to the peers: policy, SA, segmentation, encryption.
#ifndef ESPALIER_AGENT_ESP_OUTBOUND_H_
#define ESPALIER_AGENT_ESP_OUTBOUND_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>

#include "agent/base/clock.h"
#include "agent/esp/coalescer.h"
#include "agent/esp/policy_table.h"
#include "agent/esp/sa_database.h"
#include "agent/esp/sender.h"
#include "agent/esp/statistics.h"

namespace espalier::esp {

class Outbound {
 public:
  using OnAcquire = std::function<void(base::Reqid)>;

  // All but `on_acquire` are borrowed.
  Outbound(SaDatabase* sas, PolicyTable* policies, PacketSink* sink,
           TunSink* tun, Statistics* statistics, base::Clock* clock,
           OnAcquire on_acquire)
      : sas_(sas),
        policies_(policies),
        sink_(sink),
        tun_(tun),
        statistics_(statistics),
        clock_(clock),
        on_acquire_(std::move(on_acquire)) {}

  // One read of the TUN: virtio header and packet, which may be changed, with
  // kMaxTrailer writable octets behind.
  void HandleFrame(uint8_t* frame, size_t size);

  // Sends what was collected.
  void Flush() { sink_->Flush(); }

 private:
  std::optional<base::Reqid> FindPolicy(const InnerPacket& inner);
  void Acquire(base::Reqid reqid);
  // False when the rest of the super-packet would meet the same end.
  bool Send(Sa* sa, const InnerPacket& inner, uint8_t* packet, size_t size);
  bool SendTooBig(Sa* sa, const InnerPacket& inner, uint8_t* packet,
                  size_t size);
  bool Encrypt(Sa* sa, const InnerPacket& inner, uint8_t* packet, size_t size,
               bool fragment);

  SaDatabase* sas_;
  PolicyTable* policies_;
  PacketSink* sink_;
  TunSink* tun_;
  Statistics* statistics_;
  base::Clock* clock_;
  OnAcquire on_acquire_;
  std::map<base::Reqid, base::Instant> last_acquire_;

  // The last lookup.
  uint64_t cached_generation_ = 0;
  base::Family cached_family_ = base::Family::kIpv4;
  AddressPair cached_addresses_;
  base::Reqid cached_reqid_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_OUTBOUND_H_
