#include "agent/ipam/allocator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/base/status_macros.h"

namespace espalier::ipam {
namespace {

using base::Family;
using base::IpAddress;
using base::IpPrefix;

constexpr const char* FamilyName(Family family) {
  return family == Family::kIpv4 ? "IPv4" : "IPv6";
}

// How many addresses are never handed out.
constexpr uint64_t Reserved(Family family) {
  return family == Family::kIpv4 ? 3 : 2;
}

uint64_t Capacity(const IpPrefix& prefix) {
  const int host_bits = prefix.address().bits() - prefix.length();
  return host_bits >= 63
             ? uint64_t{1} << 63
             : (uint64_t{1} << host_bits) - Reserved(prefix.family());
}

IpAddress Below(const IpAddress& address, uint64_t n) {
  base::Bytes octets(address.bytes().begin(), address.bytes().end());
  // Borrows like a sum carries, from the last octet on.
  for (size_t i = octets.size(); i-- > 0 && n != 0;) {
    const uint64_t low = n & 0xff;
    n = (n >> 8) + (octets[i] < low ? 1 : 0);
    octets[i] = static_cast<uint8_t>(octets[i] - low);
  }
  return *IpAddress::FromBytes(octets);
}

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return std::min(a + b, uint64_t{1} << 63);
}

}  // namespace

absl::StatusOr<Allocator::Pool> Allocator::MakePool(const IpPrefix& prefix) {
  if (prefix.address().bits() - prefix.length() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pod CIDR ", prefix.ToString(),
        " is too small: an IPv4 prefix of /30 "
        "or shorter, or an IPv6 prefix of /126 or shorter, was expected"));
  }
  Pool pool;
  pool.prefix = prefix;
  pool.first = prefix.First().Plus(2);
  pool.last = prefix.Last();
  if (prefix.family() == Family::kIpv4) {
    // All below the broadcast address: its last bit turned off.
    base::Bytes octets(pool.last.bytes().begin(), pool.last.bytes().end());
    octets.back() &= 0xfe;
    ESPALIER_ASSIGN_OR_RETURN(pool.last, IpAddress::FromBytes(octets));
  }
  pool.fresh = pool.first;
  pool.capacity = Capacity(prefix);
  return pool;
}

absl::StatusOr<Allocator> Allocator::Create(
    const std::vector<IpPrefix>& pools) {
  Allocator out;
  for (const IpPrefix& prefix : pools) {
    for (const Pool& other : out.pools_) {
      if (prefix.Overlaps(other.prefix)) {
        return absl::InvalidArgumentError(
            absl::StrCat("pod CIDRs ", other.prefix.ToString(), " and ",
                         prefix.ToString(), " overlap"));
      }
    }
    ESPALIER_ASSIGN_OR_RETURN(Pool pool, MakePool(prefix));
    out.pools_.push_back(std::move(pool));
  }
  return out;
}

absl::StatusOr<Allocator> Allocator::Restore(const std::vector<IpPrefix>& pools,
                                             const State& state) {
  ESPALIER_ASSIGN_OR_RETURN(Allocator out, Create(pools));
  for (const Lease& lease : state.leases) {
    ESPALIER_RETURN_IF_ERROR(out.Adopt(lease));
  }
  out.RestoreBlocks(state.blocks);
  for (const State::Pool& saved : state.pools) {
    for (Pool& pool : out.pools_) {
      if (pool.prefix != saved.prefix) continue;
      // One that lies outside was never this pool's.
      if (!saved.fresh.has_value()) {
        pool.fresh.reset();
      } else if (*saved.fresh >= pool.first && *saved.fresh <= pool.last) {
        pool.fresh = saved.fresh;
      }
      for (const IpAddress& address : saved.freed) {
        if (address < pool.first || address > pool.last ||
            out.used_.contains(address) || out.InBlock(address)) {
          continue;
        }
        if (pool.freed_set.insert(address).second) {
          pool.freed.push_back(address);
        }
      }
    }
  }
  return out;
}

