#include "agent/crypto/cipher_suite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

const std::vector<CipherSuite>& AllSuites() {
  static const auto* const kAll = new std::vector<CipherSuite>{
      {Cipher::kAesGcm16, 128, Integrity::kNone},
      {Cipher::kAesGcm16, 256, Integrity::kNone},
      {Cipher::kChaCha20Poly1305, 256, Integrity::kNone},
      {Cipher::kAesCbc, 128, Integrity::kHmacSha2_256_128},
      {Cipher::kAesCbc, 256, Integrity::kHmacSha2_256_128},
      {Cipher::kAesCbc, 256, Integrity::kHmacSha2_384_192},
      {Cipher::kAesCbc, 256, Integrity::kHmacSha2_512_256}};
  return *kAll;
}

struct AeadCase {
  const char* name;
  CipherSuite suite;
  const char* key;  // with the salt
  uint64_t iv;
  const char *associated, *plain, *sealed;
};

const AeadCase kPublished[] = {
    {"McGrew and Viega, GCM case 4",
     {Cipher::kAesGcm16, 128, Integrity::kNone},
     "feffe9928665731c6d6a8f9467308308 cafebabe",
     0xfacedbaddecaf888,
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
     "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
     "5bc94fbc3221a5db94fae95ae7121a47"},
    {"McGrew and Viega, GCM case 16",
     {Cipher::kAesGcm16, 256, Integrity::kNone},
     "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
     "cafebabe",
     0xfacedbaddecaf888,
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
     "76fc6ece0f4e1768cddf8853bb2d551b"},
    {"McGrew and Viega, GCM case 15, nothing associated",
     {Cipher::kAesGcm16, 256, Integrity::kNone},
     "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
     "cafebabe",
     0xfacedbaddecaf888,
     "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"RFC 7634 appendix B, an IKEv2 message",
     {Cipher::kChaCha20Poly1305, 256, Integrity::kNone},
     "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"
     "a0a1a2a3",
     0x1011121314151617,
     "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029",
     "0000000c000040010000000a00",
     "610394701f8d017f7c129248896b71bfe25236efd7cdc67066906315b2"},
    {"RFC 7634 appendix A, an ESP packet",
     {Cipher::kChaCha20Poly1305, 256, Integrity::kNone},
     "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"
     "a0a1a2a3",
     0x1011121314151617,
     "0102030400000005",
     "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
     "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
     "2425262728292a2b2c2d2e2f303132333435363701020204",
     "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6"
     "14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3"
     "cbec163fac469b502773f6fb94e664da9165b82829f641e0"
     "76aaa8266b7fb0f7b11b369907e1ad43"}};

TEST(CipherSuiteTest, SealsAsPublished) {
  for (const AeadCase& one : kPublished) {
    SCOPED_TRACE(one.name);
    const base::Bytes associated = Hex(one.associated);
    const base::Bytes plain = Hex(one.plain), sealed = Hex(one.sealed);
    base::Bytes message = associated;
    message.resize(message.size() + 8);
    message.insert(message.end(), plain.begin(), plain.end());
    message.resize(message.size() + 16);
    ASSERT_TRUE(
        Seal(one.suite, Hex(one.key), {}, one.iv, message, associated.size())
            .ok());
    const base::ByteSpan whole(message);
    EXPECT_EQ(ToBytes(whole.first(associated.size())), associated);
    EXPECT_EQ(ToBytes(whole.subspan(associated.size() + 8)), sealed);

    base::MutableByteSpan opened;
    ASSERT_TRUE(
        Open(one.suite, Hex(one.key), {}, message, associated.size(), &opened));
    EXPECT_EQ(ToBytes(opened), plain);
  }
}

// An IKE message of `payload` octets inside; sealed with keys of one octet
// each, repeated.
struct Sealed {
  CipherSuite suite;
  base::Bytes encryption_key, integrity_key;
  base::Bytes plain, message;
  static constexpr size_t kBody = 32;

