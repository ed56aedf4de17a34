#include "agent/mesh/probe.h"

#include <deque>

#include "gmock/gmock.h"
#include "tests/support/manual_loop.h"

namespace espalier::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

class CountingRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) octet = static_cast<uint8_t>(++last_);
  }

 private:
  uint32_t last_ = 0;
};

struct Sent {
  base::IpAddress local, remote;
  base::Bytes bytes;
};

class FakeLink : public ProbeLink {
 public:
  void SetLocal(const std::vector<base::IpAddress>& addresses) override {
    local = addresses;
  }
  absl::Status Send(const base::IpAddress& from, const base::IpAddress& to,
                    base::ByteSpan bytes) override {
    sent.push_back({from, to, {bytes.begin(), bytes.end()}});
    return absl::OkStatus();
  }
  std::vector<base::IpAddress> local;
  std::deque<Sent> sent;
};

const ike::PeerId kPeer(7);

class ProberTest : public ::testing::Test {
 protected:
  ProberTest() {
    prober_.SetLocal({Ip("10.244.1.1"), Ip("fd00:244:1::1")});
    prober_.SetPeer(kPeer, {Ip("10.244.2.1"), Ip("fd00:244:2::1")});
  }
  // Answers what was sent, as the peer's agent does, in these families.
  int Answer(bool v4 = true, bool v6 = true) {
    int answered = 0;
    while (!link_.sent.empty()) {
      const Sent sent = link_.sent.front();
      link_.sent.pop_front();
      const auto message = DecodeProbe(sent.bytes);
      if (!message || message->kind != ProbeMessage::Kind::kRequest) continue;
      if (!(sent.remote.is_v4() ? v4 : v6)) continue;
      prober_.HandleDatagram(
          sent.local, sent.remote,
          EncodeProbe({ProbeMessage::Kind::kReply, message->nonce}));
      ++answered;
    }
    return answered;
  }
  // Until something is sent, which is answered.
  int NextRound(bool v4 = true, bool v6 = true) {
    for (int i = 0; i < 200 && link_.sent.empty(); ++i) {
      loop_.Advance(absl::Milliseconds(100));
    }
    EXPECT_THAT(link_.sent, SizeIs(2));
    return Answer(v4, v6);
  }
  void Request(const std::string& local, const std::string& remote) {
    prober_.HandleDatagram(Ip(local), Ip(remote),
                           EncodeProbe({ProbeMessage::Kind::kRequest, 0x1234}));
  }
  ProbeVerdict Verdict() { return prober_.Verdict(kPeer); }

  testing::ManualLoop loop_;
  CountingRandom random_;
  FakeLink link_;
  std::vector<ProbeVerdict> changes_;
  Prober prober_{&loop_, &loop_, &random_, &link_, [this](ike::PeerId peer) {
                   EXPECT_EQ(peer, kPeer);
                   changes_.push_back(Verdict());
                 }};
};

TEST(ProbeMessageTest, SurvivesTheWireAndNothingElseIsOne) {
  const ProbeMessage message{ProbeMessage::Kind::kReply, 0x0102030405060708};
  const base::Bytes bytes = EncodeProbe(message);
  EXPECT_EQ(bytes.size(), 16u);
  EXPECT_EQ(DecodeProbe(bytes), message);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodeProbe(base::ByteSpan(bytes).first(size)), std::nullopt);
  }
  base::Bytes longer = bytes;
  longer.push_back(0);
  EXPECT_EQ(DecodeProbe(longer), std::nullopt);
  for (size_t bit = 0; bit < 8 * 8; ++bit) {
    base::Bytes flipped = bytes;
    flipped[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    if (bit == 56) {
      ProbeMessage of_node = message;
      of_node.node_traffic = true;
      EXPECT_EQ(DecodeProbe(flipped), of_node);
      EXPECT_EQ(EncodeProbe(of_node), flipped);
      continue;
    }
    EXPECT_EQ(DecodeProbe(flipped), std::nullopt) << bit;
  }
}

TEST(TunnelAddressesTest, AreTheSameInWhateverOrderTheCidrsCome) {
  const std::vector<base::IpAddress> expected = {Ip("10.244.1.1"),
                                                 Ip("fd00:244:1::1")};
  EXPECT_EQ(TunnelAddresses({Net("10.244.1.0/24"), Net("10.244.9.0/24"),
                             Net("fd00:244:1::/64")}),
            expected);
  EXPECT_EQ(TunnelAddresses({Net("fd00:244:1::/64"), Net("10.244.9.0/24"),
                             Net("10.244.1.0/24")}),
            expected);
  // Too small for an address beside network and broadcast.
  EXPECT_THAT(TunnelAddresses({Net("10.244.1.0/31"), Net("fd00::1/128")}),
              IsEmpty());
}

