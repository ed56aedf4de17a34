#include "agent/kube/objects.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/kube/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

base::IpPrefix Prefix(const char* text) { return *base::IpPrefix::Parse(text); }
base::IpAddress Address(const char* text) {
  return *base::IpAddress::Parse(text);
}

TEST(Objects, EspalierNodeAsTheApiServerGivesIt) {
  const absl::StatusOr<EspalierNode> node = Decode<EspalierNode>(R"({
    "apiVersion": "espalier.dev/v1alpha1", "kind": "EspalierNode",
    "metadata": {"name": "node-a", "uid": "u1", "resourceVersion": "12",
      "generation": 3, "creationTimestamp": "2026-11-24T01:02:03Z",
      "annotations": {"espalier.dev/rotate": "7", "other.org/x": "long"},
      "managedFields": [{"manager": "espalier-agent"}],
      "ownerReferences": [{"apiVersion": "v1", "kind": "Node",
                           "name": "node-a", "uid": "n1"}]},
    "spec": {"publicKeys": ["AQID"], "datapath": "kernel", "future": {"a": 1},
      "ports": {"ike": 1500, "natt": 14500},
      "plaintextBlocks": ["10.1.0.0/28", "fd00::/124"]},
    "status": {"nodeUID": "n1", "addresses": ["192.0.2.1", "2001:db8::1"],
      "podCIDRs": ["10.1.0.0/24", "fd00::/64"],
      "conditions": [{"type": "Verified", "status": "True", "reason": "Ok",
        "message": "m", "lastTransitionTime": "2026-11-24T01:02:04Z"}]}})");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(node->meta.name, "node-a");
  EXPECT_EQ(node->meta.Key(), "node-a");
  EXPECT_EQ(node->meta.resource_version, "12");
  EXPECT_EQ(node->meta.generation, 3);
  EXPECT_THAT(node->meta.annotations,
              ElementsAre(Pair("espalier.dev/rotate", "7")));
  ASSERT_THAT(node->meta.owner_references, SizeIs(1));
  EXPECT_EQ(node->meta.owner_references[0].uid, "n1");
  EXPECT_EQ(node->meta.created, absl::FromUnixSeconds(1795482123));
  EXPECT_THAT(node->spec.public_keys, ElementsAre(base::Bytes{1, 2, 3}));
  EXPECT_EQ(node->spec.datapath, "kernel");
  EXPECT_EQ(node->spec.ike_port, 1500);
  EXPECT_EQ(node->spec.natt_port, 14500);
  EXPECT_THAT(node->spec.plaintext_blocks,
              ElementsAre(Prefix("10.1.0.0/28"), Prefix("fd00::/124")));
  ASSERT_TRUE(node->status.has_value());
  EXPECT_THAT(node->status->addresses,
              ElementsAre(Address("192.0.2.1"), Address("2001:db8::1")));
  EXPECT_THAT(node->status->pod_cidrs,
              ElementsAre(Prefix("10.1.0.0/24"), Prefix("fd00::/64")));
  ASSERT_NE(FindCondition(node->status->conditions, "Verified"), nullptr);
  EXPECT_EQ(FindCondition(node->status->conditions, "Other"), nullptr);
  EXPECT_EQ(node->problem, "");
}

// What cannot be read is left out, the rest stays, and it is said.
TEST(Objects, APartThatCannotBeReadIsLeftOut) {
  const absl::StatusOr<EspalierNode> node = Decode<EspalierNode>(R"({
    "metadata": {"name": "a", "annotations": 5, "ownerReferences": {}},
    "spec": {"publicKeys": ["%%", "AQID", 7], "datapath": 4,
      "ports": {"ike": 70000, "natt": "x"},
      "plaintextBlocks": ["10.0.0.1/8", "10.0.0.0/28", null]},
    "status": {"addresses": ["nowhere", "192.0.2.1"], "podCIDRs": "x",
               "conditions": [1, {"status": "True"}]}})");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_THAT(node->spec.public_keys, ElementsAre(base::Bytes{1, 2, 3}));
  EXPECT_EQ(node->spec.datapath, "");
  EXPECT_EQ(node->spec.ike_port, 500);
  EXPECT_EQ(node->spec.natt_port, 4500);
  EXPECT_THAT(node->spec.plaintext_blocks, ElementsAre(Prefix("10.0.0.0/28")));
  EXPECT_THAT(node->status->addresses, ElementsAre(Address("192.0.2.1")));
  EXPECT_THAT(node->status->pod_cidrs, IsEmpty());
  EXPECT_THAT(node->status->conditions, IsEmpty());
  EXPECT_THAT(node->problem, HasSubstr("publicKeys"));
  EXPECT_THAT(node->problem, HasSubstr("plaintextBlocks"));
}

