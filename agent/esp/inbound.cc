#include "agent/esp/inbound.h"

#include <optional>

#include "agent/esp/checksum.h"
#include "agent/esp/ecn.h"
#include "agent/esp/inner_packet.h"
#include "agent/esp/octets.h"
#include "agent/esp/packet.h"

namespace espalier::esp {
namespace {

// RFC 6040 4.2. False when the packet has to be dropped.
bool PropagateEcn(const InnerPacket& inner, uint8_t outer, uint8_t* packet) {
  const std::optional<uint8_t> ecn =
      DecapsulatedEcn(inner.traffic_class, outer);
  if (!ecn.has_value()) return false;
  if (*ecn == (inner.traffic_class & kEcnMask)) return true;
  if (inner.is_v4()) {
    packet[1] = static_cast<uint8_t>((packet[1] & ~kEcnMask) | *ecn);
    Store16(0, packet + 10);
    StoreRaw16(FinishSum(PartialSum(packet, inner.transport)), packet + 10);
  } else {
    // The traffic class lies across two octets; ECN is its low two bits.
    packet[1] =
        static_cast<uint8_t>((packet[1] & ~(kEcnMask << 4)) | *ecn << 4);
  }
  return true;
}

}  // namespace

UdpKind Classify(base::ByteSpan datagram) {
  if (datagram.size() == 1 && datagram[0] == 0xff) return UdpKind::kKeepalive;
  if (datagram.size() < kEspHeader) return UdpKind::kMalformed;
  return Load32(datagram.data()) == 0 ? UdpKind::kIke : UdpKind::kEsp;
}

void Inbound::HandleEsp(base::MutableByteSpan packet, uint8_t traffic_class) {
  ++statistics_->esp_received;
  const std::optional<EspHeader> header = ReadHeader(packet);
  if (!header.has_value()) {
    ++statistics_->drop_esp_malformed;
    return;
  }
  Sa* sa = sas_->FindInbound(header->spi);
  if (sa == nullptr) {
    ++statistics_->drop_unknown_spi;
    return;
  }
  if (sa->expired()) {
    ++statistics_->drop_expired_sa;
    return;
  }
  const EspLayout& layout = sa->layout;
  const size_t overhead = kEspHeader + layout.iv + layout.icv;
  if (packet.size() < layout.smallest() ||
      (packet.size() - overhead) % layout.block != 0) {
    ++statistics_->drop_esp_malformed;
    return;
  }
  const std::optional<uint64_t> sequence =
      sa->replay.Estimate(header->sequence);
  if (!sequence.has_value()) {
    ++sa->counters.replayed;
    ++statistics_->drop_replay;
    return;
  }
  if (!sa->cipher->Open(*sequence, packet.data(), packet.size())) {
    ++sa->counters.bad_icv;
    ++statistics_->drop_bad_icv;
    return;
  }
  if (!sa->replay.Accept(*sequence)) {
    ++sa->counters.replayed;
    ++statistics_->drop_replay;
    return;
  }
  HandleInner(sa,
              packet.subspan(kEspHeader + layout.iv, packet.size() - overhead),
              traffic_class);
  if (sa->watched) [[unlikely]] {
    sa->watched = false;
    on_seen_(*sa);
  }
}

void Inbound::HandleInner(Sa* sa, base::MutableByteSpan padded,
                          uint8_t traffic_class) {
  const std::optional<Trailer> trailer = ReadTrailer(padded);
  if (!trailer.has_value()) {
    ++statistics_->drop_esp_malformed;
    return;
  }
  if (trailer->next_header == kProtocolNone) {
    ++statistics_->dummies_received;
    sas_->Count(sa, 0);
    return;
  }
  const base::MutableByteSpan packet = padded.first(trailer->payload);
  const std::optional<InnerPacket> inner = ParseInnerPacket(packet);
  if (!inner.has_value() ||
      trailer->next_header !=
          (inner->is_v4() ? kProtocolIpv4 : kProtocolIpv6)) {
    ++statistics_->drop_inner_malformed;
    return;
  }
  if (!sa->selectors.Match(*inner, packet)) {
    ++sa->counters.selector_mismatch;
    ++statistics_->drop_selector_mismatch;
    return;
  }
  if (!PropagateEcn(*inner, traffic_class, packet.data())) {
    ++statistics_->drop_ecn;
    return;
  }
  sas_->Count(sa, inner->size);
  coalescer_.Add(packet.data(), *inner);
}

}  // namespace espalier::esp