TEST_F(ProberTest, PassesOnceEveryFamilyIsAnswered) {
  EXPECT_THAT(link_.local, SizeIs(2));
  prober_.Start(kPeer);
  EXPECT_EQ(Verdict(), ProbeVerdict::kWaiting);
  loop_.Advance(absl::Milliseconds(1));
  ASSERT_THAT(link_.sent, SizeIs(2));
  EXPECT_EQ(Answer(true, false), 1);
  EXPECT_EQ(Verdict(), ProbeVerdict::kWaiting);
  loop_.Advance(absl::Milliseconds(300));
  EXPECT_EQ(Answer(), 2);
  EXPECT_EQ(Verdict(), ProbeVerdict::kPassing);
  EXPECT_THAT(changes_, ElementsAre(ProbeVerdict::kPassing));
  EXPECT_EQ(prober_.Status(kPeer).answered, 3u);
  // And again in every interval, neither sooner nor in one instant with others.
  loop_.Advance(absl::Seconds(11));
  EXPECT_THAT(link_.sent, IsEmpty());
  EXPECT_EQ(NextRound(), 2);
  EXPECT_THAT(changes_, SizeIs(1));
}

TEST_F(ProberTest, FailsAfterSomeTriesAndSaysWhichFamily) {
  prober_.Start(kPeer);
  for (int i = 0; i < 40; ++i) {
    loop_.Advance(absl::Milliseconds(100));
    Answer(true, false);
  }
  EXPECT_EQ(Verdict(), ProbeVerdict::kFailing);
  EXPECT_THAT(prober_.Status(kPeer).reason, HasSubstr("fd00:244:2::1"));
  EXPECT_THAT(prober_.Status(kPeer).reason, Not(HasSubstr("10.244.2.1")));
  for (int i = 0; i < 40; ++i) {
    loop_.Advance(absl::Milliseconds(100));
    Answer();
  }
  EXPECT_EQ(Verdict(), ProbeVerdict::kPassing);
  EXPECT_THAT(prober_.Status(kPeer).reason, IsEmpty());
}

TEST_F(ProberTest, OneLostProbeIsNoFailure) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  Answer();
  EXPECT_EQ(NextRound(/*v4=*/false, /*v6=*/false), 0);
  loop_.Advance(absl::Milliseconds(1500));
  Answer();
  EXPECT_THAT(changes_, ElementsAre(ProbeVerdict::kPassing));
}

TEST_F(ProberTest, TimeToAVerdictIsBounded) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(3300));
  EXPECT_EQ(Verdict(), ProbeVerdict::kWaiting);
  loop_.Advance(absl::Milliseconds(200));
  EXPECT_EQ(Verdict(), ProbeVerdict::kFailing);
  // Slower than while it is undecided: five tries, then one in 2 s or so.
  link_.sent.clear();
  loop_.Advance(absl::Minutes(1));
  EXPECT_LE(link_.sent.size(), 2 * 28u);
}

TEST_F(ProberTest, WrongAnswersAreNone) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  const Sent request = link_.sent.front();
  const uint64_t nonce = DecodeProbe(request.bytes)->nonce;
  const auto reply = [&](const base::IpAddress& local,
                         const base::IpAddress& remote, uint64_t with) {
    prober_.HandleDatagram(local, remote,
                           EncodeProbe({ProbeMessage::Kind::kReply, with}));
  };
  reply(request.local, request.remote, nonce + 1);  // not sent yet
  reply(request.local, request.remote, nonce - 1);  // never sent
  reply(request.local, request.remote, ~nonce);     // nor that
  reply(request.local, Ip("10.244.3.1"), nonce);    // no peer of ours
  reply(Ip("10.244.1.9"), request.remote, nonce);   // to another address
  prober_.HandleDatagram(request.local, request.remote, {});
  EXPECT_EQ(prober_.Status(kPeer).answered, 0u);
  EXPECT_EQ(prober_.dropped(), 6u);
  reply(request.local, request.remote, nonce);
  EXPECT_EQ(prober_.Status(kPeer).answered, 1u);
  // A round that is long past says nothing about now.
  loop_.Advance(absl::Seconds(20));
  reply(request.local, request.remote, nonce);
  EXPECT_EQ(prober_.Status(kPeer).answered, 1u);
}

