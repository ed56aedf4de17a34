#include "agent/wire/exchange_rules.h"

#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/str_cat.h"

namespace espalier::wire {
namespace {

// How often a payload stands in one message.
struct Rule {
  PayloadType type;
  int min;
  int max;
  // Sent when there are fewer than `min`.
  NotifyType missing = NotifyType::kInvalidSyntax;
};

// Any number, as far as a message holds.
constexpr int kMany = kMaxPayloads;

// RFC 7296 1.2: HDR, SAi1, KEi, Ni / SAr1, KEr, Nr, [CERTREQ].
constexpr Rule kInitRequest[] = {{PayloadType::kSa, 1, 1},
                                 {PayloadType::kKe, 1, 1},
                                 {PayloadType::kNonce, 1, 1},
                                 {PayloadType::kNotify, 0, kMany}};
constexpr Rule kInitResponse[] = {{PayloadType::kSa, 1, 1},
                                  {PayloadType::kKe, 1, 1},
                                  {PayloadType::kNonce, 1, 1},
                                  {PayloadType::kCertreq, 0, kMany},
                                  {PayloadType::kNotify, 0, kMany}};
// RFC 7296 1.2: IDi, [CERT], [CERTREQ], [IDr], AUTH, SAi2, TSi, TSr / IDr,
// [CERT], AUTH, SAr2, TSi, TSr; RFC 6023 leaves the last three out. A request
// without AUTH wishes for EAP (2.16), which Espalier does not speak.
constexpr Rule kAuthRequest[] = {
    {PayloadType::kIdi, 1, 1},
    {PayloadType::kAuth, 1, 1, NotifyType::kAuthenticationFailed},
    {PayloadType::kIdr, 0, 1},
    {PayloadType::kCert, 0, kMany},
    {PayloadType::kCertreq, 0, kMany},
    {PayloadType::kCp, 0, 1},
    {PayloadType::kSa, 0, 1},
    {PayloadType::kTsi, 0, 1},
    {PayloadType::kTsr, 0, 1},
    {PayloadType::kNotify, 0, kMany}};
constexpr Rule kAuthResponse[] = {
    {PayloadType::kIdr, 1, 1},      {PayloadType::kAuth, 1, 1},
    {PayloadType::kCert, 0, kMany}, {PayloadType::kCp, 0, 1},
    {PayloadType::kSa, 0, 1},       {PayloadType::kTsi, 0, 1},
    {PayloadType::kTsr, 0, 1},      {PayloadType::kNotify, 0, kMany}};
// RFC 7296 1.3.1 and, with N(REKEY_SA) in the request, 1.3.3: SA, Ni, [KEi],
// TSi, TSr.
constexpr Rule kCreateChild[] = {
    {PayloadType::kSa, 1, 1},        {PayloadType::kNonce, 1, 1},
    {PayloadType::kTsi, 1, 1},       {PayloadType::kTsr, 1, 1},
    {PayloadType::kKe, 0, 1},        {PayloadType::kCp, 0, 1},
    {PayloadType::kNotify, 0, kMany}};
// RFC 7296 1.3.2: SA, Ni, KEi.
constexpr Rule kRekeyIke[] = {{PayloadType::kSa, 1, 1},
                              {PayloadType::kNonce, 1, 1},
                              {PayloadType::kKe, 1, 1},
                              {PayloadType::kNotify, 0, kMany}};
// RFC 7296 1.4: [N,] [D,] [CP].
constexpr Rule kInformational[] = {{PayloadType::kNotify, 0, kMany},
                                   {PayloadType::kDelete, 0, kMany},
                                   {PayloadType::kCp, 0, 1}};

struct Table {
  ExchangeKind kind;
  std::span<const Rule> request;
  std::span<const Rule> response;
  // What a response that succeeds has and a refusal has not.
  PayloadType success;
};

constexpr Table kTables[] = {
    {ExchangeKind::kIkeSaInit, kInitRequest, kInitResponse, PayloadType::kSa},
    {ExchangeKind::kIkeAuth, kAuthRequest, kAuthResponse, PayloadType::kAuth},
    {ExchangeKind::kCreateChildSa, kCreateChild, kCreateChild,
     PayloadType::kSa},
    {ExchangeKind::kRekeyIkeSa, kRekeyIke, kRekeyIke, PayloadType::kSa},
    {ExchangeKind::kRekeyChildSa, kCreateChild, kCreateChild, PayloadType::kSa},
    // Every response to an INFORMATIONAL succeeds.
    {ExchangeKind::kInformational, kInformational, kInformational,
     PayloadType::kNone},
};

const Table& TableOf(ExchangeKind kind) {
  return *std::find_if(std::begin(kTables), std::end(kTables),
                       [kind](const Table& t) { return t.kind == kind; });
}

int Count(const Payloads& payloads, PayloadType type) {
  return static_cast<int>(
      std::count_if(payloads.begin(), payloads.end(),
                    [type](const Payload& p) { return p.type == type; }));
}

Verdict Refuse(ExchangeKind kind, bool response, NotifyType notify,
               std::string reason) {
  if (kind == ExchangeKind::kIkeSaInit) return Verdict::Drop(std::move(reason));
  Verdict verdict = Verdict::CloseForSyntax(response, std::move(reason));
  if (!response) verdict.notify = notify;
  return verdict;
}

}  // namespace

std::string ToString(ExchangeKind kind) {
  switch (kind) {
    case ExchangeKind::kIkeSaInit:
      return "IKE_SA_INIT";
    case ExchangeKind::kIkeAuth:
      return "IKE_AUTH";
    case ExchangeKind::kCreateChildSa:
      return "CREATE_CHILD_SA";
    case ExchangeKind::kRekeyIkeSa:
      return "CREATE_CHILD_SA (IKE_SA rekey)";
    case ExchangeKind::kRekeyChildSa:
      return "CREATE_CHILD_SA (CHILD_SA rekey)";
    case ExchangeKind::kInformational:
      return "INFORMATIONAL";
  }
  return "unknown exchange";
}

Decoded<ExchangeKind> ClassifyRequest(const Header& header,
                                      const Payloads& payloads) {
  switch (header.exchange) {
    case ExchangeType::kIkeSaInit:
      return ExchangeKind::kIkeSaInit;
    case ExchangeType::kIkeAuth:
      return ExchangeKind::kIkeAuth;
    case ExchangeType::kInformational:
      return ExchangeKind::kInformational;
    case ExchangeType::kCreateChildSa: {
      if (FindNotify(payloads, NotifyType::kRekeySa) != nullptr) {
        return ExchangeKind::kRekeyChildSa;
      }
      const auto* sa = Find<SaPayload>(payloads);
      const bool ike = sa != nullptr && !sa->proposals.empty() &&
                       sa->proposals.front().protocol == ProtocolId::kIke;
      return ike ? ExchangeKind::kRekeyIkeSa : ExchangeKind::kCreateChildSa;
    }
    case ExchangeType::kIkeIntermediate:
    case ExchangeType::kIkeFollowupKe:
      // Only after a negotiation that Espalier does not begin.
      break;
  }
  return Verdict::CloseForSyntax(
      header.response,
      absl::StrCat("unexpected exchange ", ToString(header.exchange)));
}

bool IsRefusal(ExchangeKind kind, const Payloads& payloads) {
  const PayloadType success = TableOf(kind).success;
  if (success == PayloadType::kNone || Count(payloads, success) > 0) {
    return false;
  }
  return FindError(payloads) != nullptr ||
         (kind == ExchangeKind::kIkeSaInit &&
          FindNotify(payloads, NotifyType::kCookie) != nullptr);
}

std::optional<Verdict> CheckPayloads(ExchangeKind kind, bool response,
                                     const Payloads& payloads) {
  if (response && IsRefusal(kind, payloads)) return std::nullopt;
  const Table& table = TableOf(kind);
  for (const Rule& rule : response ? table.response : table.request) {
    const int count = Count(payloads, rule.type);
    if (count >= rule.min && count <= rule.max) continue;
    return Refuse(
        kind, response,
        count < rule.min ? rule.missing : NotifyType::kInvalidSyntax,
        absl::StrCat(ToString(kind), response ? " response" : " request",
                     " with ", count, " ", ToString(rule.type)));
  }
  // SA, TSi and TSr make one CHILD_SA: all of them, or none.
  if (kind == ExchangeKind::kIkeAuth) {
    const int sa = Count(payloads, PayloadType::kSa);
    if (Count(payloads, PayloadType::kTsi) != sa ||
        Count(payloads, PayloadType::kTsr) != sa) {
      return Refuse(
          kind, response, NotifyType::kInvalidSyntax,
          absl::StrCat(ToString(kind), ": SA, TSi and TSr are not all there"));
    }
  }
  return std::nullopt;
}

}  // namespace espalier::wire
