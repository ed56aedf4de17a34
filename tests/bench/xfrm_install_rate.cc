// How many SAs and policies a second the kernel driver installs, against
// `ip -batch` with the same SAs and policies; both in namespaces of their own
// in one boot, in turn, each time from nothing. Run in the guest by
// kernel_bench.py; exit code 1 when `ip` was faster.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/crypto/random.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "tests/support/poll_loop.h"

namespace espalier::datapath {
namespace {

constexpr int kPeers = 500;
constexpr int kRounds = 3;
// As many requests under way as a busy agent has.
constexpr int kWindow = 64;
constexpr uint32_t kFirstReqid = base::kOwnedReqidFirst + 1;

double Seconds(const std::function<void()>& action) {
  const auto begin = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

void Must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "xfrm_install_rate: %s failed\n", what);
  std::exit(2);
}

base::IpAddress PeerAddress(int peer) {
  return base::IpAddress::V4(
      {198, 18, static_cast<uint8_t>(peer >> 8), static_cast<uint8_t>(peer)});
}
base::IpPrefix PeerPrefix(int peer) {
  return *base::IpPrefix::Parse(
      absl::StrFormat("10.%d.%d.0/24", 1 + (peer >> 8), peer & 0xff));
}
const base::IpAddress kLocal = base::IpAddress::V4({192, 0, 2, 1});
const char kLocalPrefix[] = "10.0.0.0/24";

base::EspSa Sa(int peer, base::Direction direction) {
  const bool in = direction == base::Direction::kInbound;
  base::EspSa sa;
  sa.direction = direction;
  sa.spi = base::Spi(0x1000u + static_cast<uint32_t>(2 * peer + in));
  sa.outer_source = in ? PeerAddress(peer) : kLocal;
  sa.outer_destination = in ? kLocal : PeerAddress(peer);
  sa.encryption_key = base::SecretBytes(
      base::Bytes(sa.suite.encryption_key_size(), static_cast<uint8_t>(peer)));
  sa.reqid = base::Reqid(kFirstReqid + static_cast<uint32_t>(peer));
  return sa;
}

struct Rates {
  double sas = 0, policies = 0;
};

// Starts `count` calls, at most kWindow under way.
double RunAll(testing::PollLoop* loop, int count,
              const std::function<void(int, Done)>& call) {
  int started = 0, ended = 0;
  return Seconds([&] {
    Must(loop->RunUntil(
             [&] {
               while (started < count && started - ended < kWindow) {
                 call(started++, [&](const absl::Status& status) {
                   Must(status.ok(), status.ToString().c_str());
                   ++ended;
                 });
               }
               return ended == count;
             },
             absl::Minutes(5)),
         "the driver");
  });
}

Rates Driver() {
  testing::PollLoop loop;
  crypto::SystemRandom random;
  KernelDatapath datapath(&loop, &random, {.local_addresses = {kLocal}});
  bool ready = false;
  datapath.SetEvents({.ready = [&] { ready = true; }});
  const absl::Status started = datapath.Start();
  Must(started.ok(), started.ToString().c_str());
  Must(loop.RunUntil([&] { return ready; }), "the driver's start");
  Rates rates;
  rates.sas =
      2 * kPeers / RunAll(&loop, 2 * kPeers, [&](int i, Done done) {
        datapath.InstallSa(Sa(i / 2, i % 2 == 0 ? base::Direction::kInbound
                                                : base::Direction::kOutbound),
                           std::move(done));
      });
  rates.policies =
      3 * kPeers / RunAll(&loop, kPeers, [&](int i, Done done) {
        datapath.SetPolicy(
            {.reqid = base::Reqid(kFirstReqid + static_cast<uint32_t>(i)),
             .local = {*base::IpPrefix::Parse(kLocalPrefix)},
             .remote = {PeerPrefix(i)},
             .outer_source = kLocal,
             .outer_destination = PeerAddress(i)},
            std::move(done));
      });
  return rates;
}

double Batch(const std::string& path) {
  return Seconds([&] {
    Must(std::system(absl::StrCat("ip -batch ", path).c_str()) == 0,
         "ip -batch");
  });
}

Rates Ip() {
  {
    std::ofstream sas("/tmp/sas.batch");
    std::ofstream policies("/tmp/policies.batch");
    for (int i = 0; i < kPeers; ++i) {
      const uint32_t reqid = kFirstReqid + static_cast<uint32_t>(i);
      const std::string peer = PeerAddress(i).ToString();
      const std::string local = kLocal.ToString();
      for (const bool in : {true, false}) {
        sas << absl::StrFormat(
            "xfrm state add src %s dst %s proto esp spi 0x%x reqid %u mode "
            "tunnel replay-window %d flag af-unspec esn aead "
            "rfc4106(gcm(aes)) 0x%s 128 if_id 0x45500001\n",
            in ? peer : local, in ? local : peer, 0x1000 + 2 * i + in, reqid,
            in ? 4096 : 1,
            base::ToHex(base::Bytes(36, static_cast<uint8_t>(i))));
      }
      for (const char* way : {"in", "fwd", "out"}) {
        const bool out = way[0] == 'o';
        policies << absl::StrFormat(
            "xfrm policy add src %s dst %s dir %s priority 283000 tmpl src %s "
            "dst %s proto esp reqid %u mode tunnel if_id 0x45500001\n",
            out ? kLocalPrefix : PeerPrefix(i).ToString(),
            out ? PeerPrefix(i).ToString() : kLocalPrefix, way,
            out ? local : peer, out ? peer : local, reqid);
      }
    }
  }
  Rates rates;
  rates.sas = 2 * kPeers / Batch("/tmp/sas.batch");
  rates.policies = 3 * kPeers / Batch("/tmp/policies.batch");
  return rates;
}

int Main() {
  // Modules and self-tests of the cipher are nobody's to pay.
  Must(unshare(CLONE_NEWNET) == 0, "unshare");
  Driver();
  std::vector<Rates> driver, ip;
  for (int round = 0; round < kRounds; ++round) {
    Must(unshare(CLONE_NEWNET) == 0, "unshare");
    driver.push_back(Driver());
    Must(unshare(CLONE_NEWNET) == 0, "unshare");
    ip.push_back(Ip());
  }
  const auto best = [](const std::vector<Rates>& all, double Rates::* what) {
    double value = 0;
    for (const Rates& rates : all) value = std::max(value, rates.*what);
    return value;
  };
  bool good = true;
  std::printf("installed a second    Espalier  ip -batch  ratio (must 1.00)\n");
  for (const auto& [name, what] : {std::pair("SAs", &Rates::sas),
                                   std::pair("policies", &Rates::policies)}) {
    const double ours = best(driver, what), theirs = best(ip, what);
    std::printf("%-20s %9.0f %10.0f  %.2f\n", name, ours, theirs,
                ours / theirs);
    good = good && ours >= theirs;
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace espalier::datapath

int main() { return espalier::datapath::Main(); }
