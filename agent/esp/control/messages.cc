#include "agent/esp/control/messages.h"

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"

namespace espalier::esp::control {
namespace {

using base::ByteReader;
using base::ByteWriter;

// Frame types are the positions in Message plus one: the order of that list is
// part of the protocol.
constexpr uint8_t kFirstType = 1;

// --- parts, each with its writer and reader ---

void Put(ByteWriter& w, bool value) { w.WriteU8(value ? 1 : 0); }
bool Get(ByteReader& r, bool* value) {
  uint8_t octet;
  if (!r.ReadU8(&octet) || octet > 1) return false;
  *value = octet == 1;
  return true;
}

void Put(ByteWriter& w, const std::string& text) {
  const size_t size = std::min<size_t>(text.size(), 0xffff);
  w.WriteU16(static_cast<uint16_t>(size));
  w.WriteSpan(base::AsBytes(text).first(size));
}
bool Get(ByteReader& r, std::string* text) {
  uint16_t size;
  base::ByteSpan span;
  if (!r.ReadU16(&size) || !r.ReadSpan(size, &span)) return false;
  text->assign(span.begin(), span.end());
  return true;
}

void Put(ByteWriter& w, const base::IpAddress& address) {
  w.WriteU8(static_cast<uint8_t>(address.family()));
  w.WriteSpan(address.bytes());
}
bool Get(ByteReader& r, base::IpAddress* address) {
  uint8_t family;
  if (!r.ReadU8(&family)) return false;
  if (family == static_cast<uint8_t>(base::Family::kIpv4)) {
    std::array<uint8_t, 4> octets;
    if (!r.ReadArray(&octets)) return false;
    *address = base::IpAddress::V4(octets);
    return true;
  }
  if (family == static_cast<uint8_t>(base::Family::kIpv6)) {
    std::array<uint8_t, 16> octets;
    if (!r.ReadArray(&octets)) return false;
    *address = base::IpAddress::V6(octets);
    return true;
  }
  return false;
}

void Put(ByteWriter& w, const base::IpPrefix& prefix) {
  Put(w, prefix.address());
  w.WriteU8(static_cast<uint8_t>(prefix.length()));
}
bool Get(ByteReader& r, base::IpPrefix* prefix) {
  base::IpAddress address;
  uint8_t length;
  if (!Get(r, &address) || !r.ReadU8(&length)) return false;
  absl::StatusOr<base::IpPrefix> made = base::IpPrefix::Make(address, length);
  if (!made.ok() || made->address() != address) return false;
  *prefix = *made;
  return true;
}

void Put(ByteWriter& w, const base::Endpoint& endpoint) {
  Put(w, endpoint.address);
  w.WriteU16(endpoint.port);
}
bool Get(ByteReader& r, base::Endpoint* endpoint) {
  return Get(r, &endpoint->address) && r.ReadU16(&endpoint->port);
}

void Put(ByteWriter& w, absl::Duration duration) {
  w.WriteU64(static_cast<uint64_t>(absl::ToInt64Nanoseconds(duration)));
}
bool Get(ByteReader& r, absl::Duration* duration) {
  uint64_t nanoseconds;
  if (!r.ReadU64(&nanoseconds) || nanoseconds > INT64_MAX) return false;
  *duration = absl::Nanoseconds(static_cast<int64_t>(nanoseconds));
  return true;
}

void Put(ByteWriter& w, const base::SaKey& key) {
  w.WriteU8(static_cast<uint8_t>(key.direction));
  Put(w, key.outer_destination);
  w.WriteU32(key.spi.value());
}
bool Get(ByteReader& r, base::SaKey* key) {
  uint8_t direction;
  uint32_t spi;
  if (!r.ReadU8(&direction) || !Get(r, &key->outer_destination) ||
      !r.ReadU32(&spi)) {
    return false;
  }
  if (direction != static_cast<uint8_t>(base::Direction::kInbound) &&
      direction != static_cast<uint8_t>(base::Direction::kOutbound)) {
    return false;
  }
  key->direction = static_cast<base::Direction>(direction);
  key->spi = base::Spi(spi);
  return true;
}

void Put(ByteWriter& w, const base::TrafficSelector& selector) {
  w.WriteU8(selector.protocol);
  w.WriteU16(selector.first_port);
  w.WriteU16(selector.last_port);
  Put(w, selector.first);
  Put(w, selector.last);
}
bool Get(ByteReader& r, base::TrafficSelector* selector) {
  return r.ReadU8(&selector->protocol) && r.ReadU16(&selector->first_port) &&
         r.ReadU16(&selector->last_port) && Get(r, &selector->first) &&
         Get(r, &selector->last) &&
         selector->first.family() == selector->last.family() &&
         selector->first <= selector->last;
}

// Items of the lists below that are defined after them.
using Counter = std::pair<std::string, uint64_t>;
void Put(ByteWriter& w, const base::TunnelPolicy& policy);
bool Get(ByteReader& r, base::TunnelPolicy* policy);
void Put(ByteWriter& w, const base::InstalledSa& sa);
bool Get(ByteReader& r, base::InstalledSa* sa);
void Put(ByteWriter& w, const Counter& counter);
bool Get(ByteReader& r, Counter* counter);
void Put(ByteWriter& w, uint64_t value) { w.WriteU64(value); }
bool Get(ByteReader& r, uint64_t* value) { return r.ReadU64(value); }

// Lists: a 16-bit count, then the items. Writers are given lists within the
// bound; what lies beyond it is cut, so that every frame can be read.
template <typename T>
void PutList(ByteWriter& w, const std::vector<T>& list, size_t bound) {
  const size_t count = std::min(list.size(), bound);
  w.WriteU16(static_cast<uint16_t>(count));
  for (size_t i = 0; i < count; ++i) Put(w, list[i]);
}
template <typename T>
bool GetList(ByteReader& r, std::vector<T>* list, size_t bound) {
  uint16_t count;
  if (!r.ReadU16(&count) || count > bound) return false;
  list->clear();
  for (size_t i = 0; i < count; ++i) {
    if (!Get(r, &list->emplace_back())) return false;
  }
  return true;
}

void Put(ByteWriter& w, const base::EspSuite& suite) {
  w.WriteU16(static_cast<uint16_t>(suite.cipher));
  w.WriteU16(suite.key_bits);
  w.WriteU16(static_cast<uint16_t>(suite.integrity));
  Put(w, suite.esn);
}
bool Get(ByteReader& r, base::EspSuite* suite) {
  uint16_t cipher, integrity;
  if (!r.ReadU16(&cipher) || !r.ReadU16(&suite->key_bits) ||
      !r.ReadU16(&integrity) || !Get(r, &suite->esn)) {
    return false;
  }
  suite->cipher = static_cast<base::EspCipher>(cipher);
  suite->integrity = static_cast<base::EspIntegrity>(integrity);
  const uint16_t bits = suite->key_bits;
  const bool aes = bits == 128 || bits == 192 || bits == 256;
  const bool no_integrity = suite->integrity == base::EspIntegrity::kNone;
  switch (suite->cipher) {
    case base::EspCipher::kAesGcm16:
      return aes && no_integrity;
    case base::EspCipher::kChaCha20Poly1305:
      return bits == 256 && no_integrity;
    case base::EspCipher::kAesCbc:
      return aes && suite->integrity_key_size() != 0;
  }
  return false;
}

void Put(ByteWriter& w, const base::SaLimits& limits) {
  Put(w, limits.soft_time);
  Put(w, limits.hard_time);
  w.WriteU64(limits.soft_bytes);
  w.WriteU64(limits.hard_bytes);
  w.WriteU64(limits.soft_packets);
  w.WriteU64(limits.hard_packets);
}
bool Get(ByteReader& r, base::SaLimits* limits) {
  return Get(r, &limits->soft_time) && Get(r, &limits->hard_time) &&
         r.ReadU64(&limits->soft_bytes) && r.ReadU64(&limits->hard_bytes) &&
         r.ReadU64(&limits->soft_packets) && r.ReadU64(&limits->hard_packets);
}

// All of an SA but its keys, which Encode appends and Decode takes off the end
// of the frame: so they never lie in a buffer that grows.
void Put(ByteWriter& w, const base::EspSa& sa) {
  Put(w, base::SaKey{sa.direction, sa.outer_destination, sa.spi});
  Put(w, sa.outer_source);
  Put(w, sa.encapsulation.has_value());
  if (sa.encapsulation.has_value()) {
    w.WriteU16(sa.encapsulation->source_port);
    w.WriteU16(sa.encapsulation->destination_port);
  }
  Put(w, sa.suite);
  w.WriteU32(sa.replay_window);
  w.WriteU32(sa.reqid.value());
  PutList(w, sa.local_selectors, kMaxSelectors);
  PutList(w, sa.remote_selectors, kMaxSelectors);
  Put(w, sa.limits);
}
bool Get(ByteReader& r, base::EspSa* sa) {
  base::SaKey key;
  bool encapsulated;
  uint32_t reqid;
  if (!Get(r, &key) || !Get(r, &sa->outer_source) || !Get(r, &encapsulated)) {
    return false;
  }
  sa->direction = key.direction;
  sa->outer_destination = key.outer_destination;
  sa->spi = key.spi;
  if (encapsulated) {
    base::EspSa::Encapsulation ports;
    if (!r.ReadU16(&ports.source_port) || !r.ReadU16(&ports.destination_port)) {
      return false;
    }
    sa->encapsulation = ports;
  }
  if (!Get(r, &sa->suite) || !r.ReadU32(&sa->replay_window) ||
      !r.ReadU32(&reqid) || !GetList(r, &sa->local_selectors, kMaxSelectors) ||
      !GetList(r, &sa->remote_selectors, kMaxSelectors) ||
      !Get(r, &sa->limits)) {
    return false;
  }
  sa->reqid = base::Reqid(reqid);
  base::ByteSpan encryption, integrity;
  if (!r.ReadSpan(sa->suite.encryption_key_size(), &encryption) ||
      !r.ReadSpan(sa->suite.integrity_key_size(), &integrity)) {
    return false;
  }
  sa->encryption_key = base::SecretBytes(encryption);
  sa->integrity_key = base::SecretBytes(integrity);
  return true;
}

void Put(ByteWriter& w, const base::TunnelPolicy& policy) {
  w.WriteU32(policy.reqid.value());
  PutList(w, policy.local, kMaxPrefixes);
  PutList(w, policy.remote, kMaxPrefixes);
  Put(w, policy.outer_source);
  Put(w, policy.outer_destination);
}
bool Get(ByteReader& r, base::TunnelPolicy* policy) {
  uint32_t reqid;
  if (!r.ReadU32(&reqid) || !GetList(r, &policy->local, kMaxPrefixes) ||
      !GetList(r, &policy->remote, kMaxPrefixes) ||
      !Get(r, &policy->outer_source) || !Get(r, &policy->outer_destination)) {
    return false;
  }
  policy->reqid = base::Reqid(reqid);
  return true;
}

void Put(ByteWriter& w, const base::SaCounters& c) {
  for (uint64_t value : {c.packets, c.bytes, c.replayed, c.bad_icv,
                         c.selector_mismatch, c.send_errors}) {
    w.WriteU64(value);
  }
}
bool Get(ByteReader& r, base::SaCounters* c) {
  return r.ReadU64(&c->packets) && r.ReadU64(&c->bytes) &&
         r.ReadU64(&c->replayed) && r.ReadU64(&c->bad_icv) &&
         r.ReadU64(&c->selector_mismatch) && r.ReadU64(&c->send_errors);
}

void Put(ByteWriter& w, const base::InstalledSa& sa) {
  Put(w, sa.key);
  Put(w, sa.outer_source);
  w.WriteU32(sa.reqid.value());
  Put(w, sa.counters);
  Put(w, sa.suite);
  Put(w, sa.encapsulated);
  Put(w, sa.age);
  Put(w, sa.expired);
}
bool Get(ByteReader& r, base::InstalledSa* sa) {
  uint32_t reqid;
  if (!Get(r, &sa->key) || !Get(r, &sa->outer_source) || !r.ReadU32(&reqid)) {
    return false;
  }
  sa->reqid = base::Reqid(reqid);
  return Get(r, &sa->counters) && Get(r, &sa->suite) &&
         Get(r, &sa->encapsulated) && Get(r, &sa->age) && Get(r, &sa->expired);
}

void Put(ByteWriter& w, const Counter& counter) {
  Put(w, counter.first);
  w.WriteU64(counter.second);
}
bool Get(ByteReader& r, Counter* counter) {
  return Get(r, &counter->first) && r.ReadU64(&counter->second);
}

// To the end of the frame.
void PutRest(ByteWriter& w, const base::Bytes& bytes) { w.WriteSpan(bytes); }
bool GetRest(ByteReader& r, base::Bytes* bytes) {
  return r.ReadBytes(r.remaining(), bytes);
}

// --- bodies ---

template <typename T>
concept Empty = std::is_empty_v<T>;
template <typename T>
concept SaNamed =
    std::is_same_v<T, RemoveSa> || std::is_same_v<T, WatchInbound> ||
    std::is_same_v<T, InboundSeen>;
template <typename T>
concept Peered = std::is_same_v<T, RemovePolicy> || std::is_same_v<T, Acquire>;
template <typename T>
concept Datagram = std::is_same_v<T, SendIke> || std::is_same_v<T, IkeDatagram>;

template <Empty T>
void PutBody(ByteWriter&, const T&) {}
template <Empty T>
bool GetBody(ByteReader&, T*) {
  return true;
}

template <SaNamed T>
void PutBody(ByteWriter& w, const T& m) {
  Put(w, m.key);
}
template <SaNamed T>
bool GetBody(ByteReader& r, T* m) {
  return Get(r, &m->key);
}

template <Peered T>
void PutBody(ByteWriter& w, const T& m) {
  w.WriteU32(m.reqid.value());
}
template <Peered T>
bool GetBody(ByteReader& r, T* m) {
  uint32_t reqid;
  if (!r.ReadU32(&reqid)) return false;
  m->reqid = base::Reqid(reqid);
  return true;
}

template <Datagram T>
void PutBody(ByteWriter& w, const T& m) {
  Put(w, m.local);
  Put(w, m.remote);
  PutRest(w, m.bytes);
}
template <Datagram T>
bool GetBody(ByteReader& r, T* m) {
  return Get(r, &m->local) && Get(r, &m->remote) && GetRest(r, &m->bytes);
}

void PutBody(ByteWriter& w, const Hello& m) { Put(w, m.subscribe); }
bool GetBody(ByteReader& r, Hello* m) { return Get(r, &m->subscribe); }

void PutBody(ByteWriter& w, const InstallSa& m) { Put(w, m.sa); }
bool GetBody(ByteReader& r, InstallSa* m) { return Get(r, &m->sa); }

void PutBody(ByteWriter& w, const SetPolicy& m) { Put(w, m.policy); }
bool GetBody(ByteReader& r, SetPolicy* m) { return Get(r, &m->policy); }

void PutBody(ByteWriter& w, const SendKeepalive& m) {
  Put(w, m.local);
  Put(w, m.remote);
}
bool GetBody(ByteReader& r, SendKeepalive* m) {
  return Get(r, &m->local) && Get(r, &m->remote);
}

void PutBody(ByteWriter& w, const HelloReply& m) {
  w.WriteU64(m.instance);
  Put(w, m.tunnel_interface);
}
bool GetBody(ByteReader& r, HelloReply* m) {
  return r.ReadU64(&m->instance) && Get(r, &m->tunnel_interface);
}

void PutBody(ByteWriter& w, const Reply& m) {
  w.WriteU8(static_cast<uint8_t>(m.status.raw_code()));
  Put(w, std::string(m.status.message()));
}
bool GetBody(ByteReader& r, Reply* m) {
  uint8_t code;
  std::string text;
  if (!r.ReadU8(&code) || code > 16 || !Get(r, &text)) return false;
  if (code == 0 && !text.empty()) return false;  // OK carries no message
  m->status = absl::Status(static_cast<absl::StatusCode>(code), text);
  return true;
}

void PutBody(ByteWriter& w, const SaList& m) {
  Put(w, m.more);
  PutList(w, m.sas, kMaxEntriesPerFrame);
}
bool GetBody(ByteReader& r, SaList* m) {
  return Get(r, &m->more) && GetList(r, &m->sas, kMaxEntriesPerFrame);
}

void PutBody(ByteWriter& w, const PolicyList& m) {
  Put(w, m.more);
  PutList(w, m.policies, kMaxEntriesPerFrame);
}
bool GetBody(ByteReader& r, PolicyList* m) {
  return Get(r, &m->more) && GetList(r, &m->policies, kMaxEntriesPerFrame);
}

void PutBody(ByteWriter& w, const Statistics& m) {
  PutList(w, m.counters, kMaxEntriesPerFrame);
}
bool GetBody(ByteReader& r, Statistics* m) {
  return GetList(r, &m->counters, kMaxEntriesPerFrame);
}

void PutBody(ByteWriter& w, const SaExpired& m) {
  Put(w, m.key);
  Put(w, m.hard);
}
bool GetBody(ByteReader& r, SaExpired* m) {
  return Get(r, &m->key) && Get(r, &m->hard);
}

void PutBody(ByteWriter& w, const HandOverBegin& m) {
  w.WriteU64(m.instance);
  Put(w, m.tunnel_interface);
  w.WriteU16(m.port);
  Put(w, m.udp_offload);
  w.WriteU8(m.outer_sockets);
}
bool GetBody(ByteReader& r, HandOverBegin* m) {
  base::ByteSpan key;
  if (!r.ReadU64(&m->instance) || !Get(r, &m->tunnel_interface) ||
      !r.ReadU16(&m->port) || !Get(r, &m->udp_offload) ||
      !r.ReadU8(&m->outer_sockets) || !r.ReadSpan(kFingerprintKey, &key)) {
    return false;
  }
  m->fingerprint_key = base::SecretBytes(key);
  return true;
}

void PutBody(ByteWriter& w, const UsedKeys& m) {
  PutList(w, m.fingerprints, kUsedKeysPerFrame);
}
bool GetBody(ByteReader& r, UsedKeys* m) {
  return GetList(r, &m->fingerprints, kUsedKeysPerFrame);
}

void PutBody(ByteWriter& w, const PathMtu& m) {
  Put(w, m.destination);
  w.WriteU32(m.mtu);
  Put(w, m.remaining);
}
bool GetBody(ByteReader& r, PathMtu* m) {
  return Get(r, &m->destination) && r.ReadU32(&m->mtu) && Get(r, &m->remaining);
}

void PutBody(ByteWriter& w, const AdoptSa& m) {
  Put(w, m.counters);
  w.WriteU64(m.last_sequence);
  w.WriteU64(m.replay_top);
  PutList(w, m.replay_words, kMaxReplayWords);
  Put(w, m.age);
  Put(w, m.soft_expired);
  Put(w, m.watched);
  Put(w, m.sa);
}
bool GetBody(ByteReader& r, AdoptSa* m) {
  return Get(r, &m->counters) && r.ReadU64(&m->last_sequence) &&
         r.ReadU64(&m->replay_top) &&
         GetList(r, &m->replay_words, kMaxReplayWords) && Get(r, &m->age) &&
         Get(r, &m->soft_expired) && Get(r, &m->watched) && Get(r, &m->sa);
}

// What Encode appends and the readers take off the end.
std::array<base::ByteSpan, 2> SecretsOf(const Message& message) {
  if (const auto* install = std::get_if<InstallSa>(&message)) {
    return {install->sa.encryption_key.span(),
            install->sa.integrity_key.span()};
  }
  if (const auto* adopt = std::get_if<AdoptSa>(&message)) {
    return {adopt->sa.encryption_key.span(), adopt->sa.integrity_key.span()};
  }
  if (const auto* begin = std::get_if<HandOverBegin>(&message)) {
    return {begin->fingerprint_key.span(), base::ByteSpan()};
  }
  return {};
}

template <typename T>
bool GetAlternative(ByteReader& r, Message* message) {
  return GetBody(r, &message->emplace<T>());
}

// The reader of each alternative, in the order of Message.
template <size_t... I>
constexpr auto MakeReaders(std::index_sequence<I...>) {
  using Reader = bool (*)(ByteReader&, Message*);
  return std::array<Reader, sizeof...(I)>{
      &GetAlternative<std::variant_alternative_t<I, Message>>...};
}
constexpr auto kReaders =
    MakeReaders(std::make_index_sequence<std::variant_size_v<Message>>());

}  // namespace

base::SecretBytes Encode(const Frame& frame) {
  ByteWriter w;
  w.WriteU8(kVersion);
  w.WriteU8(static_cast<uint8_t>(frame.message.index() + kFirstType));
  w.WriteU16(0);
  w.WriteU32(frame.id);
  std::visit([&](const auto& body) { PutBody(w, body); }, frame.message);

  const std::array<base::ByteSpan, 2> secrets = SecretsOf(frame.message);
  base::SecretBytes out(w.size() + secrets[0].size() + secrets[1].size());
  auto place =
      std::copy(w.span().begin(), w.span().end(), out.mutable_span().begin());
  for (base::ByteSpan secret : secrets) {
    place = std::copy(secret.begin(), secret.end(), place);
  }
  return out;
}

absl::StatusOr<Frame> Decode(base::ByteSpan bytes) {
  ByteReader r(bytes);
  uint8_t version, type;
  uint16_t reserved;
  Frame frame;
  if (!r.ReadU8(&version) || !r.ReadU8(&type) || !r.ReadU16(&reserved) ||
      !r.ReadU32(&frame.id)) {
    return absl::InvalidArgumentError(
        "espd control frame is shorter than its header");
  }
  if (version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("espd control protocol version ", version,
                     " (this program speaks ", kVersion, ")"));
  }
  const size_t index = static_cast<size_t>(type) - kFirstType;
  if (type < kFirstType || index >= kReaders.size() || reserved != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("espd control frame of unknown type ", type));
  }
  if (!kReaders[index](r, &frame.message) || !r.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("espd control frame of type ", type, " is malformed"));
  }
  return frame;
}

}  // namespace espalier::esp::control
