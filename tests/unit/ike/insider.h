// Reads and rewrites protected messages between two nodes of a Lab with the
// keys that they log (CoreConfig::key_log): a peer that behaves as ours never
// would, or a look at what ours says.
#ifndef ESPALIER_TESTS_UNIT_IKE_INSIDER_H_
#define ESPALIER_TESTS_UNIT_IKE_INSIDER_H_

#include <optional>

#include "agent/wire/message.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {

class Insider {
 public:
  // `node` logs its keys.
  explicit Insider(const Node& node) : node_(node) {}

  // nullopt: not protected, or with keys that `node` does not have.
  std::optional<wire::Payloads> Read(const base::Bytes& datagram) const;
  // The same message with other payloads, as another exchange, with another
  // message id.
  void Rewrite(const wire::Payloads& payloads, base::Bytes* datagram,
               std::optional<wire::ExchangeType> exchange = std::nullopt,
               std::optional<uint32_t> message_id = std::nullopt);

 private:
  const LogIkeKeys* KeysFor(const wire::Header& header) const;

  const Node& node_;
  // Far from what a core comes to: the keys are the same.
  uint64_t iv_counter_ = uint64_t{1} << 40;
};

CoreConfig WithKeyLog(CoreConfig config = {});

}  // namespace espalier::ike::testing

#endif  // ESPALIER_TESTS_UNIT_IKE_INSIDER_H_
