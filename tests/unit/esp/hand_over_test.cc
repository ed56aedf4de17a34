#include "agent/esp/hand_over.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/crypto/esp_cipher.h"
#include "agent/esp/replay_window.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using control::HandedOver;
using control::HandOverEnd;
using testing::MakeSa;

constexpr absl::Duration kShort = absl::Milliseconds(50);

// The connection: the old espd at one end, the next one at the other.
class HandOverLinkTest : public ::testing::Test {
 protected:
  HandOverLinkTest() {
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds_), 0);
  }
  ~HandOverLinkTest() override { CloseNext(), close(fds_[0]); }
  void CloseNext() {
    if (fds_[1] >= 0) close(fds_[1]);
    fds_[1] = -1;
  }
  int old() const { return fds_[0]; }
  int next() const { return fds_[1]; }

 private:
  int fds_[2];
};

TEST_F(HandOverLinkTest, TheNextIsTheOwnerOnceItSaysSo) {
  HandOverLink next(this->next(), kShort);
  ASSERT_TRUE(next.Send(HandedOver{}).ok());
  EXPECT_TRUE(HandOverLink(old(), kShort).WaitForHandedOver());
}

// The next one dies at once after it has become the owner: the old one must
// not go on, the next one may have used the keys.
TEST_F(HandOverLinkTest, AnOwnerThatDiesStaysTheOwner) {
  ASSERT_TRUE(HandOverLink(next(), kShort).Send(HandedOver{}).ok());
  CloseNext();
  EXPECT_TRUE(HandOverLink(old(), kShort).WaitForHandedOver());
}

TEST_F(HandOverLinkTest, OneThatDiesBeforeIsNot) {
  CloseNext();
  EXPECT_FALSE(HandOverLink(old(), kShort).WaitForHandedOver());
}

TEST_F(HandOverLinkTest, OneThatComesTooLateCannotBecomeIt) {
  HandOverLink next(this->next(), absl::Seconds(5));
  EXPECT_FALSE(HandOverLink(old(), kShort).WaitForHandedOver());
  EXPECT_TRUE(absl::IsUnavailable(next.Send(HandedOver{})));
}

// Between the deadline and the shutdown: what is in the connection counts.
TEST_F(HandOverLinkTest, WhatWasSentBeforeTheEndCounts) {
  ASSERT_TRUE(HandOverLink(next(), kShort).Send(HandedOver{}).ok());
  HandOverLink late(old(), -absl::Seconds(1));
  EXPECT_TRUE(late.WaitForHandedOver());
}

TEST_F(HandOverLinkTest, AnythingElseIsARefusalForGood) {
  HandOverLink next(this->next(), kShort);
  ASSERT_TRUE(next.Send(HandOverEnd{}).ok());
  const uint8_t garbage[] = {1, 2, 3};
  EXPECT_EQ(send(this->next(), garbage, sizeof garbage, MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof garbage));
  EXPECT_FALSE(HandOverLink(old(), kShort).WaitForHandedOver());
  EXPECT_TRUE(absl::IsUnavailable(next.Send(HandedOver{})));
}

TEST_F(HandOverLinkTest, TheLastWordCountsWhateverStandsBeforeIt) {
  HandOverLink next(this->next(), kShort);
  ASSERT_TRUE(next.Send(HandOverEnd{}).ok());
  ASSERT_TRUE(next.Send(HandedOver{}).ok());
  EXPECT_TRUE(HandOverLink(old(), kShort).WaitForHandedOver());
}

TEST_F(HandOverLinkTest, DescriptorsComeAlong) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ASSERT_TRUE(
      HandOverLink(old(), kShort).Send(HandOverEnd{}, {pipe_ends[1]}).ok());
  close(pipe_ends[1]);
  std::vector<int> got;
  ASSERT_TRUE(HandOverLink(next(), kShort).Receive(&got).ok());
  ASSERT_EQ(got.size(), 1u);
  EXPECT_NE(fcntl(got[0], F_GETFD) & FD_CLOEXEC, 0);
  char octet = 'x';
  EXPECT_EQ(write(got[0], &octet, 1), 1);
  octet = 0;
  EXPECT_EQ(read(pipe_ends[0], &octet, 1), 1);
  EXPECT_EQ(octet, 'x');
  close(got[0]);
  close(pipe_ends[0]);
}

TEST_F(HandOverLinkTest, AnEndThatDoesNotReadIsGivenUp) {
  HandOverLink link(old(), kShort);
  absl::Status status;
  for (int i = 0; i < 100000 && status.ok(); ++i) {
    status = link.Send(control::UsedKeys{std::vector<uint64_t>(8000)});
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST(ReplayWindowState, GoesOnWhereItWas) {
  ReplayWindow one(2048, true), two(2048, true), other(4096, true);
  for (const uint64_t n : {1ull, 2ull, 0x100000010ull, 0x100000007ull}) {
    EXPECT_TRUE(one.Accept(n));
  }
  EXPECT_FALSE(other.Restore(one.top(), one.words()));
  ASSERT_TRUE(two.Restore(one.top(), one.words()));
  EXPECT_EQ(two.Estimate(0x11), 0x100000011u);
  EXPECT_FALSE(two.Accept(0x100000007));
  EXPECT_FALSE(two.Accept(0x100000010));
  EXPECT_TRUE(two.Accept(0x100000008));
  EXPECT_TRUE(two.Accept(0x100000011));
}

// As the next process sees it: the same names for the same keys.
TEST(UsedKeys, StaySpentInTheNextProcess) {
  const base::Instant now = absl::FromUnixSeconds(1);
  const auto ignore = [](const Sa&, bool) {};
  SaDatabase one(CipherChoice::kOpenssl, ignore);
  const base::EspSa living = MakeSa(base::Direction::kOutbound, 0x1000, {});
  const base::EspSa removed =
      MakeSa(base::Direction::kOutbound, 0x1001, {}, 99);
  ASSERT_TRUE(one.Install(living.Clone(), now).ok());
  ASSERT_TRUE(one.Install(removed.Clone(), now).ok());
  EXPECT_TRUE(
      one.Remove({removed.direction, removed.outer_destination, removed.spi}));

  SaDatabase two(CipherChoice::kOpenssl, ignore);
  for (const uint64_t key : one.used_keys()) EXPECT_TRUE(two.AddUsedKey(key));
  EXPECT_TRUE(two.Adopt(living.Clone(), now).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(two.Adopt(living.Clone(), now).status()));
  EXPECT_TRUE(
      absl::IsAlreadyExists(two.Install(removed.Clone(), now).status()));
  EXPECT_EQ(two.used_keys(), one.used_keys());
  // The control: a database that was told nothing takes it.
  SaDatabase three(CipherChoice::kOpenssl, ignore);
  EXPECT_TRUE(three.Install(removed.Clone(), now).ok());
}

TEST(UsedKeys, NamesAreThoseOfTheProcessBefore) {
  const base::SecretBytes key(32);
  const uint64_t name = crypto::KeyFingerprint(key.span(), {});
  base::SecretBytes before = crypto::FingerprintKey();
  crypto::SetFingerprintKey(base::SecretBytes(32));
  EXPECT_NE(crypto::KeyFingerprint(key.span(), {}), name);
  crypto::SetFingerprintKey(std::move(before));
  EXPECT_EQ(crypto::KeyFingerprint(key.span(), {}), name);
}

}  // namespace
}  // namespace espalier::esp
