// Which inner destinations go to which peer.
#ifndef ESPALIER_AGENT_ESP_POLICY_TABLE_H_
#define ESPALIER_AGENT_ESP_POLICY_TABLE_H_

#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"
#include "agent/esp/inner_packet.h"

namespace espalier::esp {

class PolicyTable {
 public:
  // Replaces the policy of that reqid. ResourceExhausted past kMaxPolicies.
  absl::Status Set(base::TunnelPolicy policy);
  // False when there is none.
  bool Remove(base::Reqid reqid);

  // The policy whose remote prefix is the longest that holds the packet's
  // destination, and which has a local prefix that holds its source. A longer
  // prefix whose local side does not fit hides none of the shorter ones.
  std::optional<base::Reqid> Find(const InnerPacket& inner) const;

  const std::map<base::Reqid, base::TunnelPolicy>& policies() const {
    return policies_;
  }
  uint64_t generation() const { return generation_; }

  static constexpr size_t kMaxPolicies = 16384;

 private:
  struct Hash {
    size_t operator()(const base::IpPrefix& prefix) const {
      return absl::Hash<base::IpPrefix>()(prefix);
    }
  };
  void Index(const base::TunnelPolicy& policy);
  void RemoveIndex(const base::TunnelPolicy& policy);

  std::map<base::Reqid, base::TunnelPolicy> policies_;
  std::unordered_map<base::IpPrefix, std::vector<base::Reqid>, Hash> by_remote_;
  // Prefix lengths in use with their number of prefixes, longest first.
  std::map<int, size_t, std::greater<int>> lengths_v4_, lengths_v6_;
  uint64_t generation_ = 1;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_POLICY_TABLE_H_
