#include "agent/mesh/reqid_table.h"

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace espalier::mesh {
namespace {

ike::Identity Fqdn(const std::string& name) {
  return {ike::Identity::Type::kFqdn, base::Bytes(name.begin(), name.end())};
}

// Two names whose numbers are the same; there must be some among a few
// thousand (the birthday paradox over 2^20).
std::pair<ike::Identity, ike::Identity> Colliding() {
  std::map<uint32_t, ike::Identity> seen;
  for (int i = 0; i < 100000; ++i) {
    const ike::Identity identity = Fqdn(absl::StrCat("node-", i));
    const auto [it, added] =
        seen.try_emplace(ReqidTable::HashOf(identity), identity);
    if (!added) return {it->second, identity};
  }
  ADD_FAILURE() << "no collision";
  return {};
}

TEST(ReqidTableTest, NumbersAreOwnedUniqueAndTheSameInEachProcess) {
  std::vector<ike::Identity> identities;
  for (int i = 0; i < 5000; ++i) {
    identities.push_back(Fqdn(absl::StrCat("node-", i)));
  }
  ReqidTable table, again;
  table.SetPeers(identities);
  again.SetPeers({identities.rbegin(), identities.rend()});
  std::set<base::Reqid> numbers;
  for (const ike::Identity& identity : identities) {
    const base::Reqid reqid = table.Get(identity);
    EXPECT_GE(reqid.value(), base::kOwnedReqidFirst);
    EXPECT_LE(reqid.value(), base::kOwnedReqidLast);
    EXPECT_TRUE(numbers.insert(reqid).second);
    EXPECT_EQ(again.Get(identity), reqid);
  }
  // FNV-1a, fixed for good: SAs of an older version are found by it.
  EXPECT_EQ(ReqidTable::HashOf(Fqdn("node-a")), 0x77aabu)
      << std::hex << ReqidTable::HashOf(Fqdn("node-a"));
}

TEST(ReqidTableTest, APeerKeepsItsNumberWhenItsRivalComesAndGoes) {
  const auto [one, other] = Colliding();
  ReqidTable table;
  table.SetPeers({other});
  const base::Reqid reqid = table.Get(other);
  table.SetPeers({one, other});
  EXPECT_EQ(table.Get(other), reqid);
  EXPECT_NE(table.Get(one), reqid);
  table.SetPeers({other});
  EXPECT_EQ(table.Get(other), reqid);
}

}  // namespace
}  // namespace espalier::mesh
