#include "agent/crypto/signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "agent/crypto/job.h"
#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct SchemeCase {
  SignatureScheme scheme;
  KeyType type;
  const char* identifier;
};

const SchemeCase kSchemes[] = {
    // RFC 8420 appendix A.
    {SignatureScheme::kEd25519, KeyType::kEd25519, "300506032b6570"},
    // RFC 7427 A.3.2, A.3.3.
    {SignatureScheme::kEcdsaP256Sha256, KeyType::kEcdsaP256,
     "300a06082a8648ce3d040302"},
    {SignatureScheme::kEcdsaP384Sha384, KeyType::kEcdsaP384,
     "300a06082a8648ce3d040303"},
    // RFC 7427 A.4.3, and with the other hashes of RFC 4055.
    {SignatureScheme::kRsaPssSha256, KeyType::kRsa,
     "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a"
     "06092a864886f70d010108300d06096086480165030402010500a203020120a30302010"
     "1"},
    {SignatureScheme::kRsaPssSha384, KeyType::kRsa,
     "304606092a864886f70d01010a3039a00f300d06096086480165030402020500a11c301a"
     "06092a864886f70d010108300d06096086480165030402020500a203020130a30302010"
     "1"},
    {SignatureScheme::kRsaPssSha512, KeyType::kRsa,
     "304606092a864886f70d01010a3039a00f300d06096086480165030402030500a11c301a"
     "06092a864886f70d010108300d06096086480165030402030500a203020140a30302010"
     "1"}};

std::shared_ptr<const PrivateKey> KeyOf(KeyType type) {
  static auto* const keys =
      new std::vector<std::shared_ptr<const PrivateKey>>(4);
  auto& key = (*keys)[static_cast<size_t>(type)];
  if (key == nullptr) key = *PrivateKey::Generate(type);
  return key;
}

const base::Bytes kData = {1, 2, 3, 4, 5};

Signature SignOne(SignatureScheme scheme, KeyType type) {
  Result result = crypto::Run(Sign{KeyOf(type), scheme, kData});
  EXPECT_TRUE(result.ok()) << result.status();
  return std::get<Signature>(*std::move(result));
}

absl::Status Verify(KeyType type, const Signature& signature,
                    base::Bytes data = kData) {
  return crypto::Run(VerifySignature{KeyOf(type)->public_key(),
                                     signature.algorithm_identifier,
                                     std::move(data), signature.signature})
      .status();
}

TEST(SignatureTest, IdentifiersAreThoseOfTheRfcs) {
  for (const SchemeCase& one : kSchemes) {
    EXPECT_EQ(base::ToHex(AlgorithmIdentifier(one.scheme)), one.identifier)
        << ToString(one.scheme);
  }
}

