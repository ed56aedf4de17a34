#include "agent/esp/cipher.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/esp/octets.h"
#include "agent/esp/packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using base::Bytes;
using base::EspCipher;
using base::EspIntegrity;
using base::EspSuite;

Bytes Hex(const std::string& text) {
  Bytes bytes;
  EXPECT_TRUE(base::FromHex(text, &bytes)) << text;
  return bytes;
}

// A whole ESP packet as a document publishes it.
struct Vector {
  std::string source;
  EspSuite suite;
  std::string key;  // with the salt
  uint64_t sequence;
  std::string packet;
  std::string plain;  // payload, padding, pad length, next header
};

const Vector kVectors[] = {
    {"RFC 7634 appendix A",
     {EspCipher::kChaCha20Poly1305, 256, EspIntegrity::kNone, false},
     "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"
     "a0a1a2a3",
     5,
     "01020304000000051011121314151617"
     "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6"
     "14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3"
     "cbec163fac469b502773f6fb94e664da9165b82829f641e0"
     "76aaa8266b7fb0f7b11b369907e1ad43",
     "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
     "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
     "2425262728292a2b2c2d2e2f303132333435363701020204"},
    {"draft-mcgrew-gcm-test-01 section 4, 128 bits with ESN",
     {EspCipher::kAesGcm16, 128, EspIntegrity::kNone, true},
     "4c80cdefbb5d10da906ac73c3613a6342e443b68",
     0x8765432100000000,
     "00004321000000004956ed7e3b244cfe"
     "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34"
     "cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce"
     "61bc17d768fd9732459018148f6cbe722fd04796562dfdb4",
     "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000"
     "00000000045f736970045f756470037369700963796265726369747902646b00"
     "0021000101020201"},
    {"draft-mcgrew-gcm-test-01 section 4, 192 bits",
     {EspCipher::kAesGcm16, 192, EspIntegrity::kNone, false},
     "feffe9928665731c6d6a8f9467308308feffe9928665731ccafebabe",
     10,
     "0000a5f80000000afacedbaddecaf888"
     "a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0"
     "315b27452144cc7795457b9652037f5318027b5b4cd7a636",
     "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e"
     "501016d075680001"},
    {"draft-mcgrew-gcm-test-01 section 4, 256 bits",
     {EspCipher::kAesGcm16, 256, EspIntegrity::kNone, false},
     "abbccddef00112233445566778899aababbccddef00112233445566778899aab"
     "11223344",
     2,
     "4a2cbfe3000000020102030405060708"
     "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763"
     "748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c49"
     "15956c96",
     "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000"
     "7002400020bf0000020405b40101040201020201"},
};

std::vector<std::unique_ptr<crypto::EspCipher>> Implementations(
    const EspSuite& suite, base::Direction direction, const Bytes& key) {
  std::vector<std::unique_ptr<crypto::EspCipher>> all;
  auto openssl = crypto::MakeEspCipher(suite, direction, key, {});
  EXPECT_TRUE(openssl.ok()) << openssl.status();
  all.push_back(*std::move(openssl));
  if (auto fast = MakeIpsecMbCipher(suite, key)) all.push_back(std::move(fast));
  return all;
}

TEST(Cipher, OpensPublishedPackets) {
  for (const Vector& v : kVectors) {
    for (auto& cipher :
         Implementations(v.suite, base::Direction::kInbound, Hex(v.key))) {
      Bytes packet = Hex(v.packet);
      ASSERT_TRUE(cipher->Open(v.sequence, packet.data(), packet.size()))
          << v.source;
      const Bytes plain(packet.begin() + 16, packet.end() - 16);
      EXPECT_EQ(base::ToHex(plain), v.plain) << v.source;

      packet = Hex(v.packet);
      EXPECT_EQ(cipher->Open(v.sequence ^ uint64_t{1} << 32, packet.data(),
                             packet.size()),
                !v.suite.esn)
          << v.source << ": the high half is covered exactly with ESN";
    }
  }
}

// Our IV is the sequence number; so the published ciphertext is met where the
// published IV is used as one.
TEST(Cipher, SealsAsPublished) {
  for (const Vector& v : kVectors) {
    if (v.suite.esn) continue;  // its IV is not its sequence number
    for (auto& cipher :
         Implementations(v.suite, base::Direction::kOutbound, Hex(v.key))) {
      const Bytes expected = Hex(v.packet);
      const Bytes plain = Hex(v.plain);
      const uint64_t iv = uint64_t{Load32(expected.data() + 8)} << 32 |
                          Load32(expected.data() + 12);
      Bytes packet(expected.size());
      std::copy_n(expected.begin(), kEspHeader, packet.begin());
      ASSERT_TRUE(cipher->Seal(iv, plain.data(), plain.size(), packet.data()));
      EXPECT_EQ(base::ToHex(packet), v.packet) << v.source;
    }
  }
}

