#include "agent/ike/tasks/rekey_ike.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"
#include "agent/crypto/key_exchange.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/proposal.h"
#include "agent/ike/tasks/key_exchange_responder.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

// How long the end that did not begin waits for the Delete of what was
// replaced.
constexpr absl::Duration kDeleteAwaited = absl::Minutes(1);

base::Bytes SpiBytes(uint64_t spi) {
  base::ByteWriter writer;
  writer.WriteU64(spi);
  return writer.Take();
}

// 0 when it is none.
uint64_t SpiOf(const base::Bytes& bytes) {
  base::ByteReader reader(bytes);
  uint64_t spi = 0;
  if (bytes.size() != 8 || !reader.ReadU64(&spi)) return 0;
  return spi;
}

// What both ends know when the exchange is done.
struct Outcome {
  IkeSuite suite;
  bool initiator = false;
  uint64_t local_spi = 0, remote_spi = 0;
  base::Bytes nonce_i, nonce_r;
};

// The new IKE_SA, in its place in the core; the children are still the old
// one's.
IkeSaId Spawn(IkeSa& old, const Outcome& outcome, base::ByteSpan secret) {
  auto next = std::make_unique<IkeSa>(old.ctx(), old.peer(), outcome.initiator,
                                      outcome.local_spi, old.path());
  next->set_remote_spi(outcome.remote_spi);
  const base::SecretBytes skeyseed =
      RekeySkeyseed(old.suite().prf, old.keys().sk_d.span(), secret,
                    outcome.nonce_i, outcome.nonce_r);
  DerivedKeys keys =
      DeriveIkeKeys(outcome.suite, skeyseed.span(), outcome.nonce_i,
                    outcome.nonce_r, next->spis());
  next->SetKeys(outcome.suite, std::move(keys.ike));
  next->EstablishAsSuccessorOf(old);
  const IkeSaId id = next->id();
  old.ctx().spawned.push_back(std::move(next));
  return id;
}

void HandOver(IkeSa& old, IkeSaId successor) {
  old.peer()->tunnels.Inherit(old.id(), successor);
  // It was to go, and waited for the rekey to end.
  if (old.Wants(Wish::Kind::kDeleteIke)) {
    old.ctx().Notify(Notice::Kind::kDeleteIke, successor);
  }
  old.PassWishesOn(successor);
  old.peer_rekey.reset();
  old.set_stage(IkeSa::Stage::kReplaced);
  old.ctx().Report(Event::Kind::kIkeSaRekeyed, old.peer_id(), successor, {},
                   "");
}

class RekeyIkeInitiator : public Task {
 public:
  RekeyIkeInitiator() : Task(wire::ExchangeKind::kRekeyIkeSa) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleResponse(IkeSa& sa, const wire::Payloads& payloads) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;

 private:
  struct Generating {};
  struct Asked {
    std::shared_ptr<crypto::KeyExchangeKey> key;
  };
  struct Agreed {
    Outcome outcome;
  };

  Progress Ask(IkeSa& sa, crypto::KeyExchangeGenerated key);
  Progress Refused(IkeSa& sa, const NotifyPayload& error);
  Progress Finish(IkeSa& sa, const Outcome& outcome, base::ByteSpan secret);
  // Ours came to nothing; the peer's own rekey, if there is one, stands.
  Progress GiveUp(IkeSa& sa, const std::string& why);
  // The same when the peer has made its successor, and holds this one for
  // replaced.
  Progress GiveUpAlone(IkeSa& sa, const std::string& why);

  std::variant<Generating, Asked, Agreed> state_;
  crypto::Group group_ = crypto::Group::kX25519;
  base::Bytes nonce_;
  uint64_t spi_ = 0;
  int rounds_ = 0;
};

Task::Progress RekeyIkeInitiator::Start(IkeSa& sa) {
  // Not while the peer makes a CHILD_SA on it (2.25.2).
  group_ = sa.peer()->config->ike_proposals.front().groups.front();
  nonce_ = sa.ctx().NewNonce();
  spi_ = sa.ctx().NewIkeSpi();
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{group_}));
  return Progress::kRunning;
}

Task::Progress RekeyIkeInitiator::Ask(IkeSa& sa,
                                      crypto::KeyExchangeGenerated key) {
  wire::Payloads payloads;
  payloads.push_back(
      Payload::Of(OfferIke(sa.peer()->config->ike_proposals, SpiBytes(spi_))));
  payloads.push_back(Payload::Of(wire::NoncePayload{.nonce = nonce_}));
  payloads.push_back(
      Payload::Of(wire::KePayload{.group = static_cast<uint16_t>(group_),
                                  .data = std::move(key.public_value)}));
  state_ = Asked{std::move(key.key)};
  sa.SendRequest(wire::ExchangeType::kCreateChildSa, payloads);
  return Progress::kRunning;
}

