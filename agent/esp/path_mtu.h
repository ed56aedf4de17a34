// What the outer path towards each peer takes (RFC 1191, RFC 8201, RFC 4301 8).
#ifndef ESPALIER_AGENT_ESP_PATH_MTU_H_
#define ESPALIER_AGENT_ESP_PATH_MTU_H_

#include <functional>
#include <map>

#include "absl/functional/function_ref.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"

namespace espalier::esp {

class PathMtuTable {
 public:
  // The MTU of the link out of which packets from `source` to `destination`
  // go.
  using LinkMtu = std::function<size_t(const base::IpAddress& source,
                                       const base::IpAddress& destination)>;

  explicit PathMtuTable(LinkMtu link_mtu) : link_mtu_(std::move(link_mtu)) {}

  size_t Get(const base::IpAddress& source, const base::IpAddress& destination,
             base::Instant now);

  // A router said that the path takes `mtu`. False when that changes nothing
  // or cannot be: below what every link must take (RFC 791, RFC 8200 5), or
  // not below what is known (RFC 8201 4). Lowered values are forgotten after
  // ten minutes (RFC 1191 6.3).
  bool Lower(const base::IpAddress& source, const base::IpAddress& destination,
             size_t mtu, base::Instant now);

  // For the next process: what routers said and is not forgotten yet.
  void ForEach(base::Instant now,
               absl::FunctionRef<void(const base::IpAddress& destination,
                                      size_t mtu, absl::Duration remaining)>
                   visit) const;
  // From the process before.
  void Adopt(const base::IpAddress& destination, size_t mtu,
             base::Instant expires) {
    entries_[destination] = {mtu, expires};
  }

 private:
  struct Entry {
    size_t mtu = 0;
    base::Instant expires;
  };
  LinkMtu link_mtu_;
  std::map<base::IpAddress, Entry> entries_;
};

// The largest inner packet of an SA over a path of `path_mtu`.
size_t InnerMtuOf(const base::EspSa& sa, size_t path_mtu);

// Asks the kernel: the MTU of the interface that holds `source`, or, when no
// interface does, that of the route. At least the family's minimum.
size_t KernelLinkMtu(const base::IpAddress& source,
                     const base::IpAddress& destination);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_PATH_MTU_H_
