#include "agent/crypto/key_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <variant>

#include "agent/crypto/job.h"
#include "agent/crypto/key_exchange_key.h"
#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

constexpr Group kAllGroups[] = {Group::kModp2048, Group::kModp3072,
                                Group::kModp4096, Group::kEcp256,
                                Group::kEcp384,   Group::kX25519};

struct ExchangeCase {
  const char* name;
  Group group;
  const char *private_i, *public_i, *private_r, *public_r, *shared;
};

const ExchangeCase kPublished[] = {
    {"RFC 5903 8.1", Group::kEcp256,
     "C88F01F5 10D9AC3F 70A292DA A2316DE5 44E9AAB8 AFE84049 C62A9C57 862D1433",
     "DAD0B653 94221CF9 B051E1FE CA5787D0 98DFE637 FC90B9EF 945D0C37 72581180"
     "5271A046 1CDB8252 D61F1C45 6FA3E59A B1F45B33 ACCF5F58 389E0577 B8990BB3",
     "C6EF9C5D 78AE012A 011164AC B397CE20 88685D8F 06BF9BE0 B283AB46 476BEE53",
     "D12DFB52 89C8D4F8 1208B702 70398C34 2296970A 0BCCB74C 736FC755 4494BF63"
     "56FBF3CA 366CC23E 8157854C 13C58D6A AC23F046 ADA30F83 53E74F33 039872AB",
     "D6840F6B 42F6EDAF D13116E0 E1256520 2FEF8E9E CE7DCE03 812464D0 4B9442DE"},
    {"RFC 5903 8.2", Group::kEcp384,
     "099F3C70 34D4A2C6 99884D73 A375A67F 7624EF7C 6B3C0F16 0647B674 14DCE655"
     "E35B5380 41E649EE 3FAEF896 783AB194",
     "667842D7 D180AC2C DE6F74F3 7551F557 55C7645C 20EF73E3 1634FE72 B4C55EE6"
     "DE3AC808 ACB4BDB4 C88732AE E95F41AA 9482ED1F C0EEB9CA FC498462 5CCFC23F"
     "65032149 E0E144AD A0241815 35A0F38E EB9FCFF3 C2C947DA E69B4C63 4573A81C",
     "41CB0779 B4BDB85D 47846725 FBEC3C94 30FAB46C C8DC5060 855CC9BD A0AA2942"
     "E0308312 916B8ED2 960E4BD5 5A7448FC",
     "E558DBEF 53EECDE3 D3FCCFC1 AEA08A89 A987475D 12FD950D 83CFA417 32BC509D"
     "0D1AC43A 0336DEF9 6FDA41D0 774A3571 DCFBEC7A ACF31964 72169E83 8430367F"
     "66EEBE3C 6E70C416 DD5F0C68 759DD1FF F83FA401 42209DFF 5EAAD96D B9E6386C",
     "11187331 C279962D 93D60424 3FD592CB 9D0A926F 422E4718 7521287E 7156C5C4"
     "D6031355 69B9E9D0 9CF5D4A2 70F59746"},
    // The private values are d_i and d_r, there written as numbers, in their
    // little-endian octets.
    {"RFC 8031 appendix A", Group::kX25519,
     "701fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d54",
     "48d5ddd406 1257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766",
     "0854645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05648",
     "0be7c1f5aad87d7e4486626732 98a443478b859745179eaf564c79c0ef6eee25",
     "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950"}};

