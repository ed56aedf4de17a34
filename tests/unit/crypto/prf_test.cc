#include "agent/crypto/prf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "agent/crypto/hash.h"
#include "agent/crypto/random.h"
#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

struct HmacCase {
  const char* name;
  base::Bytes key;
  base::Bytes data;
  const char* sha256;
  const char* sha384;
  const char* sha512;
};

base::Bytes Text(const std::string& text) {
  return ToBytes(base::AsBytes(text));
}

// RFC 4231 4.2, 4.3 and 4.7 (whose key is longer than a block).
std::vector<HmacCase> Rfc4231() {
  return {{"4.2", base::Bytes(20, 0x0b), Text("Hi There"),
           "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
           "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
           "faea9ea9076ede7f4af152e8b2fa9cb6",
           "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
           "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"},
          {"4.3", Text("Jefe"), Text("what do ya want for nothing?"),
           "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
           "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
           "8e2240ca5e69e2c78b3239ecfab21649",
           "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
           "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"},
          {"4.7", base::Bytes(131, 0xaa),
           Text("Test Using Larger Than Block-Size Key - Hash Key First"),
           "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
           "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
           "0c2ef6ab4030fe8296248df163f44952",
           "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
           "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"}};
}

TEST(PrfTest, MatchesRfc4231) {
  for (const HmacCase& one : Rfc4231()) {
    SCOPED_TRACE(one.name);
    EXPECT_EQ(
        base::ToHex(ComputePrf(Prf::kHmacSha2_256, one.key, {one.data}).span()),
        one.sha256);
    EXPECT_EQ(
        base::ToHex(ComputePrf(Prf::kHmacSha2_384, one.key, {one.data}).span()),
        one.sha384);
    EXPECT_EQ(
        base::ToHex(ComputePrf(Prf::kHmacSha2_512, one.key, {one.data}).span()),
        one.sha512);
  }
}

TEST(PrfTest, PartsAreOneString) {
  const base::Bytes key = Hex("0102");
  const base::Bytes whole = Hex("a0a1a2a3a4");
  const base::ByteSpan span(whole);
  EXPECT_EQ(
      ToBytes(ComputePrf(Prf::kHmacSha2_256, key, {whole}).span()),
      ToBytes(ComputePrf(Prf::kHmacSha2_256, key,
                         {span.first(2), base::ByteSpan(), span.subspan(2)})
                  .span()));
}

TEST(PrfTest, KeyOfOneBlockIsNotHashed) {
  // At the border, RFC 2104 uses the key as it is.
  const base::Bytes block(64, 0x61);
  const base::Bytes longer(65, 0x61);
  EXPECT_NE(ToBytes(ComputePrf(Prf::kHmacSha2_256, block, {}).span()),
            ToBytes(ComputePrf(Prf::kHmacSha2_256, longer, {}).span()));
  const auto hashed = Sha256({longer});
  EXPECT_EQ(ToBytes(ComputePrf(Prf::kHmacSha2_256, hashed, {}).span()),
            ToBytes(ComputePrf(Prf::kHmacSha2_256, longer, {}).span()));
}

struct KdfCase {
  Prf prf;
  const char *ni, *nr, *spi_i, *spi_r;
  const char *shared, *new_shared;
  const char *skeyseed, *dkm, *skeyseed_rekey;
};

