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
            out.used_.contains(address)) {
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
  for (const auto& [owner, lease] : leases_) out.leases.push_back(lease);
  return out;
}

Allocator::Pool* Allocator::PoolOf(const IpAddress& address) {
  for (Pool& pool : pools_) {
    if (pool.prefix.Contains(address)) return &pool;
  }
  return nullptr;
}

// Leaves `fresh` at an address that is neither used nor resting, or unset.
// Each step passes one that is, so it ends after as many as there are.
void Allocator::SkipTaken(Pool* pool) {
  while (pool->fresh.has_value() && (used_.contains(*pool->fresh) ||
                                     pool->freed_set.contains(*pool->fresh))) {
    if (*pool->fresh == pool->last) {
      pool->fresh.reset();
    } else {
      pool->fresh = pool->fresh->Plus(1);
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
    const std::string& owner, std::map<std::string, std::string> labels) {
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
    const std::optional<IpAddress> address = Take(family);
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