TEST(KeyExchangeTest, MatchesPublishedVectors) {
  for (const ExchangeCase& one : kPublished) {
    SCOPED_TRACE(one.name);
    const auto initiator =
        KeyExchangeKey::FromPrivate(one.group, Hex(one.private_i));
    const auto responder =
        KeyExchangeKey::FromPrivate(one.group, Hex(one.private_r));
    ASSERT_TRUE(initiator.ok()) << initiator.status();
    ASSERT_TRUE(responder.ok()) << responder.status();
    EXPECT_EQ(*(*initiator)->PublicValue(), Hex(one.public_i));
    EXPECT_EQ(*(*responder)->PublicValue(), Hex(one.public_r));
    const auto at_initiator = (*initiator)->Derive(Hex(one.public_r));
    const auto at_responder = (*responder)->Derive(Hex(one.public_i));
    ASSERT_TRUE(at_initiator.ok()) << at_initiator.status();
    ASSERT_TRUE(at_responder.ok()) << at_responder.status();
    EXPECT_EQ(ToBytes(at_initiator->span()), Hex(one.shared));
    EXPECT_EQ(ToBytes(at_responder->span()), Hex(one.shared));
  }
}

KeyExchangeGenerated GenerateOne(Group group) {
  Result result = crypto::Run(GenerateKeyExchange{group});
  EXPECT_TRUE(result.ok()) << result.status();
  return std::get<KeyExchangeGenerated>(*std::move(result));
}

Result Combine(const KeyExchangeGenerated& own, base::Bytes peer_public) {
  return crypto::Run(ComputeSharedSecret{own.key, std::move(peer_public)});
}

absl::StatusCode CodeOf(const Result& result) { return result.status().code(); }

TEST(KeyExchangeTest, BothEndsMeet) {
  for (const Group group : kAllGroups) {
    SCOPED_TRACE(ToString(group));
    const KeyExchangeGenerated a = GenerateOne(group), b = GenerateOne(group);
    EXPECT_EQ(a.public_value.size(), PublicValueSize(group));
    EXPECT_NE(a.public_value, b.public_value);
    const Result ab = Combine(a, b.public_value);
    const Result ba = Combine(b, a.public_value);
    ASSERT_TRUE(ab.ok()) << ab.status();
    ASSERT_TRUE(ba.ok()) << ba.status();
    const base::SecretBytes& secret = std::get<SharedSecret>(*ab).secret;
    EXPECT_EQ(secret.size(), SharedSecretSize(group));
    EXPECT_EQ(ToBytes(secret.span()),
              ToBytes(std::get<SharedSecret>(*ba).secret.span()));
  }
}

TEST(KeyExchangeTest, RefusesEveryOtherLength) {
  for (const Group group : kAllGroups) {
    SCOPED_TRACE(ToString(group));
    const KeyExchangeGenerated a = GenerateOne(group), b = GenerateOne(group);
    for (size_t size = 0; size < b.public_value.size(); size += 7) {
      EXPECT_EQ(CodeOf(Combine(a, base::Bytes(b.public_value.begin(),
                                              b.public_value.begin() + size))),
                absl::StatusCode::kInvalidArgument);
    }
    base::Bytes longer = b.public_value;
    longer.push_back(0);
    EXPECT_EQ(CodeOf(Combine(a, longer)), absl::StatusCode::kInvalidArgument);
  }
}

// RFC 3526 3.
base::Bytes Modp2048Prime() {
  return Hex(
      "FFFFFFFF FFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1"
      "29024E08 8A67CC74 020BBEA6 3B139B22 514A0879 8E3404DD"
      "EF9519B3 CD3A431B 302B0A6D F25F1437 4FE1356D 6D51C245"
      "E485B576 625E7EC6 F44C42E9 A637ED6B 0BFF5CB6 F406B7ED"
      "EE386BFB 5A899FA5 AE9F2411 7C4B1FE6 49286651 ECE45B3D"
      "C2007CB8 A163BF05 98DA4836 1C55D39A 69163FA8 FD24CF5F"
      "83655D23 DCA3AD96 1C62F356 208552BB 9ED52907 7096966D"
      "670C354E 4ABC9804 F1746C08 CA18217C 32905E46 2E36CE3B"
      "E39E772C 180E8603 9B2783A2 EC07A28F B5C55DF0 6F4C52C9"
      "DE2BCBF6 95581718 3995497C EA956AE5 15D22618 98FA0510"
      "15728E5A 8AACAA68 FFFFFFFF FFFFFFFF");
}

