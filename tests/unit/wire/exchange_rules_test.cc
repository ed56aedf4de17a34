#include "agent/wire/exchange_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace espalier::wire {
namespace {

using Disposition = Verdict::Disposition;
using enum ExchangeKind;

Payload Of(PayloadType type) {
  switch (type) {
    case PayloadType::kSa:
      return Payload::Of(SaPayload{{{.protocol = ProtocolId::kEsp}}});
    case PayloadType::kKe:
      return Payload::Of(KePayload{});
    case PayloadType::kIdi:
    case PayloadType::kIdr:
      return {type, IdPayload{}};
    case PayloadType::kAuth:
      return Payload::Of(AuthPayload{});
    case PayloadType::kNonce:
      return Payload::Of(NoncePayload{});
    case PayloadType::kTsi:
    case PayloadType::kTsr:
      return {type, TsPayload{}};
    case PayloadType::kDelete:
      return Payload::Of(DeletePayload{});
    default:
      return {type, OpaquePayload{}};
  }
}

Payloads AllOf(const std::vector<PayloadType>& types) {
  Payloads payloads;
  for (PayloadType type : types) payloads.push_back(Of(type));
  return payloads;
}

Payload N(NotifyType type) { return Payload::Of(NotifyPayload::Of(type)); }

constexpr auto kSa = PayloadType::kSa;
constexpr auto kKe = PayloadType::kKe;
constexpr auto kNonce = PayloadType::kNonce;
constexpr auto kIdi = PayloadType::kIdi;
constexpr auto kIdr = PayloadType::kIdr;
constexpr auto kAuth = PayloadType::kAuth;
constexpr auto kTsi = PayloadType::kTsi;
constexpr auto kTsr = PayloadType::kTsr;

struct Minimal {
  ExchangeKind kind;
  bool response;
  std::vector<PayloadType> types;
};

// What each message must have, each once (RFC 7296 1.2, 1.3).
const Minimal kMinimal[] = {
    {kIkeSaInit, false, {kSa, kKe, kNonce}},
    {kIkeSaInit, true, {kSa, kKe, kNonce}},
    {kIkeAuth, false, {kIdi, kAuth, kSa, kTsi, kTsr}},
    {kIkeAuth, true, {kIdr, kAuth, kSa, kTsi, kTsr}},
    {kCreateChildSa, false, {kSa, kNonce, kTsi, kTsr}},
    {kCreateChildSa, true, {kSa, kNonce, kTsi, kTsr}},
    {kRekeyChildSa, false, {kSa, kNonce, kTsi, kTsr}},
    {kRekeyChildSa, true, {kSa, kNonce, kTsi, kTsr}},
    {kRekeyIkeSa, false, {kSa, kNonce, kKe}},
    {kRekeyIkeSa, true, {kSa, kNonce, kKe}},
};

TEST(ExchangeRulesTest, AcceptsEachMinimalMessage) {
  for (const Minimal& m : kMinimal) {
    EXPECT_FALSE(CheckPayloads(m.kind, m.response, AllOf(m.types)).has_value())
        << ToString(m.kind) << m.response;
  }
  for (bool response : {false, true}) {
    EXPECT_FALSE(CheckPayloads(kInformational, response, {}).has_value());
  }
}

TEST(ExchangeRulesTest, RefusesEachMissingAndEachDoubledPayload) {
  for (const Minimal& m : kMinimal) {
    for (size_t i = 0; i < m.types.size(); ++i) {
      for (bool doubled : {false, true}) {
        std::vector<PayloadType> types = m.types;
        if (doubled) {
          types.push_back(types[i]);
        } else {
          types.erase(types.begin() + static_cast<long>(i));
        }
        SCOPED_TRACE(ToString(m.kind) + (m.response ? " response, " : ", ") +
                     ToString(m.types[i]) + (doubled ? " twice" : " missing"));
        const auto verdict = CheckPayloads(m.kind, m.response, AllOf(types));
        ASSERT_TRUE(verdict.has_value());
        if (m.kind == kIkeSaInit) {
          EXPECT_EQ(verdict->disposition, Disposition::kDrop);
          continue;
        }
        EXPECT_EQ(verdict->disposition, Disposition::kClose);
        EXPECT_EQ(verdict->notify.has_value(), !m.response);
      }
    }
  }
}

TEST(ExchangeRulesTest, AcceptsChildlessIkeAuth) {  // RFC 6023
  EXPECT_FALSE(
      CheckPayloads(kIkeAuth, false, AllOf({kIdi, kAuth})).has_value());
  EXPECT_FALSE(CheckPayloads(kIkeAuth, true, AllOf({kIdr, kAuth})).has_value());
}

// RFC 7296 2.16: no AUTH asks for EAP.
TEST(ExchangeRulesTest, RefusesWishForEap) {
  const auto verdict =
      CheckPayloads(kIkeAuth, false, AllOf({kIdi, kSa, kTsi, kTsr}));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->notify, NotifyType::kAuthenticationFailed);
}

