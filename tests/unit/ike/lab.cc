#include "tests/unit/ike/lab.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace espalier::ike::testing {

void TestRandom::Fill(base::MutableByteSpan out) {
  for (uint8_t& octet : out) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    octet = static_cast<uint8_t>(state_ >> 32);
  }
}

namespace {

CoreConfig WithIdentity(CoreConfig config, const std::string& name) {
  config.identity = Identity::Fqdn(name);
  return config;
}

const char* NameOf(base::Direction direction) {
  return direction == base::Direction::kInbound ? "in" : "out";
}

}  // namespace

Node::Node(const std::string& node_name, const std::string& node_address,
           uint64_t seed, CoreConfig config)
    : name(node_name),
      address(*base::IpAddress::Parse(node_address)),
      random(seed),
      core(WithIdentity(std::move(config), node_name), &random) {}

int Node::Count(Event::Kind kind) const {
  return static_cast<int>(
      std::count_if(events.begin(), events.end(),
                    [&](const Event& e) { return e.kind == kind; }));
}

size_t Node::CountSas(base::Direction direction) const {
  return static_cast<size_t>(std::count_if(
      sas.begin(), sas.end(),
      [&](const auto& sa) { return sa.first.first == direction; }));
}

const Node::InstalledSa* Node::NewestOutbound() const {
  const InstalledSa* newest = nullptr;
  for (const auto& [key, sa] : sas) {
    if (key.first != base::Direction::kOutbound) continue;
    if (newest == nullptr || sa.order > newest->order) newest = &sa;
  }
  return newest;
}

std::vector<IkeSaInfo> Node::Established() const {
  std::vector<IkeSaInfo> result;
  for (IkeSaInfo& info : core.IkeSas()) {
    if (info.state == "established" || info.state == "rekeying") {
      result.push_back(std::move(info));
    }
  }
  return result;
}

Lab::Lab() : now_(absl::FromUnixSeconds(1000000)) {}

Node& Lab::Add(const std::string& name, int last_octet, CoreConfig config) {
  nodes_.push_back(
      std::make_unique<Node>(name, absl::StrCat("192.0.2.", last_octet),
                             nodes_.size() + 1, std::move(config)));
  return *nodes_.back();
}

PeerConfig Lab::PskPeer(const Node& self, const Node& peer,
                        const std::string& secret) {
  const auto network = [](const Node& node) {
    return base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse(
        absl::StrCat("10.", node.address.bytes()[3], ".0.0/16")));
  };
  PeerConfig config;
  config.id = PeerId(peer.address.bytes()[3]);
  config.name = peer.name;
  config.identity = Identity::Fqdn(peer.name);
  config.remote = {peer.address, 500};
  config.local = self.address;
  config.auth = PskAuth{base::SecretBytes(base::AsBytes(secret))};
  config.local_selectors = {network(self)};
  config.remote_selectors = {network(peer)};
  config.reqid = base::Reqid(base::kOwnedReqidFirst + config.id.value());
  config.initiate = self.name < peer.name;
  return config;
}

void Lab::Introduce(Node& a, Node& b, const std::string& secret) {
  (void)a.core.UpsertPeer(now_, PskPeer(a, b, secret));
  (void)b.core.UpsertPeer(now_, PskPeer(b, a, secret));
}

Node* Lab::ByAddress(const base::IpAddress& address) {
  for (const auto& node : nodes_) {
    if (node->address == address) return node.get();
  }
  return nullptr;
}