TEST(Objects, MoreThanThreeKeysAreNotTaken) {
  const absl::StatusOr<EspalierNode> node = Decode<EspalierNode>(
      R"({"metadata":{"name":"a"},
          "spec":{"publicKeys":["AQ==","Ag==","Aw==","BA=="]}})");
  ASSERT_TRUE(node.ok());
  EXPECT_THAT(node->spec.public_keys, SizeIs(3));
  EXPECT_THAT(node->problem, HasSubstr("publicKeys"));
}

TEST(Objects, WhatHasNoNameIsNoObject) {
  for (const char* text :
       {"", "{", "[]", "7", "null", "{}", R"({"metadata":{}})",
        R"({"metadata":{"name":""}})", R"({"metadata":{"name":7}})",
        R"({"metadata":"name"})", "{\"metadata\":{\"name\":\"\xff\"}}"}) {
    EXPECT_FALSE(Decode<Pod>(text).ok()) << text;
    EXPECT_FALSE(Decode<EspalierNode>(text).ok()) << text;
  }
  const std::string long_name(254, 'a');
  EXPECT_FALSE(
      Decode<Pod>(absl::StrCat(R"({"metadata":{"name":")", long_name, "\"}}"))
          .ok());
}

TEST(Objects, NestedBeyondMeasureIsNoObject) {
  std::string deep = R"({"metadata":{"name":"a"},"spec":)";
  for (int i = 0; i < 100000; ++i) deep += "[";
  for (int i = 0; i < 100000; ++i) deep += "]";
  EXPECT_FALSE(Decode<Pod>(deep + "}").ok());
  EXPECT_TRUE(
      Decode<Pod>(R"({"metadata":{"name":"a"},"spec":[[[[1]]]]})").ok());
}

TEST(Objects, ManagedFieldsAreNotEvenParsedIntoMemory) {
  const Json parsed = ParseJson(
      R"({"metadata":{"name":"a","managedFields":[{"x":1}],
          "annotations":{"kubectl.kubernetes.io/last-applied-configuration":
                         "{}","espalier.dev/encryption":"required"}}})");
  EXPECT_EQ(Find(parsed, "metadata", "managedFields"), nullptr);
  ASSERT_NE(Find(parsed, "metadata", "annotations"), nullptr);
  EXPECT_EQ(Find(parsed, "metadata", "annotations")->size(), 1u);
}

TEST(Objects, PodAndItsStaticHash) {
  const absl::StatusOr<Pod> pod = Decode<Pod>(R"({
    "metadata": {"name": "p", "namespace": "ns", "uid": "u",
      "deletionTimestamp": "2026-11-24T01:02:03Z",
      "annotations": {"kubernetes.io/config.hash": "h", "a": "b",
                      "espalier.dev/encryption": "required"}},
    "spec": {"nodeName": "n", "hostNetwork": true},
    "status": {"phase": "Running", "podIP": "10.0.0.5",
               "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}, {}]}})");
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(pod->meta.Key(), "ns/p");
  EXPECT_THAT(pod->meta.annotations,
              ElementsAre(Pair("espalier.dev/encryption", "required"),
                          Pair("kubernetes.io/config.hash", "h")));
  EXPECT_TRUE(pod->meta.deleted.has_value());
  EXPECT_TRUE(pod->host_network);
  EXPECT_EQ(pod->node_name, "n");
  EXPECT_EQ(pod->phase, "Running");
  EXPECT_THAT(pod->addresses,
              ElementsAre(Address("10.0.0.5"), Address("fd00::5")));
}

TEST(Objects, Node) {
  const absl::StatusOr<Node> node = Decode<Node>(R"({
    "metadata": {"name": "n", "uid": "u"},
    "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"},
                             {"type": "Hostname", "address": "n"},
                             {"type": "ExternalIP", "address": "198.51.100.1"}],
               "conditions": [{"type": "Ready", "status": "True"}]}})");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_THAT(node->internal_addresses, ElementsAre(Address("192.0.2.1")));
  EXPECT_THAT(node->pod_cidrs, ElementsAre(Prefix("10.1.0.0/24")));
  EXPECT_TRUE(node->ready);
}

