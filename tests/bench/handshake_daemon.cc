// One end of many handshakes, as a process of its own: the protocol core with
// the agent's loop, worker threads and port 500 socket, and espd's SA database
// for the CHILD_SAs (in process, as strongSwan's kernel-libipsec has it). Every
// IKE_SA is with a peer of its own, all at one address.
//
//   handshake_daemon SIDE LOCAL REMOTE COUNT THREADS
//
// SIDE 1 initiates. Commands on stdin: "establish N" begins the next N and
// answers "established TOTAL" when they all are up with both their SAs;
// "count" answers that at once; the end of stdin ends it.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/base/clock.h"
#include "agent/crypto/random.h"
#include "agent/esp/sa_database.h"
#include "agent/runtime/ike_driver.h"
#include "agent/runtime/ike_socket.h"
#include "agent/runtime/loop.h"
#include "agent/runtime/worker_pool.h"

namespace espalier {
namespace {

constexpr uint16_t kIkePort = 500;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "handshake_daemon: %s\n", what.c_str());
  std::exit(1);
}

base::IpAddress InnerAddress(int side, uint32_t n) {
  return base::IpAddress::V4({10, static_cast<uint8_t>(side),
                              static_cast<uint8_t>(n >> 8),
                              static_cast<uint8_t>(n)});
}

struct Options {
  int side = 0;
  base::IpAddress local, remote;
  uint32_t count = 0;
  int threads = 0;
};

ike::PeerConfig MakePeer(const Options& options, uint32_t n) {
  // Identities as in strongSwan's half of the benchmark: the initiator's has
  // the number.
  const ike::Identity initiator =
      ike::Identity::Fqdn(absl::StrCat("c", n, ".test"));
  const ike::Identity responder =
      ike::Identity::Fqdn(absl::StrCat("b", n, ".test"));
  ike::PeerConfig peer;
  peer.id = ike::PeerId(n);
  peer.name = absl::StrCat("peer-", n);
  peer.identity = options.side == 1 ? responder : initiator;
  peer.local_identity = options.side == 1 ? initiator : responder;
  peer.remote = {options.remote, kIkePort};
  peer.local = options.local;
  peer.auth = ike::PskAuth{base::SecretBytes(base::Bytes(32, 0x5a))};
  peer.local_selectors = {base::TrafficSelector::FromPrefix(
      base::IpPrefix::Host(InnerAddress(options.side, n)))};
  peer.remote_selectors = {base::TrafficSelector::FromPrefix(
      base::IpPrefix::Host(InnerAddress(3 - options.side, n)))};
  peer.reqid = base::Reqid(base::kOwnedReqidFirst + n);
  peer.initiate = options.side == 1;
  return peer;
}

ike::CoreConfig MakeCoreConfig() {
  ike::CoreConfig config;
  config.identity = ike::Identity::Fqdn("handshake.test");
  // All come from one address, and at once.
  config.cookie_threshold = 1 << 20;
  config.max_half_open = 1 << 20;
  return config;
}

class Daemon {
 public:
  explicit Daemon(const Options& options)
      : options_(options),
        workers_(options.threads, 4096),
        driver_(MakeCoreConfig(), &random_, &clock_, &loop_, &loop_,
                &workers_) {
    auto socket = runtime::IkeSocket::Open(
        &loop_, {options.local, kIkePort},
        [this](const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) {
          driver_.HandleDatagram({local, remote}, bytes);
        });
    if (!socket.ok()) Die(socket.status().ToString());
    socket_ = *std::move(socket);
    runtime::IkeDriver::Hooks hooks;
    hooks.send = [this](const ike::Path& path, base::ByteSpan bytes) {
      (void)socket_->Send(path.remote, bytes);
    };
    hooks.send_keepalive = [](const ike::Path&) {};
    hooks.mesh = [this](ike::Action& action) { Perform(action); };
    hooks.log_keys = [](const ike::LogIkeKeys&) {};
    driver_.SetHooks(std::move(hooks));
    for (uint32_t n = 1; n <= options.count; ++n) {
      const absl::Status status =
          driver_.core().UpsertPeer(driver_.Now(), MakePeer(options, n));
      if (!status.ok()) Die(status.ToString());
    }
    loop_.Watch(STDIN_FILENO, true, false,
                [this](bool, bool) { ReadCommands(); });
  }

  void Run() {
    Say("ready");
    loop_.Run();
  }

 private:
  static void Say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  void Perform(ike::Action& action) {
    if (auto* install = std::get_if<ike::InstallSa>(&action)) {
      const ike::DatapathOpId op = install->op;
      const absl::Status status =
          database_.Install(std::move(install->sa), driver_.Now()).status();
      if (!status.ok()) Die(status.ToString());
      loop_.Post([this, op] {
        driver_.core().HandleDatapathDone(driver_.Now(), op, absl::OkStatus());
        driver_.WakeSoon();
      });
    } else if (const auto* event = std::get_if<ike::Event>(&action)) {
      if (event->kind != ike::Event::Kind::kChildSaUp) return;
      if (++up_ == begun_ && options_.side == 1) SayCount();
    }
  }

  void SayCount() { Say(absl::StrCat("established ", up_)); }

  void ReadCommands() {
    std::array<char, 256> buffer;
    const ssize_t size = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (size <= 0) {
      loop_.Unwatch(STDIN_FILENO);
      return loop_.Stop();
    }
    std::istringstream words(
        std::string(buffer.data(), static_cast<size_t>(size)));
    std::string verb;
    uint32_t number = 0;
    words >> verb >> number;
    if (verb != "establish") return SayCount();
    const uint32_t last = std::min(begun_ + number, options_.count);
    while (begun_ < last) {
      driver_.core().Establish(driver_.Now(), ike::PeerId(++begun_));
    }
    driver_.Wake();
  }

  const Options options_;
  runtime::Loop loop_;
  base::SteadyClock clock_;
  crypto::SystemRandom random_;
  runtime::WorkerPool workers_;
  runtime::IkeDriver driver_;
  esp::SaDatabase database_{{}, [](const esp::Sa&, bool) {}};
  std::unique_ptr<runtime::IkeSocket> socket_;
  uint32_t begun_ = 0, up_ = 0;
};

int Main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr,
                 "usage: handshake_daemon SIDE LOCAL REMOTE COUNT THREADS\n");
    return 2;
  }
  const auto local = base::IpAddress::Parse(argv[2]);
  const auto remote = base::IpAddress::Parse(argv[3]);
  if (!local.ok() || !remote.ok()) Die("not an address");
  const Options options = {.side = std::atoi(argv[1]),
                           .local = *local,
                           .remote = *remote,
                           .count = static_cast<uint32_t>(std::atoi(argv[4])),
                           .threads = std::atoi(argv[5])};
  if (options.count < 1 || options.count > 60000 || options.threads < 1) {
    Die("COUNT is 1 to 60000, THREADS at least 1");
  }
  Daemon(options).Run();
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
