// NAT traversal (RFC 7296 2.23), public keys (RFC 7427, 7670, 8420) and
// fragmentation (RFC 7383) between two cores.
#include "agent/crypto/keys.h"
#include "gtest/gtest.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

// A NAT before `inside`: its address and ports are others outside.
class Nat {
 public:
  Nat(Lab& lab, Node& inside, Node& outside) {
    lab.filter = [this, &inside, &outside](Node& from, Node& to, Path& path,
                                           base::Bytes&) {
      if (&from == &inside && &to == &outside) {
        path.remote = {inside.address,
                       static_cast<uint16_t>(path.remote.port + offset)};
      } else if (&to == &inside) {
        path.local.port = static_cast<uint16_t>(path.local.port - offset);
        // An old mapping leads nowhere.
        return path.local.port == 500 || path.local.port == 4500;
      }
      return true;
    };
  }
  uint16_t offset = 20000;
};

TEST(NatTraversal, MovesToPort4500AndEncapsulates) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  Nat nat(lab, a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_EQ(a.Established().size(), 1u);
  EXPECT_TRUE(a.Established()[0].nat_local);
  EXPECT_FALSE(a.Established()[0].nat_remote);
  EXPECT_TRUE(b.Established()[0].nat_remote);
  EXPECT_EQ(a.Established()[0].path.remote.port, 4500);
  EXPECT_EQ(b.Established()[0].path.remote.port, 24500);
  ASSERT_TRUE(b.NewestOutbound()->sa.encapsulation);
  EXPECT_EQ(b.NewestOutbound()->sa.encapsulation->destination_port, 24500);
  EXPECT_TRUE(lab.PassBoth(a, b));
  lab.Run(absl::Minutes(2));
  EXPECT_GT(a.keepalives, 2);
  EXPECT_EQ(b.keepalives, 0);
}

TEST(NatTraversal, TheOtherEndFollowsANewMapping) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  Nat nat(lab, a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  nat.offset = 30000;
  lab.Run(absl::Minutes(2));
  ASSERT_EQ(b.Established().size(), 1u);
  EXPECT_EQ(b.Established()[0].path.remote.port, 34500);
  // ESP follows with new SAs.
  EXPECT_EQ(b.NewestOutbound()->sa.encapsulation->destination_port, 34500);
  EXPECT_TRUE(lab.PassBoth(a, b));
}

TEST(NatTraversal, WithoutANatTheEndsDoNotFollow) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  lab.filter = [&](Node& from, Node&, Path& path, base::Bytes&) {
    if (&from == &a) path.remote.port = 999;
    return true;
  };
  a.core.RekeyChildSa(lab.now(), PeerId(2));
  lab.Drain();
  EXPECT_EQ(b.Established()[0].path.remote.port, 500);
}

TEST(NatTraversal, ForcedEncapsulationNeedsOnlyOneEnd) {
  for (int forcing : {0, 1}) {
    Lab lab;
    Node& a = lab.Add("a", 1);
    Node& b = lab.Add("b", 2);
    PeerConfig of_a = Lab::PskPeer(a, b);
    PeerConfig of_b = Lab::PskPeer(b, a);
    (forcing == 0 ? of_a : of_b).force_encapsulation = true;
    ASSERT_TRUE(a.core.UpsertPeer(lab.now(), std::move(of_a)).ok());
    ASSERT_TRUE(b.core.UpsertPeer(lab.now(), std::move(of_b)).ok());
    a.core.Establish(lab.now(), PeerId(2));
    lab.Drain();
    ASSERT_TRUE(lab.PassBoth(a, b)) << forcing;
    EXPECT_TRUE(a.NewestOutbound()->sa.encapsulation);
    EXPECT_TRUE(b.NewestOutbound()->sa.encapsulation);
    EXPECT_EQ(b.Established()[0].path.remote.port, 4500);
    // It survives a rekey of either kind.
    a.core.RekeyIkeSa(lab.now(), PeerId(2));
    lab.Run(absl::Seconds(10));
    b.core.RekeyChildSa(lab.now(), PeerId(1));
    lab.Run(absl::Seconds(10));
    EXPECT_TRUE(lab.PassBoth(a, b));
    EXPECT_TRUE(a.NewestOutbound()->sa.encapsulation);
  }
}

// Two nodes with keys of their own.
class PublicKeys : public ::testing::Test {
 protected:
  using PublicKey = std::shared_ptr<const crypto::PublicKey>;