const EspSuite kSuites[] = {
    {EspCipher::kAesGcm16, 128, EspIntegrity::kNone, true},
    {EspCipher::kAesGcm16, 192, EspIntegrity::kNone, false},
    {EspCipher::kAesGcm16, 256, EspIntegrity::kNone, true},
    {EspCipher::kChaCha20Poly1305, 256, EspIntegrity::kNone, true},
    {EspCipher::kAesCbc, 128, EspIntegrity::kHmacSha2_256_128, true},
    {EspCipher::kAesCbc, 256, EspIntegrity::kHmacSha2_384_192, false},
    {EspCipher::kAesCbc, 256, EspIntegrity::kHmacSha2_512_256, true},
};

// Where CI builds, ipsec-mb is installed: without this it could be lost from
// the build and only benchmarks would tell.
TEST(Cipher, IpsecMbIsUsedWhereTheProcessorHasAes) {
  const char* ci = std::getenv("CI");
  if (ci == nullptr || *ci == '\0') return;
  std::ifstream file("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const bool capable = text.find(" aes ") != std::string::npos &&
                       text.find(" pclmulqdq ") != std::string::npos;
  EXPECT_EQ(HaveIpsecMb(), capable);
}

TEST(Cipher, RoundTripsEverySuiteAndSize) {
  for (const EspSuite& suite : kSuites) {
    base::EspSa out = testing::MakeSa(base::Direction::kOutbound, 300, suite);
    base::EspSa in = testing::MakeSa(base::Direction::kInbound, 300, suite);
    for (const CipherChoice choice :
         {CipherChoice::kFastest, CipherChoice::kOpenssl}) {
      auto sealer = MakeCipher(out, choice);
      // Always the other implementation, where there are two.
      auto opener = MakeCipher(in, CipherChoice::kOpenssl);
      ASSERT_TRUE(sealer.ok() && opener.ok());
      const EspLayout layout(suite);
      for (size_t inner = 0; inner < 200; ++inner) {
        Bytes plain(inner + kMaxTrailer, 0x5a);
        const size_t padded =
            WriteTrailer(plain.data(), inner, layout.block, 4);
        ASSERT_EQ(padded, layout.padded(inner));
        Bytes packet(layout.packet(inner));
        const uint64_t sequence = 0x100000001u + inner;
        WriteHeader({base::Spi(300), static_cast<uint32_t>(sequence)},
                    packet.data());
        ASSERT_TRUE(
            (*sealer)->Seal(sequence, plain.data(), padded, packet.data()));
        ASSERT_TRUE((*opener)->Open(sequence, packet.data(), packet.size()))
            << suite.ToString() << " " << inner;
        const Bytes opened(packet.begin() + kEspHeader + layout.iv,
                           packet.end() - layout.icv);
        plain.resize(padded);
        ASSERT_EQ(opened, plain);
        const auto trailer = ReadTrailer(opened);
        ASSERT_TRUE(trailer.has_value());
        EXPECT_EQ(trailer->payload, inner);
      }
    }
  }
}

TEST(Cipher, CbcIvsAreNotPredictable) {
  const EspSuite suite = {EspCipher::kAesCbc, 128,
                          EspIntegrity::kHmacSha2_256_128, false};
  auto cipher =
      MakeCipher(testing::MakeSa(base::Direction::kOutbound, 300, suite),
                 CipherChoice::kFastest);
  ASSERT_TRUE(cipher.ok());
  std::vector<Bytes> ivs;
  const Bytes plain(16, 0);
  for (int i = 0; i < 200; ++i) {  // more than one pool of random octets
    Bytes packet(8 + 16 + 16 + 16);
    ASSERT_TRUE((*cipher)->Seal(1, plain.data(), 16, packet.data()));
    ivs.emplace_back(packet.begin() + 8, packet.begin() + 24);
  }
  std::sort(ivs.begin(), ivs.end());
  EXPECT_EQ(std::adjacent_find(ivs.begin(), ivs.end()), ivs.end());
}

TEST(Cipher, RefusesSuitesAndKeysThatMakeNoSense) {
  const auto refused = [](EspSuite suite, size_t key, size_t integrity) {
    const Bytes k(key, 1), i(integrity, 2);
    return absl::IsInvalidArgument(
        crypto::MakeEspCipher(suite, base::Direction::kInbound, k, i).status());
  };
  EXPECT_FALSE(refused({EspCipher::kAesGcm16, 256}, 36, 0));
  EXPECT_TRUE(refused({EspCipher::kAesGcm16, 256}, 32, 0));
  EXPECT_TRUE(refused({EspCipher::kAesGcm16, 64}, 12, 0));
  EXPECT_TRUE(refused({EspCipher::kChaCha20Poly1305, 128}, 20, 0));
  EXPECT_TRUE(refused({EspCipher::kAesCbc, 256}, 32, 0));  // no integrity
  EXPECT_TRUE(refused(
      {EspCipher::kAesGcm16, 256, EspIntegrity::kHmacSha2_256_128}, 36, 32));
  EXPECT_TRUE(refused({static_cast<EspCipher>(11), 0}, 4, 0));  // NULL
}

}  // namespace
}  // namespace espalier::esp
