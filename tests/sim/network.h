// The wire between simulated nodes: loss, duplication, delay (and with it
// reordering), partition, NAT with rebinding.
#ifndef ESPALIER_TESTS_SIM_NETWORK_H_
#define ESPALIER_TESTS_SIM_NETWORK_H_

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "agent/base/bytes.h"
#include "agent/ike/action.h"
#include "tests/sim/record.h"
#include "tests/sim/scheduler.h"

namespace espalier::sim {

struct NetworkFaults {
  double loss = 0;
  double duplicate = 0;
  absl::Duration min_delay = absl::Milliseconds(1);
  absl::Duration max_delay = absl::Milliseconds(3);
};

class Network {
 public:
  using Receiver = std::function<void(const ike::Path&, const base::Bytes&)>;

  Network(Scheduler* scheduler, Chance* chance, Record* record)
      : scheduler_(scheduler), chance_(chance), record_(record) {}

  void Attach(const base::IpAddress& address, Receiver receiver);
  void set_faults(const NetworkFaults& faults) { faults_ = faults; }
  void set_max_datagrams_per_second(int max) { max_per_second_ = max; }
  // Nothing passes between the two, in both directions.
  void Cut(const base::IpAddress& a, const base::IpAddress& b, bool cut);
  // `inside` is seen by all others as `outside`, with ports of the NAT's
  // choice for each destination; only answers come in.
  void PlaceBehindNat(const base::IpAddress& inside,
                      const base::IpAddress& outside);
  // The NAT forgets: the next datagram of `inside` gets a new port.
  void Rebind(const base::IpAddress& inside);

  // From the socket path.local to path.remote.
  void Send(const ike::Path& path, const base::Bytes& bytes);
  // From anyone: nothing of `source` need exist.
  void Inject(const base::Endpoint& source, const base::Endpoint& target,
              const base::Bytes& bytes) {
    Deliver(source, target, bytes);
  }
  // When an ESP packet sent now arrives; nullopt: the two are cut apart. ESP
  // is not subject to loss, so that a packet that is lost was lost by us.
  std::optional<absl::Duration> EspDelay(const base::IpAddress& from,
                                         const base::IpAddress& to);

  uint64_t sent() const { return sent_; }

 private:
  struct Mapping {
    base::Endpoint inside, remote;
    friend auto operator<=>(const Mapping&, const Mapping&) = default;
  };
  void Deliver(const base::Endpoint& source, const base::Endpoint& target,
               const base::Bytes& bytes);
  base::Endpoint Translate(const ike::Path& path);
  bool IsCut(const base::IpAddress& a, const base::IpAddress& b) const;
  void CountForStorm(const ike::Path& path);

  Scheduler* const scheduler_;
  Chance* const chance_;
  Record* const record_;
  NetworkFaults faults_;
  std::map<base::IpAddress, Receiver> receivers_;
  std::set<std::pair<base::IpAddress, base::IpAddress>> cuts_;
  std::map<base::IpAddress, base::IpAddress> outside_of_, inside_of_;
  std::map<Mapping, uint16_t> nat_ports_;
  uint16_t next_nat_port_ = 20000;
  uint64_t sent_ = 0;
  // Datagrams in the second that `second_` is, by sender and receiver.
  int max_per_second_ = 40;
  int64_t second_ = 0;
  std::map<std::pair<base::IpAddress, base::IpAddress>, int> in_second_;
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_NETWORK_H_