  Sealed(const CipherSuite& s, size_t payload, uint64_t counter = 7)
      : suite(s),
        encryption_key(s.encryption_key_size(), 0x11),
        integrity_key(s.integrity_key_size(), 0x22) {
    for (size_t i = 0; i < payload + suite.PadLength(payload) + 1; ++i) {
      plain.push_back(static_cast<uint8_t>(i));
    }
    message.resize(kBody, 0x33);
    message.resize(kBody + suite.iv_size());
    message.insert(message.end(), plain.begin(), plain.end());
    message.resize(kBody + suite.BodySize(payload));
    EXPECT_TRUE(
        Seal(suite, encryption_key, integrity_key, counter, message, kBody)
            .ok());
  }
  bool Opens(base::Bytes changed, base::Bytes* out = nullptr) const {
    base::MutableByteSpan opened;
    const bool ok =
        Open(suite, encryption_key, integrity_key, changed, kBody, &opened);
    EXPECT_EQ(ok, opened.data() != nullptr);
    if (ok && out != nullptr) out->assign(opened.begin(), opened.end());
    return ok;
  }
};

TEST(CipherSuiteTest, OpensWhatItSealed) {
  for (const CipherSuite& suite : AllSuites()) {
    SCOPED_TRACE(suite.ToString());
    for (size_t payload = 0; payload < 50; ++payload) {
      const Sealed sealed(suite, payload);
      base::Bytes out;
      ASSERT_TRUE(sealed.Opens(sealed.message, &out));
      EXPECT_EQ(out, sealed.plain);
      EXPECT_EQ(out.size() % suite.block_size(), 0u);
    }
  }
}

