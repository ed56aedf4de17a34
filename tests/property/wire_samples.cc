#include "tests/property/wire_samples.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "agent/wire/message.h"

namespace espalier::wire {
namespace {

using base::Bytes;

Bytes Filled(size_t size, uint8_t octet) { return Bytes(size, octet); }

Payload IkeSa(Bytes spi) {
  return Payload::Of(
      SaPayload{{{.number = 1,
                  .protocol = ProtocolId::kIke,
                  .spi = spi,
                  .transforms = {{TransformType::kEncryption, 20, 256},
                                 {TransformType::kPrf, 6},
                                 {TransformType::kKeyExchange, 31}}},
                 {.number = 2,
                  .protocol = ProtocolId::kIke,
                  .spi = spi,
                  .transforms = {{TransformType::kEncryption, 12, 256},
                                 {TransformType::kPrf, 5},
                                 {TransformType::kIntegrity, 12},
                                 {TransformType::kKeyExchange, 19},
                                 {TransformType::kKeyExchange, 14}}}}});
}

Payload EspSa() {
  SaPayload sa;
  sa.proposals.push_back(
      {.number = 1,
       .protocol = ProtocolId::kEsp,
       .spi = {0xde, 0xad, 0xbe, 0xef},
       .transforms = {
           {TransformType::kEncryption, 20, 256},
           {TransformType::kExtendedSequenceNumbers, kExtendedSequenceNumbers},
           {TransformType::kExtendedSequenceNumbers,
            kNoExtendedSequenceNumbers}}});
  return Payload::Of(std::move(sa));
}

Payload Ke() { return Payload::Of(KePayload{31, Filled(32, 0x4b)}); }
Payload Nonce() { return Payload::Of(NoncePayload{Filled(32, 0x4e)}); }
Payload Notify(NotifyType type, Bytes data = {}) {
  return Payload::Of(NotifyPayload::Of(type, std::move(data)));
}
Payload Id(PayloadType type) {
  return {type, IdPayload{.data = {'n', 'o', 'd', 'e', '-', 'a'}}};
}

Payload Ts(PayloadType type) {
  TsPayload ts;
  for (const char* prefix : {"10.1.0.0/24", "fd00:1::/64"}) {
    ts.selectors.push_back(
        base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse(prefix)));
  }
  return {type, std::move(ts)};
}

Payload PskAuth() {
  return Payload::Of(AuthPayload{AuthMethod::kSharedKey, Filled(48, 0x41)});
}

Payload SignatureAuth() {
  return Payload::Of(AuthPayload{
      AuthMethod::kDigitalSignature,
      EncodeDigitalSignature(
          {{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70}, Filled(64, 0x53)})});
}

Header Clear(bool response) {
  return {.initiator_spi = 0x0102030405060708,
          .responder_spi = response ? 0x1112131415161718u : 0,
          .exchange = ExchangeType::kIkeSaInit,
          .response = response,
          .from_initiator = !response};
}

Header Protected(ExchangeType exchange, bool response, uint32_t message_id) {
  return {.initiator_spi = 0x0102030405060708,
          .responder_spi = 0x1112131415161718,
          .exchange = exchange,
          .response = response,
          .from_initiator = !response,
          .message_id = message_id};
}

void AddInit(std::vector<Sample>* out) {
  const Payloads common = {
      IkeSa({}),
      Ke(),
      Nonce(),
      Notify(NotifyType::kNatDetectionSourceIp, Filled(20, 1)),
      Notify(NotifyType::kNatDetectionDestinationIp, Filled(20, 2)),
      Notify(NotifyType::kIkev2FragmentationSupported),
      Payload::Of(NotifyPayload::SignatureHashAlgorithms(
          {HashAlgorithm::kSha2_256, HashAlgorithm::kIdentity}))};
  out->push_back({"init_request", Clear(false), common});
  Payloads with_cookie = common;
  with_cookie.insert(with_cookie.begin(),
                     Notify(NotifyType::kCookie, Filled(32, 3)));
  out->push_back({"init_request_cookie", Clear(false), with_cookie});
  Payloads answer = common;
  answer.push_back(Payload::Of(CertreqPayload{}));
  out->push_back({"init_response", Clear(true), answer});
  out->push_back({"init_cookie",
                  Clear(true),
                  {Notify(NotifyType::kCookie, Filled(32, 3))}});
  out->push_back({"init_invalid_ke",
                  Clear(true),
                  {Payload::Of(NotifyPayload::InvalidKe(19))}});
  out->push_back({"init_no_proposal",
                  Clear(true),
                  {Notify(NotifyType::kNoProposalChosen)}});
}

void AddAuth(std::vector<Sample>* out) {
  const Header request = Protected(ExchangeType::kIkeAuth, false, 1);
  const Header response = Protected(ExchangeType::kIkeAuth, true, 1);
  const Payloads child = {EspSa(), Ts(PayloadType::kTsi),
                          Ts(PayloadType::kTsr)};
  auto with_child = [&child](Payloads payloads) {
    payloads.insert(payloads.end(), child.begin(), child.end());
    return payloads;
  };
  out->push_back(
      {"auth_request_psk", request,
       with_child({Id(PayloadType::kIdi), Id(PayloadType::kIdr), PskAuth(),
                   Notify(NotifyType::kInitialContact)})});
  out->push_back(
      {"auth_request_public_key", request,
       with_child({Id(PayloadType::kIdi),
                   Payload::Of(CertPayload{CertEncoding::kRawPublicKey,
                                           Filled(44, 0x50)}),
                   Payload::Of(CertreqPayload{}), SignatureAuth()})});
  out->push_back({"auth_response_psk", response,
                  with_child({Id(PayloadType::kIdr), PskAuth()})});
  out->push_back(
      {"auth_response_public_key", response,
       with_child({Id(PayloadType::kIdr),
                   Payload::Of(CertPayload{CertEncoding::kRawPublicKey,
                                           Filled(44, 0x50)}),
                   SignatureAuth()})});
  out->push_back(
      {"auth_childless", request, {Id(PayloadType::kIdi), PskAuth()}});
  out->push_back({"auth_child_failed",
                  response,
                  {Id(PayloadType::kIdr), PskAuth(),
                   Notify(NotifyType::kTsUnacceptable)}});
  out->push_back(
      {"auth_failed", response, {Notify(NotifyType::kAuthenticationFailed)}});
}

void AddCreateChildSa(std::vector<Sample>* out) {
  for (bool response : {false, true}) {
    const std::string suffix = response ? "_response" : "_request";
    const Header header = Protected(ExchangeType::kCreateChildSa, response, 2);
    Payloads child = {EspSa(), Nonce(), Ke(), Ts(PayloadType::kTsi),
                      Ts(PayloadType::kTsr)};
    out->push_back({"child_new" + suffix, header, child});
    child.insert(child.begin(),
                 Payload::Of(NotifyPayload::OfEsp(NotifyType::kRekeySa,
                                                  base::Spi(0x12345678))));
    if (!response) out->push_back({"child_rekey" + suffix, header, child});
    out->push_back(
        {"ike_rekey" + suffix, header, {IkeSa(Filled(8, 9)), Nonce(), Ke()}});
  }
  const Header response = Protected(ExchangeType::kCreateChildSa, true, 2);
  out->push_back({"child_temporary_failure",
                  response,
                  {Notify(NotifyType::kTemporaryFailure)}});
  out->push_back({"child_not_found",
                  response,
                  {Payload::Of(NotifyPayload::OfEsp(
                      NotifyType::kChildSaNotFound, base::Spi(0x12345678)))}});
}

void AddInformational(std::vector<Sample>* out) {
  const Header request = Protected(ExchangeType::kInformational, false, 3);
  out->push_back({"informational_empty", request, {}});
  out->push_back({"informational_delete_ike",
                  request,
                  {Payload::Of(DeletePayload{ProtocolId::kIke, {}})}});
  out->push_back({"informational_delete_child",
                  request,
                  {Payload::Of(DeletePayload{ProtocolId::kEsp,
                                             {base::Spi(1), base::Spi(2)}})}});
  out->push_back({"informational_config",
                  request,
                  {{PayloadType::kCp, OpaquePayload{Filled(8, 0)}}}});
  out->push_back({"informational_response",
                  Protected(ExchangeType::kInformational, true, 3),
                  {}});
}

}  // namespace

