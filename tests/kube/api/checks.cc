// The client against a real API server, which api_test.py starts:
// kube-api-checks KUBECONFIG. What the server in memory only imitates.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "agent/kube/client.h"
#include "agent/kube/cluster_access.h"
#include "agent/kube/curl_transport.h"
#include "agent/kube/list_watch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr absl::Duration kTimeout = absl::Seconds(20);
std::string* kubeconfig = nullptr;

class SomeRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) octet = next_ += 57;
  }

 private:
  uint8_t next_ = 0;
};

class ApiTest : public ::testing::Test {
 protected:
  static ClusterAccess::Parts Admin() {
    absl::StatusOr<ClusterAccess::Parts> parts =
        ClusterAccess::Kubeconfig(*kubeconfig);
    EXPECT_TRUE(parts.ok()) << parts.status();
    return *std::move(parts);
  }
  static EspalierNode SomeNode(const std::string& name) {
    EspalierNode node{.meta = {.name = name}};
    node.spec.public_keys = {base::Bytes(44, 7)};
    node.spec.datapath = "user";
    node.spec.plaintext_blocks = {*base::IpPrefix::Parse("10.1.0.0/28")};
    return node;
  }
  absl::Status ApplySpec(const EspalierNode& node) {
    return client_
        .ServerSideApply(ObjectPath(kEspalierNodes, node.meta.name),
                         EncodeSpec(node), "espalier-agent", true, kTimeout)
        .status();
  }
  absl::Status ApplyStatus(const EspalierNode& node) {
    return client_
        .ServerSideApply(StatusPath(kEspalierNodes, node.meta.name),
                         EncodeStatus(node), "espalier-controller", true,
                         kTimeout)
        .status();
  }
  absl::StatusOr<EspalierNode> Read(const std::string& name) {
    return client_.GetObject<EspalierNode>(ObjectPath(kEspalierNodes, name),
                                           kTimeout);
  }

  ClusterAccess access_{Admin()};
  CurlTransport transport_{&access_};
  Client client_{&transport_};
  SomeRandom random_;
};

TEST_F(ApiTest, AgentAndControllerApplyEachItsOwnPart) {
  EspalierNode node = SomeNode("apply");
  ASSERT_TRUE(ApplySpec(node).ok()) << ApplySpec(node);
  const OwnerReference owner{"v1", "Node", "apply", "some-uid"};
  ASSERT_TRUE(
      client_
          .ServerSideApply(ObjectPath(kEspalierNodes, "apply"),
                           EncodeOwner(EspalierNode::kKind, "apply", owner),
                           "espalier-controller", true, kTimeout)
          .ok());
  absl::StatusOr<EspalierNode> read = Read("apply");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->spec, node.spec);
  EXPECT_FALSE(read->status.has_value());
  EXPECT_THAT(read->meta.owner_references, ElementsAre(owner));
  node.status =
      EspalierNodeStatus{.node_uid = "some-uid",
                         .addresses = {*base::IpAddress::Parse("192.0.2.1"),
                                       *base::IpAddress::Parse("2001:db8::1")},
                         .pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/24")},
                         .conditions = {{"Verified", "True", "Ok", "m",
                                         absl::FromUnixSeconds(1800000000)}}};
  node.meta = read->meta;
  ASSERT_TRUE(ApplyStatus(node).ok()) << ApplyStatus(node);
  read = Read("apply");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->status, node.status);
  EXPECT_EQ(read->spec, node.spec);
  EXPECT_THAT(read->meta.owner_references, ElementsAre(owner));
  EXPECT_EQ(read->problem, "");
  // The version it was made from is not the object's any more.
  EXPECT_TRUE(absl::IsAborted(ApplyStatus(node))) << ApplyStatus(node);
  // The agent's next word leaves the others' parts alone.
  node.spec.public_keys.push_back(base::Bytes(44, 8));
  ASSERT_TRUE(ApplySpec(node).ok());
  read = Read("apply");
  EXPECT_EQ(read->spec, node.spec);
  EXPECT_EQ(read->status, node.status);
  EXPECT_TRUE(absl::IsAborted(client_.Delete(
      ObjectPath(kEspalierNodes, "apply"), "another-uid", kTimeout)));
  EXPECT_TRUE(
      client_
          .Delete(ObjectPath(kEspalierNodes, "apply"), read->meta.uid, kTimeout)
          .ok());
  EXPECT_TRUE(absl::IsNotFound(Read("apply").status()));
}

