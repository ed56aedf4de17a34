#include "agent/mesh/kubernetes/compose.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/mesh/kubernetes/objects.h"

namespace espalier::mesh {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Config Base() {
  Config config;
  config.source = ClusterSource::kKubernetes;
  config.node.name = "n1";
  config.cluster_pod_cidrs = {Cidr("10.1.0.0/16")};
  config.node_cidrs = {Cidr("192.0.2.0/24")};
  const kube::EspalierNode own = MakeNode(1);
  EXPECT_TRUE(FillNode(&own, &config).ok());
  return config;
}

struct Composed {
  std::vector<Peer> peers;
  std::vector<std::string> problems;
};
Composed With(std::vector<kube::EspalierNode> nodes, Config config = Base()) {
  KnownNodes::Nodes known = {{"n1", Share(MakeNode(1))}};
  for (kube::EspalierNode& node : nodes) {
    const std::string name = node.meta.name;
    known[name] = Share(std::move(node));
  }
  std::vector<std::string> problems = FillPeers(known, &config);
  return {config.peers, problems};
}

TEST(FillNode, TakesWhatTheControllerVerified) {
  const Config config = Base();
  EXPECT_THAT(config.node.addresses, ElementsAre(Address("192.0.2.1")));
  EXPECT_THAT(config.node.pod_cidrs, ElementsAre(Cidr("10.1.1.0/24")));
}

TEST(FillNode, SaysWhatIsMissingAndOfWhom) {
  Config config = Base();
  EXPECT_THAT(FillNode(nullptr, &config).message(), HasSubstr("not there"));
  kube::EspalierNode own = MakeNode(1);
  own.status.reset();
  EXPECT_THAT(FillNode(&own, &config).message(),
              HasSubstr("espalier-controller"));
  own = MakeNode(1);
  own.status->pod_cidrs = {Cidr("10.9.0.0/24")};
  EXPECT_THAT(FillNode(&own, &config).message(),
              HasSubstr("outside cluster.podCIDRs"));
  own = MakeNode(1);
  own.status->addresses.clear();
  own.status->conditions = {
      {.type = "Verified", .status = "False", .message = "held by n7"}};
  EXPECT_THAT(FillNode(&own, &config).message(), HasSubstr("held by n7"));
}

TEST(FillPeers, APeerIsStatusAddressesAndSpecKeys) {
  const Composed composed = With({MakeNode(2)});
  EXPECT_THAT(composed.problems, IsEmpty());
  ASSERT_THAT(composed.peers, SizeIs(1));
  const Peer& peer = composed.peers[0];
  EXPECT_EQ(peer.name, "n2");
  EXPECT_EQ(peer.identity.type, ike::Identity::Type::kFqdn);
  EXPECT_EQ(peer.identity.data, base::Bytes({'n', '2'}));
  EXPECT_THAT(peer.addresses, ElementsAre(Address("192.0.2.2")));
  EXPECT_THAT(peer.pod_cidrs, ElementsAre(Cidr("10.1.2.0/24")));
  EXPECT_EQ(std::get<PublicKeyCredential>(peer.credential).keys,
            MakeNode(2).spec.public_keys);
  EXPECT_THAT(peer.ike_proposals, SizeIs(1));
}

TEST(FillPeers, UserDatapathAndUnknownOnesAreSpokenToInUdp) {
  kube::EspalierNode node = MakeNode(2);
  EXPECT_EQ(With({node}).peers[0].force_encapsulation, std::nullopt);
  node.spec.datapath = "user";
  EXPECT_EQ(With({node}).peers[0].force_encapsulation, true);
  node.spec.datapath = "of-2031";
  EXPECT_EQ(With({node}).peers[0].force_encapsulation, true);
}

TEST(FillPeers, WhatIsOutsideTheClusterIsCutOff) {
  kube::EspalierNode node = MakeNode(2);
  node.status->pod_cidrs.push_back(Cidr("10.2.0.0/24"));
  node.status->addresses.insert(node.status->addresses.begin(),
                                Address("198.51.100.1"));
  node.spec.plaintext_blocks = {Cidr("10.1.2.16/28"), Cidr("10.1.3.0/28")};
  const Composed composed = With({node});
  ASSERT_THAT(composed.peers, SizeIs(1));
  EXPECT_THAT(composed.peers[0].pod_cidrs, ElementsAre(Cidr("10.1.2.0/24")));
  EXPECT_THAT(composed.peers[0].addresses, ElementsAre(Address("192.0.2.2")));
  EXPECT_THAT(composed.peers[0].plaintext_blocks,
              ElementsAre(Cidr("10.1.2.16/28")));
  EXPECT_THAT(composed.problems, SizeIs(3));
}

TEST(FillPeers, TheHolderKeepsWhatAnotherClaims) {
  kube::EspalierNode thief = MakeNode(9);
  thief.status->pod_cidrs = {Cidr("10.1.2.0/25"), Cidr("10.1.9.0/24")};
  thief.status->addresses = {Address("192.0.2.2")};
  Composed composed = With({thief, MakeNode(2)});
  ASSERT_THAT(composed.peers, SizeIs(1));
  EXPECT_EQ(composed.peers[0].name, "n2");
  EXPECT_THAT(composed.problems, Contains(HasSubstr("held by another")));
  // Nor from this node.
  thief.status->addresses = {Address("192.0.2.9")};
  thief.status->pod_cidrs = {Cidr("10.1.0.0/21"), Cidr("10.1.9.0/24")};
  composed = With({thief});
  ASSERT_THAT(composed.peers, SizeIs(1));
  EXPECT_THAT(composed.peers[0].pod_cidrs, ElementsAre(Cidr("10.1.9.0/24")));
}

TEST(FillPeers, WithoutVerificationOrKeyThereIsNoPeer) {
  kube::EspalierNode unverified = MakeNode(2);
  unverified.status.reset();
  kube::EspalierNode keyless = MakeNode(3);
  keyless.spec.public_keys = {{1, 2, 3}};
  const Composed composed = With({unverified, keyless, MakeNode(4)});
  ASSERT_THAT(composed.peers, SizeIs(1));
  EXPECT_EQ(composed.peers[0].name, "n4");
  EXPECT_THAT(composed.problems, Contains(HasSubstr("n2: not verified")));
  EXPECT_THAT(composed.problems, Contains(HasSubstr("public key")));
}

kube::ObjectMeta Annotated(const std::string& key, const std::string& value) {
  kube::ObjectMeta meta;
  meta.name = "x";
  meta.annotations[key] = value;
  return meta;
}

TEST(WishOf, KnownWordsAreTaken) {
  EXPECT_EQ(WishOf(Annotated(kEncryptionAnnotation, "required"), true),
            base::PodWish{.encryption = base::Mode::kRequired});
  EXPECT_EQ(WishOf(Annotated(kEncryptionAnnotation, "disabled"), true),
            base::PodWish{.encryption = base::Mode::kDisabled});
  EXPECT_EQ(WishOf(Annotated(kOutsideAnnotation, "deny"), true),
            base::PodWish{.outside_denied = true});
  EXPECT_EQ(WishOf(Annotated(kOutsideInAnnotation, "allow"), true),
            base::PodWish{.outside_in_allowed = true});
  EXPECT_EQ(WishOf(Annotated("other", "x"), true), base::PodWish{});
}

TEST(WishOf, UnknownWordsAreTheStrongest) {
  for (const char* word : {"", "Required", "off", "disabled "}) {
    const base::PodWish wish =
        WishOf(Annotated(kEncryptionAnnotation, word), true);
    EXPECT_EQ(wish.encryption, base::Mode::kRequired) << word;
    EXPECT_NE(wish.problem, "");
  }
  EXPECT_EQ(WishOf(Annotated(kOutsideAnnotation, "no"), true).outside_denied,
            true);
  EXPECT_EQ(
      WishOf(Annotated(kOutsideInAnnotation, "yes"), true).outside_in_allowed,
      false);
}

TEST(WishOf, DisabledWithoutAPathIsPreferred) {
  const base::PodWish wish =
      WishOf(Annotated(kEncryptionAnnotation, "disabled"), false);
  EXPECT_EQ(wish.encryption, base::Mode::kPreferred);
  EXPECT_THAT(wish.problem, HasSubstr("plaintextPath"));
}

TEST(ModesOf, NamespaceThenPodByUid) {
  Config config = Base();
  config.plaintext_path = PlaintextPath::kDirect;
  Namespaces namespaces;
  namespaces["shop"] = Share(kube::NamespaceMeta{
      .meta = Annotated(kEncryptionAnnotation, "disabled")});
  namespaces["plain"] = Share(kube::NamespaceMeta{});
  kube::Pod pod;
  pod.meta = Annotated(kEncryptionAnnotation, "required");
  pod.meta.name = "web";
  pod.meta.name_space = "shop";
  pod.meta.uid = "u1";
  kube::Pod quiet = pod;
  quiet.meta.name = "db";
  quiet.meta.annotations.clear();
  const base::PodModes modes =
      ModesOf(config, namespaces,
              {{"shop/web", Share(pod)}, {"shop/db", Share(quiet)}});
  EXPECT_EQ(modes.Resolve("shop", "web", "u1").encryption,
            base::Mode::kRequired);
  EXPECT_EQ(modes.Resolve("shop", "db", "u1").encryption,
            base::Mode::kDisabled);
  // Recreated under its name: not known, so not weakened by its namespace.
  EXPECT_EQ(modes.Resolve("shop", "db", "u2").encryption,
            base::Mode::kRequired);
  EXPECT_FALSE(modes.Knows("gone", "db", "u1"));
}

TEST(PodUid, StaticPodsGoByTheirOwn) {
  kube::Pod pod;
  pod.meta.uid = "mirror";
  EXPECT_EQ(PodUid(pod), "mirror");
  pod.meta.annotations["kubernetes.io/config.hash"] = "hash";
  EXPECT_EQ(PodUid(pod), "hash");
}

}  // namespace
}  // namespace espalier::mesh
