#include "agent/crypto/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

constexpr KeyType kAllTypes[] = {KeyType::kEd25519, KeyType::kEcdsaP256,
                                 KeyType::kEcdsaP384, KeyType::kRsa};

base::SecretBytes Pem(const std::string& text) {
  return base::SecretBytes(base::AsBytes(text));
}

TEST(KeysTest, SurviveWritingAndReading) {
  for (const KeyType type : kAllTypes) {
    SCOPED_TRACE(ToString(type));
    const auto key = PrivateKey::Generate(type);
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ((*key)->type(), type);
    EXPECT_EQ((*key)->public_key()->type(), type);

    const auto again = PrivateKey::FromPem((*key)->ToPem());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*(*again)->public_key(), *(*key)->public_key());

    const auto from_pem = PublicKey::FromPem((*key)->public_key()->ToPem());
    ASSERT_TRUE(from_pem.ok()) << from_pem.status();
    EXPECT_EQ(**from_pem, *(*key)->public_key());
    const auto from_der = PublicKey::FromDer((*key)->public_key()->der());
    ASSERT_TRUE(from_der.ok()) << from_der.status();
    EXPECT_EQ(**from_der, *(*key)->public_key());

    const auto other = PrivateKey::Generate(type);
    ASSERT_TRUE(other.ok());
    EXPECT_FALSE(*(*other)->public_key() == *(*key)->public_key());
    EXPECT_NE((*other)->public_key()->Fingerprint(),
              (*key)->public_key()->Fingerprint());
  }
}

TEST(KeysTest, FingerprintIsThatOfTheDer) {
  const auto key = PublicKey::FromPem(
      "-----BEGIN PUBLIC KEY-----\n"
      "MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n"
      "-----END PUBLIC KEY-----\n");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ((*key)->Fingerprint(),
            "SHA256:"
            "deb2ded39dc26fce0e6085b6fc34bf6b5941913bbfe2ea614113cff9e004c170");
}

TEST(KeysTest, RefusesWhatIsNoKeyForUs) {
  struct Bad {
    const char* der;
    const char* message;
  };
  const Bad kBad[] = {
      {"", "not a DER"},
      {"3000", "not a DER"},
      // An Ed25519 key with an octet behind it.
      {"302a300506032b65700321003d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec49"
       "68cc0cd55f12af4660c00",
       "behind its end"},
      // P-256 with its parameters spelled out.
      {"3082014b3082010306072a8648ce3d02013081f7020101302c06072a8648ce3d010102"
       "2100ffffffff00000001000000000000000000000000ffffffffffffffffffffffff30"
       "5b0420ffffffff00000001000000000000000000000000fffffffffffffffffffffffc"
       "04205ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b03"
       "1500c49d360886e704936a6678e1139d26b7819f7e900441046b17d1f2e12c4247f8bc"
       "e6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c"
       "0f9e162bce33576b315ececbb6406837bf51f5022100ffffffff00000000ffffffffff"
       "ffffffbce6faada7179e84f3b9cac2fc63255102010103420004af0ed0ba50a9bcbfeb"
       "4ffc8001e80c08e2725aad831ec2902163c40538dad292ec92063f14eeca751a4a150b"
       "a4555d94ffad86c10878b709773146035b7abba3",
       "spells out"},
      // A compressed point.
      {"3039301306072a8648ce3d020106082a8648ce3d030107032200025164bdcd406eff5c"
       "5834a2f3b9e786b9623f48f15f291e7af69aff43e9e83c15",
       "compressed"},
      // P-521.
      {"30819b301006072a8648ce3d020106052b81040023038186000401e48e3066b2bd91a7"
       "159537abaee4f339aaaf4a42a6c1e07221713f3ebb46994e058b56a3df474418b91d0d"
       "1537a777582a16379eefced0d55ac72fc94af448eed800f48dd87c5d9a4859f44496c4"
       "a92974a3d1c2739f6819eb848d0badd3239c6bccf1c5a0a7514b19d30f9b89c6a318d9"
       "46667ba5203f5ac78c71a0ac58b8e11f5239",
       "supported are P-256 and P-384"},
      // RSA of 1024 bits.
      {"30819f300d06092a864886f70d010101050003818d0030818902818100d4faa77156ee"
       "2b627122e6c2267b9190201fca60c2fbd339f62fce09e32d642e723c3c0147d32eb74b"
       "cd2a56c2627a1a26bd3172341f0bcf54fa003ad276c956c4bc6df9bfe0e514e3db7c7e"
       "2199f16499c7662c4f2247f1e6d8a41e81c465c9b82d14931f984a8434d62ad2012d11"
       "dc3a45e97768d9d86c3b92435cb4e3af770203010001",
       "1024 bits"},
      // X25519 exchanges keys and signs nothing.
      {"302a300506032b656e03210081caf5ea90a903e29e7d0cdf48aab4ad774cd8dbc9495b"
       "1efbf95742be9c9d5b",
       "X25519"}};
  for (const Bad& bad : kBad) {
    const auto key = PublicKey::FromDer(Hex(bad.der));
    ASSERT_FALSE(key.ok()) << bad.message;
    EXPECT_EQ(key.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(key.status().message()),
                testing::HasSubstr(bad.message));
  }
}

TEST(KeysTest, EveryCutOfADerIsRefused) {
  for (const KeyType type : kAllTypes) {
    const auto key = PrivateKey::Generate(type);
    ASSERT_TRUE(key.ok());
    const base::Bytes& der = (*key)->public_key()->der();
    for (size_t size = 0; size < der.size(); ++size) {
      EXPECT_FALSE(PublicKey::FromDer(base::ByteSpan(der).first(size)).ok());
    }
  }
}

TEST(KeysTest, PointsOffTheCurveAreRefused) {
  const auto key = PrivateKey::Generate(KeyType::kEcdsaP256);
  ASSERT_TRUE(key.ok());
  base::Bytes der = (*key)->public_key()->der();
  der.back() ^= 1;
  EXPECT_FALSE(PublicKey::FromDer(der).ok());
}

TEST(KeysTest, PrivatePemErrorsShowNoContents) {
  for (const char* text :
       {"", "MC4CAQAwBQYDK2VwBCIEIEzNCJs",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJs\n"
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n"
        "-----END PUBLIC KEY-----\n",
        // Encrypted: must be refused, not asked about.
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAg=\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n"}) {
    const auto key = PrivateKey::FromPem(Pem(text));
    ASSERT_FALSE(key.ok());
    EXPECT_THAT(key.status().ToString(),
                testing::Not(testing::HasSubstr("MC4C")));
    EXPECT_THAT(key.status().ToString(),
                testing::HasSubstr("BEGIN PRIVATE KEY"));
  }
}

}  // namespace
}  // namespace espalier::crypto