// NIST CAVP, SP 800-135 "ikev2.rsp": one case of SHA-256 and one of SHA-384.
const KdfCase kNistIkev2[] = {
    {Prf::kHmacSha2_256, "3f302be1abcb28e1", "8c332ee006064c9b",
     "40dac39e1e1a8640", "8619a1cf9a6e4c07",
     "0f4d257d7a58fc4545c7d7a88119eee5d5c9690c5b4c989171d3abbfd99d1d29",
     "25f3b12d6f282739256e39bf54eda53b60ffcf379bb7bcc90c27b4c4c578616c",
     "5f00d1bd2c58ec224b1e6b71fa0f19a1faa7a193952c444411b47c1a9d8ba6fe",
     "0b137d669b0947d7d026d593f0305ad401ff0c471357d695778a9c7f4b4869ec"
     "e98aca531188d16041b3bb936d2dbb3b4993a6e768a809160de45d0283f273a6"
     "cdf6854379e31be72b8d3d1fa990cf9c5b015ca9f918a7df6253c958114a09d4"
     "e1c19bdcd4db14b29d98db1a74ad405c588662c14a04d0d36aa4ab55e90f8986"
     "d12d4aad",
     "2d63f6debc92048b4fef3889c4c99ca67d6496e0fac14a2bca9a2d6566ff2398"},
    {Prf::kHmacSha2_384, "fd1b572a8e735591", "6013b0ef88dacd3d",
     "2116ad07ce61f749", "24880e55f11a65b7",
     "d3288cd87565101e88fe3bad918f31939d8dd26ff1071f8b2d7f447524e58d7c",
     "3358f620539473aee8d07e779764c4c6a9aabddc79a28e136b3bac021dbde44a",
     "69fe7a1ac94adaeb711295f5fe004b1a8d6a0b65d05692758ce8ad2f7a45f59d"
     "7d0b596f51f7dfcf3330061888f6a94f",
     "4f904c2025c90c817ea5ff9b662a6fdb445a73b57cdf09eacd379b95e1f03cac"
     "b04cd6deeda4f952191dd9bc1f7a9502471a648d74dc06d38112de48a42501f6"
     "b1a3ad55c2099cd9a648e5f17e5bf3e34bf9b5953decb768a34f875fe2b78dca"
     "0c2fcca81ec1a412006dfaed38fa06882e61f4c148105fb8e231fdb33c4d484c"
     "001721d4",
     "e0548c1682e13bce454026b3b1bdf42985b24e4e7408095a7c529de38c3d1fcb"
     "04c9fe6868042a34c9614c6c99e3fcea"}};

TEST(PrfTest, DerivesAsNistSays) {
  for (const KdfCase& one : kNistIkev2) {
    const base::Bytes ni = Hex(one.ni), nr = Hex(one.nr);
    base::Bytes nonces = ni;
    nonces.insert(nonces.end(), nr.begin(), nr.end());
    // RFC 7296 2.14: SKEYSEED = prf(Ni | Nr, g^ir).
    const base::SecretBytes skeyseed =
        ComputePrf(one.prf, nonces, {Hex(one.shared)});
    EXPECT_EQ(base::ToHex(skeyseed.span()), one.skeyseed);
    const base::Bytes expected = Hex(one.dkm);
    const base::SecretBytes dkm =
        PrfPlus(one.prf, skeyseed.span(),
                {ni, nr, Hex(one.spi_i), Hex(one.spi_r)}, expected.size());
    EXPECT_EQ(ToBytes(dkm.span()), expected);
    // RFC 7296 2.18: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr).
    const base::SecretBytes sk_d = dkm.Slice(0, PrfSize(one.prf));
    EXPECT_EQ(base::ToHex(ComputePrf(one.prf, sk_d.span(),
                                     {Hex(one.new_shared), ni, nr})
                              .span()),
              one.skeyseed_rekey);
  }
}

TEST(PrfTest, PrfPlusCutsTheSameStream) {
  const base::Bytes key = Hex("00112233");
  const base::Bytes seed = Hex("445566");
  const base::SecretBytes all =
      PrfPlus(Prf::kHmacSha2_512, key, {seed}, 255 * 64);
  for (const size_t length : {0, 1, 63, 64, 65, 128, 1000}) {
    const base::SecretBytes some =
        PrfPlus(Prf::kHmacSha2_512, key, {seed}, length);
    ASSERT_EQ(some.size(), length);
    EXPECT_EQ(ToBytes(some.span()), ToBytes(all.span().first(length)));
  }
}

// Contexts belong to threads: no result may depend on what others compute.
TEST(PrfTest, ThreadsDoNotDisturbEachOther) {
  const base::Bytes key = Hex("0b0b");
  const base::Bytes expected =
      ToBytes(PrfPlus(Prf::kHmacSha2_384, key, {key}, 500).span());
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        if (ToBytes(PrfPlus(Prf::kHmacSha2_384, key, {key}, 500).span()) !=
            expected) {
          ++count;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

// FIPS 180-4's "abc", in two parts.
TEST(HashTest, MatchesFips180) {
  const base::Bytes ab = Hex("6162"), c = Hex("63");
  EXPECT_EQ(base::ToHex(Sha1ForNatDetection({ab, c})),
            "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(base::ToHex(Sha256({ab, c})),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(SystemRandomTest, FillsAllAndNeverTheSame) {
  SystemRandom random;
  base::Bytes first(1000), second(1000);
  random.Fill(first);
  random.Fill(second);
  EXPECT_NE(first, second);
  // 64 zero octets in a row would come once in 2^512 times.
  EXPECT_THAT(base::Bytes(first.end() - 64, first.end()),
              testing::Contains(testing::Ne(0)));
  random.Fill({});
}

}  // namespace
}  // namespace espalier::crypto