TEST(ExchangeRulesTest, AcceptsOptionalPayloads) {
  EXPECT_FALSE(
      CheckPayloads(kIkeAuth, false,
                    AllOf({kIdi, PayloadType::kCert, PayloadType::kCert,
                           PayloadType::kCertreq, kIdr, kAuth, PayloadType::kCp,
                           kSa, kTsi, kTsr}))
          .has_value());
  EXPECT_FALSE(CheckPayloads(kCreateChildSa, false,
                             AllOf({kSa, kNonce, kKe, kTsi, kTsr}))
                   .has_value());
  EXPECT_FALSE(
      CheckPayloads(kInformational, false,
                    AllOf({PayloadType::kDelete, PayloadType::kDelete}))
          .has_value());
}

TEST(ExchangeRulesTest, IgnoresPayloadsThatTheTableDoesNotName) {
  EXPECT_FALSE(CheckPayloads(kRekeyIkeSa, false,
                             AllOf({kSa, kNonce, kKe, PayloadType::kVendorId,
                                    PayloadType::kCertreq}))
                   .has_value());
}

TEST(ExchangeRulesTest, AcceptsRefusals) {
  const Payloads no_proposal = {N(NotifyType::kNoProposalChosen)};
  for (ExchangeKind kind :
       {kIkeSaInit, kIkeAuth, kCreateChildSa, kRekeyIkeSa, kRekeyChildSa}) {
    EXPECT_TRUE(IsRefusal(kind, no_proposal));
    EXPECT_FALSE(CheckPayloads(kind, true, no_proposal).has_value());
    // An error in a request doesn't excuse what is missing.
    EXPECT_TRUE(CheckPayloads(kind, false, no_proposal).has_value());
  }
  EXPECT_FALSE(IsRefusal(kInformational, no_proposal));
  const Payloads cookie = {N(NotifyType::kCookie)};
  EXPECT_TRUE(IsRefusal(kIkeSaInit, cookie));
  EXPECT_FALSE(IsRefusal(kIkeAuth, cookie));
  EXPECT_TRUE(CheckPayloads(kIkeAuth, true, cookie).has_value());
}

// RFC 7296 1.2: the IKE_SA stands although its CHILD_SA failed.
TEST(ExchangeRulesTest, IkeAuthWithoutChildIsNoRefusal) {
  Payloads payloads = AllOf({kIdr, kAuth});
  payloads.push_back(N(NotifyType::kTsUnacceptable));
  EXPECT_FALSE(IsRefusal(kIkeAuth, payloads));
  EXPECT_FALSE(CheckPayloads(kIkeAuth, true, payloads).has_value());
}

TEST(ExchangeRulesTest, ClassifiesRequests) {
  auto kind = [](ExchangeType exchange, const Payloads& payloads) {
    const auto decoded = ClassifyRequest({.exchange = exchange}, payloads);
    return decoded.ok() ? std::optional(*decoded) : std::nullopt;
  };
  EXPECT_EQ(kind(ExchangeType::kIkeSaInit, {}), kIkeSaInit);
  EXPECT_EQ(kind(ExchangeType::kIkeAuth, {}), kIkeAuth);
  EXPECT_EQ(kind(ExchangeType::kInformational, {}), kInformational);
  EXPECT_EQ(kind(ExchangeType::kCreateChildSa, AllOf({kSa})), kCreateChildSa);
  EXPECT_EQ(kind(ExchangeType::kCreateChildSa, {}), kCreateChildSa);
  Payloads rekey = AllOf({kSa});
  rekey.push_back(
      Payload::Of(NotifyPayload::OfEsp(NotifyType::kRekeySa, base::Spi(1))));
  EXPECT_EQ(kind(ExchangeType::kCreateChildSa, rekey), kRekeyChildSa);
  const SaPayload ike = {{{.protocol = ProtocolId::kIke}}};
  EXPECT_EQ(kind(ExchangeType::kCreateChildSa, Payloads(1, Payload::Of(ike))),
            kRekeyIkeSa);
  EXPECT_EQ(kind(ExchangeType::kIkeIntermediate, {}), std::nullopt);
  EXPECT_EQ(kind(static_cast<ExchangeType>(99), {}), std::nullopt);
}

}  // namespace
}  // namespace espalier::wire