base::Bytes PlusSmall(base::Bytes number, int add) {
  number.back() = static_cast<uint8_t>(number.back() + add);
  return number;
}

// RFC 6989 2.1: 1 < y < p - 1.
TEST(KeyExchangeTest, ModpBordersAreRefused) {
  const KeyExchangeGenerated own = GenerateOne(Group::kModp2048);
  const base::Bytes prime = Modp2048Prime();
  base::Bytes zero(256), one(256), two(256);
  one.back() = 1;
  two.back() = 2;
  for (const base::Bytes& bad :
       {zero, one, prime, PlusSmall(prime, -1), base::Bytes(256, 0xff)}) {
    EXPECT_EQ(CodeOf(Combine(own, bad)), absl::StatusCode::kInvalidArgument);
  }
  // Also tells that our prime is RFC 3526's: p - 1 of another would pass.
  EXPECT_TRUE(Combine(own, two).ok());
  EXPECT_TRUE(Combine(own, PlusSmall(prime, -2)).ok());
}

// 2^5, and the zeros before it: RFC 7296 2.14 keeps those of g^ir.
TEST(KeyExchangeTest, ModpSecretsKeepLeadingZeros) {
  for (const Group group :
       {Group::kModp2048, Group::kModp3072, Group::kModp4096}) {
    const auto own = KeyExchangeKey::FromPrivate(group, Hex("05"));
    ASSERT_TRUE(own.ok()) << own.status();
    base::Bytes two(PublicValueSize(group));
    two.back() = 2;
    const auto shared = (*own)->Derive(two);
    ASSERT_TRUE(shared.ok()) << shared.status();
    base::Bytes expected(PublicValueSize(group));
    expected.back() = 32;
    EXPECT_EQ(ToBytes(shared->span()), expected);
  }
}

TEST(KeyExchangeTest, PointsOffTheCurveAreRefused) {
  for (const Group group : {Group::kEcp256, Group::kEcp384}) {
    SCOPED_TRACE(ToString(group));
    const KeyExchangeGenerated a = GenerateOne(group), b = GenerateOne(group);
    for (const size_t octet : {size_t{0}, b.public_value.size() - 1}) {
      base::Bytes bent = b.public_value;
      bent[octet] ^= 1;
      EXPECT_EQ(CodeOf(Combine(a, bent)), absl::StatusCode::kInvalidArgument);
    }
    const base::Bytes zeros(b.public_value.size());
    EXPECT_EQ(CodeOf(Combine(a, zeros)), absl::StatusCode::kInvalidArgument);
    // Coordinates of p or more.
    const base::Bytes ones(b.public_value.size(), 0xff);
    EXPECT_EQ(CodeOf(Combine(a, ones)), absl::StatusCode::kInvalidArgument);
  }
}

// RFC 8031 2 with RFC 7748 6.1: points of small order give zero.
TEST(KeyExchangeTest, X25519ZeroResultIsRefused) {
  const KeyExchangeGenerated own = GenerateOne(Group::kX25519);
  base::Bytes zero(32), one(32);
  one[0] = 1;
  const base::Bytes order8 =
      Hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
  for (const base::Bytes& bad : {zero, one, order8}) {
    EXPECT_EQ(CodeOf(Combine(own, bad)), absl::StatusCode::kInvalidArgument);
  }
}

TEST(KeyExchangeTest, UnknownGroupsAreRefused) {
  const Result result = crypto::Run(GenerateKeyExchange{static_cast<Group>(2)});
  EXPECT_EQ(CodeOf(result), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(crypto::Run(ComputeSharedSecret{nullptr, {}})),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PublicValueSize(static_cast<Group>(2)), 0u);
}

}  // namespace
}  // namespace espalier::crypto
