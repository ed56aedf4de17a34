// What one IKE_SA with its CHILD_SA costs, in CPU time (both ends together)
// and in resident memory (one end): two protocol cores in one process, PSK,
// X25519, aes256gcm16-prfsha384, no sockets and no datapath.
//
//   handshake_cores COUNT     prints one JSON object
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "agent/base/ip_address.h"
#include "agent/crypto/job.h"
#include "agent/crypto/random.h"
#include "agent/ike/core.h"

namespace espalier {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "handshake_cores: %s\n", what.c_str());
  std::exit(1);
}

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
         static_cast<double>(now.tv_nsec) / 1e9;
}

// Octets of physical memory (proc(5), statm's second field).
double ResidentSize() {
  std::unique_ptr<FILE, int (*)(FILE*)> file(
      std::fopen("/proc/self/statm", "r"), &std::fclose);
  long pages = 0;
  if (file == nullptr || std::fscanf(file.get(), "%*d %ld", &pages) != 1) {
    Die("cannot read /proc/self/statm");
  }
  return static_cast<double>(pages) *
         static_cast<double>(sysconf(_SC_PAGESIZE));
}

// Pair n is 10.1.x.y at the initiating core, 10.2.x.y at the other: each end
// of each pair has an address and an identity of its own.
base::IpAddress AddressOf(int side, uint32_t n) {
  return base::IpAddress::V4({10, static_cast<uint8_t>(side),
                              static_cast<uint8_t>(n >> 8),
                              static_cast<uint8_t>(n)});
}

ike::PeerConfig MakePeer(int side, uint32_t n) {
  const base::IpAddress local = AddressOf(side, n);
  const base::IpAddress remote = AddressOf(3 - side, n);
  ike::PeerConfig peer;
  peer.id = ike::PeerId(n);
  peer.name = remote.ToString();
  peer.identity = ike::Identity::Address(remote);
  peer.local_identity = ike::Identity::Address(local);
  peer.remote = {remote, 500};
  peer.local = local;
  peer.auth = ike::PskAuth{base::SecretBytes(base::Bytes(32, 0x5a))};
  peer.local_selectors = {
      base::TrafficSelector::FromPrefix(base::IpPrefix::Host(local))};
  peer.remote_selectors = {
      base::TrafficSelector::FromPrefix(base::IpPrefix::Host(remote))};
  peer.reqid = base::Reqid(base::kOwnedReqidFirst + n);
  peer.initiate = side == 1;
  return peer;
}

class Side {
 public:
  explicit Side(int side) : core_(Config(side), &random_) {}

  ike::Core& core() { return core_; }

  // Carries out what the core wants; datagrams go to `out` as the other end
  // sees them. True when there was something.
  bool Run(base::Instant now,
           std::deque<std::pair<ike::Path, base::Bytes>>* out) {
    bool any = false;
    while (std::optional<ike::Action> action = core_.PollAction()) {
      any = true;
      if (auto* send = std::get_if<ike::SendDatagram>(&*action)) {
        out->emplace_back(ike::Path{send->path.remote, send->path.local},
                          std::move(send->bytes));
      } else if (auto* run = std::get_if<ike::RunCrypto>(&*action)) {
        core_.HandleCryptoDone(now, run->id, crypto::Run(run->job));
      } else if (auto* install = std::get_if<ike::InstallSa>(&*action)) {
        core_.HandleDatapathDone(now, install->op, absl::OkStatus());
      } else if (auto* remove = std::get_if<ike::RemoveSa>(&*action)) {
        core_.HandleDatapathDone(now, remove->op, absl::OkStatus());
      }
    }
    return any;
  }

 private:
  static ike::CoreConfig Config(int side) {
    ike::CoreConfig config;
    config.identity = ike::Identity::Address(AddressOf(side, 0));
    return config;
  }

  crypto::SystemRandom random_;
  ike::Core core_;
};

void Exchange(base::Instant now, Side* a, Side* b) {
  std::deque<std::pair<ike::Path, base::Bytes>> to_a, to_b;
  bool any = true;
  while (any) {
    any = a->Run(now, &to_b);
    any = b->Run(now, &to_a) || any;
    for (auto& [path, bytes] : std::exchange(to_b, {})) {
      b->core().HandleDatagram(now, path, bytes);
      any = true;
    }
    for (auto& [path, bytes] : std::exchange(to_a, {})) {
      a->core().HandleDatagram(now, path, bytes);
      any = true;
    }
  }
}

void Establish(base::Instant now, uint32_t first, uint32_t count, Side* a,
               Side* b) {
  for (uint32_t n = first; n < first + count; ++n) {
    a->core().Establish(now, ike::PeerId(n));
    Exchange(now, a, b);
  }
}

int Main(int argc, char** argv) {
  const long count = argc == 2 ? std::atol(argv[1]) : 0;
  if (count < 1 || count > 60000) {
    std::fprintf(stderr, "usage: handshake_cores COUNT (1 to 60000)\n");
    return 2;
  }
  // The first ones fill caches that all later ones share.
  constexpr uint32_t kWarmUp = 100;
  const uint32_t total = static_cast<uint32_t>(count) + kWarmUp;
  const base::Instant now = absl::FromUnixSeconds(1'000'000);
  Side a(1), b(2);
  const double before_peers = ResidentSize();
  for (uint32_t n = 1; n <= total; ++n) {
    if (!a.core().UpsertPeer(now, MakePeer(1, n)).ok() ||
        !b.core().UpsertPeer(now, MakePeer(2, n)).ok()) {
      Die("a peer was refused");
    }
  }
  Establish(now, 1, kWarmUp, &a, &b);

  const double memory = ResidentSize();
  const double cpu = CpuSeconds();
  Establish(now, kWarmUp + 1, static_cast<uint32_t>(count), &a, &b);
  const double cpu_each = (CpuSeconds() - cpu) / static_cast<double>(count);
  const double memory_each =
      (ResidentSize() - memory) / (2 * static_cast<double>(count));

  for (Side* side : {&a, &b}) {
    const ike::CoreCounters& counters = side->core().counters();
    if (counters.ike_sas_established != total ||
        counters.child_sas_established != total ||
        side->core().IkeSas().size() != total) {
      Die("not every IKE_SA was established");
    }
  }
  std::printf(
      "{\"handshakes\": %ld, \"cpu_seconds\": %.9f, \"bytes\": %.0f, "
      "\"peer_bytes\": %.0f}\n",
      count, cpu_each, memory_each,
      (memory - before_peers) / (2 * static_cast<double>(total)));
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
