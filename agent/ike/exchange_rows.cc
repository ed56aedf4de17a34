#include "agent/ike/exchange_rows.h"

#include <utility>

#include "agent/ike/collisions.h"
#include "agent/ike/tasks/create_child.h"
#include "agent/ike/tasks/ike_auth.h"
#include "agent/ike/tasks/informational.h"
#include "agent/ike/tasks/rekey_ike.h"

namespace espalier::ike {
namespace {

using Stage = IkeSa::Stage;
using wire::ExchangeKind;
using wire::NotifyType;

constexpr unsigned Bit(Stage stage) {
  return 1u << static_cast<unsigned>(stage);
}
constexpr unsigned kAuth = Bit(Stage::kAuth);
constexpr unsigned kUp = Bit(Stage::kEstablished);
constexpr unsigned kGoing = Bit(Stage::kReplaced) | Bit(Stage::kClosing);

using Make = std::unique_ptr<Task> (*)(ExchangeKind, const wire::Payloads&,
                                       ChildSaId rekeyed);

// A request of `kind` is taken in `stages` and worked on by what `make` makes;
// in any other stage the answer is `otherwise`.
struct Row {
  ExchangeKind kind;
  unsigned stages;
  NotifyType otherwise;
  Make make;
};

std::unique_ptr<Task> Auth(ExchangeKind, const wire::Payloads& request,
                           ChildSaId) {
  return MakeIkeAuthResponder(request);
}
std::unique_ptr<Task> RekeyIke(ExchangeKind, const wire::Payloads& request,
                               ChildSaId) {
  return MakeRekeyIkeResponder(request);
}
std::unique_ptr<Task> Inform(ExchangeKind, const wire::Payloads& request,
                             ChildSaId) {
  return MakeInformationalResponder(request);
}

// clang-format off
constexpr Row kRows[] = {
    {ExchangeKind::kIkeAuth,       kAuth,        NotifyType::kInvalidSyntax,    Auth},
    {ExchangeKind::kCreateChildSa, kUp,          NotifyType::kTemporaryFailure, MakeCreateChildResponder},
    {ExchangeKind::kRekeyChildSa,  kUp,          NotifyType::kTemporaryFailure, MakeCreateChildResponder},
    {ExchangeKind::kRekeyIkeSa,    kUp,          NotifyType::kTemporaryFailure, RekeyIke},
    {ExchangeKind::kInformational, kUp | kGoing, NotifyType::kInvalidSyntax,    Inform},
};
// clang-format on

}  // namespace

RowOutcome AnswerByRow(IkeSa& sa, ExchangeKind kind,
                       const wire::Payloads& payloads) {
  for (const Row& row : kRows) {
    if (row.kind != kind) continue;
    if ((row.stages & Bit(sa.stage())) == 0) {
      return {.refusal = wire::NotifyPayload::Of(row.otherwise)};
    }
    ChildSaId rekeyed;
    if (auto refusal = Collision(sa, kind, payloads, &rekeyed)) {
      return {.refusal = std::move(refusal)};
    }
    return {.task = row.make(kind, payloads, rekeyed)};
  }
  return {.refusal = wire::NotifyPayload::Of(NotifyType::kInvalidSyntax)};
}

}  // namespace espalier::ike
