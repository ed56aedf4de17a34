#include "agent/ike/proposal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"
#include "agent/ike/child_sa.h"

namespace espalier::ike {
namespace {

using wire::Proposal;
using wire::Transform;
using wire::TransformType;

base::Bytes SpiBytes(base::Spi spi) {
  base::ByteWriter writer;
  writer.WriteU32(spi.value());
  return writer.Take();
}

// AES has variable key lengths and always says which; ChaCha20-Poly1305 has a
// fixed one and must not (RFC 7296 3.3.5, RFC 7634 2).
std::optional<uint16_t> KeyLengthAttribute(uint16_t cipher, uint16_t bits) {
  const bool fixed =
      cipher == static_cast<uint16_t>(crypto::Cipher::kChaCha20Poly1305);
  return fixed ? std::nullopt : std::optional<uint16_t>(bits);
}

Transform Make(TransformType type, uint16_t id,
               std::optional<uint16_t> key_length = std::nullopt) {
  return {.type = type, .id = id, .key_length = key_length};
}

template <typename Enum>
std::vector<uint16_t> Ids(const std::vector<Enum>& values) {
  std::vector<uint16_t> ids;
  for (Enum value : values) ids.push_back(static_cast<uint16_t>(value));
  return ids;
}

// One configured proposal in the terms of the wire, of either protocol: per
// transform type the ids that are acceptable, most preferred first. A type
// with no ids is not offered.
struct Terms {
  uint16_t cipher = 0;  // 0: none is offered (AH)
  std::optional<uint16_t> key_length;
  uint16_t integrity = 0;
  std::vector<uint16_t> prfs, groups, esn;
};

Terms TermsOf(const IkeProposal& p) {
  Terms terms;
  terms.cipher = static_cast<uint16_t>(p.cipher);
  terms.key_length = KeyLengthAttribute(terms.cipher, p.key_bits);
  terms.integrity = static_cast<uint16_t>(p.integrity);
  terms.prfs = Ids(p.prfs);
  terms.groups = Ids(p.groups);
  return terms;
}

Terms TermsOf(const ChildProposal& p, bool groups) {
  Terms terms;
  if (p.protocol == base::IpsecProtocol::kEsp) {
    terms.cipher = static_cast<uint16_t>(p.cipher);
    terms.key_length = KeyLengthAttribute(terms.cipher, p.key_bits);
  }
  terms.integrity = static_cast<uint16_t>(p.integrity);
  if (groups) terms.groups = Ids(p.groups);
  if (p.esn) terms.esn.push_back(wire::kExtendedSequenceNumbers);
  terms.esn.push_back(wire::kNoExtendedSequenceNumbers);
  return terms;
}

Proposal Offer(const Terms& terms, wire::ProtocolId protocol, uint8_t number,
               base::Bytes spi) {
  Proposal proposal{
      .number = number, .protocol = protocol, .spi = std::move(spi)};
  if (terms.cipher != 0) {
    proposal.transforms.push_back(
        Make(TransformType::kEncryption, terms.cipher, terms.key_length));
  }
  for (uint16_t id : terms.prfs) {
    proposal.transforms.push_back(Make(TransformType::kPrf, id));
  }
  if (terms.integrity != 0) {
    proposal.transforms.push_back(
        Make(TransformType::kIntegrity, terms.integrity));
  }
  for (uint16_t id : terms.groups) {
    proposal.transforms.push_back(Make(TransformType::kKeyExchange, id));
  }
  for (uint16_t id : terms.esn) {
    proposal.transforms.push_back(
        Make(TransformType::kExtendedSequenceNumbers, id));
  }
  return proposal;
}

// What one proposal of the peer's lists for one transform type.
class Offered {
 public:
  Offered(const Proposal& proposal, TransformType type) {
    for (const Transform& t : proposal.transforms) {
      if (t.type != type) continue;
      any_ = true;
      // RFC 7296 3.3.6: not with an attribute that we do not know.
      if (t.unknown_attributes.empty()) usable_.push_back(&t);
    }
  }
  bool any() const { return any_; }
  bool Has(uint16_t id, std::optional<uint16_t> key_length = {}) const {
    return std::any_of(usable_.begin(), usable_.end(), [&](auto* t) {
      return t->id == id && t->key_length == key_length;
    });
  }
  // `preferred` when it is offered and acceptable, else the first of
  // `acceptable` that is offered.
  std::optional<uint16_t> Choose(
      const std::vector<uint16_t>& acceptable,
      std::optional<uint16_t> preferred = std::nullopt) const {
    const bool known =
        preferred && std::find(acceptable.begin(), acceptable.end(),
                               *preferred) != acceptable.end();
    if (known && Has(*preferred)) return preferred;
    for (uint16_t id : acceptable) {
      if (Has(id)) return id;
    }
    return std::nullopt;
  }

