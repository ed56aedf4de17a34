// An IKEv2 daemon without a datapath: the real protocol core, sockets and
// workers, every SA "installed" at once. Reads the agent's configuration file,
// takes commands on stdin, prints one JSON object a line on stdout. So the
// tests provoke what an agent does only when its lifetimes say so.
//
//   ike_probe CONFIG
//
// Commands: establish N | rekey-ike N | rekey-child N | delete N |
// stop N | status
// (N: the peer's place in the file, from 1) | quit. The end of stdin is quit.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/base/log.h"
#include "agent/crypto/keys.h"
#include "agent/crypto/random.h"
#include "agent/mesh/config/config.h"
#include "agent/runtime/ike_driver.h"
#include "agent/runtime/ike_socket.h"
#include "agent/runtime/loop.h"
#include "agent/runtime/worker_pool.h"

namespace espalier {
namespace {

using nlohmann::json;

constexpr uint16_t kIkePort = 500;
constexpr uint16_t kNatTraversalPort = 4500;
constexpr size_t kMarkerSize = 4;  // RFC 3948 2.2

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

void Print(const json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

std::string ReadFile(const std::string& path) {
  std::string text;
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"),
                                             &std::fclose);
  if (file == nullptr) Die(absl::NotFoundError(path));
  std::array<char, 4096> buffer;
  size_t size = 0;
  while ((size = std::fread(buffer.data(), 1, buffer.size(), file.get())) > 0) {
    text.append(buffer.data(), size);
  }
  return text;
}

ike::CoreConfig MakeCoreConfig(const mesh::Config& config) {
  ike::CoreConfig core;
  core.identity = config.node.identity;
  if (config.private_key) {
    const base::SecretBytes pem(
        base::AsBytes(ReadFile(config.private_key->file.path)));
    core.private_key = Must(crypto::PrivateKey::FromPem(pem));
  }
  core.ike_soft_lifetime = config.lifetimes.ike_soft;
  core.ike_hard_lifetime = config.lifetimes.ike_hard;
  core.child_limits = config.lifetimes.child;
  core.liveness_interval = config.timers.liveness_interval;
  core.retransmit_base = config.timers.retransmit_base;
  core.retransmit_max = config.timers.retransmit_max;
  core.retransmit_tries = config.timers.retransmit_tries;
  core.drain_time = config.timers.drain_time;
  core.cookie_threshold = config.cookie_threshold;
  core.fragment_size = config.fragment_size;
  return core;
}

ike::PeerConfig MakePeerConfig(const mesh::Config& config, size_t index) {
  const mesh::Peer& from = config.peers[index];
  ike::PeerConfig peer;
  peer.id = ike::PeerId(static_cast<uint32_t>(index + 1));
  peer.name = from.name;
  peer.identity = from.identity;
  peer.local = config.node.addresses.at(0);
  peer.remote = {from.addresses.at(0), kIkePort};
  if (const auto* psk = std::get_if<mesh::PskCredential>(&from.credential)) {
    peer.auth = ike::PskAuth{psk->secret->Clone()};
  } else {
    ike::PublicKeyAuth keys;
    for (const base::Bytes& der :
         std::get<mesh::PublicKeyCredential>(from.credential).keys) {
      keys.peer_keys.push_back(Must(crypto::PublicKey::FromDer(der)));
    }
    peer.auth = std::move(keys);
  }
  peer.ike_proposals = from.ike_proposals;
  peer.child_proposals = from.child_proposals;
  for (const base::IpPrefix& prefix : config.node.pod_cidrs) {
    peer.local_selectors.push_back(base::TrafficSelector::FromPrefix(prefix));
  }
  for (const base::IpPrefix& prefix : from.pod_cidrs) {
    peer.remote_selectors.push_back(base::TrafficSelector::FromPrefix(prefix));
  }
  peer.reqid = base::Reqid(base::kOwnedReqidFirst + peer.id.value());
  peer.force_encapsulation = from.force_encapsulation.value_or(true);
  peer.initiate = from.initiate != mesh::Initiate::kNever;
  return peer;
}

const char* NameOf(ike::Event::Kind kind) {
  using Kind = ike::Event::Kind;
  switch (kind) {
    case Kind::kIkeSaUp:
      return "ike-up";
    case Kind::kIkeSaDown:
      return "ike-down";
    case Kind::kIkeSaRekeyed:
      return "ike-rekeyed";
    case Kind::kChildSaUp:
      return "child-up";
    case Kind::kChildSaDown:
      return "child-down";
    case Kind::kChildSaRekeyed:
      return "child-rekeyed";
    case Kind::kAuthenticationFailed:
      return "authentication-failed";
    case Kind::kNoProposalChosen:
      return "no-proposal-chosen";
    case Kind::kTsUnacceptable:
      return "ts-unacceptable";
    case Kind::kPeerUnreachable:
      return "unreachable";
    case Kind::kProtocolError:
      return "protocol-error";
  }
  return "unknown";
}

std::string HexOf(uint64_t value, int digits) {
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%0*llx", digits,
                static_cast<unsigned long long>(value));
  return text.data();
}

class Probe {
 public:
  explicit Probe(const mesh::Config& config)
      : workers_(1, 64),
        driver_(MakeCoreConfig(config), &random_, &clock_, &loop_, &loop_,
                &workers_) {
    for (const uint16_t port : {kIkePort, kNatTraversalPort}) {
      sockets_.push_back(Must(runtime::IkeSocket::Open(
          &loop_, {config.node.addresses.at(0), port},
          [this](const base::Endpoint& local, const base::Endpoint& remote,
                 base::ByteSpan bytes) { Receive(local, remote, bytes); })));
    }
    SetHooks();
    for (size_t i = 0; i < config.peers.size(); ++i) {
      const absl::Status status =
          driver_.core().UpsertPeer(driver_.Now(), MakePeerConfig(config, i));
      if (!status.ok()) Die(status);
    }
    driver_.Wake();
    loop_.Watch(STDIN_FILENO, true, false,
                [this](bool, bool) { ReadCommands(); });
  }

