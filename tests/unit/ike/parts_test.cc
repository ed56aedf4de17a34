// The small parts: windows, cookies, NAT detection, reassembly, keys.
#include "agent/ike/cookie.h"
#include "agent/ike/fragmentation.h"
#include "agent/ike/key_derivation.h"
#include "agent/ike/message_window.h"
#include "agent/ike/nat_detection.h"
#include "agent/ike/rate_limit.h"
#include "gtest/gtest.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike {
namespace {

using testing::TestRandom;

const base::Instant kStart = absl::FromUnixSeconds(1000);

TEST(RequestWindow, BacksOffAndGivesUp) {
  CoreConfig config;
  config.retransmit_tries = 4;
  RequestWindow window;
  window.Sent({{1}}, kStart, config);
  EXPECT_TRUE(window.Awaits(0));
  EXPECT_FALSE(window.Awaits(1));
  base::Instant now = kStart;
  std::vector<absl::Duration> gaps;
  while (true) {
    const base::Instant next = *window.deadline();
    EXPECT_EQ(window.Retransmit(next - absl::Milliseconds(1), config),
              RequestWindow::Verdict::kWait);
    gaps.push_back(next - now);
    now = next;
    if (window.Retransmit(now, config) == RequestWindow::Verdict::kGiveUp)
      break;
  }
  EXPECT_EQ(gaps, (std::vector<absl::Duration>{
                      absl::Milliseconds(500), absl::Seconds(1),
                      absl::Seconds(2), absl::Seconds(4)}));
}

TEST(RequestWindow, TheIntervalIsCapped) {
  CoreConfig config;
  config.retransmit_max = absl::Seconds(1);
  RequestWindow window;
  window.Sent({{1}}, kStart, config);
  base::Instant now = kStart;
  for (int i = 0; i < 5; ++i) {
    now = *window.deadline();
    (void)window.Retransmit(now, config);
    EXPECT_LE(*window.deadline() - now, absl::Seconds(1));
  }
}

TEST(RequestWindow, OnlyTheAwaitedIdSettles) {
  CoreConfig config;
  RequestWindow window;
  window.Sent({{1}}, kStart, config);
  EXPECT_FALSE(window.Settle(1));
  EXPECT_TRUE(window.Settle(0));
  EXPECT_FALSE(window.Settle(0));
  EXPECT_EQ(window.next_id(), 1u);
}

TEST(ResponseWindow, NewDuplicateOutside) {
  ResponseWindow window;
  EXPECT_EQ(window.Classify(0), ResponseWindow::Verdict::kNew);
  EXPECT_EQ(window.Classify(1), ResponseWindow::Verdict::kOutside);
  EXPECT_EQ(window.Classify(UINT32_MAX), ResponseWindow::Verdict::kOutside);
  window.Accept();
  EXPECT_EQ(window.Classify(0), ResponseWindow::Verdict::kDuplicate);
  EXPECT_EQ(window.cached(), nullptr);
  window.Answered({{7}}, kStart);
  ASSERT_NE(window.cached(), nullptr);
  window.ForgetOld(kStart + absl::Minutes(1));
  EXPECT_NE(window.cached(), nullptr);
  window.ForgetOld(kStart + absl::Minutes(5));
  EXPECT_EQ(window.cached(), nullptr);
  EXPECT_FALSE(window.deadline());
}

TEST(Cookie, ProvesAddressNonceAndSpiForTwoMinutes) {
  TestRandom random(1);
  CookieJar jar(&random);
  const base::Endpoint from = {base::IpAddress::V4({192, 0, 2, 1}), 500};
  const base::Bytes nonce(32, 7);
  const base::Bytes cookie = jar.Make(kStart, nonce, from, 5);
  EXPECT_LE(cookie.size(), 64u);
  EXPECT_TRUE(jar.Check(kStart, cookie, nonce, from, 5));
  EXPECT_TRUE(jar.Check(kStart + absl::Seconds(70), cookie, nonce, from, 5));
  EXPECT_FALSE(jar.Check(kStart + absl::Seconds(150), cookie, nonce, from, 5));
  const base::Bytes fresh = jar.Make(kStart + absl::Hours(1), nonce, from, 5);
  const base::Instant later = kStart + absl::Hours(1);
  EXPECT_TRUE(jar.Check(later, fresh, nonce, from, 5));
  EXPECT_FALSE(jar.Check(later, fresh, nonce, from, 6));
  EXPECT_FALSE(jar.Check(later, fresh, base::Bytes(32, 8), from, 5));
  const base::Endpoint other = {base::IpAddress::V4({192, 0, 2, 2}), 500};
  EXPECT_FALSE(jar.Check(later, fresh, nonce, other, 5));
  base::Bytes tampered = fresh;
  tampered.back() ^= 1;
  EXPECT_FALSE(jar.Check(later, tampered, nonce, from, 5));
  EXPECT_FALSE(jar.Check(later, {}, nonce, from, 5));
}

TEST(NatDetection, TellsWhichEndIsTranslated) {
  const Path path = {.local = {base::IpAddress::V4({192, 0, 2, 1}), 500},
                     .remote = {base::IpAddress::V4({192, 0, 2, 2}), 500}};
  const SpiPair spis = {1, 2};
  const NatHash local = ComputeNatHash(spis, path.local);
  const NatHash remote = ComputeNatHash(spis, path.remote);
  TestRandom random(1);
  const NatHash wrong = UnmatchableNatHash(random);
  EXPECT_FALSE(DetectNat(spis, path, {remote}, {local}).any());
  EXPECT_TRUE(DetectNat(spis, path, {wrong}, {local}).remote);
  EXPECT_TRUE(DetectNat(spis, path, {remote}, {wrong}).local);
  // Any of several sources will do.
  EXPECT_FALSE(DetectNat(spis, path, {wrong, remote}, {local}).any());
  EXPECT_FALSE(DetectNat(spis, path, {}, {}).supported);
  EXPECT_FALSE(DetectNat(spis, path, {wrong}, {}).any());
  // The other SPIs' hash is not ours.
  EXPECT_TRUE(DetectNat({1, 3}, path, {remote}, {local}).any());
}

using Outcome = Reassembly::Outcome;

TEST(Reassembly, AnyOrderOnceEach) {
  Reassembly parts(1000);
  EXPECT_EQ(parts.Add({3, 3}, wire::PayloadType::kNone, {3}),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({1, 3}, wire::PayloadType::kSa, {1}),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({1, 3}, wire::PayloadType::kSa, {9}), Outcome::kRefused);
  EXPECT_EQ(parts.Add({2, 3}, wire::PayloadType::kNone, {2}),
            Outcome::kComplete);
  EXPECT_EQ(parts.first_inner(), wire::PayloadType::kSa);
  EXPECT_EQ(parts.Take(), (base::Bytes{1, 2, 3}));
}

TEST(Reassembly, ALargerTotalStartsAnewASmallerIsRefused) {
  Reassembly parts(1000);
  EXPECT_EQ(parts.Add({1, 2}, wire::PayloadType::kSa, {1}),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({1, 3}, wire::PayloadType::kSa, {1}),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({2, 2}, wire::PayloadType::kNone, {2}),
            Outcome::kRefused);
  EXPECT_EQ(parts.Add({2, 3}, wire::PayloadType::kNone, {2}),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({3, 3}, wire::PayloadType::kNone, {3}),
            Outcome::kComplete);
}

TEST(Reassembly, Bounds) {
  Reassembly parts(10);
  EXPECT_EQ(parts.Add({0, 2}, wire::PayloadType::kSa, {1}), Outcome::kRefused);
  EXPECT_EQ(parts.Add({3, 2}, wire::PayloadType::kSa, {1}), Outcome::kRefused);
  EXPECT_EQ(parts.Add({1, kMaxFragments + 1}, wire::PayloadType::kSa, {1}),
            Outcome::kRefused);
  EXPECT_EQ(parts.Add({1, 2}, wire::PayloadType::kSa, base::Bytes(8, 0)),
            Outcome::kIncomplete);
  EXPECT_EQ(parts.Add({2, 2}, wire::PayloadType::kNone, base::Bytes(8, 0)),
            Outcome::kRefused);
}

TEST(KeyDerivation, DirectionsAndSizes) {
  const IkeSuite suite = {
      .cipher = {.cipher = crypto::Cipher::kAesCbc,
                 .key_bits = 128,
                 .integrity = crypto::Integrity::kHmacSha2_256_128},
      .prf = crypto::Prf::kHmacSha2_256};
  const base::Bytes ni(32, 1), nr(32, 2), secret(32, 3);
  const base::SecretBytes seed = InitialSkeyseed(suite.prf, ni, nr, secret);
  const DerivedKeys keys = DeriveIkeKeys(suite, seed.span(), ni, nr, {1, 2});
  EXPECT_EQ(keys.ike.sk_d.size(), 32u);
  EXPECT_EQ(keys.ike.sk_ai.size(), 32u);
  EXPECT_EQ(keys.ike.sk_ei.size(), 16u);
  EXPECT_EQ(keys.auth.sk_pr.size(), 32u);
  EXPECT_FALSE(
      base::ConstantTimeEqual(keys.ike.sk_ei.span(), keys.ike.sk_er.span()));
  // SK_d is the first of the stream, which the SPIs are part of.
  const DerivedKeys other = DeriveIkeKeys(suite, seed.span(), ni, nr, {1, 3});
  EXPECT_FALSE(
      base::ConstantTimeEqual(keys.ike.sk_d.span(), other.ike.sk_d.span()));
  const base::EspSuite esp = {};
  const ChildKeys child =
      DeriveChildKeys(suite.prf, keys.ike.sk_d.span(), {}, ni, nr, esp);
  EXPECT_EQ(child.initiator_encryption.size(), 36u);
  EXPECT_TRUE(child.initiator_integrity.empty());
  const ChildKeys pfs =
      DeriveChildKeys(suite.prf, keys.ike.sk_d.span(), secret, ni, nr, esp);
  EXPECT_FALSE(base::ConstantTimeEqual(child.initiator_encryption.span(),
                                       pfs.initiator_encryption.span()));
}

TEST(RateLimit, SoManyASecond) {
  RateLimit limit(2);
  EXPECT_TRUE(limit.Allow(kStart));
  EXPECT_TRUE(limit.Allow(kStart));
  EXPECT_FALSE(limit.Allow(kStart + absl::Milliseconds(900)));
  EXPECT_TRUE(limit.Allow(kStart + absl::Seconds(1)));
}

TEST(Identity, Text) {
  EXPECT_EQ(Identity::Fqdn("node-1").ToString(), "node-1");
  EXPECT_EQ(Identity::Address(base::IpAddress::V4({192, 0, 2, 1})).ToString(),
            "192.0.2.1");
  // Never raw control characters into a log.
  EXPECT_EQ((Identity{Identity::Type::kFqdn, {'a', '\n'}}).ToString(),
            "type 2 610a");
}

}  // namespace
}  // namespace espalier::ike