State Allocator::ToState() const {
  State out;
  for (const Pool& pool : pools_) {
    out.pools.push_back(
        {pool.prefix, pool.fresh, {pool.freed.begin(), pool.freed.end()}});
  }
  out.blocks = blocks_;
  for (const auto& [owner, lease] : leases_) out.leases.push_back(lease);
  return out;
}

Allocator::Pool* Allocator::PoolOf(const IpAddress& address) {
  for (Pool& pool : pools_) {
    if (pool.prefix.Contains(address)) return &pool;
  }
  return nullptr;
}

// Leaves `fresh` at an address that is neither used nor resting nor in a block,
// or unset. Each step passes one that is, so it ends after as many as there
// are.
void Allocator::SkipTaken(Pool* pool) {
  while (pool->fresh.has_value()) {
    const Block* block = BlockOf(*pool->fresh);
    if (block == nullptr && !used_.contains(*pool->fresh) &&
        !pool->freed_set.contains(*pool->fresh)) {
      return;
    }
    const IpAddress passed =
        block == nullptr ? *pool->fresh : block->prefix.Last();
    if (passed >= pool->last) {
      pool->fresh.reset();
    } else {
      pool->fresh = passed.Plus(1);
    }
  }
}

std::optional<IpAddress> Allocator::Take(Family family) {
  for (Pool& pool : pools_) {
    if (pool.prefix.family() != family) continue;
    SkipTaken(&pool);
    std::optional<IpAddress> address;
    if (pool.fresh.has_value() && pool.freed.size() <= kMaxFreed) {
      address = pool.fresh;
    } else if (!pool.freed.empty()) {
      address = pool.freed.front();
      pool.freed.pop_front();
      pool.freed_set.erase(*address);
    } else {
      continue;
    }
    used_.insert(*address);
    ++pool.used;
    SkipTaken(&pool);
    return address;
  }
  return std::nullopt;
}

void Allocator::Return(const IpAddress& address, bool rest) {
  used_.erase(address);
  Pool* pool = PoolOf(address);
  if (pool == nullptr) return;
  --pool->used;
  // A block goes round all its addresses before it hands one out again.
  if (InBlock(address)) return;
  // A reserved address can have been adopted; it stays reserved.
  if (address < pool->first || address > pool->last) return;
  if (!pool->freed_set.insert(address).second) return;
  if (rest) {
    pool->freed.push_back(address);
  } else {
    pool->freed.push_front(address);
  }
}

std::string Allocator::DescribePools(Family family) const {
  std::vector<std::string> out;
  for (const Pool& pool : pools_) {
    if (pool.prefix.family() != family) continue;
    out.push_back(absl::StrCat(pool.prefix.ToString(), " (", pool.used, " of ",
                               pool.capacity, " used)"));
  }
  return absl::StrJoin(out, ", ");
}

absl::StatusOr<Lease> Allocator::Allocate(
    const std::string& owner, std::map<std::string, std::string> labels,
    AddressKind kind) {
  if (leases_.contains(owner)) {
    return absl::AlreadyExistsError(absl::StrCat(owner, " has addresses"));
  }
  if (pools_.empty()) {
    return absl::FailedPreconditionError("this node has no pod CIDR");
  }
  Lease lease{owner, {}, std::move(labels)};
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    const bool wanted = std::any_of(
        pools_.begin(), pools_.end(),
        [family](const Pool& pool) { return pool.prefix.family() == family; });
    if (!wanted) continue;
    const std::optional<IpAddress> address =
        kind == AddressKind::kSealed ? Take(family) : TakePlaintext(family);
    if (!address.has_value()) {
      for (const IpAddress& taken : lease.addresses) Return(taken, false);
      return absl::ResourceExhaustedError(
          absl::StrCat("no free ", FamilyName(family), " address in ",
                       DescribePools(family)));
    }
    lease.addresses.push_back(*address);
  }
  leases_.emplace(owner, lease);
  return lease;
}