TEST_F(ApiTest, Reports) {
  EspalierNodeReport report{.meta = {.name = "report"}};
  ASSERT_TRUE(client_
                  .ServerSideApply(ObjectPath(kEspalierNodeReports, "report"),
                                   EncodeAgentMetadata(report),
                                   "espalier-agent", true, kTimeout)
                  .ok());
  report.status = EspalierNodeReportStatus{
      .agent_version = "0.1",
      .datapath = "user",
      .conditions = {{"Ready", "True", "Ok", "",
                      absl::FromUnixSeconds(1800000000)}},
      .tunnels = {.wanted = 3, .up = 2, .fallback = 1},
      .pods = {.required = 1, .preferred = 2, .disabled = 3},
      .drops = {{"required", 7}},
      .last_report = absl::FromUnixSeconds(1800000000)};
  const absl::StatusOr<std::string> applied = client_.ServerSideApply(
      StatusPath(kEspalierNodeReports, "report"), EncodeStatus(report),
      "espalier-agent", true, kTimeout);
  ASSERT_TRUE(applied.ok()) << applied.status();
  const absl::StatusOr<EspalierNodeReport> read =
      Decode<EspalierNodeReport>(*applied);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->status, report.status) << *applied;
}

TEST_F(ApiTest, WhatTheServerRefusesIsSaidInItsWords) {
  EspalierNode node = SomeNode("refused");
  node.spec.datapath = "carrier-pigeon";
  const absl::Status status = ApplySpec(node);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("carrier-pigeon"));
  EXPECT_THAT(status.message(), HasSubstr("espaliernodes/refused"));
}

TEST_F(ApiTest, LeasesAndEvents) {
  const std::string leases = LeasesPath("default");
  Lease lease{.meta = {.name = "checks"},
              .holder = "a",
              .duration_seconds = 15,
              .acquired = absl::FromUnixMicros(1800000000123456),
              .renewed = absl::FromUnixSeconds(1800000001)};
  absl::StatusOr<std::string> made =
      client_.Create(leases, Encode(lease), kTimeout);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(absl::IsAlreadyExists(
      client_.Create(leases, Encode(lease), kTimeout).status()));
  absl::StatusOr<Lease> mine = Decode<Lease>(*made);
  ASSERT_TRUE(mine.ok());
  EXPECT_EQ(mine->acquired, lease.acquired);
  EXPECT_EQ(mine->renewed, lease.renewed);
  mine->holder = "b";
  const std::string path = ObjectPath(leases, "checks");
  EXPECT_TRUE(client_.Update(path, Encode(*mine), kTimeout).ok());
  EXPECT_TRUE(
      absl::IsAborted(client_.Update(path, Encode(*mine), kTimeout).status()));

  const Event event{.meta = {.name = "checks.1", .name_space = "default"},
                    .about = {"v1", "Pod", "default", "p", "uid"},
                    .type = "Warning",
                    .reason = "EncryptionDropped",
                    .message = "m",
                    .component = "espalier-agent",
                    .host = "n",
                    .first = absl::FromUnixSeconds(1800000000),
                    .last = absl::FromUnixSeconds(1800000000)};
  made = client_.Create(EventsPath("default"), Encode(event), kTimeout);
  ASSERT_TRUE(made.ok()) << made.status();
  made = client_.Patch(ObjectPath(EventsPath("default"), "checks.1"),
                       R"({"count":2})", kTimeout);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(Decode<Event>(*made)->count, 2);
}