std::vector<Sample> MessageKinds() {
  std::vector<Sample> samples;
  AddInit(&samples);
  AddAuth(&samples);
  AddCreateChildSa(&samples);
  AddInformational(&samples);
  return samples;
}

Bytes Chain(const Sample& sample) {
  base::ByteWriter writer;
  EncodeChain(sample.payloads, &writer);
  return writer.Take();
}

Bytes Datagram(const Sample& sample) {
  if (sample.header.exchange == ExchangeType::kIkeSaInit) {
    return EncodeMessage(sample.header, sample.payloads);
  }
  const PayloadType first = sample.payloads.empty()
                                ? PayloadType::kNone
                                : sample.payloads.front().type;
  return LayOut(sample.header, first, Chain(sample), std::nullopt, {}).Take();
}

size_t Generator::Below(size_t least, size_t most) {
  return std::uniform_int_distribution<size_t>(least, most)(engine_);
}

Bytes Generator::RandomBytes(size_t least, size_t most) {
  Bytes bytes(Below(least, most));
  for (uint8_t& octet : bytes) octet = static_cast<uint8_t>(Below(0, 255));
  return bytes;
}

Header Generator::RandomHeader() {
  return {.initiator_spi = engine_() | 1,
          .responder_spi = engine_(),
          .minor_version = static_cast<uint8_t>(Below(0, 15)),
          .exchange = static_cast<ExchangeType>(Below(0, 255)),
          .response = Below(0, 1) == 1,
          .higher_version = Below(0, 1) == 1,
          .from_initiator = Below(0, 1) == 1,
          .message_id = static_cast<uint32_t>(engine_())};
}

