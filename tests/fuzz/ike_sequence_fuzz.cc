// Two cores and whatever the input says: deliver, lose, repeat, damage, move
// and forge messages, also inside the protection of an authenticated peer (with
// the keys of the key log), fail jobs, move time, give commands. Nothing may
// crash, spin or grow without bound. The first octet says how the two are
// configured.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "agent/base/byte_reader.h"
#include "agent/crypto/cipher_suite.h"
#include "agent/crypto/job.h"
#include "agent/crypto/keys.h"
#include "agent/ike/core.h"
#include "agent/wire/message.h"
#include "tests/sim/scheduler.h"

namespace espalier {
namespace {

using base::Bytes;

constexpr int kMaxSteps = 300;
constexpr size_t kMaxQueue = 200;
constexpr int kMaxPolls = 2000;
// Half-open ones, crossing ones and their successors.
constexpr size_t kMaxIkeSas = 40;

void Fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

struct IkeKeys {
  crypto::CipherSuite suite;
  base::SecretBytes sk_ei, sk_er, sk_ai, sk_ar;
};

// Bits of the first octet.
struct Options {
  bool public_keys = false;  // Ed25519 in place of a shared key
  bool cbc = false;          // AES-CBC with HMAC-SHA2: padding, a separate ICV
  bool cpus = false;         // RFC 9611
  bool encapsulate = false;  // force_encapsulation
  bool on_demand = false;

  static Options From(uint8_t octet) {
    return {.public_keys = (octet & 1) != 0,
            .cbc = (octet & 2) != 0,
            .cpus = (octet & 4) != 0,
            .encapsulate = (octet & 8) != 0,
            .on_demand = (octet & 16) != 0};
  }
};

constexpr uint32_t kCpus = 3;

// What an end may have: two, for rotation.
const std::shared_ptr<const crypto::PrivateKey>& KeyOf(int end, int which) {
  static const auto& keys =
      *new std::array<std::shared_ptr<const crypto::PrivateKey>, 4>([] {
        std::array<std::shared_ptr<const crypto::PrivateKey>, 4> made;
        for (auto& key : made) {
          key = crypto::PrivateKey::Generate(crypto::KeyType::kEd25519).value();
        }
        return made;
      }());
  return keys[static_cast<size_t>(2 * end + which)];
}

struct Datagram {
  int to;
  ike::Path path;  // as the receiver sees it
  Bytes bytes;
};

class Pair {
 public:
  explicit Pair(const Options& options);
  // One step; false at the end of the input.
  bool Step(base::ByteReader* input);
  void Finish();

 private:
  struct Sa {
    base::Direction direction;
    base::Spi spi;
    base::IpAddress destination;
  };
  struct End {
    std::unique_ptr<sim::SeededRandom> random;
    std::unique_ptr<ike::Core> core;
    std::deque<ike::RunCrypto> jobs;
    std::deque<ike::DatapathOpId> ops;
    std::deque<base::Spi> watched;
    std::deque<Sa> sas;
    int key = 0;           // that it signs with
    int trusted_keys = 2;  // of the other's
  };

  ike::PeerConfig PeerOf(int end) const;
  void Pump(int end);
  void Do(int end, ike::Action action);
  void Deliver(Datagram datagram);
  void RunJob(int end, bool fails);
  void FinishOp(int end, bool fails);
  void PassTime(absl::Duration time);
  void Quieten();
  void Command(int end, uint8_t what);
  void Expire(int end, uint8_t what);
  // Opens a protected message, changes what is inside, seals it again.
  void TamperInside(Datagram* datagram, base::ByteReader* input);

