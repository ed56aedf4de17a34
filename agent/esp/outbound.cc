#include "agent/esp/outbound.h"

#include <vector>

#include "agent/esp/ecn.h"
#include "agent/esp/segmenter.h"
#include "agent/esp/too_big.h"

namespace espalier::esp {
namespace {

// At most one acquire a second and peer.
constexpr absl::Duration kAcquireInterval = absl::Seconds(1);

}  // namespace

std::optional<base::Reqid> Outbound::FindPolicy(const InnerPacket& inner) {
  if (cached_generation_ == policies_->generation() &&
      cached_family_ == inner.family && cached_addresses_ == inner.addresses) {
    return cached_reqid_;
  }
  const std::optional<base::Reqid> found = policies_->Find(inner);
  if (found.has_value()) {
    cached_generation_ = policies_->generation();
    cached_family_ = inner.family;
    cached_addresses_ = inner.addresses;
    cached_reqid_ = *found;
  }
  return found;
}

void Outbound::Acquire(base::Reqid reqid) {
  const base::Instant now = clock_->Now();
  const auto [entry, fresh] = last_acquire_.try_emplace(reqid, now);
  if (!fresh && now - entry->second < kAcquireInterval) return;
  entry->second = now;
  on_acquire_(reqid);
}

void Outbound::HandleFrame(uint8_t* frame, size_t size) {
  ++statistics_->tun_reads;
  VirtioNetHeader offload;
  if (size <= sizeof offload) {
    ++statistics_->drop_tun_malformed;
    return;
  }
  std::memcpy(&offload, frame, sizeof offload);
  uint8_t* packet = frame + sizeof offload;
  size -= sizeof offload;
  const bool super = offload.gso_kind() != VirtioNetHeader::kGsoNone;
  const std::optional<InnerPacket> inner =
      ParseInnerPacket({packet, size}, super);
  if (!inner.has_value()) {
    ++statistics_->drop_tun_malformed;
    return;
  }
  const std::optional<base::Reqid> reqid = FindPolicy(*inner);
  if (!reqid.has_value()) {
    ++statistics_->drop_no_policy;
    return;
  }
  Sa* sa = sas_->FindOutbound(*reqid, *inner, {packet, inner->size});
  if (sa == nullptr) {
    ++statistics_->drop_no_sa;
    Acquire(*reqid);
    return;
  }
  Segmenter segmenter(offload, *inner, packet, inner->size);
  if (!segmenter.valid()) {
    ++statistics_->drop_tun_malformed;
    return;
  }
  if (segmenter.is_super()) ++statistics_->tun_super_packets;
  size_t length;
  while (uint8_t* segment = segmenter.Next(&length)) {
    if (!Send(sa, *inner, segment, length)) return;
  }
}

bool Outbound::Send(Sa* sa, const InnerPacket& inner, uint8_t* packet,
                    size_t size) {
  if (size <= sa->inner_mtu) [[likely]] {
    return Encrypt(sa, inner, packet, size, /*fragment=*/false);
  }
  return SendTooBig(sa, inner, packet, size);
}

// RFC 4301 8.2 and 7.1.
bool Outbound::SendTooBig(Sa* sa, const InnerPacket& inner, uint8_t* packet,
                          size_t size) {
  if (!inner.is_v4() && size <= kMinIpv6Mtu) {
    return Encrypt(sa, inner, packet, size, /*fragment=*/true);
  }
  if (!inner.dont_fragment) {
    ++statistics_->fragmented;
    InnerPacket whole = inner;
    whole.size = static_cast<uint32_t>(size);
    std::vector<base::Bytes> fragments =
        FragmentIpv4(whole, {packet, size}, sa->inner_mtu);
    if (fragments.empty()) ++statistics_->drop_too_big;
    for (base::Bytes& fragment : fragments) {
      const size_t length = fragment.size();
      fragment.resize(length + kMaxTrailer);
      if (!Encrypt(sa, inner, fragment.data(), length, /*fragment=*/false)) {
        return false;
      }
    }
    return true;
  }
  ++statistics_->drop_too_big;
  if (!sa->too_big.Take(clock_->Now())) return false;
  base::Bytes answer = MakeTooBig(inner, {packet, size}, sa->inner_mtu);
  if (!answer.empty()) {
    ++statistics_->too_big_answered;
    iovec parts[2] = {{}, {answer.data(), answer.size()}};
    tun_->Write(VirtioNetHeader{}, parts, 2);
  }
  return false;
}

bool Outbound::Encrypt(Sa* sa, const InnerPacket& inner, uint8_t* packet,
                       size_t size, bool fragment) {
  const std::optional<uint64_t> sequence =
      sa->expired() ? std::nullopt : sas_->NextSequence(sa);
  if (!sequence.has_value()) {
    ++statistics_->drop_no_sa;
    return false;
  }
  const uint8_t next_header = inner.is_v4() ? kProtocolIpv4 : kProtocolIpv6;
  const size_t padded =
      WriteTrailer(packet, size, sa->layout.block, next_header);
  uint8_t* out =
      sink_->Reserve(sa, sa->layout.packet(size),
                     OuterTrafficClass(inner.traffic_class), fragment);
  WriteHeader({sa->key.spi, static_cast<uint32_t>(*sequence)}, out);
  if (!sa->cipher->Seal(*sequence, packet, padded, out)) {
    ++sa->counters.send_errors;
    ++statistics_->drop_send;
    return false;
  }
  sink_->Commit();
  sas_->Count(sa, size);
  return true;
}

}  // namespace espalier::esp
