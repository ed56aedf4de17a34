// Which pod has which addresses of this node. Values only: no files, no
// kernel, no time.
#ifndef ESPALIER_AGENT_IPAM_ALLOCATOR_H_
#define ESPALIER_AGENT_IPAM_ALLOCATOR_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"

namespace espalier::ipam {

// The addresses of one owner, at most one a family.
struct Lease {
  std::string owner;
  std::vector<base::IpAddress> addresses;
  // The owner's own; kept with the lease.
  std::map<std::string, std::string> labels;
  friend bool operator==(const Lease&, const Lease&) = default;
};

// What a checkpoint holds.
struct State {
  struct Pool {
    base::IpPrefix prefix;
    // The lowest address never handed out; nullopt when there is none left.
    std::optional<base::IpAddress> fresh;
    std::vector<base::IpAddress> freed;  // longest ago first
    friend bool operator==(const Pool&, const Pool&) = default;
  };
  std::vector<Pool> pools;
  std::vector<Lease> leases;  // by owner
  friend bool operator==(const State&, const State&) = default;
};

// Not thread-safe.
//
// An address that was freed is not reused at once, because peers and
// connection tracking still speak of its last holder: fresh addresses go
// first, then the one freed longest ago. Only kMaxFreed wait in a pool; beyond
// that the longest-freed goes before a fresh one, which bounds the memory of
// an IPv6 pool.
class Allocator {
 public:
  static constexpr size_t kMaxFreed = 256;

  // The node's pod CIDRs, in order of preference; none may overlap another,
  // and each must have room (an IPv4 prefix of /30 or shorter, an IPv6 one of
  // /126 or shorter). Network, first and IPv4 broadcast address are never
  // handed out: the first is the tunnel interface's.
  static absl::StatusOr<Allocator> Create(
      const std::vector<base::IpPrefix>& pools);

  // Goes on where `state` was, with the pools of now: leases stay whatever
  // their pools, and what a changed pool knew is dropped. InvalidArgument when
  // the state contradicts itself (an address twice).
  static absl::StatusOr<Allocator> Restore(
      const std::vector<base::IpPrefix>& pools, const State& state);

  State ToState() const;

  // One address of each family that has a pool. AlreadyExists when the owner
  // has a lease; ResourceExhausted, naming the family and its pools, when one
  // is full; FailedPrecondition without pools. After an error nothing changed.
  absl::StatusOr<Lease> Allocate(const std::string& owner,
                                 std::map<std::string, std::string> labels);

  // Takes over what is found to be in use. AlreadyExists when the owner or an
  // address is taken.
  absl::Status Adopt(Lease lease);

  // False when the owner has none.
  bool Release(const std::string& owner);

  // Undoes an Allocate whose addresses nobody has seen: they need no rest.
  void Forget(const std::string& owner);

  // False when the owner has none.
  bool SetLabel(const std::string& owner, const std::string& key,
                const std::string& value);

  // nullptr when the owner has none. Valid until the next change.
  const Lease* Find(const std::string& owner) const;
  const std::map<std::string, Lease>& leases() const { return leases_; }
  std::vector<base::IpPrefix> prefixes() const;

  // Of all pools of a family; saturates at 2^63.
  struct Usage {
    uint64_t capacity = 0;
    uint64_t used = 0;
  };
  Usage GetUsage(base::Family family) const;

 private:
  struct Pool {
    base::IpPrefix prefix;
    base::IpAddress first;  // that may be handed out
    base::IpAddress last;
    std::optional<base::IpAddress> fresh;
    std::deque<base::IpAddress> freed;
    std::set<base::IpAddress> freed_set;
    uint64_t capacity = 0;
    uint64_t used = 0;
  };

  static absl::StatusOr<Pool> MakePool(const base::IpPrefix& prefix);

  Pool* PoolOf(const base::IpAddress& address);
  void SkipTaken(Pool* pool);
  std::optional<base::IpAddress> Take(base::Family family);
  void Return(const base::IpAddress& address, bool rest);
  std::string DescribePools(base::Family family) const;

  std::vector<Pool> pools_;
  std::map<std::string, Lease> leases_;
  std::set<base::IpAddress> used_;
};

}  // namespace espalier::ipam

#endif  // ESPALIER_AGENT_IPAM_ALLOCATOR_H_