// --- blocks ---

const Allocator::Block* Allocator::BlockOf(const IpAddress& address) const {
  for (const Block& block : blocks_) {
    if (block.prefix.Contains(address)) return &block;
  }
  return nullptr;
}

bool Allocator::InPublishedBlock(const IpAddress& address) const {
  const Block* block = BlockOf(address);
  return block != nullptr && !block->withdrawn;
}

std::vector<IpPrefix> Allocator::published_blocks() const {
  std::vector<IpPrefix> out;
  for (const Block& block : blocks_) {
    if (!block.withdrawn) out.push_back(block.prefix);
  }
  std::ranges::sort(out);
  return out;
}

bool Allocator::IsEmpty(const IpPrefix& prefix) const {
  const auto at = used_.lower_bound(prefix.First());
  return at == used_.end() || *at > prefix.Last();
}

std::optional<IpAddress> Allocator::TakeFrom(Block* block) {
  Pool* pool = PoolOf(block->prefix.First());
  if (pool == nullptr) return std::nullopt;
  IpAddress at = block->next;
  do {
    const IpAddress after =
        at == block->prefix.Last() ? block->prefix.First() : at.Plus(1);
    if (at >= pool->first && at <= pool->last && !used_.contains(at)) {
      block->next = after;
      used_.insert(at);
      ++pool->used;
      return at;
    }
    at = after;
  } while (at != block->next);
  return std::nullopt;
}

std::optional<IpAddress> Allocator::TakePlaintext(Family family) {
  for (Block& block : blocks_) {
    if (block.prefix.family() != family || block.withdrawn) continue;
    if (const auto address = TakeFrom(&block)) return address;
  }
  Block* block = ClaimBlock(family);
  return block == nullptr ? std::nullopt : TakeFrom(block);
}

// One that was withdrawn and holds nobody, else the highest that does.
Allocator::Block* Allocator::ClaimBlock(Family family) {
  for (Block& block : blocks_) {
    if (block.prefix.family() == family && block.withdrawn &&
        IsEmpty(block.prefix)) {
      block.withdrawn.reset();
      return &block;
    }
  }
  const int length = BlockLength(family);
  for (Pool& pool : pools_) {
    // The lowest block, with the tunnel's address, is never one of these.
    if (pool.prefix.family() != family || pool.prefix.length() >= length) {
      continue;
    }
    const int bits = std::min(length - pool.prefix.length(), 62);
    const uint64_t count = uint64_t{1} << bits;
    const IpPrefix top = *IpPrefix::Make(pool.prefix.Last(), length);
    for (uint64_t n = 0; n + 1 < count && n < kMaxBlocks; ++n) {
      const IpAddress at = Below(top.First(), 16 * n);
      const IpPrefix prefix = *IpPrefix::Make(at, length);
      if (!IsEmpty(prefix) || BlockOf(at) != nullptr) continue;
      std::erase_if(pool.freed, [&](const IpAddress& address) {
        return prefix.Contains(address);
      });
      std::erase_if(pool.freed_set, [&](const IpAddress& address) {
        return prefix.Contains(address);
      });
      blocks_.push_back({prefix, prefix.First(), std::nullopt});
      return &blocks_.back();
    }
  }
  return nullptr;
}

bool Allocator::WithdrawBlocks(
    const std::function<bool(const Lease&)>& may_be_plaintext, int64_t now) {
  bool changed = false;
  for (Block& block : blocks_) {
    if (block.withdrawn) continue;
    const bool holds_other = std::ranges::any_of(leases_, [&](const auto& at) {
      const Lease& lease = at.second;
      return std::ranges::any_of(lease.addresses,
                                 [&](const IpAddress& address) {
                                   return block.prefix.Contains(address);
                                 }) &&
             !may_be_plaintext(lease);
    });
    if (!holds_other && !IsEmpty(block.prefix)) continue;
    block.withdrawn = now;
    changed = true;
  }
  return changed;
}