Transform Generator::RandomTransform() {
  Transform transform = {static_cast<TransformType>(Below(0, 255)),
                         static_cast<uint16_t>(Below(0, 65535))};
  if (Below(0, 1) == 1) {
    transform.key_length = static_cast<uint16_t>(Below(0, 65535));
  }
  for (size_t i = Below(0, 2); i > 0; --i) {
    // Not the key length in its short format, which is a field of its own.
    const bool tv = Below(0, 1) == 1;
    transform.unknown_attributes.push_back(
        {static_cast<uint16_t>(Below(15, 0x7fff)), tv,
         tv ? RandomBytes(2, 2) : RandomBytes(0, 9)});
  }
  return transform;
}

Proposal Generator::RandomProposal(uint8_t number) {
  Proposal proposal = {.number = number,
                       .protocol = static_cast<ProtocolId>(Below(0, 5))};
  switch (proposal.protocol) {
    case ProtocolId::kIke:
      if (Below(0, 1) == 1) proposal.spi = RandomBytes(8, 8);
      break;
    case ProtocolId::kAh:
    case ProtocolId::kEsp:
      proposal.spi = RandomBytes(4, 4);
      break;
    default:
      proposal.spi = RandomBytes(0, 255);
  }
  for (size_t i = Below(0, 8); i > 0; --i) {
    proposal.transforms.push_back(RandomTransform());
  }
  return proposal;
}

base::TrafficSelector Generator::RandomSelector() {
  const size_t size = Below(0, 1) == 1 ? 16 : 4;
  base::TrafficSelector ts;
  ts.protocol = static_cast<uint8_t>(Below(0, 255));
  ts.first = *base::IpAddress::FromBytes(RandomBytes(size, size));
  ts.last = *base::IpAddress::FromBytes(RandomBytes(size, size));
  if (ts.last < ts.first) std::swap(ts.first, ts.last);
  ts.first_port = static_cast<uint16_t>(Below(0, 65535));
  ts.last_port = static_cast<uint16_t>(Below(ts.first_port, 65535));
  if (Below(0, 9) == 0) {
    ts.first_port = 65535;
    ts.last_port = 0;
  }
  return ts;
}

