#include "agent/ike/tasks/ike_sa_init.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/crypto/key_exchange.h"
#include "agent/crypto/signature.h"
#include "agent/ike/tasks/ike_auth.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

constexpr int kMaxRounds = 5;

base::Bytes ToBytes(base::ByteSpan span) {
  return base::Bytes(span.begin(), span.end());
}

std::vector<base::ByteSpan> DataOf(const wire::Payloads& payloads,
                                   NotifyType type) {
  std::vector<base::ByteSpan> data;
  for (const NotifyPayload* notify : wire::FindAll<NotifyPayload>(payloads)) {
    if (notify->type == type) data.push_back(notify->data);
  }
  return data;
}

bool Offers(const std::vector<IkeProposal>& proposals, uint16_t group) {
  return std::any_of(
      proposals.begin(), proposals.end(), [&](const IkeProposal& p) {
        return std::any_of(p.groups.begin(), p.groups.end(), [&](auto g) {
          return static_cast<uint16_t>(g) == group;
        });
      });
}

// IKE_AUTH and all later messages go to port 4500 once there is a NAT
// (RFC 7296 2.23).
Path Float(Path path) {
  if (path.remote.port != 500) return path;
  path.remote.port = 4500;
  path.local.port = 4500;
  return path;
}

}  // namespace

void AppendInitNotifications(const SpiPair& spis, const Path& path, bool forced,
                             Context& ctx, wire::Payloads* payloads) {
  const NatHash source = forced ? UnmatchableNatHash(ctx.random)
                                : ComputeNatHash(spis, path.local);
  const NatHash destination = ComputeNatHash(spis, path.remote);
  std::vector<wire::HashAlgorithm> hashes;
  for (uint16_t hash : crypto::kSignatureHashes) {
    hashes.push_back(static_cast<wire::HashAlgorithm>(hash));
  }
  payloads->push_back(Payload::Of(
      NotifyPayload::Of(NotifyType::kNatDetectionSourceIp, ToBytes(source))));
  payloads->push_back(Payload::Of(NotifyPayload::Of(
      NotifyType::kNatDetectionDestinationIp, ToBytes(destination))));
  payloads->push_back(
      Payload::Of(NotifyPayload::Of(NotifyType::kIkev2FragmentationSupported)));
  payloads->push_back(
      Payload::Of(NotifyPayload::SignatureHashAlgorithms(hashes)));
}

NatVerdict NatOf(const SpiPair& spis, const Path& path,
                 const wire::Payloads& payloads) {
  return DetectNat(spis, path,
                   DataOf(payloads, NotifyType::kNatDetectionSourceIp),
                   DataOf(payloads, NotifyType::kNatDetectionDestinationIp));
}

std::vector<uint16_t> HashesOf(const wire::Payloads& payloads) {
  std::vector<uint16_t> hashes;
  const NotifyPayload* notify =
      wire::FindNotify(payloads, NotifyType::kSignatureHashAlgorithms);
  if (notify == nullptr) return hashes;
  for (wire::HashAlgorithm hash : notify->HashAlgorithms()) {
    hashes.push_back(static_cast<uint16_t>(hash));
  }
  return hashes;
}

// --- initiator ---

Task::Progress InitInitiator::Start(IkeSa& sa) {
  group_ = sa.peer()->config->ike_proposals.front().groups.front();
  nonce_ = sa.ctx().NewNonce();
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{group_}));
  return Progress::kRunning;
}

void InitInitiator::Ask(IkeSa& sa, crypto::KeyExchangeGenerated key,
                        bool again) {
  const PeerConfig& config = *sa.peer()->config;
  const SpiPair spis = {sa.local_spi(), 0};
  wire::Payloads payloads;
  // RFC 7296 2.6: the cookie comes first, the rest stays as it was.
  if (!cookie_.empty()) {
    payloads.push_back(
        Payload::Of(NotifyPayload::Of(NotifyType::kCookie, cookie_)));
  }
  payloads.push_back(Payload::Of(OfferIke(config.ike_proposals, {})));
  payloads.push_back(Payload::Of(wire::KePayload{
      .group = static_cast<uint16_t>(group_), .data = key.public_value}));
  payloads.push_back(Payload::Of(wire::NoncePayload{.nonce = nonce_}));
  AppendInitNotifications(spis, sa.path(), config.force_encapsulation, sa.ctx(),
                          &payloads);
  const wire::Header header = {.initiator_spi = spis.initiator,
                               .exchange = wire::ExchangeType::kIkeSaInit,
                               .from_initiator = true};
  base::Bytes request = wire::EncodeMessage(header, payloads);
  sa.SendInitRequest(request, again);
  state_ = Asked{.key = std::move(key), .request = std::move(request)};
}