TEST_F(ProberTest, AnswersItsPeersOnceEachAndNobodyElse) {
  Request("10.244.1.1", "10.244.2.1");
  ASSERT_THAT(link_.sent, SizeIs(1));
  EXPECT_EQ(link_.sent[0].remote, Ip("10.244.2.1"));
  EXPECT_EQ(DecodeProbe(link_.sent[0].bytes),
            (ProbeMessage{ProbeMessage::Kind::kReply, 0x1234}));
  Request("10.244.1.1", "10.244.3.1");
  Request("10.244.1.9", "10.244.2.1");
  Request("10.244.1.1", "10.244.2.77");  // a pod of the peer's
  EXPECT_THAT(link_.sent, SizeIs(1));
  // A reply is never answered.
  prober_.HandleDatagram(Ip("10.244.1.1"), Ip("10.244.2.1"),
                         EncodeProbe({ProbeMessage::Kind::kReply, 1}));
  EXPECT_THAT(link_.sent, SizeIs(1));
}

TEST_F(ProberTest, AFloodOfRequestsIsAnsweredInPart) {
  for (int i = 0; i < 1000; ++i) Request("10.244.1.1", "10.244.2.1");
  EXPECT_THAT(link_.sent, SizeIs(20));
  // The other family has its own share.
  Request("fd00:244:1::1", "fd00:244:2::1");
  EXPECT_THAT(link_.sent, SizeIs(21));
  loop_.Advance(absl::Seconds(1));
  for (int i = 0; i < 1000; ++i) Request("10.244.1.1", "10.244.2.1");
  EXPECT_THAT(link_.sent, SizeIs(31));
}

TEST_F(ProberTest, TheNodesUnreachableIsAnAnswer) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  for (const Sent& sent : std::exchange(link_.sent, {})) {
    prober_.HandleUnreachable(sent.local, sent.remote, sent.bytes);
  }
  EXPECT_EQ(Verdict(), ProbeVerdict::kPassing);
  EXPECT_TRUE(prober_.Status(kPeer).by_node);
  // Of an echo it says nothing, and must not be taken for one's own probe.
  prober_.HandleUnreachable(Ip("10.244.1.1"), Ip("10.244.2.1"),
                            EncodeProbe({ProbeMessage::Kind::kReply, 0x1234}));
  EXPECT_EQ(prober_.Status(kPeer).answered, 2u);
}

TEST_F(ProberTest, ARekeyKeepsTheVerdictAndProbesAtOnce) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  Answer();
  loop_.Advance(absl::Seconds(2));
  prober_.Start(kPeer);
  EXPECT_EQ(Verdict(), ProbeVerdict::kPassing);
  loop_.Advance(absl::Milliseconds(1));
  EXPECT_EQ(Answer(), 2);
  EXPECT_THAT(changes_, SizeIs(1));
}

TEST_F(ProberTest, WithoutSasThereIsNeitherProbeNorVerdict) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  Answer();
  prober_.Stop(kPeer);
  EXPECT_EQ(Verdict(), ProbeVerdict::kWaiting);
  loop_.Advance(absl::Minutes(5));
  EXPECT_THAT(link_.sent, IsEmpty());
}

TEST_F(ProberTest, OffWithoutAFamilyInCommonAndForRemovedPeers) {
  const ike::PeerId other(8);
  prober_.SetPeer(other, {});
  EXPECT_EQ(prober_.Verdict(other), ProbeVerdict::kOff);
  prober_.Start(other);
  prober_.Start(kPeer);
  prober_.RemovePeer(kPeer);
  loop_.Advance(absl::Minutes(1));
  EXPECT_THAT(link_.sent, IsEmpty());
  EXPECT_EQ(Verdict(), ProbeVerdict::kOff);
  Request("10.244.1.1", "10.244.2.1");
  EXPECT_THAT(link_.sent, IsEmpty());
}

TEST_F(ProberTest, CountsEachOfItsPackets) {
  prober_.Start(kPeer);
  loop_.Advance(absl::Milliseconds(1));
  Answer();                             // 2 out, 2 in
  Request("10.244.1.1", "10.244.2.1");  // 1 in, 1 out
  EXPECT_EQ(prober_.Status(kPeer).packets_out, 3u);
  EXPECT_EQ(prober_.Status(kPeer).packets_in, 3u);
}

}  // namespace
}  // namespace espalier::mesh
