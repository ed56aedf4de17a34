// The one interface of all datapaths (drivers: user/, kernel/, fake/).
//
// Every call is idempotent and may fail; the tracker (tracker.h) keeps what is
// desired and retries. While the backend is away, calls end in Unavailable. All
// calls and callbacks are on the loop thread.
#ifndef ESPALIER_AGENT_DATAPATH_DATAPATH_H_
#define ESPALIER_AGENT_DATAPATH_DATAPATH_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"

namespace espalier::datapath {

using SaKey = base::SaKey;
using Policy = base::TunnelPolicy;
using InstalledSa = base::InstalledSa;

// Called on the loop thread.
struct Events {
  // The backend answers (again). What it already holds, left by an earlier
  // agent, is listed by ListSas and ListPolicies and may be adopted.
  std::function<void()> ready;
  std::function<void(const SaKey&, bool hard)> expired;
  std::function<void(const SaKey&)> inbound_seen;  // after WatchInbound
  std::function<void(base::Reqid)> acquire;        // traffic without an SA
  // Somebody else removed something of what is installed: worth a look.
  std::function<void()> disturbed;
  // The driver lost its backend (espd died): everything installed is gone and
  // no key may be installed again; SAs have to be negotiated anew.
  std::function<void(const absl::Status&)> lost;
};

using Done = std::function<void(absl::Status)>;

class Datapath {
 public:
  virtual ~Datapath() = default;

  virtual void SetEvents(Events events) = 0;

  // A key is installed once, ever: an SA that is already there under this key
  // is AlreadyExists, whatever its contents.
  virtual void InstallSa(base::EspSa sa, Done done) = 0;
  // OK when it is already gone.
  virtual void RemoveSa(const SaKey& key, Done done) = 0;
  virtual void WatchInbound(const SaKey& key) = 0;

  // Replaces the policy of that reqid.
  virtual void SetPolicy(const Policy& policy, Done done) = 0;
  virtual void RemovePolicy(base::Reqid reqid, Done done) = 0;

  // All SAs of Espalier's own (reqid range), with counters.
  virtual void ListSas(
      std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done) = 0;
  virtual void ListPolicies(
      std::function<void(absl::StatusOr<std::vector<Policy>>)> done) = 0;

  // The interface that routes to peers' pod CIDRs point at.
  virtual std::string tunnel_interface() const = 0;
  virtual std::string name() const = 0;  // "user", "kernel", "fake"
};

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_DATAPATH_H_