  const Options options_;
  base::Instant now_ = absl::UnixEpoch() + absl::Hours(1);
  std::array<End, 2> ends_;
  std::deque<Datagram> wire_;
  std::map<std::pair<uint64_t, uint64_t>, IkeKeys> keys_;
  uint64_t counter_ = uint64_t{1} << 40;
};

base::IpAddress AddressOf(int end) {
  return base::IpAddress::V4({192, 0, 2, static_cast<uint8_t>(end + 1)});
}

ike::Identity IdentityOf(int end) {
  return ike::Identity::Fqdn(end == 0 ? "a" : "b");
}

Pair::Pair(const Options& options) : options_(options) {
  for (int end : {0, 1}) {
    ike::CoreConfig config;
    config.identity = IdentityOf(end);
    config.key_log = true;
    config.max_half_open = 8;
    config.cookie_threshold = 4;
    config.fragment_size = 300;
    if (options_.public_keys) config.private_key = KeyOf(end, 0);
    ends_[end].random = std::make_unique<sim::SeededRandom>(end + 1);
    ends_[end].core =
        std::make_unique<ike::Core>(config, ends_[end].random.get());
    if (!ends_[end].core->UpsertPeer(now_, PeerOf(end)).ok()) Fail("peer");
  }
  ends_[0].core->Establish(now_, ike::PeerId(2));
  Pump(0);
}

ike::PeerConfig Pair::PeerOf(int end) const {
  static const std::string kSecret = "a secret of the fuzzer";
  const int other = 1 - end;
  ike::PeerConfig peer;
  peer.id = ike::PeerId(static_cast<uint32_t>(other + 1));
  peer.identity = IdentityOf(other);
  peer.local = AddressOf(end);
  peer.remote = {AddressOf(other), 500};
  if (options_.public_keys) {
    ike::PublicKeyAuth trusted;
    for (int i = 0; i < ends_[end].trusted_keys; ++i) {
      trusted.peer_keys.push_back(KeyOf(other, i)->public_key());
    }
    peer.auth = std::move(trusted);
  } else {
    peer.auth = ike::PskAuth{base::SecretBytes(base::AsBytes(kSecret))};
  }
  if (options_.cbc) {
    peer.ike_proposals[0].cipher = crypto::Cipher::kAesCbc;
    peer.ike_proposals[0].integrity = crypto::Integrity::kHmacSha2_256_128;
  }
  if (options_.cpus) peer.max_cpu_sas = kCpus;
  peer.force_encapsulation = options_.encapsulate;
  peer.on_demand = options_.on_demand;
  for (int side : {end, other}) {
    auto& selectors =
        side == end ? peer.local_selectors : peer.remote_selectors;
    selectors = {base::TrafficSelector::FromPrefix(
        base::IpPrefix::Host(AddressOf(side)))};
  }
  peer.reqid = base::Reqid(base::kOwnedReqidFirst + 1);
  peer.initiate = end == 0;
  return peer;
}

void Pair::Pump(int end) {
  for (int i = 0; i < kMaxPolls; ++i) {
    std::optional<ike::Action> action = ends_[end].core->PollAction();
    if (!action.has_value()) return;
    Do(end, *std::move(action));
  }
  Fail("actions without end");
}

void Pair::Do(int end, ike::Action action) {
  End& e = ends_[end];
  if (auto* send = std::get_if<ike::SendDatagram>(&action)) {
    if (send->bytes.size() > wire::kMaxMessageSize) Fail("too large");
    if (wire_.size() == kMaxQueue) wire_.pop_front();
    wire_.push_back({1 - end,
                     {.local = send->path.remote, .remote = send->path.local},
                     std::move(send->bytes)});
  } else if (auto* job = std::get_if<ike::RunCrypto>(&action)) {
    e.jobs.push_back(std::move(*job));
    if (e.jobs.size() > kMaxQueue) Fail("jobs without bound");
  } else if (auto* install = std::get_if<ike::InstallSa>(&action)) {
    e.ops.push_back(install->op);
    if (e.sas.size() == kMaxQueue) Fail("SAs without bound");
    e.sas.push_back({install->sa.direction, install->sa.spi,
                     install->sa.outer_destination});
  } else if (auto* remove = std::get_if<ike::RemoveSa>(&action)) {
    e.ops.push_back(remove->op);
    std::erase_if(e.sas, [&](const Sa& sa) {
      return sa.direction == remove->direction && sa.spi == remove->spi;
    });
  } else if (auto* watch = std::get_if<ike::WatchInbound>(&action)) {
    e.watched.push_back(watch->spi);
  } else if (auto* log = std::get_if<ike::LogIkeKeys>(&action)) {
    IkeKeys& keys = keys_[{log->initiator_spi, log->responder_spi}];
    keys.suite = {log->cipher, log->key_bits, log->integrity};
    keys.sk_ei = std::move(log->sk_ei);
    keys.sk_er = std::move(log->sk_er);
    keys.sk_ai = std::move(log->sk_ai);
    keys.sk_ar = std::move(log->sk_ar);
  }
}

void Pair::Deliver(Datagram datagram) {
  ends_[datagram.to].core->HandleDatagram(now_, datagram.path, datagram.bytes);
  Pump(datagram.to);
}

void Pair::RunJob(int end, bool fails) {
  End& e = ends_[end];
  if (e.jobs.empty()) return;
  const ike::RunCrypto job = std::move(e.jobs.front());
  e.jobs.pop_front();
  e.core->HandleCryptoDone(now_, job.id,
                           fails ? crypto::Result(absl::InternalError("fuzz"))
                                 : crypto::Run(job.job));
  Pump(end);
}

void Pair::FinishOp(int end, bool fails) {
  End& e = ends_[end];
  if (e.ops.empty()) return;
  const ike::DatapathOpId op = e.ops.front();
  e.ops.pop_front();
  e.core->HandleDatapathDone(
      now_, op, fails ? absl::InternalError("fuzz") : absl::OkStatus());
  Pump(end);
}

void Pair::PassTime(absl::Duration time) {
  now_ += time;
  for (int end : {0, 1}) {
    for (int i = 0; i < 200; ++i) {
      const auto next = ends_[end].core->NextTimeout();
      if (!next.has_value() || *next > now_) break;
      if (i == 199) Fail("a timer that does not move on");
      ends_[end].core->HandleTimeout(now_);
      Pump(end);
    }
  }
}

void Pair::Quieten() {
  for (int i = 0; i < 400; ++i) {
    for (int end : {0, 1}) {
      RunJob(end, false);
      FinishOp(end, false);
    }
    if (wire_.empty()) {
      if (ends_[0].jobs.empty() && ends_[1].jobs.empty() &&
          ends_[0].ops.empty() && ends_[1].ops.empty()) {
        return;
      }
      continue;
    }
    Datagram datagram = std::move(wire_.front());
    wire_.pop_front();
    Deliver(std::move(datagram));
  }
  Fail("two cores that never fall silent");
}

void Pair::Command(int end, uint8_t what) {
  ike::Core& core = *ends_[end].core;
  const ike::PeerId peer(static_cast<uint32_t>(2 - end));
  switch (what % 16) {
    case 0:
      core.Establish(now_, peer);
      break;
    case 1:
      core.RekeyChildSa(now_, peer);
      break;
    case 2:
      core.RekeyIkeSa(now_, peer);
      break;
    case 3:
      core.Delete(now_, peer);
      break;
    case 4:
      core.StopEstablishing(now_, peer);
      break;
    case 5:
      core.RemovePeer(now_, peer);
      break;
    case 6:
      if (!core.UpsertPeer(now_, PeerOf(end)).ok()) Fail("peer again");
      break;
    case 7:
      if (!ends_[end].watched.empty()) {
        core.HandleInboundSeen(now_, ends_[end].watched.front());
        ends_[end].watched.pop_front();
      }
      break;
    case 8:
      core.Reestablish(now_, peer);
      break;
    case 9:
      core.WantCpuSa(now_, peer, what / 16 % (kCpus + 1));
      break;
    case 10:
      if (!ends_[end].sas.empty()) {
        core.HandleInboundTraffic(now_, ends_[end].sas.front().spi);
      }
      break;
    case 11:  // rotate the key
      ends_[end].key = 1 - ends_[end].key;
      if (options_.public_keys) core.SetPrivateKey(KeyOf(end, ends_[end].key));
      break;
    case 12:  // trust both of the other's keys, or no longer the second
      ends_[end].trusted_keys = 3 - ends_[end].trusted_keys;
      if (!core.UpsertPeer(now_, PeerOf(end)).ok()) Fail("peer again");
      break;
    default:
      Expire(end, what);
  }
  Pump(end);
}

void Pair::Expire(int end, uint8_t what) {
  const std::deque<Sa>& sas = ends_[end].sas;
  if (sas.empty()) return;
  const Sa sa = sas[what / 32 % sas.size()];
  ends_[end].core->HandleSaExpired(now_, sa.direction, sa.destination, sa.spi,
                                   /*hard=*/(what & 16) != 0);
}

void Pair::TamperInside(Datagram* datagram, base::ByteReader* input) {
  const auto message = wire::DecodeMessage(datagram->bytes);
  if (!message.ok() || !message->encrypted) return;
  wire::Header header = message->header;
  std::optional<wire::FragmentPlace> place = message->encrypted->fragment;
  const auto found = keys_.find({header.initiator_spi, header.responder_spi});
  if (found == keys_.end()) return;
  const IkeKeys& keys = found->second;
  const bool initiator = header.from_initiator;
  const base::ByteSpan key = (initiator ? keys.sk_ei : keys.sk_er).span();
  const base::ByteSpan check = (initiator ? keys.sk_ai : keys.sk_ar).span();
  Bytes sealed = datagram->bytes;
  base::MutableByteSpan plaintext;
  const size_t body = message->encrypted->associated_data.size();
  if (!crypto::Open(keys.suite, key, check, sealed, body, &plaintext)) return;
  const auto inside = wire::RemovePadding(plaintext);
  if (!inside.has_value()) return;
  Bytes chain(inside->begin(), inside->end());
  uint8_t first = static_cast<uint8_t>(message->encrypted->first_inner);
  uint8_t count = 0, where = 0, octet = 0;
  if (!input->ReadU8(&count)) return;
  for (int i = 0; i < count % 4 + 1; ++i) {
    if (!input->ReadU8(&where) || !input->ReadU8(&octet)) break;
    if (where == 255) {
      first = octet;
    } else if (where == 254) {
      chain.resize(std::min<size_t>(chain.size(), octet));
    } else if (where == 253) {  // a fragment, of so many
      place = {.number = 1, .total = static_cast<uint16_t>(octet + 1)};
    } else if (where == 252 && place) {
      place->number = static_cast<uint16_t>(octet % place->total + 1);
    } else if (where == 251) {
      place.reset();
    } else if (where == 250) {
      header.message_id ^= octet;
    } else if (where == 249) {
      header.exchange = static_cast<wire::ExchangeType>(octet);
    } else if (!chain.empty()) {
      chain[where * chain.size() / 256] ^= octet;
    }
  }
  wire::SealedMessage again =
      wire::LayOut(header, static_cast<wire::PayloadType>(first), chain, place,
                   {.iv = keys.suite.iv_size(),
                    .icv = keys.suite.icv_size(),
                    .block = keys.suite.aead() ? 1 : keys.suite.block_size()});
  const size_t new_body = again.associated_data().size();
  datagram->bytes = again.Take();
  if (!crypto::Seal(keys.suite, key, check, ++counter_, datagram->bytes,
                    new_body)
           .ok()) {
    Fail("the fuzzer cannot seal");
  }
}

bool Pair::Step(base::ByteReader* input) {
  uint8_t what = 0;
  if (!input->ReadU8(&what)) return false;
  const int end = what & 1;
  Datagram oldest;
  const int operation = (what >> 1) % 16;
  const bool takes = (operation < 7 || operation == 14) && !wire_.empty();
  if (takes) oldest = wire_.front();
  uint8_t a = 0, b = 0;
  switch (operation) {
    case 0:  // deliver
      if (takes) {
        wire_.pop_front();
        Deliver(std::move(oldest));
      }
      break;
    case 1:  // repeat
      if (takes) Deliver(std::move(oldest));
      break;
    case 2:  // overtake
      if (takes) {
        oldest = std::move(wire_.back());
        wire_.pop_back();
        Deliver(std::move(oldest));
      }
      break;
    case 3:  // lose
      if (takes) wire_.pop_front();
      break;
    case 4:  // damage, and deliver the original later
      if (takes && input->ReadU8(&a) && input->ReadU8(&b)) {
        oldest.bytes[a * oldest.bytes.size() / 256] ^= b;
        Deliver(std::move(oldest));
      }
      break;
    case 5:  // cut
      if (takes && input->ReadU8(&a)) {
        oldest.bytes.resize(a * oldest.bytes.size() / 256);
        Deliver(std::move(oldest));
      }
      break;
    case 6:  // a peer that is authenticated, and mad
      if (takes) {
        wire_.pop_front();
        TamperInside(&oldest, input);
        Deliver(std::move(oldest));
      }
      break;
    case 7:
      RunJob(end, false);
      break;
    case 8:
      RunJob(end, true);
      break;
    case 9:
      FinishOp(end, false);
      break;
    case 10:
      FinishOp(end, true);
      break;
    case 11:
      if (input->ReadU8(&a)) PassTime(absl::Milliseconds(100) * a);
      break;
    case 12:
      if (input->ReadU8(&a)) Command(end, a);
      break;
    case 13:  // from nobody
      if (input->ReadU8(&a)) {
        base::ByteSpan raw;
        if (!input->ReadSpan(std::min<size_t>(a, input->remaining()), &raw)) {
          return false;
        }
        Deliver(
            {end,
             {.local = {AddressOf(end), 500}, .remote = {AddressOf(9), 500}},
             Bytes(raw.begin(), raw.end())});
      }
      break;
    case 14:  // through a NAT that has another mapping by now
      if (takes && input->ReadU8(&a)) {
        wire_.pop_front();
        oldest.path.local.port = (a & 1) != 0 ? 4500 : 500;
        oldest.path.remote.port = static_cast<uint16_t>(1000 + a / 2);
        Deliver(std::move(oldest));
      }
      break;
    default:
      Quieten();
  }
  return true;
}

void Pair::Finish() {
  for (End& e : ends_) {
    if (e.core->IkeSas().size() > kMaxIkeSas) Fail("IKE_SAs without bound");
    if (e.core->counters().half_open > 8) Fail("half-open without bound");
  }
}

}  // namespace
}  // namespace espalier

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  espalier::base::ByteReader input({data, size});
  uint8_t options = 0;
  if (!input.ReadU8(&options)) return 0;
  espalier::Pair pair(espalier::Options::From(options));
  for (int i = 0; i < espalier::kMaxSteps && pair.Step(&input); ++i) {
  }
  pair.Finish();
  return 0;
}
