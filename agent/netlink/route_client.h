// The calls that Espalier makes of rtnetlink, over any Channel.
#ifndef ESPALIER_AGENT_NETLINK_ROUTE_CLIENT_H_
#define ESPALIER_AGENT_NETLINK_ROUTE_CLIENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"
#include "agent/netlink/channel.h"
#include "agent/netlink/route_types.h"

namespace espalier::netlink {

// Each call is one round trip and has Channel's error codes. For several
// changes at once build the requests of route_types.h and use ExecuteBatch.
class RouteClient {
 public:
  // Borrowed; outlives this.
  explicit RouteClient(Channel* channel) : channel_(channel) {}

  Channel* channel() const { return channel_; }

  absl::Status AddVeth(const LinkSpec& local, const LinkSpec& peer);
  absl::Status AddLink(const LinkSpec& link, const std::string& kind);
  absl::Status AddVxlan(const LinkSpec& link, uint16_t port);
  absl::Status ChangeLink(int32_t index, const LinkChange& change);
  // NotFound when it is gone.
  absl::Status DeleteLink(int32_t index);
  absl::Status DeleteLink(const std::string& name);
  absl::StatusOr<Link> GetLink(const std::string& name);
  absl::StatusOr<Link> GetLink(int32_t index);
  absl::StatusOr<std::vector<Link>> ListLinks();

  absl::Status Apply(Verb verb, const Address& address);
  absl::Status Apply(Verb verb, const Route& route);
  absl::Status Apply(Verb verb, const Rule& rule);
  absl::Status Apply(Verb verb, const Neighbour& neighbour);

  // interface_index 0: of all.
  absl::StatusOr<std::vector<Address>> ListAddresses(
      int32_t interface_index = 0);

  // Unset: any. Cloned and cached entries are never listed.
  struct RouteFilter {
    std::optional<base::Family> family;
    std::optional<uint32_t> table;
    std::optional<uint8_t> protocol;
    std::optional<int32_t> interface_index;
  };
  absl::StatusOr<std::vector<Route>> ListRoutes(const RouteFilter& filter);
  absl::StatusOr<std::vector<Route>> ListRoutes() {
    return ListRoutes(RouteFilter());
  }
  // The route that a packet takes: one from here, unless it came in by an
  // interface (then `source` is needed). Its error is that of a route which
  // leads nowhere.
  struct LookUp {
    base::IpAddress destination;
    std::optional<base::IpAddress> source;
    int32_t input_interface = 0;
    uint32_t mark = 0;
  };
  absl::StatusOr<Route> LookUpRoute(const LookUp& packet);
  absl::StatusOr<Route> LookUpRoute(const base::IpAddress& destination) {
    return LookUpRoute(LookUp{.destination = destination});
  }

  absl::StatusOr<std::vector<Rule>> ListRules();
  absl::StatusOr<std::vector<Neighbour>> ListNeighbours(
      int32_t interface_index = 0);

 private:
  Channel* channel_;
};

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_ROUTE_CLIENT_H_