ObjectMeta SomeMeta() {
  return {.name = "name",
          .name_space = "space",
          .uid = "uid",
          .resource_version = "7",
          .generation = 2,
          .labels = {{"espalier.dev/l", "v"}},
          .annotations = {{"espalier.dev/a", "v\n\"\\ü"}},
          .owner_references = {{"v1", "Node", "n", "nu"}},
          .created = absl::FromUnixSeconds(1800000000),
          .deleted = absl::FromUnixSeconds(1800000001)};
}

template <typename T>
void ExpectRoundTrip(const T& object) {
  const absl::StatusOr<T> again = Decode<T>(Encode(object));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(*again == object) << Encode(object) << "\n" << Encode(*again);
}

TEST(Objects, DecodeIsTheInverseOfEncode) {
  const std::vector<Condition> conditions = {
      {"Verified", "True", "r", "m", absl::FromUnixSeconds(1800000000), 4}};
  EspalierNode node{.meta = SomeMeta()};
  node.spec = {.public_keys = {{1, 2, 255}, {0}},
               .datapath = "user",
               .ike_port = 501,
               .natt_port = 4501,
               .plaintext_blocks = {Prefix("10.0.0.0/28")}};
  ExpectRoundTrip(node);
  node.status = EspalierNodeStatus{.node_uid = "nu",
                                   .addresses = {Address("192.0.2.1")},
                                   .pod_cidrs = {Prefix("fd00::/64")},
                                   .conditions = conditions};
  ExpectRoundTrip(node);
  EspalierNodeReport report{.meta = SomeMeta()};
  ExpectRoundTrip(report);
  report.status = EspalierNodeReportStatus{
      .agent_version = "0.1",
      .datapath = "kernel",
      .conditions = conditions,
      .tunnels = {.wanted = 3, .up = 2, .fallback = 1},
      .pods = {.required = 1, .preferred = 2, .disabled = 3, .unprotected = 4},
      .drops = {{"required", 7}},
      .last_report = absl::FromUnixSeconds(1800000000)};
  ExpectRoundTrip(report);
  ExpectRoundTrip(NamespaceMeta{.meta = SomeMeta()});
  ExpectRoundTrip(Pod{.meta = SomeMeta(),
                      .node_name = "n",
                      .host_network = true,
                      .phase = "Running",
                      .addresses = {Address("10.0.0.1")}});
  ExpectRoundTrip(Node{.meta = SomeMeta(),
                       .internal_addresses = {Address("192.0.2.1")},
                       .pod_cidrs = {Prefix("10.0.0.0/24")},
                       .ready = true});
  ExpectRoundTrip(Lease{.meta = SomeMeta(),
                        .holder = "me",
                        .duration_seconds = 15,
                        .acquired = absl::FromUnixSeconds(1800000000),
                        .renewed = absl::FromUnixMicros(1800000000123456),
                        .transitions = 2});
  ExpectRoundTrip(Event{.meta = SomeMeta(),
                        .about = {"v1", "Pod", "space", "p", "pu"},
                        .type = "Warning",
                        .reason = "Dropped",
                        .message = "m",
                        .component = "espalier-agent",
                        .host = "n",
                        .first = absl::FromUnixSeconds(1800000000),
                        .last = absl::FromUnixSeconds(1800000002),
                        .count = 3});
}