TEST(CipherSuiteTest, AnyBitFlippedIsSeen) {
  for (const CipherSuite& suite : AllSuites()) {
    SCOPED_TRACE(suite.ToString());
    const Sealed sealed(suite, 20);
    for (size_t bit = 0; bit < 8 * sealed.message.size(); ++bit) {
      base::Bytes changed = sealed.message;
      changed[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      EXPECT_FALSE(sealed.Opens(changed)) << "bit " << bit;
    }
  }
}

TEST(CipherSuiteTest, AnyOtherLengthIsSeen) {
  for (const CipherSuite& suite : AllSuites()) {
    SCOPED_TRACE(suite.ToString());
    const Sealed sealed(suite, 40);
    for (size_t size = 0; size < sealed.message.size(); ++size) {
      base::Bytes cut = sealed.message;
      cut.resize(size);
      EXPECT_FALSE(sealed.Opens(cut)) << size;
    }
    base::Bytes longer = sealed.message;
    longer.resize(longer.size() + 16);
    EXPECT_FALSE(sealed.Opens(longer));
  }
}

TEST(CipherSuiteTest, AnyOtherKeyIsSeen) {
  for (const CipherSuite& suite : AllSuites()) {
    SCOPED_TRACE(suite.ToString());
    const Sealed sealed(suite, 40);
    // The salt at the end belongs to the key.
    for (size_t i = 0; suite.aead() && i < sealed.encryption_key.size(); ++i) {
      Sealed other = sealed;
      other.encryption_key[i] ^= 1;
      EXPECT_FALSE(other.Opens(sealed.message)) << i;
    }
    for (size_t i = 0; i < sealed.integrity_key.size(); ++i) {
      Sealed other = sealed;
      other.integrity_key[i] ^= 0x80;
      EXPECT_FALSE(other.Opens(sealed.message)) << i;
    }
    Sealed other = sealed;
    other.encryption_key.pop_back();
    EXPECT_FALSE(other.Opens(sealed.message));
  }
}

TEST(CipherSuiteTest, EveryCounterMakesAnotherIv) {
  for (const CipherSuite& suite : AllSuites()) {
    std::set<base::Bytes> ivs;
    for (uint64_t counter = 0; counter < 100; ++counter) {
      const Sealed sealed(suite, 10, counter);
      const base::ByteSpan message(sealed.message);
      ivs.insert(ToBytes(message.subspan(Sealed::kBody, suite.iv_size())));
    }
    EXPECT_EQ(ivs.size(), 100u) << suite.ToString();
  }
}

// With CBC an attacker who foresees the IV can test guesses of the plaintext.
TEST(CipherSuiteTest, CbcIvsDoNotFollowTheCounter) {
  const CipherSuite suite{Cipher::kAesCbc, 256, Integrity::kHmacSha2_256_128};
  const Sealed one(suite, 10, 1);
  Sealed other(suite, 10, 1);
  const base::ByteSpan iv =
      base::ByteSpan(one.message).subspan(Sealed::kBody, 8);
  EXPECT_THAT(ToBytes(iv), testing::Contains(testing::Ne(0)));
  EXPECT_EQ(one.message, other.message) << "the same input, the same message";
}

TEST(CipherSuiteTest, RefusesWhatDoesNotFit) {
  const CipherSuite gcm{Cipher::kAesGcm16, 256, Integrity::kNone};
  const base::Bytes key(36, 1);
  base::Bytes message(32 + 8 + 1 + 16);
  EXPECT_TRUE(Seal(gcm, key, {}, 1, message, 32).ok());
  EXPECT_EQ(Seal(gcm, key, {}, 1, message, 33).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Seal(gcm, key, {}, 1, message, 1000).ok());
  EXPECT_FALSE(Seal(gcm, key, key, 1, message, 32).ok());
  EXPECT_FALSE(Seal(gcm, base::Bytes(32, 1), {}, 1, message, 32).ok());
  const CipherSuite cbc{Cipher::kAesCbc, 128, Integrity::kHmacSha2_256_128};
  base::Bytes odd(32 + 16 + 15 + 16);
  EXPECT_FALSE(
      Seal(cbc, base::Bytes(16, 1), base::Bytes(32, 1), 1, odd, 32).ok());
}

TEST(CipherSuiteTest, KnowsWhichCombinationsExist) {
  for (const CipherSuite& suite : AllSuites()) {
    EXPECT_TRUE(suite.IsSupported()) << suite.ToString();
  }
  const CipherSuite wrong[] = {
      {Cipher::kAesGcm16, 192, Integrity::kNone},
      {Cipher::kAesGcm16, 256, Integrity::kHmacSha2_256_128},
      {Cipher::kAesCbc, 256, Integrity::kNone},
      {Cipher::kAesCbc, 0, Integrity::kHmacSha2_256_128},
      {Cipher::kAesCbc, 256, static_cast<Integrity>(2)},  // HMAC-SHA1-96
      {Cipher::kChaCha20Poly1305, 128, Integrity::kNone},
      {static_cast<Cipher>(3), 192, Integrity::kHmacSha2_256_128}};  // 3DES
  for (const CipherSuite& suite : wrong) {
    EXPECT_FALSE(suite.IsSupported()) << suite.ToString();
    base::MutableByteSpan opened;
    base::Bytes message(100);
    EXPECT_FALSE(Open(suite, {}, {}, message, 28, &opened));
  }
}

TEST(CipherSuiteTest, SizesAreThoseOfTheRfcs) {
  const CipherSuite gcm{Cipher::kAesGcm16, 256, Integrity::kNone};
  EXPECT_EQ(gcm.encryption_key_size(), 36u);  // RFC 5282 7.1
  EXPECT_EQ(gcm.integrity_key_size(), 0u);
  EXPECT_EQ(gcm.BodySize(100), 8u + 100 + 1 + 16);
  const CipherSuite cbc{Cipher::kAesCbc, 128, Integrity::kHmacSha2_384_192};
  EXPECT_EQ(cbc.encryption_key_size(), 16u);
  EXPECT_EQ(cbc.integrity_key_size(), 48u);  // RFC 4868 2.6
  EXPECT_EQ(cbc.icv_size(), 24u);
  EXPECT_EQ(cbc.PadLength(15), 0u);
  EXPECT_EQ(cbc.PadLength(16), 15u);
  EXPECT_EQ(cbc.BodySize(16), 16u + 32 + 24);
  EXPECT_EQ(cbc.ToString(), "aes128-sha384_192");
}

}  // namespace
}  // namespace espalier::crypto
