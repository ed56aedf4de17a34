// Which payloads a message of each exchange must and may have, as a table.
// RFC 7296 1.2 to 1.4, appendix C; RFC 6023 for IKE_AUTH without a CHILD_SA.
#ifndef ESPALIER_AGENT_WIRE_EXCHANGE_RULES_H_
#define ESPALIER_AGENT_WIRE_EXCHANGE_RULES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "agent/base/bytes.h"
#include "agent/wire/header.h"
#include "agent/wire/payload.h"
#include "agent/wire/verdict.h"

namespace espalier::wire {

enum class ExchangeKind : uint8_t {
  kIkeSaInit,      // RFC 7296 1.2
  kIkeAuth,        // RFC 7296 1.2
  kCreateChildSa,  // RFC 7296 1.3.1
  kRekeyIkeSa,     // RFC 7296 1.3.2
  kRekeyChildSa,   // RFC 7296 1.3.3
  kInformational,  // RFC 7296 1.4
};
std::string ToString(ExchangeKind kind);

// Which exchange a request begins. `payloads` are those that count: in the
// clear for IKE_SA_INIT, the decrypted ones otherwise. A REKEY_SA makes a
// CREATE_CHILD_SA a kRekeyChildSa, proposals for protocol IKE a kRekeyIkeSa.
// Unknown exchange types close with INVALID_SYNTAX.
Decoded<ExchangeKind> ClassifyRequest(const Header& header,
                                      const Payloads& payloads);

// nullopt: the message has what it must and nothing too often. Payloads that
// the table does not name for it are left to be ignored. A response that
// instead says why there is none (an error notification or COOKIE, and not the
// payloads that mean success) is also good: see IsRefusal.
//
// The verdict on IKE_SA_INIT is to drop, because nothing there is
// authenticated; otherwise to close with INVALID_SYNTAX, but an IKE_AUTH
// request without AUTH (a wish for EAP) gets AUTHENTICATION_FAILED.
std::optional<Verdict> CheckPayloads(ExchangeKind kind, bool response,
                                     const Payloads& payloads);

// Whether a response refuses: it lacks the payload that means success of its
// kind (SA; AUTH in IKE_AUTH) and has an error notification or a COOKIE. An
// IKE_AUTH response with AUTH, an error and no SA is no refusal: the IKE_SA is
// up, its CHILD_SA is not (RFC 7296 1.2).
bool IsRefusal(ExchangeKind kind, const Payloads& payloads);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_EXCHANGE_RULES_H_
