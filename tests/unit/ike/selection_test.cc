// Proposals and traffic selectors (RFC 7296 2.7, 2.9, 3.3).
#include "agent/ike/proposal.h"
#include "agent/ike/traffic_selectors.h"
#include "gtest/gtest.h"

namespace espalier::ike {
namespace {

using wire::TransformType;

wire::SaPayload OneProposal(std::vector<wire::Transform> transforms,
                            wire::ProtocolId protocol) {
  wire::SaPayload offer;
  offer.proposals.push_back({.protocol = protocol,
                             .spi = protocol == wire::ProtocolId::kEsp
                                        ? base::Bytes{1, 2, 3, 4}
                                        : base::Bytes{},
                             .transforms = std::move(transforms)});
  return offer;
}

wire::Transform T(TransformType type, uint16_t id,
                  std::optional<uint16_t> bits = std::nullopt) {
  return {.type = type, .id = id, .key_length = bits};
}

TEST(Proposal, OurOfferIsAccepted) {
  const std::vector<IkeProposal> ours = {IkeProposal{}};
  const auto chosen = ChooseIke(ours, OfferIke(ours, {}), 31);
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->suite.group, crypto::Group::kX25519);
  EXPECT_EQ(chosen->suite.prf, crypto::Prf::kHmacSha2_384);
  const auto accepted = AcceptIke(ours, chosen->answer);
  ASSERT_TRUE(accepted);
  EXPECT_EQ(accepted->suite.cipher, chosen->suite.cipher);
}

TEST(Proposal, TakesTheGroupOfTheKePayloadWhenAllowed) {
  const std::vector<IkeProposal> ours = {
      {.groups = {crypto::Group::kX25519, crypto::Group::kEcp256}}};
  EXPECT_EQ(ChooseIke(ours, OfferIke(ours, {}), 19)->suite.group,
            crypto::Group::kEcp256);
  // One that we do not allow: our own preference.
  EXPECT_EQ(ChooseIke(ours, OfferIke(ours, {}), 2)->suite.group,
            crypto::Group::kX25519);
}

TEST(Proposal, WeakAlgorithmsAreNeverChosen) {
  const std::vector<IkeProposal> ours = {IkeProposal{}};
  const auto offered = [&](uint16_t cipher, std::optional<uint16_t> bits,
                           uint16_t prf, uint16_t group) {
    return ChooseIke(ours,
                     OneProposal({T(TransformType::kEncryption, cipher, bits),
                                  T(TransformType::kPrf, prf),
                                  T(TransformType::kKeyExchange, group)},
                                 wire::ProtocolId::kIke),
                     group);
  };
  EXPECT_TRUE(offered(20, 256, 6, 31));
  EXPECT_FALSE(offered(2, std::nullopt, 6, 31));   // DES
  EXPECT_FALSE(offered(3, std::nullopt, 6, 31));   // 3DES
  EXPECT_FALSE(offered(11, std::nullopt, 6, 31));  // NULL
  EXPECT_FALSE(offered(20, 128, 6, 31));           // not what is configured
  EXPECT_FALSE(offered(20, std::nullopt, 6, 31));  // no key length
  EXPECT_FALSE(offered(20, 256, 1, 31));           // HMAC-MD5
  EXPECT_FALSE(offered(20, 256, 2, 31));           // HMAC-SHA1
  EXPECT_FALSE(offered(20, 256, 6, 2));            // MODP-1024
  EXPECT_FALSE(offered(20, 256, 6, 5));            // MODP-1536
}

TEST(Proposal, AnUnknownTransformTypeOrAttributeRulesOut) {
  const std::vector<IkeProposal> ours = {IkeProposal{}};
  wire::SaPayload offer = OfferIke(ours, {});
  offer.proposals[0].transforms.push_back(
      T(TransformType::kAdditionalKeyExchange1, 36));
  EXPECT_FALSE(ChooseIke(ours, offer, 31));
  offer = OfferIke(ours, {});
  offer.proposals[0].transforms[0].unknown_attributes.push_back({.type = 99});
  EXPECT_FALSE(ChooseIke(ours, offer, 31));
}

TEST(Proposal, CombinedModeTakesIntegrityNoneButNoOther) {
  const std::vector<IkeProposal> ours = {IkeProposal{}};
  wire::SaPayload offer = OfferIke(ours, {});
  offer.proposals[0].transforms.push_back(T(TransformType::kIntegrity, 12));
  EXPECT_FALSE(ChooseIke(ours, offer, 31));
  offer.proposals[0].transforms.push_back(T(TransformType::kIntegrity, 0));
  EXPECT_TRUE(ChooseIke(ours, offer, 31));
}

TEST(Proposal, AnAnswerMayNotLeaveTheOffer) {
  const std::vector<IkeProposal> ours = {IkeProposal{}};
  wire::SaPayload answer = ChooseIke(ours, OfferIke(ours, {}), 31)->answer;
  ASSERT_TRUE(AcceptIke(ours, answer));
  wire::SaPayload two = answer;
  two.proposals.push_back(two.proposals[0]);
  EXPECT_FALSE(AcceptIke(ours, two));
  wire::SaPayload number = answer;
  number.proposals[0].number = 2;
  EXPECT_FALSE(AcceptIke(ours, number));
  wire::SaPayload twice = answer;
  twice.proposals[0].transforms.push_back(twice.proposals[0].transforms[0]);
  EXPECT_FALSE(AcceptIke(ours, twice));
  wire::SaPayload weaker = answer;
  weaker.proposals[0].transforms[0].key_length = 128;
  EXPECT_FALSE(AcceptIke(ours, weaker));
}

TEST(Proposal, ChildWithoutEsnTransformMeansNone) {
  const std::vector<ChildProposal> ours = {ChildProposal{}};
  const auto chosen =
      ChooseChild(ours,
                  OneProposal({T(TransformType::kEncryption, 20, 256)},
                              wire::ProtocolId::kEsp),
                  0, /*groups=*/false);
  ASSERT_TRUE(chosen);
  EXPECT_FALSE(chosen->suite.esn);
  const auto full =
      ChooseChild(ours, OfferChild(ours, base::Spi(0x1000), false), 0, false);
  ASSERT_TRUE(full);
  EXPECT_TRUE(full->suite.esn);
}

TEST(Proposal, EsnIsPreferredAndCanBeSwitchedOff) {
  const std::vector<ChildProposal> both = {ChildProposal{}};
  const std::vector<ChildProposal> none = {{.esn = false}};
  const auto esn = [](const std::vector<ChildProposal>& ours,
                      const std::vector<ChildProposal>& theirs) {
    const auto chosen = ChooseChild(
        ours, OfferChild(theirs, base::Spi(0x1000), true), 31, true);
    EXPECT_TRUE(chosen);
    const auto accepted = AcceptChild(theirs, chosen->answer, true);
    EXPECT_FALSE(accepted);  // the answer has no SPI yet
    wire::SaPayload answer = chosen->answer;
    SetSpi(&answer, base::Spi(0x2000));
    EXPECT_EQ(AcceptChild(theirs, answer, true)->suite, chosen->suite);
    return chosen->suite.esn;
  };
  EXPECT_TRUE(esn(both, both));
  EXPECT_FALSE(esn(both, none));
  EXPECT_FALSE(esn(none, both));
}

TEST(Proposal, ChildRefusesAhReservedSpisAndMissingPfs) {
  const std::vector<ChildProposal> ours = {ChildProposal{}};
  wire::SaPayload offer = OfferChild(ours, base::Spi(0x1000), true);
  EXPECT_TRUE(ChooseChild(ours, offer, 31, true));
  wire::SaPayload ah = offer;
  ah.proposals[0].protocol = wire::ProtocolId::kAh;
  EXPECT_FALSE(ChooseChild(ours, ah, 31, true));
  wire::SaPayload reserved = offer;
  reserved.proposals[0].spi = {0, 0, 0, 255};
  EXPECT_FALSE(ChooseChild(ours, reserved, 31, true));
  const wire::SaPayload no_pfs = OfferChild(ours, base::Spi(0x1000), false);
  EXPECT_FALSE(ChooseChild(ours, no_pfs, 0, true));
}

TEST(Proposal, ChaChaHasNoKeyLengthAttribute) {
  const std::vector<ChildProposal> ours = {
      {.cipher = base::EspCipher::kChaCha20Poly1305}};
  const wire::SaPayload offer = OfferChild(ours, base::Spi(0x1000), true);
  EXPECT_FALSE(offer.proposals[0].transforms[0].key_length);
  EXPECT_TRUE(ChooseChild(ours, offer, 31, true));
}

TEST(Proposal, ValidationNamesWhatCannotBeOffered) {
  EXPECT_TRUE(Validate(IkeProposal{}).ok());
  EXPECT_FALSE(Validate(IkeProposal{.prfs = {}}).ok());
  EXPECT_FALSE(Validate(IkeProposal{.groups = {}}).ok());
  EXPECT_FALSE(Validate(IkeProposal{.cipher = crypto::Cipher::kAesCbc}).ok());
  EXPECT_FALSE(
      Validate(IkeProposal{.integrity = crypto::Integrity::kHmacSha2_256_128})
          .ok());
  EXPECT_FALSE(Validate(ChildProposal{.key_bits = 192}).ok());
}

base::TrafficSelector Ts(const std::string& prefix) {
  return base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse(prefix));
}

