// From the peers to the TUN: authentication, replay, selectors, joining.
#ifndef ESPALIER_AGENT_ESP_INBOUND_H_
#define ESPALIER_AGENT_ESP_INBOUND_H_

#include <cstdint>
#include <functional>

#include "agent/base/bytes.h"
#include "agent/esp/coalescer.h"
#include "agent/esp/sa_database.h"
#include "agent/esp/statistics.h"

namespace espalier::esp {

// What a datagram on port 4500 is (RFC 3948 2).
enum class UdpKind : uint8_t { kKeepalive, kIke, kEsp, kMalformed };
UdpKind Classify(base::ByteSpan datagram);
inline constexpr size_t kNonEspMarker = 4;

class Inbound {
 public:
  using OnSeen = std::function<void(const Sa&)>;

  // All but `on_seen`, called for the first packet of a watched SA, are
  // borrowed.
  Inbound(SaDatabase* sas, TunSink* tun, bool udp_offload,
          Statistics* statistics, OnSeen on_seen)
      : sas_(sas),
        coalescer_(tun, udp_offload),
        statistics_(statistics),
        on_seen_(std::move(on_seen)) {}

  // An ESP packet from SPI to ICV. It is decrypted in place, and borrowed
  // until Flush. `traffic_class` is the outer header's.
  void HandleEsp(base::MutableByteSpan packet, uint8_t traffic_class);

  // Hands everything to the TUN.
  void Flush() { coalescer_.Flush(); }

 private:
  void HandleInner(Sa* sa, base::MutableByteSpan padded, uint8_t traffic_class);

  SaDatabase* sas_;
  Coalescer coalescer_;
  Statistics* statistics_;
  OnSeen on_seen_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_INBOUND_H_