Task::Progress RekeyIkeInitiator::GiveUp(IkeSa& sa, const std::string& why) {
  sa.ctx().Report(Event::Kind::kProtocolError, sa.peer_id(), sa.id(), {},
                  absl::StrCat("rekey of the IKE_SA failed: ", why));
  if (sa.peer_rekey) {
    if (!sa.PeerRekeyStands()) {
      sa.Close(IkeSa::Ending::kSilent, "its successor was deleted");
      return Progress::kDone;
    }
    HandOver(sa, sa.peer_rekey->successor);
    sa.set_close_at(sa.ctx().now + kDeleteAwaited);
  }
  return Progress::kDone;
}

Task::Progress RekeyIkeInitiator::GiveUpAlone(IkeSa& sa,
                                              const std::string& why) {
  const bool theirs = sa.peer_rekey.has_value();
  GiveUp(sa, why);
  // The CHILD_SAs are the same at both ends, and go on until a new IKE_SA has
  // brought others. Their traffic is no sign that this one lives.
  if (!theirs) sa.Close(IkeSa::Ending::kLost, why);
  return Progress::kDone;
}

Task::Progress RekeyIkeInitiator::Refused(IkeSa& sa,
                                          const NotifyPayload& error) {
  const std::optional<uint16_t> wanted =
      error.type == NotifyType::kInvalidKePayload ? error.DataU16()
                                                  : std::nullopt;
  if (wanted && ++rounds_ <= 2 && *wanted != static_cast<uint16_t>(group_)) {
    for (const IkeProposal& p : sa.peer()->config->ike_proposals) {
      for (crypto::Group group : p.groups) {
        if (static_cast<uint16_t>(group) != *wanted) continue;
        group_ = group;
        state_ = Generating{};
        Await(sa.RunCrypto(crypto::GenerateKeyExchange{group_}));
        return Progress::kRunning;
      }
    }
  }
  if (error.type == NotifyType::kTemporaryFailure && !sa.peer_rekey) {
    sa.RetryLater(Wish::Kind::kRekeyIke, ChildSaId());
    return Progress::kDone;
  }
  if (error.type == NotifyType::kNoAdditionalSas) {
    // RFC 7296 1.3, 4: a new IKE_SA takes the place of this one.
    sa.StopRekeying();
    sa.ctx().Notify(Notice::Kind::kReestablish, sa.id());
  }
  return GiveUp(sa, ToString(error.type));
}

Task::Progress RekeyIkeInitiator::HandleResponse(
    IkeSa& sa, const wire::Payloads& payloads) {
  auto* asked = std::get_if<Asked>(&state_);
  if (asked == nullptr) return Progress::kRunning;
  if (wire::IsRefusal(kind(), payloads)) {
    return Refused(sa, *wire::FindError(payloads));
  }
  const auto* answer = wire::Find<wire::SaPayload>(payloads);
  const auto* ke = wire::Find<wire::KePayload>(payloads);
  const auto* nonce = wire::Find<wire::NoncePayload>(payloads);
  const std::optional<AcceptedIke> accepted =
      AcceptIke(sa.peer()->config->ike_proposals, *answer);
  if (!accepted || accepted->suite.group != group_ ||
      SpiOf(accepted->peer_spi) == 0 || ke == nullptr || nonce == nullptr ||
      ke->group != static_cast<uint16_t>(group_) ||
      ke->data.size() != crypto::PublicValueSize(group_)) {
    return GiveUpAlone(sa, "the answer is no subset of our offer");
  }
  Await(sa.RunCrypto(crypto::ComputeSharedSecret{.key = std::move(asked->key),
                                                 .peer_public = ke->data}));
  state_ = Agreed{{.suite = accepted->suite,
                   .initiator = true,
                   .local_spi = spi_,
                   .remote_spi = SpiOf(accepted->peer_spi),
                   .nonce_i = nonce_,
                   .nonce_r = nonce->nonce}};
  return Progress::kRunning;
}

Task::Progress RekeyIkeInitiator::HandleCrypto(IkeSa& sa,
                                               crypto::Result result) {
  const bool answered = std::holds_alternative<Agreed>(state_);
  if (!result.ok()) {
    const std::string why(result.status().message());
    return answered ? GiveUpAlone(sa, why) : GiveUp(sa, why);
  }
  if (auto* key = std::get_if<crypto::KeyExchangeGenerated>(&*result)) {
    return Ask(sa, std::move(*key));
  }
  auto* secret = std::get_if<crypto::SharedSecret>(&*result);
  auto* agreed = std::get_if<Agreed>(&state_);
  if (secret == nullptr || agreed == nullptr) {
    return GiveUp(sa, "unexpected result");
  }
  return Finish(sa, agreed->outcome, secret->secret.span());
}