  Node& Add(const std::string& name, int octet, crypto::KeyType type) {
    CoreConfig config;
    config.private_key = *crypto::PrivateKey::Generate(type);
    keys_[name] = config.private_key->public_key();
    return lab_.Add(name, octet, std::move(config));
  }
  void Trust(Node& self, Node& peer, std::vector<PublicKey> keys) {
    PeerConfig config = Lab::PskPeer(self, peer);
    config.auth = PublicKeyAuth{std::move(keys)};
    ASSERT_TRUE(self.core.UpsertPeer(lab_.now(), std::move(config)).ok());
  }

  // a begins, and b is verifying its signature.
  RunCrypto HoldVerification(Node& a, Node& b) {
    lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
      if (&from == &a && ExchangeOf(bytes) == wire::ExchangeType::kIkeAuth) {
        b.hold_jobs = true;
      }
      return true;
    };
    a.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
    lab_.filter = nullptr;
    b.hold_jobs = false;
    EXPECT_EQ(b.held_jobs.size(), 1u);
    RunCrypto job = std::move(b.held_jobs.front());
    b.held_jobs.clear();
    return job;
  }
  void Finish(Node& node, const RunCrypto& job) {
    node.core.HandleCryptoDone(lab_.now(), job.id, crypto::Run(job.job));
    lab_.Drain();
  }

  Lab lab_;
  std::map<std::string, PublicKey> keys_;
};

TEST_F(PublicKeys, OfEveryKind) {
  int octet = 1;
  for (crypto::KeyType type :
       {crypto::KeyType::kEd25519, crypto::KeyType::kEcdsaP256,
        crypto::KeyType::kEcdsaP384, crypto::KeyType::kRsa}) {
    Node& a = Add("a" + std::to_string(octet), octet, type);
    Node& b =
        Add("b" + std::to_string(octet), octet + 1, crypto::KeyType::kEd25519);
    Trust(a, b, {keys_[b.name]});
    Trust(b, a, {keys_[a.name]});
    a.core.Establish(lab_.now(), PeerId(static_cast<uint32_t>(octet + 1)));
    lab_.Drain();
    EXPECT_TRUE(lab_.PassBoth(a, b)) << crypto::ToString(type);
    octet += 2;
  }
}

TEST_F(PublicKeys, AnotherKeyIsRefused) {
  Node& a = Add("a", 1, crypto::KeyType::kEd25519);
  Node& b = Add("b", 2, crypto::KeyType::kEd25519);
  const auto stranger =
      (*crypto::PrivateKey::Generate(crypto::KeyType::kEd25519))->public_key();
  Trust(a, b, {keys_["b"]});
  Trust(b, a, {stranger});
  a.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  EXPECT_TRUE(a.Established().empty());
  EXPECT_TRUE(b.Established().empty());
  EXPECT_EQ(b.Count(Event::Kind::kAuthenticationFailed), 1);
  // And in the other direction.
  Trust(a, b, {stranger});
  Trust(b, a, {keys_["a"]});
  lab_.Run(absl::Seconds(5));
  EXPECT_TRUE(a.Established().empty());
  EXPECT_TRUE(b.Established().empty());
}

TEST_F(PublicKeys, TwoKeysDuringRotation) {
  Node& a = Add("a", 1, crypto::KeyType::kEd25519);
  Node& b = Add("b", 2, crypto::KeyType::kEcdsaP256);
  const auto next =
      (*crypto::PrivateKey::Generate(crypto::KeyType::kEd25519))->public_key();
  Trust(a, b, {next, keys_["b"]});
  Trust(b, a, {keys_["a"], next});
  a.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  ASSERT_TRUE(lab_.PassBoth(a, b));
  // The other key goes: nothing happens. The one in use goes: all ends.
  Trust(b, a, {keys_["a"]});
  lab_.Drain();
  EXPECT_TRUE(lab_.PassBoth(a, b));
  Trust(b, a, {next});
  lab_.Drain();
  EXPECT_FALSE(lab_.Pass(b, a));
  lab_.Run(absl::Seconds(3));
  EXPECT_TRUE(b.sas.empty());
  EXPECT_TRUE(b.Established().empty());
}

TEST_F(PublicKeys, APeerIsForgottenWhileItsSignatureIsVerified) {
  Node& a = Add("a", 1, crypto::KeyType::kEd25519);
  Node& b = Add("b", 2, crypto::KeyType::kEd25519);
  Trust(a, b, {keys_["b"]});
  Trust(b, a, {keys_["a"]});
  const RunCrypto job = HoldVerification(a, b);
  b.core.RemovePeer(lab_.now(), PeerId(1));
  Finish(b, job);
  EXPECT_TRUE(b.Established().empty());
  EXPECT_TRUE(a.Established().empty());
  EXPECT_EQ(b.Count(Event::Kind::kAuthenticationFailed), 1);
}

