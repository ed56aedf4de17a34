// Traffic selectors of one SA, compiled for a look at every packet.
#ifndef ESPALIER_AGENT_ESP_SELECTORS_H_
#define ESPALIER_AGENT_ESP_SELECTORS_H_

#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/esp/inner_packet.h"

namespace espalier::esp {

// RFC 4301 4.4.1.1 and 5.2: source and destination each have to meet one
// selector of their side, with its protocol and ports. A fragment without
// ports meets only selectors of any port.
class Selectors {
 public:
  Selectors(std::vector<base::TrafficSelector> source,
            std::vector<base::TrafficSelector> destination);

  // `packet` is what `inner` was parsed out of. Remembers the last pair of
  // addresses that was let through.
  bool Match(const InnerPacket& inner, base::ByteSpan packet);

 private:
  std::vector<base::TrafficSelector> source_;
  std::vector<base::TrafficSelector> destination_;
  bool addresses_only_;
  bool have_last_ = false;
  base::Family last_family_ = base::Family::kIpv4;
  AddressPair last_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_SELECTORS_H_