Task::Progress RekeyIkeInitiator::Finish(IkeSa& sa, const Outcome& outcome,
                                         base::ByteSpan secret) {
  const IkeSaId ours = Spawn(sa, outcome, secret);
  if (!sa.PeerRekeyStands()) {
    HandOver(sa, ours);
    sa.Want(Wish::Kind::kDeleteIke);
    return Progress::kDone;
  }
  // 2.8.1: the IKE_SA whose exchange had the lowest nonce is redundant; who
  // made it deletes it, and who made the other deletes the old one.
  const IkeSa::PeerRekey theirs = *sa.peer_rekey;
  if (std::min(outcome.nonce_i, outcome.nonce_r) < theirs.lower_nonce) {
    HandOver(sa, theirs.successor);
    sa.set_close_at(sa.ctx().now + kDeleteAwaited);
    sa.ctx().Notify(Notice::Kind::kDeleteIke, ours);
  } else {
    HandOver(sa, ours);
    sa.Want(Wish::Kind::kDeleteIke);
    sa.ctx().Notify(Notice::Kind::kAwaitDelete, theirs.successor);
  }
  return Progress::kDone;
}

class RekeyIkeResponder : public KeyExchangeResponder {
 public:
  explicit RekeyIkeResponder(wire::Payloads request)
      : KeyExchangeResponder(wire::ExchangeKind::kRekeyIkeSa,
                             std::move(request)) {}
  Progress Start(IkeSa& sa) override;

 private:
  Progress HaveSecret(IkeSa& sa, base::ByteSpan secret) override;

  ChosenIke chosen_;
};

Task::Progress RekeyIkeResponder::Start(IkeSa& sa) {
  const auto* offer = wire::Find<wire::SaPayload>(request());
  const auto* ke = wire::Find<wire::KePayload>(request());
  const uint16_t ke_group = ke == nullptr ? 0 : ke->group;
  std::optional<ChosenIke> chosen =
      ChooseIke(sa.peer()->config->ike_proposals, *offer, ke_group);
  if (!chosen || SpiOf(chosen->peer_spi) == 0) {
    return Refuse(sa, NotifyPayload::Of(NotifyType::kNoProposalChosen));
  }
  chosen_ = *std::move(chosen);
  return BeginKeyExchange(sa, chosen_.suite.group);
}

Task::Progress RekeyIkeResponder::HaveSecret(IkeSa& sa, base::ByteSpan secret) {
  // What was begun while the arithmetic ran may stand against it by now.
  if (sa.stage() != IkeSa::Stage::kEstablished) {
    return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
  }
  const Outcome outcome = {.suite = chosen_.suite,
                           .local_spi = sa.ctx().NewIkeSpi(),
                           .remote_spi = SpiOf(chosen_.peer_spi),
                           .nonce_i = peer_nonce(),
                           .nonce_r = sa.ctx().NewNonce()};
  SetSpi(&chosen_.answer, outcome.local_spi);
  wire::Payloads payloads;
  payloads.push_back(Payload::Of(std::move(chosen_.answer)));
  payloads.push_back(Payload::Of(wire::NoncePayload{.nonce = outcome.nonce_r}));
  payloads.push_back(TakeKe());
  sa.SendResponse(wire::ExchangeType::kCreateChildSa, payloads);
  if (sa.dead()) return Progress::kDone;
  const IkeSaId theirs = Spawn(sa, outcome, secret);
  const bool ours_too =
      sa.own_task() && sa.own_task()->kind() == wire::ExchangeKind::kRekeyIkeSa;
  if (ours_too) {
    sa.peer_rekey = IkeSa::PeerRekey{
        .lower_nonce = std::min(outcome.nonce_i, outcome.nonce_r),
        .successor = theirs};
    return Progress::kDone;
  }
  HandOver(sa, theirs);
  sa.set_close_at(sa.ctx().now + kDeleteAwaited);
  return Progress::kDone;
}

}  // namespace

std::unique_ptr<Task> MakeRekeyIke() {
  return std::make_unique<RekeyIkeInitiator>();
}

std::unique_ptr<Task> MakeRekeyIkeResponder(const wire::Payloads& request) {
  return std::make_unique<RekeyIkeResponder>(request);
}

}  // namespace espalier::ike