TEST_F(PublicKeys, AKeyIsWithdrawnWhileItsSignatureIsVerified) {
  Node& a = Add("a", 1, crypto::KeyType::kEd25519);
  Node& b = Add("b", 2, crypto::KeyType::kEd25519);
  const auto stranger =
      (*crypto::PrivateKey::Generate(crypto::KeyType::kEd25519))->public_key();
  Trust(a, b, {keys_["b"]});
  Trust(b, a, {keys_["a"]});
  const RunCrypto job = HoldVerification(a, b);
  Trust(b, a, {stranger});
  Finish(b, job);
  EXPECT_TRUE(b.sas.empty());
  EXPECT_FALSE(lab_.Pass(a, b));
  lab_.Run(absl::Seconds(3));
  EXPECT_TRUE(b.Established().empty());
  EXPECT_TRUE(b.sas.empty());
  // Nothing of it stands in the way of the next.
  Trust(b, a, {keys_["a"]});
  b.core.Establish(lab_.now(), PeerId(1));
  lab_.Run(absl::Minutes(2));
  EXPECT_TRUE(lab_.PassBoth(a, b));
}

TEST_F(PublicKeys, ASharedKeyDoesNotStandInForASignature) {
  Node& a = lab_.Add("a", 1);
  Node& b = Add("b", 2, crypto::KeyType::kEd25519);
  (void)a.core.UpsertPeer(lab_.now(), Lab::PskPeer(a, b));
  Trust(b, a, {keys_["b"]});
  a.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  EXPECT_TRUE(b.Established().empty());
}

TEST_F(PublicKeys, InFragments) {
  CoreConfig config;
  config.fragment_size = 300;
  config.private_key = *crypto::PrivateKey::Generate(crypto::KeyType::kRsa);
  keys_["a"] = config.private_key->public_key();
  Node& a = lab_.Add("a", 1, config);
  Node& b = Add("b", 2, crypto::KeyType::kRsa);
  Trust(a, b, {keys_["b"]});
  Trust(b, a, {keys_["a"]});
  // Out of order, each twice, and one lost in the first round.
  std::map<base::Bytes, int> seen;
  std::vector<std::pair<Path, base::Bytes>> fragments;
  lab_.filter = [&](Node& from, Node&, Path& path, base::Bytes& bytes) {
    if (&from == &a && ExchangeOf(bytes) == wire::ExchangeType::kIkeAuth) {
      EXPECT_LE(bytes.size(), 300u);
      fragments.emplace_back(path, bytes);
      return false;
    }
    return true;
  };
  a.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  ASSERT_GT(fragments.size(), 3u);
  for (size_t i = fragments.size(); i-- > 1;) {
    lab_.Inject(b, fragments[i].first, fragments[i].second);
    lab_.Inject(b, fragments[i].first, fragments[i].second);
  }
  EXPECT_TRUE(b.Established().empty());
  lab_.filter = nullptr;
  lab_.Inject(b, fragments[0].first, fragments[0].second);
  EXPECT_TRUE(lab_.PassBoth(a, b));
  // A repeat of the first fragment, and of no other, repeats the response.
  const size_t sent = b.sent.size();
  lab_.Inject(b, fragments[1].first, fragments[1].second);
  EXPECT_EQ(b.sent.size(), sent);
  lab_.Inject(b, fragments[0].first, fragments[0].second);
  EXPECT_GT(b.sent.size(), sent);
}

TEST_F(PublicKeys, FragmentsThatWereNotAgreedOnAreIgnored) {
  CoreConfig config;
  config.fragment_size = 200;
  Node& a = lab_.Add("a", 1, config);
  Node& b = lab_.Add("b", 2);
  lab_.Introduce(a, b);
  // b is told that a does not support them; a sends some all the same.
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &a || ExchangeOf(bytes) != wire::ExchangeType::kIkeSaInit)
      return true;
    wire::Decoded<wire::Message> message = wire::DecodeMessage(bytes);
    std::erase_if(message->payloads, [](const wire::Payload& p) {
      const auto* notify = std::get_if<wire::NotifyPayload>(&p.body);
      return notify != nullptr &&
             notify->type == wire::NotifyType::kIkev2FragmentationSupported;
    });
    bytes = wire::EncodeMessage(message->header, message->payloads);
    return true;
  };
  a.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  EXPECT_TRUE(b.Established().empty());
}

}  // namespace
}  // namespace espalier::ike::testing