void Lab::Perform(Node& node, Action action) {
  if (auto* send = std::get_if<SendDatagram>(&action)) {
    node.sent.push_back(send->bytes);
    wire.push_back({&node, send->path, std::move(send->bytes)});
  } else if (std::holds_alternative<SendNatKeepalive>(action)) {
    ++node.keepalives;
  } else if (auto* job = std::get_if<RunCrypto>(&action)) {
    if (node.hold_jobs) {
      node.held_jobs.push_back(std::move(*job));
      return;
    }
    const bool allowed = !node.allow_job || node.allow_job(job->job);
    node.core.HandleCryptoDone(
        now_, job->id,
        allowed ? crypto::Run(job->job)
                : crypto::Result(absl::InternalError("worker failed")));
  } else if (auto* install = std::get_if<InstallSa>(&action)) {
    node.datapath_log.push_back(
        absl::StrCat("install ", NameOf(install->sa.direction)));
    if (node.hold_datapath) {
      node.held_ops.push_back(std::move(*install));
      return;
    }
    if (node.allow_install && !node.allow_install(*install)) {
      node.core.HandleDatapathDone(now_, install->op,
                                   absl::UnavailableError("datapath failed"));
      return;
    }
    const Node::SaKey key = {install->sa.direction, install->sa.spi};
    node.sas[key] = {install->child, std::move(install->sa), ++installs_};
    node.core.HandleDatapathDone(now_, install->op, absl::OkStatus());
  } else if (auto* remove = std::get_if<RemoveSa>(&action)) {
    node.datapath_log.push_back(
        absl::StrCat("remove ", NameOf(remove->direction)));
    node.sas.erase({remove->direction, remove->spi});
    node.core.HandleDatapathDone(now_, remove->op, absl::OkStatus());
  } else if (auto* watch = std::get_if<WatchInbound>(&action)) {
    node.watched.insert(watch->spi);
  } else if (auto* event = std::get_if<Event>(&action)) {
    node.events.push_back(std::move(*event));
  } else if (auto* log = std::get_if<LogIkeKeys>(&action)) {
    node.keys.push_back(std::move(*log));
  }
}

bool Lab::PollAll() {
  bool any = false;
  for (const auto& node : nodes_) {
    while (auto action = node->core.PollAction()) {
      any = true;
      Perform(*node, std::move(*action));
    }
  }
  return any;
}

void Lab::DeliverNext() {
  InFlight datagram = std::move(wire.front());
  wire.pop_front();
  Path path = {.local = datagram.path.remote, .remote = datagram.path.local};
  Node* to = ByAddress(path.local.address);
  if (to == nullptr) return;
  if (filter && !filter(*datagram.from, *to, path, datagram.bytes)) return;
  to->core.HandleDatagram(now_, path, datagram.bytes);
}

void Lab::Drain() {
  while (true) {
    if (PollAll()) continue;
    if (wire.empty() || hold_wire) return;
    DeliverNext();
  }
}

void Lab::Run(absl::Duration duration) {
  const base::Instant end = now_ + duration;
  while (true) {
    Drain();
    std::optional<base::Instant> next;
    for (const auto& node : nodes_) {
      const auto at = node->core.NextTimeout();
      if (at && (!next || *at < *next)) next = at;
    }
    if (!next || *next > end) break;
    now_ = std::max(now_, *next);
    for (const auto& node : nodes_) {
      const auto at = node->core.NextTimeout();
      if (at && *at <= now_) node->core.HandleTimeout(now_);
    }
  }
  now_ = end;
}

bool Lab::Pass(Node& a, Node& b) {
  const Node::InstalledSa* out = a.NewestOutbound();
  if (out == nullptr) return false;
  const auto in = b.sas.find({base::Direction::kInbound, out->sa.spi});
  if (in == b.sas.end()) return false;
  const base::EspSa& x = out->sa;
  const base::EspSa& y = in->second.sa;
  if (!base::ConstantTimeEqual(x.encryption_key.span(),
                               y.encryption_key.span()) ||
      !base::ConstantTimeEqual(x.integrity_key.span(),
                               y.integrity_key.span()) ||
      x.suite != y.suite || x.local_selectors != y.remote_selectors ||
      x.remote_selectors != y.local_selectors ||
      x.outer_destination != y.outer_destination ||
      x.encapsulation.has_value() != y.encapsulation.has_value()) {
    return false;
  }
  if (b.watched.erase(x.spi) > 0) b.core.HandleInboundSeen(now_, x.spi);
  Drain();
  return true;
}

void Lab::Inject(Node& to, const Path& path, const base::Bytes& bytes) {
  to.core.HandleDatagram(now_, path, bytes);
  Drain();
}

wire::ExchangeType ExchangeOf(const base::Bytes& datagram) {
  return static_cast<wire::ExchangeType>(datagram.size() > 18 ? datagram[18]
                                                              : 0);
}

bool IsResponse(const base::Bytes& datagram) {
  return datagram.size() > 19 && (datagram[19] & 0x20) != 0;
}

}  // namespace espalier::ike::testing