 private:
  bool any_ = false;
  std::vector<const Transform*> usable_;
};

bool HasUnknownType(const Proposal& proposal) {
  return std::any_of(proposal.transforms.begin(), proposal.transforms.end(),
                     [](auto& t) {
                       return t.type < TransformType::kEncryption ||
                              t.type > TransformType::kExtendedSequenceNumbers;
                     });
}

// One transform of each type that a proposal is reduced to.
struct Choice {
  std::optional<uint16_t> prf, group, esn;
  bool esn_offered = false, integrity_offered = false;
};

std::optional<Choice> Match(const Terms& ours, const Proposal& theirs,
                            uint16_t ke_group, bool ignore_groups) {
  // RFC 7296 3.3.6: a transform type that we do not know rules it out.
  if (HasUnknownType(theirs)) return std::nullopt;
  const Offered encryption(theirs, TransformType::kEncryption);
  if (ours.cipher == 0 ? encryption.any()
                       : !encryption.Has(ours.cipher, ours.key_length)) {
    return std::nullopt;
  }
  Choice choice;
  // Combined-mode ciphers come without integrity, or with NONE (RFC 5282 8).
  const Offered integrity(theirs, TransformType::kIntegrity);
  if (ours.integrity == 0 ? integrity.any() && !integrity.Has(0)
                          : !integrity.Has(ours.integrity)) {
    return std::nullopt;
  }
  choice.integrity_offered = integrity.any();

  const Offered prf(theirs, TransformType::kPrf);
  choice.prf = prf.Choose(ours.prfs);
  if (prf.any() != !ours.prfs.empty()) return std::nullopt;
  if (prf.any() && !choice.prf) return std::nullopt;

  const Offered group(theirs, TransformType::kKeyExchange);
  if (!ignore_groups) {
    choice.group = group.Choose(ours.groups, ke_group);
    const bool none = !group.any() || group.Has(0);
    // With groups configured, PFS is not optional (DESIGN 3).
    if (ours.groups.empty() ? !none : !choice.group) return std::nullopt;
  }

  const Offered esn(theirs, TransformType::kExtendedSequenceNumbers);
  choice.esn_offered = esn.any();
  if (!ours.esn.empty()) {
    // Old peers leave the type out and mean "no".
    choice.esn =
        esn.any() ? esn.Choose(ours.esn)
                  : std::optional<uint16_t>(wire::kNoExtendedSequenceNumbers);
    if (!choice.esn) return std::nullopt;
  } else if (esn.any()) {
    return std::nullopt;
  }
  return choice;
}

wire::SaPayload Answer(const Terms& ours, const Proposal& theirs,
                       const Choice& choice) {
  Terms one = ours;
  one.prfs.clear();
  one.groups.clear();
  one.esn.clear();
  if (choice.prf) one.prfs = {*choice.prf};
  if (choice.group) one.groups = {*choice.group};
  if (choice.esn_offered) one.esn = {*choice.esn};
  wire::SaPayload answer;
  answer.proposals.push_back(Offer(one, theirs.protocol, theirs.number, {}));
  if (one.integrity == 0 && choice.integrity_offered) {
    // It was offered as NONE, and one of each offered type is answered.
    answer.proposals[0].transforms.push_back(
        Make(TransformType::kIntegrity, 0));
  }
  return answer;
}

IkeSuite SuiteOf(const IkeProposal& proposal, const Choice& choice) {
  return {.cipher = {.cipher = proposal.cipher,
                     .key_bits = proposal.key_bits,
                     .integrity = proposal.integrity},
          .prf = static_cast<crypto::Prf>(choice.prf.value_or(0)),
          .group = static_cast<crypto::Group>(choice.group.value_or(0))};
}

std::optional<base::Spi> EspSpi(const Proposal& proposal) {
  base::ByteReader reader(proposal.spi);
  uint32_t value = 0;
  // RFC 4303 2.1: 0 to 255 are reserved.
  if (proposal.spi.size() != 4 || !reader.ReadU32(&value) || value < 256) {
    return std::nullopt;
  }
  return base::Spi(value);
}

ChosenChild ChildOf(const ChildProposal& proposal, const Choice& choice,
                    base::Spi spi) {
  ChosenChild chosen;
  if (proposal.protocol == base::IpsecProtocol::kEsp) {
    chosen.suite = {.cipher = proposal.cipher, .key_bits = proposal.key_bits};
  }
  chosen.suite.integrity = proposal.integrity;
  chosen.suite.esn = choice.esn == wire::kExtendedSequenceNumbers;
  chosen.suite.protocol = proposal.protocol;
  if (choice.group) chosen.group = static_cast<crypto::Group>(*choice.group);
  chosen.peer_spi = spi;
  return chosen;
}

// An answer is one proposal with at most one transform of each type.
const Proposal* SingleAnswer(const wire::SaPayload& answer) {
  if (answer.proposals.size() != 1) return nullptr;
  const Proposal& proposal = answer.proposals[0];
  uint32_t seen = 0;
  for (const Transform& t : proposal.transforms) {
    if (static_cast<uint8_t>(t.type) > 31) return nullptr;
    const uint32_t bit = 1u << static_cast<uint8_t>(t.type);
    if ((seen & bit) != 0) return nullptr;
    seen |= bit;
  }
  return &proposal;
}

}  // namespace

wire::SaPayload OfferIke(const std::vector<IkeProposal>& proposals,
                         base::ByteSpan spi) {
  wire::SaPayload offer;
  for (const IkeProposal& proposal : proposals) {
    offer.proposals.push_back(
        Offer(TermsOf(proposal), wire::ProtocolId::kIke,
              static_cast<uint8_t>(offer.proposals.size() + 1),
              base::Bytes(spi.begin(), spi.end())));
  }
  return offer;
}

std::optional<ChosenIke> ChooseIke(const std::vector<IkeProposal>& ours,
                                   const wire::SaPayload& offer,
                                   uint16_t ke_group) {
  for (const IkeProposal& own : ours) {
    const Terms terms = TermsOf(own);
    for (const Proposal& theirs : offer.proposals) {
      if (theirs.protocol != wire::ProtocolId::kIke) continue;
      const std::optional<Choice> choice =
          Match(terms, theirs, ke_group, /*ignore_groups=*/false);
      if (!choice) continue;
      return ChosenIke{.suite = SuiteOf(own, *choice),
                       .answer = Answer(terms, theirs, *choice),
                       .peer_spi = theirs.spi};
    }
  }
  return std::nullopt;
}

std::optional<AcceptedIke> AcceptIke(const std::vector<IkeProposal>& ours,
                                     const wire::SaPayload& answer) {
  const Proposal* theirs = SingleAnswer(answer);
  if (theirs == nullptr || theirs->protocol != wire::ProtocolId::kIke ||
      theirs->number == 0 || theirs->number > ours.size()) {
    return std::nullopt;
  }
  const IkeProposal& own = ours[theirs->number - 1u];
  const std::optional<Choice> choice =
      Match(TermsOf(own), *theirs, 0, /*ignore_groups=*/false);
  if (!choice) return std::nullopt;
  return AcceptedIke{.suite = SuiteOf(own, *choice), .peer_spi = theirs->spi};
}

bool Allows(const std::vector<IkeProposal>& proposals, const IkeSuite& suite) {
  return std::any_of(
      proposals.begin(), proposals.end(), [&](const IkeProposal& p) {
        return p.cipher == suite.cipher.cipher &&
               p.key_bits == suite.cipher.key_bits &&
               p.integrity == suite.cipher.integrity &&
               std::find(p.prfs.begin(), p.prfs.end(), suite.prf) !=
                   p.prfs.end() &&
               std::find(p.groups.begin(), p.groups.end(), suite.group) !=
                   p.groups.end();
      });
}

wire::SaPayload OfferChild(const std::vector<ChildProposal>& proposals,
                           base::Spi spi, bool groups) {
  wire::SaPayload offer;
  for (const ChildProposal& proposal : proposals) {
    offer.proposals.push_back(
        Offer(TermsOf(proposal, groups), ToWire(proposal.protocol),
              static_cast<uint8_t>(offer.proposals.size() + 1), SpiBytes(spi)));
  }
  return offer;
}

std::optional<ChosenChild> ChooseChild(const std::vector<ChildProposal>& ours,
                                       const wire::SaPayload& offer,
                                       uint16_t ke_group, bool groups) {
  for (const ChildProposal& own : ours) {
    const Terms terms = TermsOf(own, groups);
    for (const Proposal& theirs : offer.proposals) {
      if (theirs.protocol != ToWire(own.protocol)) continue;
      const std::optional<base::Spi> spi = EspSpi(theirs);
      if (!spi) continue;
      const std::optional<Choice> choice =
          Match(terms, theirs, ke_group, /*ignore_groups=*/!groups);
      if (!choice) continue;
      ChosenChild chosen = ChildOf(own, *choice, *spi);
      chosen.answer = Answer(terms, theirs, *choice);
      return chosen;
    }
  }
  return std::nullopt;
}

std::optional<ChosenChild> AcceptChild(const std::vector<ChildProposal>& ours,
                                       const wire::SaPayload& answer,
                                       bool groups) {
  const Proposal* theirs = SingleAnswer(answer);
  if (theirs == nullptr || theirs->number == 0 ||
      theirs->number > ours.size()) {
    return std::nullopt;
  }
  const std::optional<base::Spi> spi = EspSpi(*theirs);
  const ChildProposal& own = ours[theirs->number - 1u];
  if (!spi || theirs->protocol != ToWire(own.protocol)) return std::nullopt;
  const std::optional<Choice> choice =
      Match(TermsOf(own, groups), *theirs, 0, /*ignore_groups=*/!groups);
  if (!choice) return std::nullopt;
  return ChildOf(own, *choice, *spi);
}

void SetSpi(wire::SaPayload* answer, base::Spi spi) {
  for (Proposal& proposal : answer->proposals) proposal.spi = SpiBytes(spi);
}

void SetSpi(wire::SaPayload* answer, uint64_t spi) {
  base::ByteWriter writer;
  writer.WriteU64(spi);
  for (Proposal& proposal : answer->proposals) {
    proposal.spi.assign(writer.span().begin(), writer.span().end());
  }
}

namespace {

// The same rule for both protocols, whose numbers agree.
absl::Status ValidateCipher(uint16_t cipher, uint16_t bits,
                            uint16_t integrity) {
  const crypto::CipherSuite suite = {
      .cipher = static_cast<crypto::Cipher>(cipher),
      .key_bits = bits,
      .integrity = static_cast<crypto::Integrity>(integrity)};
  if (suite.IsSupported()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "cipher ", cipher, " with ", bits, " bits and integrity ", integrity,
      " is no supported combination: AES-GCM (128, 256) and ChaCha20-Poly1305 "
      "(256) take no integrity algorithm, AES-CBC (128, 256) needs one"));
}

}  // namespace

absl::Status Validate(const IkeProposal& p) {
  if (p.prfs.empty() || p.groups.empty()) {
    return absl::InvalidArgumentError(
        "an IKE proposal needs at least one PRF and one group");
  }
  return ValidateCipher(static_cast<uint16_t>(p.cipher), p.key_bits,
                        static_cast<uint16_t>(p.integrity));
}

absl::Status Validate(const ChildProposal& p) {
  if (p.protocol == base::IpsecProtocol::kAh) {
    if (p.integrity != base::EspIntegrity::kNone) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "AH needs an integrity algorithm (HMAC-SHA2)");
  }
  return ValidateCipher(static_cast<uint16_t>(p.cipher), p.key_bits,
                        static_cast<uint16_t>(p.integrity));
}

}  // namespace espalier::ike