Task::Progress InitInitiator::HandleClearResponse(IkeSa& sa,
                                                  const wire::Message& message,
                                                  base::ByteSpan raw) {
  if (!std::holds_alternative<Asked>(state_)) return Progress::kRunning;
  if (wire::CheckPayloads(kind(), true, message.payloads)) {
    ++sa.ctx().counters.malformed;
    return Progress::kRunning;
  }
  if (wire::IsRefusal(kind(), message.payloads)) {
    return Refused(sa, message.payloads);
  }
  return Accept(sa, message, raw);
}

Task::Progress InitInitiator::Refused(IkeSa& sa,
                                      const wire::Payloads& payloads) {
  const NotifyPayload* cookie = wire::FindNotify(payloads, NotifyType::kCookie);
  const NotifyPayload* invalid_ke =
      wire::FindNotify(payloads, NotifyType::kInvalidKePayload);
  if (++rounds_ <= kMaxRounds && cookie != nullptr && !cookie->data.empty() &&
      cookie->data.size() <= 64) {
    cookie_ = cookie->data;
    Ask(sa, std::move(std::get<Asked>(state_).key), /*again=*/true);
    return Progress::kRunning;
  }
  if (rounds_ <= kMaxRounds && invalid_ke != nullptr) {
    const std::optional<uint16_t> wanted = invalid_ke->DataU16();
    // Only a group that we offered: whoever forges this cannot weaken us.
    if (wanted && *wanted != static_cast<uint16_t>(group_) &&
        Offers(sa.peer()->config->ike_proposals, *wanted)) {
      group_ = static_cast<crypto::Group>(*wanted);
      state_ = Generating{.again = true};
      Await(sa.RunCrypto(crypto::GenerateKeyExchange{group_}));
      return Progress::kRunning;
    }
  }
  const NotifyPayload* error = wire::FindError(payloads);
  const std::string why =
      error == nullptr ? "no answer to our cookie"
                       : absl::StrCat("refused with ", ToString(error->type));
  sa.ctx().Report(
      error != nullptr && error->type == NotifyType::kNoProposalChosen
          ? Event::Kind::kNoProposalChosen
          : Event::Kind::kProtocolError,
      sa.peer_id(), sa.id(), {}, absl::StrCat("IKE_SA_INIT ", why));
  sa.Close(IkeSa::Ending::kSilent, why);
  return Progress::kDone;
}

Task::Progress InitInitiator::Accept(IkeSa& sa, const wire::Message& message,
                                     base::ByteSpan raw) {
  const wire::Payloads& payloads = message.payloads;
  const auto* offer = wire::Find<wire::SaPayload>(payloads);
  const auto* ke = wire::Find<wire::KePayload>(payloads);
  const auto* nonce = wire::Find<wire::NoncePayload>(payloads);
  const std::optional<AcceptedIke> accepted =
      AcceptIke(sa.peer()->config->ike_proposals, *offer);
  // What is not a good answer to our request is as if it had never come:
  // nothing here is authenticated, and the right one may still arrive.
  if (!accepted || accepted->suite.group != group_ ||
      ke->group != static_cast<uint16_t>(group_) ||
      ke->data.size() != crypto::PublicValueSize(group_) ||
      message.header.responder_spi == 0) {
    ++sa.ctx().counters.malformed;
    return Progress::kRunning;
  }
  auto& asked = std::get<Asked>(state_);
  sa.SettleInit();
  sa.set_remote_spi(message.header.responder_spi);
  NatVerdict nat = NatOf(sa.spis(), sa.path(), payloads);
  nat.forced = sa.peer()->config->force_encapsulation;
  sa.set_nat(nat);
  if (nat.any()) sa.set_path(Float(sa.path()));
  sa.set_fragmentation(
      wire::FindNotify(payloads, NotifyType::kIkev2FragmentationSupported) !=
      nullptr);
  Await(sa.RunCrypto(crypto::ComputeSharedSecret{.key = asked.key.key,
                                                 .peer_public = ke->data}));
  state_ = Agreed{.suite = accepted->suite,
                  .material = {.request = std::move(asked.request),
                               .response = ToBytes(raw),
                               .nonce_i = nonce_,
                               .nonce_r = nonce->nonce,
                               .peer_hashes = HashesOf(payloads)}};
  return Progress::kRunning;
}