TEST(Selectors, NarrowingNeverWidens) {
  const Selectors configured = {Ts("10.1.0.0/16"), Ts("fd00::/64")};
  EXPECT_EQ(Narrow({Ts("0.0.0.0/0"), Ts("::/0")}, configured), configured);
  EXPECT_EQ(Narrow({Ts("10.1.2.0/24")}, configured),
            (Selectors{Ts("10.1.2.0/24")}));
  EXPECT_TRUE(Narrow({Ts("10.2.0.0/16")}, configured).empty());
  EXPECT_TRUE(Narrow({}, configured).empty());
}

TEST(Selectors, WhatAnotherCoversIsLeftOut) {
  const Selectors configured = {Ts("10.1.0.0/16")};
  EXPECT_EQ(Narrow({Ts("10.1.2.0/24"), Ts("10.0.0.0/8")}, configured),
            configured);
}

TEST(Selectors, HostileListsStayBounded) {
  Selectors many;
  for (int i = 0; i < 255; ++i) {
    many.push_back(Ts("10.1." + std::to_string(i) + ".0/24"));
  }
  EXPECT_EQ(Narrow(many, {Ts("10.1.0.0/16")}).size(), kMaxSelectors);
}

TEST(Selectors, AnAnswerMustLieInsideTheOffer) {
  EXPECT_TRUE(IsNarrowing({Ts("10.1.2.0/24")}, {Ts("10.1.0.0/16")}));
  EXPECT_FALSE(IsNarrowing({Ts("10.0.0.0/8")}, {Ts("10.1.0.0/16")}));
  EXPECT_FALSE(IsNarrowing({}, {Ts("10.1.0.0/16")}));
}

}  // namespace
}  // namespace espalier::ike
