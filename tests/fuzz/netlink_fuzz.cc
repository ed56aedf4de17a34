// What a netlink socket received: messages, acknowledgements and the objects
// of rtnetlink.
#include <linux/netlink.h>

#include "agent/netlink/message.h"
#include "agent/netlink/route_types.h"

namespace netlink = espalier::netlink;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  espalier::base::ByteReader reader({data, size});
  nlmsghdr header;
  espalier::base::ByteSpan payload;
  while (netlink::ReadMessage(&reader, &header, &payload)) {
    (void)netlink::ParseAcknowledgement(header, payload);
    (void)netlink::DecodeLink(payload).ok();
    (void)netlink::DecodeNewLinkRequest(payload).ok();
    if (const auto address = netlink::DecodeAddress(payload); address.ok()) {
      (void)address->ToString();
    }
    if (const auto route = netlink::DecodeRoute(payload); route.ok()) {
      (void)route->ToString();
      // What was understood can be said again.
      (void)netlink::RouteRequest(netlink::Verb::kReplace, *route);
    }
    if (const auto rule = netlink::DecodeRule(payload); rule.ok()) {
      (void)rule->ToString();
      (void)netlink::RuleRequest(netlink::Verb::kAdd, *rule);
    }
    if (const auto neighbour = netlink::DecodeNeighbour(payload);
        neighbour.ok()) {
      (void)neighbour->ToString();
    }
  }
  return 0;
}