bool Allocator::RetireBlocks(int64_t until) {
  std::vector<IpPrefix> retired;
  std::erase_if(blocks_, [&](const Block& block) {
    if (!block.withdrawn || *block.withdrawn > until) return false;
    retired.push_back(block.prefix);
    return true;
  });
  for (const IpPrefix& prefix : retired) {
    Pool* pool = PoolOf(prefix.First());
    if (pool == nullptr) continue;
    // What the fresh ones have not come to yet, they will.
    IpAddress at = prefix.First();
    for (;; at = at.Plus(1)) {
      const bool passed = !pool->fresh || at < *pool->fresh;
      if (passed && at >= pool->first && at <= pool->last &&
          !used_.contains(at) && pool->freed_set.insert(at).second) {
        pool->freed.push_back(at);
      }
      if (at == prefix.Last()) break;
    }
  }
  return !retired.empty();
}

void Allocator::RestoreBlocks(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) {
    const Pool* pool = PoolOf(block.prefix.First());
    const bool right =
        pool != nullptr && pool->prefix.Contains(block.prefix) &&
        block.prefix.length() == BlockLength(block.prefix.family()) &&
        !block.prefix.Contains(pool->prefix.First()) &&
        BlockOf(block.prefix.First()) == nullptr;
    if (!right) continue;
    blocks_.push_back(block);
    if (!block.prefix.Contains(block.next)) {
      blocks_.back().next = block.prefix.First();
    }
  }
}

absl::Status Allocator::Adopt(Lease lease) {
  if (leases_.contains(lease.owner)) {
    return absl::AlreadyExistsError(
        absl::StrCat(lease.owner, " has addresses"));
  }
  std::set<IpAddress> distinct;
  for (const IpAddress& address : lease.addresses) {
    if (used_.contains(address) || !distinct.insert(address).second) {
      return absl::AlreadyExistsError(absl::StrCat(
          "address ", address.ToString(), " of ", lease.owner, " is taken"));
    }
  }
  for (const IpAddress& address : lease.addresses) {
    used_.insert(address);
    Pool* pool = PoolOf(address);
    if (pool == nullptr) continue;
    ++pool->used;
    if (pool->freed_set.erase(address) > 0) {
      std::erase(pool->freed, address);
    }
  }
  const std::string owner = lease.owner;
  leases_.emplace(owner, std::move(lease));
  return absl::OkStatus();
}

bool Allocator::Release(const std::string& owner) {
  const auto it = leases_.find(owner);
  if (it == leases_.end()) return false;
  for (const IpAddress& address : it->second.addresses) Return(address, true);
  leases_.erase(it);
  return true;
}

void Allocator::Forget(const std::string& owner) {
  const auto it = leases_.find(owner);
  if (it == leases_.end()) return;
  for (const IpAddress& address : it->second.addresses) Return(address, false);
  leases_.erase(it);
}

bool Allocator::SetLabel(const std::string& owner, const std::string& key,
                         const std::string& value) {
  const auto it = leases_.find(owner);
  if (it == leases_.end()) return false;
  it->second.labels[key] = value;
  return true;
}

const Lease* Allocator::Find(const std::string& owner) const {
  const auto it = leases_.find(owner);
  return it == leases_.end() ? nullptr : &it->second;
}

std::vector<IpPrefix> Allocator::prefixes() const {
  std::vector<IpPrefix> out;
  for (const Pool& pool : pools_) out.push_back(pool.prefix);
  return out;
}

Allocator::Usage Allocator::GetUsage(Family family) const {
  Usage out;
  for (const Pool& pool : pools_) {
    if (pool.prefix.family() != family) continue;
    out.capacity = SaturatingAdd(out.capacity, pool.capacity);
    out.used = SaturatingAdd(out.used, pool.used);
  }
  return out;
}

}  // namespace espalier::ipam
