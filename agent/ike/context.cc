#include "agent/ike/context.h"

#include "agent/ike/ike_sa.h"

namespace espalier::ike {
namespace {

// RFC 7296 2.10: at least half the PRF's key size; 32 octets suit all three.
constexpr size_t kNonceSize = 32;

}  // namespace

InboundSpi& InboundSpi::operator=(InboundSpi&& other) noexcept {
  std::swap(ctx_, other.ctx_);
  std::swap(spi_, other.spi_);
  return *this;
}

InboundSpi::~InboundSpi() {
  if (ctx_ != nullptr) ctx_->ReleaseInboundSpi(spi_);
}

Context::Context(CoreConfig core_config, base::RandomSource* random_source)
    : config(std::move(core_config)), random(*random_source) {}

Context::~Context() = default;

void Context::Send(const Path& path, base::Bytes bytes) {
  ++counters.datagrams_out;
  Emit(SendDatagram{.path = path, .bytes = std::move(bytes)});
}

CryptoJobId Context::RunCrypto(IkeSaId owner, crypto::Job job) {
  const CryptoJobId id(++last_job_);
  jobs.emplace(id, owner);
  Emit(ike::RunCrypto{.id = id, .job = std::move(job)});
  return id;
}

DatapathOpId Context::InstallSa(IkeSaId owner, PeerId peer, ChildSaId child,
                                base::EspSa sa) {
  const DatapathOpId op(++last_op_);
  ops.emplace(op, OpOwner{owner, peer});
  Emit(ike::InstallSa{
      .op = op, .peer = peer, .child = child, .sa = std::move(sa)});
  return op;
}

void Context::RemoveSa(PeerId peer, ChildSaId child, base::Direction direction,
                       base::Spi spi, const base::IpAddress& destination) {
  // Nobody waits for the answer: the datapath's tracker sees to it that what
  // has to go goes.
  Emit(ike::RemoveSa{.op = DatapathOpId(++last_op_),
                     .peer = peer,
                     .child = child,
                     .direction = direction,
                     .spi = spi,
                     .outer_destination = destination});
}

void Context::Report(Event::Kind kind, PeerId peer, IkeSaId ike_sa,
                     ChildSaId child, std::string detail) {
  Emit(Event{.kind = kind,
             .peer = peer,
             .ike_sa = ike_sa,
             .child = child,
             .detail = std::move(detail)});
}

uint64_t Context::NewIkeSpi() {
  while (true) {
    const uint64_t spi = random.U64();
    if (spi != 0 && !ike_spis.contains(spi)) return spi;
  }
}

InboundSpi Context::NewInboundSpi(PeerId peer) {
  while (true) {
    const base::Spi spi(random.U32());
    // RFC 4303 2.1: 0 to 255 are reserved.
    if (spi.value() < 256) continue;
    if (inbound_spis.emplace(spi, peer).second) return InboundSpi(this, spi);
  }
}

absl::Duration Context::Jitter(absl::Duration duration, double part) {
  const double fraction = static_cast<double>(random.U32()) / 4294967296.0;
  return duration - duration * (part * fraction);
}

base::Bytes Context::NewNonce() {
  base::Bytes nonce(kNonceSize);
  random.Fill(nonce);
  return nonce;
}

}  // namespace espalier::ike