Task::Progress InitInitiator::HandleCrypto(IkeSa& sa, crypto::Result result) {
  if (!result.ok()) {
    sa.Close(IkeSa::Ending::kSilent,
             absl::StrCat("key exchange failed: ", result.status().message()));
    return Progress::kDone;
  }
  if (auto* generating = std::get_if<Generating>(&state_)) {
    auto* key = std::get_if<crypto::KeyExchangeGenerated>(&*result);
    if (key == nullptr) return Progress::kDone;
    Ask(sa, std::move(*key), generating->again);
    return Progress::kRunning;
  }
  auto* agreed = std::get_if<Agreed>(&state_);
  auto* secret = std::get_if<crypto::SharedSecret>(&*result);
  if (agreed == nullptr || secret == nullptr) return Progress::kDone;
  AuthMaterial& material = agreed->material;
  const base::SecretBytes skeyseed =
      InitialSkeyseed(agreed->suite.prf, material.nonce_i, material.nonce_r,
                      secret->secret.span());
  DerivedKeys keys =
      DeriveIkeKeys(agreed->suite, skeyseed.span(), material.nonce_i,
                    material.nonce_r, sa.spis());
  material.keys = std::move(keys.auth);
  sa.auth_material() = std::make_unique<AuthMaterial>(std::move(material));
  sa.SetKeys(agreed->suite, std::move(keys.ike));
  sa.Continue(MakeIkeAuthInitiator());
  return Progress::kDone;
}

// --- responder ---

Task::Progress InitResponder::Start(IkeSa& sa) {
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{request_.chosen.suite.group}));
  return Progress::kRunning;
}

Task::Progress InitResponder::Respond(IkeSa& sa,
                                      crypto::KeyExchangeGenerated key) {
  const base::Bytes nonce = sa.ctx().NewNonce();
  wire::Payloads payloads;
  payloads.push_back(Payload::Of(request_.chosen.answer));
  payloads.push_back(Payload::Of(wire::KePayload{
      .group = static_cast<uint16_t>(request_.chosen.suite.group),
      .data = std::move(key.public_value)}));
  payloads.push_back(Payload::Of(wire::NoncePayload{.nonce = nonce}));
  AppendInitNotifications(sa.spis(), sa.path(), request_.force_encapsulation,
                          sa.ctx(), &payloads);
  // RFC 6023 3: an initiator may leave the CHILD_SA for later.
  payloads.push_back(
      Payload::Of(NotifyPayload::Of(NotifyType::kChildlessIkev2Supported)));
  const SpiPair spis = sa.spis();
  base::Bytes response =
      wire::EncodeMessage({.initiator_spi = spis.initiator,
                           .responder_spi = spis.responder,
                           .exchange = wire::ExchangeType::kIkeSaInit,
                           .response = true},
                          payloads);
  sa.SendInitResponse(response);
  sa.auth_material() = std::make_unique<AuthMaterial>(
      AuthMaterial{.request = std::move(request_.raw),
                   .response = std::move(response),
                   .nonce_i = std::move(request_.nonce),
                   .nonce_r = nonce,
                   .peer_hashes = std::move(request_.peer_hashes)});
  responded_ = true;
  Await(sa.RunCrypto(crypto::ComputeSharedSecret{
      .key = std::move(key.key), .peer_public = request_.peer_public}));
  return Progress::kRunning;
}

Task::Progress InitResponder::HandleCrypto(IkeSa& sa, crypto::Result result) {
  if (!result.ok()) {
    sa.Close(IkeSa::Ending::kSilent,
             absl::StrCat("key exchange failed: ", result.status().message()));
    return Progress::kDone;
  }
  if (!responded_) {
    auto* key = std::get_if<crypto::KeyExchangeGenerated>(&*result);
    if (key == nullptr) return Progress::kDone;
    return Respond(sa, std::move(*key));
  }
  auto* secret = std::get_if<crypto::SharedSecret>(&*result);
  if (secret == nullptr) return Progress::kDone;
  AuthMaterial& material = *sa.auth_material();
  const IkeSuite& suite = request_.chosen.suite;
  const base::SecretBytes skeyseed = InitialSkeyseed(
      suite.prf, material.nonce_i, material.nonce_r, secret->secret.span());
  DerivedKeys keys = DeriveIkeKeys(suite, skeyseed.span(), material.nonce_i,
                                   material.nonce_r, sa.spis());
  material.keys = std::move(keys.auth);
  sa.SetKeys(suite, std::move(keys.ike));
  return Progress::kDone;
}

}  // namespace espalier::ike