TsPayload Generator::RandomTs() {
  TsPayload ts;
  for (size_t i = Below(1, 6); i > 0; --i) {
    ts.selectors.push_back(RandomSelector());
  }
  for (size_t i = Below(0, 2); i > 0; --i) {
    ts.unusable.push_back({static_cast<uint8_t>(Below(9, 255)),
                           static_cast<uint8_t>(Below(0, 255)),
                           RandomBytes(0, 40)});
  }
  return ts;
}

Payload Generator::RandomPayload() {
  const auto octet = [this] { return static_cast<uint8_t>(Below(0, 255)); };
  switch (Below(0, 14)) {
    case 0: {
      SaPayload sa;
      const size_t count = Below(1, 5);
      const size_t first = Below(0, 200);
      for (size_t i = 0; i < count; ++i) {
        sa.proposals.push_back(RandomProposal(static_cast<uint8_t>(first + i)));
      }
      return Payload::Of(std::move(sa));
    }
    case 1:
      return Payload::Of(KePayload{static_cast<uint16_t>(Below(0, 65535)),
                                   RandomBytes(1, 600)});
    case 2:
    case 3: {
      IdPayload id = {.type = static_cast<IdType>(octet()),
                      .reserved = {octet(), octet(), octet()},
                      .data = RandomBytes(0, 80)};
      if (id.type == IdType::kIpv4Addr) id.data.resize(4);
      if (id.type == IdType::kIpv6Addr) id.data.resize(16);
      return {Below(0, 1) == 1 ? PayloadType::kIdi : PayloadType::kIdr,
              std::move(id)};
    }
    case 4:
      return Payload::Of(CertPayload{static_cast<CertEncoding>(octet()),
                                     RandomBytes(0, 1500)});
    case 5:
      return Payload::Of(CertreqPayload{static_cast<CertEncoding>(octet()),
                                        RandomBytes(0, 60)});
    case 6:
      return Payload::Of(
          AuthPayload{static_cast<AuthMethod>(octet()), RandomBytes(0, 300)});
    case 7:
      return Payload::Of(
          NoncePayload{RandomBytes(kMinNonceSize, kMaxNonceSize)});
    case 8:
    case 9: {
      NotifyPayload notify = NotifyPayload::Of(
          static_cast<NotifyType>(Below(0, 65535)), RandomBytes(0, 40));
      notify.protocol = static_cast<ProtocolId>(octet());
      notify.spi = RandomBytes(0, 255);
      return Payload::Of(std::move(notify));
    }
    case 10: {
      DeletePayload del = {static_cast<ProtocolId>(Below(1, 4)), {}};
      if (del.protocol != ProtocolId::kIke) {
        for (size_t i = Below(0, 20); i > 0; --i) {
          del.spis.emplace_back(static_cast<uint32_t>(engine_()));
        }
      }
      return Payload::Of(std::move(del));
    }
    case 11:
      return Payload::Of(VendorIdPayload{RandomBytes(0, 40)});
    case 12:
      return {Below(0, 1) == 1 ? PayloadType::kTsi : PayloadType::kTsr,
              RandomTs()};
    case 13:
      return {PayloadType::kCp, OpaquePayload{RandomBytes(0, 60)}};
    default:
      return {PayloadType::kEap, OpaquePayload{RandomBytes(0, 60)}};
  }
}

Payloads Generator::RandomPayloads(size_t most) {
  Payloads payloads;
  for (size_t i = Below(0, most); i > 0; --i) {
    payloads.push_back(RandomPayload());
  }
  return payloads;
}

}  // namespace espalier::wire
