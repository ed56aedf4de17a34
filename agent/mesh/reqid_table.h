// A number for each peer that SAs and policies of it carry.
#ifndef ESPALIER_AGENT_MESH_REQID_TABLE_H_
#define ESPALIER_AGENT_MESH_REQID_TABLE_H_

#include <map>
#include <vector>

#include "agent/base/security_association.h"
#include "agent/ike/config.h"

namespace espalier::mesh {

// A reqid is the hash of the identity, so that a restarted agent finds the
// same one; the next free one where two meet. A given set of peers always gets
// the same numbers, and a peer keeps its own while this table lives. When
// colliding peers come or go over a restart a number may change its owner:
// whoever adopts an SA must compare its addresses too.
class ReqidTable {
 public:
  // Gives a number to each identity that has none, and forgets the others.
  void SetPeers(const std::vector<ike::Identity>& identities);
  // Of a known identity.
  base::Reqid Get(const ike::Identity& identity) const {
    return reqids_.at(identity);
  }

  // Where the search for a free number begins. Public for tests.
  static uint32_t HashOf(const ike::Identity& identity);

 private:
  std::map<ike::Identity, base::Reqid> reqids_;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_REQID_TABLE_H_
