// Which pod has which addresses of this node. Values only: no files, no
// kernel, no time.
#ifndef ESPALIER_AGENT_IPAM_ALLOCATOR_H_
#define ESPALIER_AGENT_IPAM_ALLOCATOR_H_

#include <cstdint>
#include <deque>
#include <functional>
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
  // A part of a pool for owners whose traffic may be plaintext.
  struct Block {
    base::IpPrefix prefix;
    // Where the search for the next free address begins.
    base::IpAddress next;
    // When it was withdrawn, seconds since the Unix epoch; unset: published.
    std::optional<int64_t> withdrawn;
    friend bool operator==(const Block&, const Block&) = default;
  };
  std::vector<Pool> pools;
  std::vector<Block> blocks;
  std::vector<Lease> leases;  // by owner
  friend bool operator==(const State&, const State&) = default;
};

// Where an owner's addresses come from.
enum class AddressKind : uint8_t {
  kSealed,     // never out of a block, a withdrawn one included
  kPlaintext,  // out of a published block
};

// Not thread-safe.
//
// Addresses at which plaintext is allowed lie in blocks of their own (a /28, an
// IPv6 /124), which are published to peers: all other addresses are ESP or
// nothing to everybody. A block is claimed from the top of a pool when it is
// needed, and holds nothing else. Once it is withdrawn its addresses wait until
// it is retired: peers may not have heard of it yet.
//
// An address that was freed is not reused at once, because peers and
// connection tracking still speak of its last holder: fresh addresses go
// first, then the one freed longest ago. Only kMaxFreed wait in a pool; beyond
// that the longest-freed goes before a fresh one, which bounds the memory of
// an IPv6 pool.
class Allocator {
 public:
  static constexpr size_t kMaxFreed = 256;
  // So many blocks of a pool are looked at for a free one.
  static constexpr uint64_t kMaxBlocks = 4096;

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

  static int BlockLength(base::Family family) {
    return family == base::Family::kIpv4 ? 28 : 124;
  }

  // One address of each family that has a pool. AlreadyExists when the owner
  // has a lease; ResourceExhausted, naming the family and its pools, when one
  // is full; FailedPrecondition without pools. After an error nothing changed.
  absl::StatusOr<Lease> Allocate(const std::string& owner,
                                 std::map<std::string, std::string> labels,
                                 AddressKind kind = AddressKind::kSealed);

  // Takes over what is found to be in use. AlreadyExists when the owner or an
  // address is taken.
  absl::Status Adopt(Lease lease);

  // Withdraws the published blocks that hold an address of a lease for which
  // `may_be_plaintext` is false, and those that hold none. True when there were
  // such.
  bool WithdrawBlocks(const std::function<bool(const Lease&)>& may_be_plaintext,
                      int64_t now);
  // Makes the blocks that were withdrawn at `until` or earlier ordinary parts
  // of their pools. True when there were such.
  bool RetireBlocks(int64_t until);
  std::vector<base::IpPrefix> published_blocks() const;
  // In a block, and whether that is still published.
  bool InPublishedBlock(const base::IpAddress& address) const;
  bool InBlock(const base::IpAddress& address) const {
    return BlockOf(address) != nullptr;
  }

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

  using Block = State::Block;

  Pool* PoolOf(const base::IpAddress& address);
  const Block* BlockOf(const base::IpAddress& address) const;
  void SkipTaken(Pool* pool);
  std::optional<base::IpAddress> Take(base::Family family);
  std::optional<base::IpAddress> TakePlaintext(base::Family family);
  std::optional<base::IpAddress> TakeFrom(Block* block);
  bool IsEmpty(const base::IpPrefix& prefix) const;
  Block* ClaimBlock(base::Family family);
  void RestoreBlocks(const std::vector<Block>& blocks);
  void Return(const base::IpAddress& address, bool rest);
  std::string DescribePools(base::Family family) const;

  std::vector<Pool> pools_;
  std::vector<Block> blocks_;
  std::map<std::string, Lease> leases_;
  std::set<base::IpAddress> used_;
};

}  // namespace espalier::ipam

#endif  // ESPALIER_AGENT_IPAM_ALLOCATOR_H_