TEST(SignatureTest, VerifiesWhatItSigned) {
  for (const SchemeCase& one : kSchemes) {
    SCOPED_TRACE(ToString(one.scheme));
    const Signature signature = SignOne(one.scheme, one.type);
    EXPECT_EQ(base::ToHex(signature.algorithm_identifier), one.identifier);
    EXPECT_EQ(Verify(one.type, signature), absl::OkStatus());

    base::Bytes other = kData;
    other[0] ^= 1;
    EXPECT_EQ(Verify(one.type, signature, other).code(),
              absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(Verify(one.type, signature, {}).code(),
              absl::StatusCode::kPermissionDenied);
    for (const size_t octet : {size_t{0}, signature.signature.size() / 2,
                               signature.signature.size() - 1}) {
      Signature bent = signature;
      bent.signature[octet] ^= 1;
      EXPECT_EQ(Verify(one.type, bent).code(),
                absl::StatusCode::kPermissionDenied)
          << octet;
    }
    for (size_t size = 0; size < signature.signature.size(); size += 5) {
      Signature cut = signature;
      cut.signature.resize(size);
      EXPECT_EQ(Verify(one.type, cut).code(),
                absl::StatusCode::kPermissionDenied)
          << size;
    }
  }
}

TEST(SignatureTest, AnotherKeyDoesNotVerify) {
  std::map<KeyType, std::shared_ptr<const PrivateKey>> others;
  for (const SchemeCase& one : kSchemes) {
    const Signature signature = SignOne(one.scheme, one.type);
    auto& other = others[one.type];
    if (other == nullptr) other = *PrivateKey::Generate(one.type);
    EXPECT_EQ(crypto::Run(VerifySignature{other->public_key(),
                                          signature.algorithm_identifier, kData,
                                          signature.signature})
                  .status()
                  .code(),
              absl::StatusCode::kPermissionDenied);
  }
}

TEST(SignatureTest, AKeyOfAnotherTypeIsRefused) {
  for (const SchemeCase& one : kSchemes) {
    const Signature signature = SignOne(one.scheme, one.type);
    for (const SchemeCase& other : kSchemes) {
      if (other.type == one.type) continue;
      if (other.type == KeyType::kEcdsaP256 &&
          one.type == KeyType::kEcdsaP384) {
        continue;  // P-256 verifies with SHA-384, too: see below
      }
      EXPECT_EQ(Verify(other.type, signature).code(),
                absl::StatusCode::kInvalidArgument)
          << ToString(one.scheme) << " with " << ToString(other.type);
      EXPECT_EQ(crypto::Run(Sign{KeyOf(other.type), one.scheme, kData})
                    .status()
                    .code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_EQ(
      Verify(KeyType::kEcdsaP256,
             SignOne(SignatureScheme::kEcdsaP384Sha384, KeyType::kEcdsaP384))
          .code(),
      absl::StatusCode::kPermissionDenied);
}

// RFC 8032 7.1, TEST 2.
TEST(SignatureTest, MatchesRfc8032) {
  const auto key = PrivateKey::FromPem(base::SecretBytes(base::AsBytes(
      "-----BEGIN PRIVATE KEY-----\n"
      "MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n"
      "-----END PRIVATE KEY-----\n")));
  ASSERT_TRUE(key.ok()) << key.status();
  const base::ByteSpan der((*key)->public_key()->der());
  EXPECT_EQ(base::ToHex(der.last(32)),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  const Result result =
      crypto::Run(Sign{*key, SignatureScheme::kEd25519, Hex("72")});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(base::ToHex(std::get<Signature>(*result).signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00");
}

absl::StatusCode VerifyWithIdentifier(const std::string& identifier,
                                      KeyType type, SignatureScheme scheme) {
  Signature signature = SignOne(scheme, type);
  signature.algorithm_identifier = Hex(identifier);
  return Verify(type, signature).code();
}

// What RFC 4055 lets others write for the same thing.
TEST(SignatureTest, ReadsOtherEncodingsOfPss) {
  // Without the trailer field, which has its default.
  EXPECT_EQ(VerifyWithIdentifier(
                "304106092a864886f70d01010a3034a00f300d060960864801650304020105"
                "00a11c301a06092a864886f70d010108300d060960864801650304020105"
                "00a203020120",
                KeyType::kRsa, SignatureScheme::kRsaPssSha256),
            absl::StatusCode::kOk);
  // Hashes without NULL parameters.
  EXPECT_EQ(VerifyWithIdentifier(
                "303d06092a864886f70d01010a3030a00d300b0609608648016503040201"
                "a11a301806092a864886f70d010108300b0609608648016503040201"
                "a203020120",
                KeyType::kRsa, SignatureScheme::kRsaPssSha256),
            absl::StatusCode::kOk);
}

TEST(SignatureTest, RefusesWeakAndUnknownAlgorithms) {
  const struct {
    const char* what;
    const char* identifier;
    KeyType type;
    SignatureScheme scheme;
  } kBad[] = {
      // RFC 7427 A.1.1, A.3.1, A.4.1, A.4.2: all SHA-1.
      {"sha1WithRSAEncryption", "300d06092a864886f70d0101050500", KeyType::kRsa,
       SignatureScheme::kRsaPssSha256},
      {"ecdsa-with-SHA1", "300906072a8648ce3d0401", KeyType::kEcdsaP256,
       SignatureScheme::kEcdsaP256Sha256},
      {"RSASSA-PSS without parameters", "300d06092a864886f70d01010a3000",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      {"RSASSA-PSS with SHA-1 spelled out",
       "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a1183016"
       "06092a864886f70d010108300906052b0e03021a0500a203020114a303020101",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      // RFC 7427 A.1.2: PKCS #1 v1.5.
      {"sha256WithRSAEncryption", "300d06092a864886f70d01010b0500",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      {"PSS whose mask has another hash",
       "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c"
       "301a06092a864886f70d010108300d06096086480165030402020500a203020120"
       "a303020101",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      {"PSS with a salt of 20",
       "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c"
       "301a06092a864886f70d010108300d06096086480165030402010500a203020114"
       "a303020101",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      {"PSS with trailer field 2",
       "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c"
       "301a06092a864886f70d010108300d06096086480165030402010500a203020120"
       "a303020102",
       KeyType::kRsa, SignatureScheme::kRsaPssSha256},
      {"P-384 with SHA-256", "300a06082a8648ce3d040302", KeyType::kEcdsaP384,
       SignatureScheme::kEcdsaP384Sha384},
      {"Ed448", "300506032b6571", KeyType::kEd25519, SignatureScheme::kEd25519},
      {"Ed25519 with NULL parameters", "300706032b65700500", KeyType::kEd25519,
       SignatureScheme::kEd25519},
      {"nothing", "", KeyType::kEd25519, SignatureScheme::kEd25519}};
  for (const auto& bad : kBad) {
    EXPECT_EQ(VerifyWithIdentifier(bad.identifier, bad.type, bad.scheme),
              absl::StatusCode::kInvalidArgument)
        << bad.what;
  }
}

TEST(SignatureTest, EveryCutOfAnIdentifierIsRefused) {
  for (const SchemeCase& one : kSchemes) {
    const std::string identifier = one.identifier;
    for (size_t size = 0; size < identifier.size(); size += 2) {
      EXPECT_EQ(VerifyWithIdentifier(identifier.substr(0, size), one.type,
                                     one.scheme),
                absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(SignatureTest, SchemesFollowThePeersHashes) {
  using enum SignatureScheme;
  EXPECT_THAT(SchemesFor(KeyType::kRsa, kSignatureHashes),
              ElementsAre(kRsaPssSha256, kRsaPssSha384, kRsaPssSha512));
  const std::vector<uint16_t> sha1_and_sha512 = {1, kHashSha2_512};
  EXPECT_THAT(SchemesFor(KeyType::kRsa, sha1_and_sha512),
              ElementsAre(kRsaPssSha512));
  EXPECT_THAT(SchemesFor(KeyType::kEcdsaP256, sha1_and_sha512), IsEmpty());
  EXPECT_THAT(SchemesFor(KeyType::kEd25519, sha1_and_sha512), IsEmpty());
  const std::vector<uint16_t> identity = {kHashIdentity};
  EXPECT_THAT(SchemesFor(KeyType::kEd25519, identity), ElementsAre(kEd25519));
  EXPECT_THAT(SchemesFor(KeyType::kRsa, {}), IsEmpty());
}

TEST(SignatureTest, JobsWithoutAKeyFail) {
  EXPECT_EQ(
      crypto::Run(Sign{nullptr, SignatureScheme::kEd25519, {}}).status().code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(crypto::Run(VerifySignature{nullptr, {}, {}, {}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace espalier::crypto
