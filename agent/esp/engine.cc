#include "agent/esp/engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/esp/inner_packet.h"
#include "agent/esp/octets.h"

namespace espalier::esp {
namespace {

// Super-packets taken from the TUN before the sockets get their turn.
constexpr int kTunBatch = 32;
constexpr size_t kMaxTunRead = 65535 + sizeof(VirtioNetHeader);
constexpr absl::Duration kKeepaliveInterval = absl::Seconds(20);  // RFC 3948 4
constexpr size_t kMaxKeepalivePaths = 16384;
// How far the ESP number that an ICMP error quotes may lie back.
constexpr uint32_t kPlausibleDistance = 1 << 20;

}  // namespace

Engine::Engine(CipherChoice choice, Tun* tun, OuterSockets* sockets,
               Statistics* statistics, base::Clock* clock, OnEvent on_event)
    : tun_(tun),
      sockets_(sockets),
      statistics_(statistics),
      clock_(clock),
      on_event_(std::move(on_event)),
      sas_(choice,
           [this](const Sa& sa, bool hard) {
             on_event_(control::SaExpired{sa.key, hard});
           }),
      sender_(sockets, statistics),
      outbound_(
          &sas_, &policies_, &sender_, tun, statistics, clock,
          [this](base::Reqid reqid) { on_event_(control::Acquire{reqid}); }),
      inbound_(
          &sas_, tun, tun->udp_offload(), statistics,
          [this](const Sa& sa) { on_event_(control::InboundSeen{sa.key}); }),
      tun_buffer_(kMaxTunRead + kMaxTrailer) {
  sender_.SetOnTooLong([this](Sa* sa) { HandleTooLong(sa); });
}

bool Engine::HandleTun() {
  int i = 0;
  for (; i < kTunBatch; ++i) {
    const size_t size = tun_->Read({tun_buffer_.data(), kMaxTunRead});
    if (size == 0) break;
    outbound_.HandleFrame(tun_buffer_.data(), size);
  }
  outbound_.Flush();
  return i == kTunBatch;
}

bool Engine::HandleSocket(OuterSockets::Kind kind) {
  const bool more = sockets_->Receive(kind, [&](const Received& received) {
    ++statistics_->receives;
    switch (kind) {
      case OuterSockets::kUdp4:
      case OuterSockets::kUdp6:
        for (size_t place = 0; place < received.size;
             place += received.segment) {
          const size_t size = std::min(received.segment, received.size - place);
          HandleDatagram(received, {received.data + place, size});
        }
        break;
      case OuterSockets::kRaw4:
        HandleRaw4(received);
        break;
      case OuterSockets::kRaw6:
        inbound_.HandleEsp({received.data, received.size},
                           received.traffic_class);
        break;
    }
  });
  inbound_.Flush();
  return more;
}

void Engine::HandleDatagram(const Received& train,
                            base::MutableByteSpan datagram) {
  switch (Classify(datagram)) {
    case UdpKind::kEsp:
      inbound_.HandleEsp(datagram, train.traffic_class);
      return;
    case UdpKind::kKeepalive:
      ++statistics_->keepalives_received;
      return;
    case UdpKind::kMalformed:
      ++statistics_->drop_esp_malformed;
      return;
    case UdpKind::kIke:
      break;
  }
  ++statistics_->ike_received;
  const base::ByteSpan message = datagram.subspan(kNonEspMarker);
  control::IkeDatagram event{train.Local(sockets_->port()), train.Remote(),
                             base::Bytes(message.begin(), message.end())};
  if (!on_event_(std::move(event))) ++statistics_->drop_ike_no_agent;
}

// Raw IPv4 sockets give the outer header too (raw(7)).
void Engine::HandleRaw4(const Received& received) {
  const size_t header = (received.data[0] & 15u) * 4u;
  if (received.data[0] >> 4 != 4 || header >= received.size) {
    ++statistics_->drop_esp_malformed;
    return;
  }
  inbound_.HandleEsp({received.data + header, received.size - header},
                     received.data[1]);
}

void Engine::HandleSocketErrors(OuterSockets::Kind kind) {
  const bool udp = kind == OuterSockets::kUdp4 || kind == OuterSockets::kUdp6;
  sockets_->ReceiveErrors(
      kind, [&](const PathError& error) { HandlePathError(error, udp); });
}

// RFC 4301 8.2.1: the message is not authentic. It is believed only when it
// quotes an SPI that is in use towards that destination, and a number that
// was sent not long ago: so its sender saw the packet.
void Engine::HandlePathError(const PathError& error, bool udp) {
  const std::optional<EspHeader> quoted = ReadHeader(error.quoted);
  Sa* sa = quoted.has_value()
               ? sas_.FindOutbound(error.destination, quoted->spi)
               : nullptr;
  const base::Instant now = clock_->Now();
  if (sa == nullptr || sa->config.encapsulation.has_value() != udp ||
      static_cast<uint32_t>(sa->last_sequence) - quoted->sequence >
          kPlausibleDistance ||
      !path_mtu_.Lower(sa->config.outer_source, error.destination, error.mtu,
                       now)) {
    ++statistics_->path_mtu_ignored;
    return;
  }
  ++statistics_->path_mtu_lowered;
  base::Log(
      base::LogLevel::kInfo, "path MTU lowered",
      {{"destination", error.destination.ToString()}, {"mtu", error.mtu}});
  sas_.ForEach([&](Sa& each) {
    if (each.key.outer_destination == error.destination) {
      UpdateInnerMtu(&each, now);
    }
  });
}

// The kernel refused a packet: the link is smaller than it was.
void Engine::HandleTooLong(Sa* sa) {
  const base::Instant now = clock_->Now();
  const size_t link =
      KernelLinkMtu(sa->config.outer_source, sa->key.outer_destination);
  path_mtu_.Lower(sa->config.outer_source, sa->key.outer_destination, link,
                  now);
  UpdateInnerMtu(sa, now);
}

void Engine::UpdateInnerMtu(Sa* sa, base::Instant now) {
  if (sa->key.direction != base::Direction::kOutbound) return;
  sa->inner_mtu = InnerMtuOf(
      sa->config,
      path_mtu_.Get(sa->config.outer_source, sa->key.outer_destination, now));
}

void Engine::Tick(bool agent_present) {
  const base::Instant now = clock_->Now();
  sas_.Tick(now);
  sas_.ForEach([&](Sa& sa) { UpdateInnerMtu(&sa, now); });
  for (auto path = keepalives_.begin(); path != keepalives_.end();) {
    if (!sas_.HasEncapsulatedTo(path->second.remote)) {
      // The agent may send its first ones before it installs the SA.
      if (now - path->second.last > 2 * kKeepaliveInterval) {
        path = keepalives_.erase(path);
        continue;
      }
    } else if (!agent_present &&
               now - path->second.last >= kKeepaliveInterval) {
      SendKeepalive({path->second.local, path->second.remote});
    }
    ++path;
  }
}

absl::Status Engine::InstallSa(base::EspSa sa) {
  const base::Instant now = clock_->Now();
  ESPALIER_ASSIGN_OR_RETURN(Sa * installed, sas_.Install(std::move(sa), now));
  UpdateInnerMtu(installed, now);
  base::Log(base::LogLevel::kInfo, "SA installed",
            {{"sa", installed->key.ToString()},
             {"reqid", installed->config.reqid.value()},
             {"suite", installed->config.suite.ToString()},
             {"udp", installed->config.encapsulation.has_value()},
             {"inner_mtu", installed->inner_mtu}});
  return absl::OkStatus();
}

void Engine::RemoveSa(const base::SaKey& key) {
  if (sas_.Remove(key)) {
    base::Log(base::LogLevel::kInfo, "SA removed", {{"sa", key.ToString()}});
  }
}

absl::Status Engine::WatchInbound(const base::SaKey& key) {
  Sa* sa = sas_.Find(key);
  if (sa == nullptr || key.direction != base::Direction::kInbound) {
    return absl::NotFoundError(absl::StrCat("no inbound SA ", key.ToString()));
  }
  if (sa->counters.packets > 0) {
    on_event_(control::InboundSeen{key});
  } else {
    sa->watched = true;
  }
  return absl::OkStatus();
}

absl::Status Engine::SetPolicy(base::TunnelPolicy policy) {
  return policies_.Set(std::move(policy));
}

void Engine::RemovePolicy(base::Reqid reqid) { policies_.Remove(reqid); }

std::vector<base::InstalledSa> Engine::ListSas() {
  const base::Instant now = clock_->Now();
  std::vector<base::InstalledSa> list;
  list.reserve(sas_.size());
  sas_.ForEach([&](Sa& sa) {
    list.push_back({.key = sa.key,
                    .outer_source = sa.config.outer_source,
                    .reqid = sa.config.reqid,
                    .counters = sa.counters,
                    .suite = sa.config.suite,
                    .encapsulated = sa.config.encapsulation.has_value(),
                    .age = now - sa.installed,
                    .expired = sa.expired()});
  });
  return list;
}

std::vector<base::TunnelPolicy> Engine::ListPolicies() const {
  std::vector<base::TunnelPolicy> list;
  for (const auto& [reqid, policy] : policies_.policies()) {
    list.push_back(policy);
  }
  return list;
}

void Engine::SendIke(const control::SendIke& request) {
  base::Bytes datagram(kNonEspMarker, 0);
  datagram.insert(datagram.end(), request.bytes.begin(), request.bytes.end());
  ++statistics_->ike_sent;
  if (!sockets_->SendUdp(request.local, request.remote, datagram)) {
    ++statistics_->drop_send;
  }
}

void Engine::SendKeepalive(const control::SendKeepalive& request) {
  const base::Instant now = clock_->Now();
  if (keepalives_.contains(request.remote) ||
      keepalives_.size() < kMaxKeepalivePaths) {
    keepalives_[request.remote] = {request.local, request.remote, now};
  }
  const uint8_t octet = 0xff;
  ++statistics_->keepalives_sent;
  if (!sockets_->SendUdp(request.local, request.remote, {&octet, 1})) {
    ++statistics_->drop_send;
  }
}

void Engine::RepeatEvents() {
  sas_.ForEach([&](Sa& sa) {
    if (sa.expired() || sa.soft_expired) {
      on_event_(control::SaExpired{sa.key, sa.expired()});
    }
  });
}

}  // namespace espalier::esp