  void Run() {
    Print({{"event", "ready"}});
    loop_.Run();
  }

 private:
  void SetHooks() {
    runtime::IkeDriver::Hooks hooks;
    hooks.send = [this](const ike::Path& path, base::ByteSpan bytes) {
      base::Bytes datagram;
      if (path.local.port == kNatTraversalPort) datagram.resize(kMarkerSize);
      datagram.insert(datagram.end(), bytes.begin(), bytes.end());
      Send(path, datagram);
    };
    hooks.send_keepalive = [this](const ike::Path& path) {
      Send(path, base::Bytes{0xff});
    };
    hooks.mesh = [this](ike::Action& action) { HandleAction(action); };
    hooks.log_keys = [](const ike::LogIkeKeys&) {};
    driver_.SetHooks(std::move(hooks));
  }

  void HandleAction(const ike::Action& action) {
    if (const auto* install = std::get_if<ike::InstallSa>(&action)) {
      const bool inbound = install->sa.direction == base::Direction::kInbound;
      Print({{"event", "install"},
             {"direction", inbound ? "in" : "out"},
             {"spi", HexOf(install->sa.spi.value(), 8)},
             {"suite", install->sa.suite.ToString()},
             {"encapsulated", install->sa.encapsulation.has_value()}});
      Done(install->op);
    } else if (const auto* remove = std::get_if<ike::RemoveSa>(&action)) {
      Print({{"event", "remove"}, {"spi", HexOf(remove->spi.value(), 8)}});
      Done(remove->op);
    } else if (const auto* watch = std::get_if<ike::WatchInbound>(&action)) {
      // The peer's first packet comes, it is supposed, a little later.
      loop_.RunAfter(absl::Milliseconds(50), [this, spi = watch->spi] {
        driver_.core().HandleInboundSeen(driver_.Now(), spi);
        driver_.Wake();
      });
    } else if (const auto* event = std::get_if<ike::Event>(&action)) {
      Print({{"event", NameOf(event->kind)},
             {"peer", event->peer.value()},
             {"detail", event->detail}});
    }
  }