// The API server refuses MicroTime without six digits and Time with any.
TEST(Objects, TimesAreWrittenAsTheirTypesWantThem) {
  const std::string lease = Encode(Lease{
      .meta = {.name = "l"}, .renewed = absl::FromUnixSeconds(1800000000)});
  EXPECT_THAT(lease, HasSubstr("\"2027-01-15T08:00:00.000000Z\""));
  const std::string event = Encode(Event{
      .meta = {.name = "e"}, .last = absl::FromUnixMicros(1800000000999999)});
  EXPECT_THAT(event, HasSubstr("\"2027-01-15T08:00:00Z\""));
}

TEST(Objects, TimesThatRfc3339DoesNotHaveAreNone) {
  const auto created = [](const std::string& text) {
    return Decode<Pod>(
               absl::StrCat(R"({"metadata":{"name":"a","creationTimestamp":")",
                            text, "\"}}"))
        ->meta.created;
  };
  EXPECT_EQ(created("2027-01-15T09:00:00+01:00"),
            absl::FromUnixSeconds(1800000000));
  for (const char* text :
       {"", "now", "infinite-future", "infinite-past", "20271-01-15T08:00:00Z",
        "-5-01-15T08:00:00Z", "2027-13-15T08:00:00Z"}) {
    EXPECT_EQ(created(text), absl::InfinitePast()) << text;
  }
}

// Each writer's body owns its own fields only.
TEST(Objects, BodiesOfApplyNameNoForeignField) {
  EspalierNode node{.meta = SomeMeta()};
  node.meta.uid = node.meta.resource_version = "";
  node.status.emplace().node_uid = "nu";
  EXPECT_FALSE(absl::StrContains(EncodeSpec(node), "status"));
  EXPECT_FALSE(absl::StrContains(EncodeSpec(node), "ownerReferences"));
  EXPECT_FALSE(absl::StrContains(EncodeStatus(node), "spec"));
  EXPECT_FALSE(absl::StrContains(EncodeStatus(node), "resourceVersion"));
  node.meta.resource_version = "9";
  EXPECT_TRUE(
      absl::StrContains(EncodeStatus(node), "\"resourceVersion\":\"9\""));
  const std::string owner =
      EncodeOwner(EspalierNode::kKind, "n", {"v1", "Node", "n", "nu"});
  EXPECT_EQ(owner,
            R"({"apiVersion":"espalier.dev/v1alpha1","kind":"EspalierNode",)"
            R"("metadata":{"name":"n","ownerReferences":[{"apiVersion":"v1",)"
            R"("kind":"Node","name":"n","uid":"nu"}]}})");
}

// Text from anywhere (a peer's word in a condition) does not break a body.
TEST(Objects, WhatIsNotUtf8IsReplaced) {
  EspalierNode node{.meta = {.name = "a"}};
  node.status.emplace().conditions.push_back({.type = "T", .message = "\xff"});
  EXPECT_TRUE(Decode<EspalierNode>(EncodeStatus(node)).ok());
}

TEST(Objects, Pages) {
  const absl::StatusOr<Page<NamespaceMeta>> page = DecodePage<NamespaceMeta>(
      R"({"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"5",
          "continue":"c"},"items":[{"metadata":{"name":"a"}},
          {"metadata":{"name":"b"}}]})");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->resource_version, "5");
  EXPECT_EQ(page->continue_token, "c");
  EXPECT_THAT(page->items, SizeIs(2));
  EXPECT_TRUE(
      DecodePage<Pod>(R"({"metadata":{"resourceVersion":"5"},"items":null})")
          .ok());
  EXPECT_FALSE(DecodePage<Pod>(R"({"items":[]})").ok());
  EXPECT_FALSE(DecodePage<Pod>(R"({"metadata":{},"items":{}})").ok());
  EXPECT_FALSE(DecodePage<Pod>(R"({"metadata":{},"items":[{}]})").ok());
}

TEST(Objects, PathsAreEscaped) {
  EXPECT_EQ(StatusPath(kEspalierNodes, "node.a-1"),
            "/apis/espalier.dev/v1alpha1/espaliernodes/node.a-1/status");
  EXPECT_EQ(ObjectPath(kNodes, "a/../b?x"), "/api/v1/nodes/a%2f..%2fb%3fx");
  EXPECT_EQ(LeasesPath("kube-system"),
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases");
}

}  // namespace
}  // namespace espalier::kube