TEST_F(ApiTest, NamespacesAsMetadataInPagesAndWatched) {
  ASSERT_TRUE(client_
                  .Create(kNamespaces,
                          R"({"metadata":{"name":"checks","annotations":)"
                          R"({"espalier.dev/encryption":"required"}}})",
                          kTimeout)
                  .ok());
  const absl::StatusOr<std::string> page =
      client_.ListPage(kNamespaces, {}, true, 2, "", kTimeout);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(*page, HasSubstr("PartialObjectMetadataList"));

  ListWatch core(TypeOf<NamespaceMeta>(), {kNamespaces, {}}, {.page_size = 2},
                 &random_);
  base::SteadyClock clock;
  std::map<std::string, std::string> modes;
  const auto take = [&] {
    const auto note = [&](const ObjectPointer& object) {
      const auto& meta = static_cast<const NamespaceMeta*>(object.get())->meta;
      const auto mode = meta.annotations.find("espalier.dev/encryption");
      modes[meta.name] = mode == meta.annotations.end() ? "" : mode->second;
    };
    for (const RawUpdate& update : core.TakeUpdates()) {
      if (const auto* relist = std::get_if<RawRelist>(&update)) {
        for (const ObjectPointer& object : relist->objects) note(object);
      } else if (const auto* put = std::get_if<RawPut>(&update)) {
        note(put->object);
      }
    }
  };
  while (!core.stats().in_sync) {
    auto next = core.Next(clock.Now());
    ASSERT_TRUE(std::holds_alternative<ListWatch::Request>(next))
        << core.stats().last_failure;
    core.OnAnswer(clock.Now(),
                  transport_.Do(std::get<ListWatch::Request>(next).http));
  }
  take();
  EXPECT_EQ(modes["checks"], "required");
  EXPECT_THAT(modes, Contains(Pair("kube-system", "")));
  ASSERT_TRUE(client_
                  .Patch(ObjectPath(kNamespaces, "checks"),
                         R"({"metadata":{"annotations":)"
                         R"({"espalier.dev/encryption":"preferred"}}})",
                         kTimeout)
                  .ok());
  auto next = core.Next(clock.Now());
  const HttpRequest watch = std::get<ListWatch::Request>(next).http;
  const absl::StatusOr<HttpResponse> end =
      transport_.Do(watch, [&](absl::string_view octets) {
        EXPECT_TRUE(core.OnWatchOctets(clock.Now(), octets));
        take();
        return modes["checks"] != "preferred";
      });
  EXPECT_TRUE(absl::IsCancelled(end.status())) << end.status();
  EXPECT_EQ(modes["checks"], "preferred");
}

// The server's 410, whichever way it comes, leads to a new list.
TEST_F(ApiTest, APositionFromBeforeTheHistoryLeadsToANewList) {
  ListWatch core(TypeOf<EspalierNode>(), {kEspalierNodes, {}}, {}, &random_);
  const base::Instant now = absl::FromUnixSeconds(1);
  (void)core.Next(now);
  core.OnAnswer(now, HttpResponse{.status = 200,
                                  .body = R"({"metadata":{"resourceVersion":)"
                                          R"("1"},"items":[]})"});
  auto next = core.Next(now);
  const auto& watch = std::get<ListWatch::Request>(next);
  ASSERT_EQ(watch.kind, ListWatch::RequestKind::kWatch);
  core.OnAnswer(now, transport_.Do(watch.http, [&](absl::string_view octets) {
    return core.OnWatchOctets(now, octets);
  }));
  next = core.Next(now);
  ASSERT_TRUE(std::holds_alternative<ListWatch::Request>(next));
  EXPECT_EQ(std::get<ListWatch::Request>(next).kind,
            ListWatch::RequestKind::kList);
  EXPECT_EQ(core.stats().failures, 0);
}

TEST_F(ApiTest, WithoutRightsOrIdentity) {
  ClusterAccess::Parts parts = Admin();
  parts.client_certificate = {};
  parts.client_key = {};
  const std::string wrong = "no-such-token";
  parts.token.data = base::SecretBytes(base::AsBytes(wrong));
  ClusterAccess access(std::move(parts));
  CurlTransport transport(&access);
  Client client(&transport);
  const absl::Status unknown = client.Get(kNodes, kTimeout).status();
  EXPECT_TRUE(absl::IsUnauthenticated(unknown)) << unknown;
  EXPECT_THAT(std::string(unknown.message()), ::testing::Not(HasSubstr(wrong)));
  // Nobody in particular is system:anonymous, which may do next to nothing.
  parts = Admin();
  parts.client_certificate = {};
  parts.client_key = {};
  ClusterAccess nobody(std::move(parts));
  CurlTransport plain(&nobody);
  const absl::Status refused =
      Client(&plain).Get(kEspalierNodes, kTimeout).status();
  EXPECT_TRUE(absl::IsPermissionDenied(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("RBAC"));
}

}  // namespace
}  // namespace espalier::kube

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s KUBECONFIG\n", argv[0]);
    return 2;
  }
  espalier::kube::kubeconfig = new std::string(argv[1]);
  return RUN_ALL_TESTS();
}