  void Done(ike::DatapathOpId op) {
    loop_.Post([this, op] {
      driver_.core().HandleDatapathDone(driver_.Now(), op, absl::OkStatus());
      driver_.Wake();
    });
  }

  void Send(const ike::Path& path, base::ByteSpan datagram) {
    for (const auto& socket : sockets_) {
      if (socket->local().port != path.local.port) continue;
      const absl::Status status = socket->Send(path.remote, datagram);
      if (!status.ok()) {
        Print({{"event", "send-failed"}, {"detail", status.ToString()}});
      }
    }
  }

  void Receive(const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) {
    if (local.port == kNatTraversalPort) {
      constexpr std::array<uint8_t, kMarkerSize> kMarker{};
      const bool ike =
          bytes.size() >= kMarkerSize &&
          std::equal(kMarker.begin(), kMarker.end(), bytes.begin());
      if (!ike) return;  // ESP, or a keepalive
      bytes = bytes.subspan(kMarkerSize);
    }
    driver_.HandleDatagram({local, remote}, bytes);
  }

  void ReadCommands() {
    std::array<char, 1024> buffer;
    const ssize_t size = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (size <= 0) return Quit();
    input_.append(buffer.data(), static_cast<size_t>(size));
    size_t end = 0;
    while ((end = input_.find('\n')) != std::string::npos) {
      Command(input_.substr(0, end));
      input_.erase(0, end + 1);
    }
  }

  void Command(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    uint32_t number = 0;
    words >> verb >> number;
    const ike::PeerId peer(number);
    ike::Core& core = driver_.core();
    const base::Instant now = driver_.Now();
    if (verb == "establish") {
      core.Establish(now, peer);
    } else if (verb == "rekey-ike") {
      core.RekeyIkeSa(now, peer);
    } else if (verb == "rekey-child") {
      core.RekeyChildSa(now, peer);
    } else if (verb == "delete") {
      core.StopEstablishing(now, peer);
      core.Delete(now, peer);
    } else if (verb == "stop") {
      core.StopEstablishing(now, peer);
    } else if (verb == "status") {
      PrintStatus();
    } else {
      Quit();
    }
    driver_.Wake();
  }

  void PrintStatus() {
    json sas = json::array();
    for (const ike::IkeSaInfo& sa : driver_.core().IkeSas()) {
      json children = json::array();
      for (const ike::ChildSaInfo& child : sa.children) {
        children.push_back({{"in", HexOf(child.inbound_spi.value(), 8)},
                            {"out", HexOf(child.outbound_spi.value(), 8)},
                            {"suite", child.suite.ToString()},
                            {"encapsulated", child.encapsulated},
                            {"state", child.state}});
      }
      sas.push_back({{"peer", sa.peer.value()},
                     {"state", sa.state},
                     {"initiator", sa.initiator},
                     {"initiatorSpi", HexOf(sa.initiator_spi, 16)},
                     {"responderSpi", HexOf(sa.responder_spi, 16)},
                     {"natLocal", sa.nat_local},
                     {"natRemote", sa.nat_remote},
                     {"localPort", sa.path.local.port},
                     {"children", children}});
    }
    const ike::CoreCounters& counters = driver_.core().counters();
    Print({{"event", "status"},
           {"ikeSas", sas},
           {"malformed", counters.malformed},
           {"badIntegrity", counters.bad_integrity},
           {"cookiesSent", counters.cookies_sent},
           {"retransmissions", counters.retransmissions},
           {"authenticationFailures", counters.authentication_failures}});
  }

  void Quit() {
    loop_.Unwatch(STDIN_FILENO);
    loop_.Stop();
  }

  runtime::Loop loop_;
  base::SteadyClock clock_;
  crypto::SystemRandom random_;
  runtime::WorkerPool workers_;
  runtime::IkeDriver driver_;
  std::vector<std::unique_ptr<runtime::IkeSocket>> sockets_;
  std::string input_;
};

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: ike_probe CONFIG\n");
    return 2;
  }
  const mesh::Config config = Must(mesh::LoadConfig(argv[1]));
  base::SetLogLevel(config.log_level);
  Probe(config).Run();
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
