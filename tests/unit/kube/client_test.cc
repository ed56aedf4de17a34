#include "agent/kube/client.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_kube_server.h"

namespace espalier::kube {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr absl::Duration kTimeout = absl::Seconds(5);

TEST(Client, AStatusForEachAnswer) {
  const auto code = [](int status, const std::string& reason = "") {
    return StatusFromResponse(
               "get /x",
               {.status = status,
                .body = absl::StrCat(R"({"kind":"Status","reason":")", reason,
                                     R"(","message":"said so"})")})
        .code();
  };
  EXPECT_EQ(code(200), absl::StatusCode::kOk);
  EXPECT_EQ(code(201), absl::StatusCode::kOk);
  EXPECT_EQ(code(302), absl::StatusCode::kUnknown);
  EXPECT_EQ(code(400), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(401), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(code(403), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(code(404), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(409, "AlreadyExists"), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(code(409, "Conflict"), absl::StatusCode::kAborted);
  EXPECT_EQ(code(410), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code(415), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code(422), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(429), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(500), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(503), absl::StatusCode::kUnavailable);
}

TEST(Client, AnErrorTellsWhatOnWhatWhyAndWhatToDo) {
  const absl::Status status = StatusFromResponse(
      "get /api/v1/nodes/a",
      {.status = 403,
       .body =
           R"({"reason":"Forbidden","message":"nodes \"a\" is forbidden"})"});
  EXPECT_THAT(status.message(), HasSubstr("get /api/v1/nodes/a: HTTP 403"));
  EXPECT_THAT(status.message(), HasSubstr("is forbidden"));
  EXPECT_THAT(status.message(), HasSubstr("RBAC"));
  // A proxy's page in place of a Status is cut short and made printable.
  const absl::Status page = StatusFromResponse(
      "get /x", {.status = 502, .body = std::string(100000, '\x01')});
  EXPECT_LT(page.message().size(), 8000u);
}

TEST(Client, RetryAfterFromHeaderOrBody) {
  EXPECT_EQ(RetryAfter(StatusFromResponse(
                "x", {.status = 429, .retry_after = absl::Seconds(7)})),
            absl::Seconds(7));
  EXPECT_EQ(RetryAfter(StatusFromResponse(
                "x", {.status = 503,
                      .body = R"({"details":{"retryAfterSeconds":3}})"})),
            absl::Seconds(3));
  EXPECT_EQ(RetryAfter(StatusFromResponse("x", {.status = 500})),
            absl::ZeroDuration());
}

TEST(Client, ObjectsComeGoAndChange) {
  FakeKubeServer server;
  Client client(&server);
  EspalierNode node{.meta = {.name = "a"}};
  node.spec.public_keys = {{1, 2}};
  const std::string path = ObjectPath(kEspalierNodes, "a");
  EXPECT_TRUE(absl::IsNotFound(client.Get(path, kTimeout).status()));
  EXPECT_TRUE(absl::IsNotFound(
      client
          .ServerSideApply(StatusPath(kEspalierNodes, "a"), EncodeStatus(node),
                           "espalier-controller", true, kTimeout)
          .status()));
  ASSERT_TRUE(client
                  .ServerSideApply(path, EncodeSpec(node), "espalier-agent",
                                   true, kTimeout)
                  .ok());
  node.status.emplace().node_uid = "nu";
  ASSERT_TRUE(client
                  .ServerSideApply(StatusPath(kEspalierNodes, "a"),
                                   EncodeStatus(node), "espalier-controller",
                                   true, kTimeout)
                  .ok());
  const absl::StatusOr<EspalierNode> read =
      client.GetObject<EspalierNode>(path, kTimeout);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->spec, node.spec);
  EXPECT_EQ(read->status->node_uid, "nu");
  EXPECT_TRUE(absl::IsAborted(client.Delete(path, "another", kTimeout)));
  EXPECT_TRUE(client.Delete(path, read->meta.uid, kTimeout).ok());
  EXPECT_TRUE(absl::IsNotFound(client.Delete(path, "", kTimeout)));
  EXPECT_THAT(server.Requests()[2],
              "PATCH /apis/espalier.dev/v1alpha1/espaliernodes/a?"
              "fieldManager=espalier-agent&force=true");
}

TEST(Client, AConditionalUpdateIsRefusedWhenTheObjectHasMovedOn) {
  FakeKubeServer server;
  Client client(&server);
  const std::string leases = LeasesPath("ns");
  Lease lease{.meta = {.name = "l"}, .holder = "a"};
  EXPECT_TRUE(client.Create(leases, Encode(lease), kTimeout).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(
      client.Create(leases, Encode(lease), kTimeout).status()));
  const std::string path = ObjectPath(leases, "l");
  absl::StatusOr<Lease> mine = client.GetObject<Lease>(path, kTimeout);
  ASSERT_TRUE(mine.ok());
  mine->holder = "b";
  EXPECT_TRUE(client.Update(path, Encode(*mine), kTimeout).ok());
  mine->holder = "c";
  EXPECT_TRUE(
      absl::IsAborted(client.Update(path, Encode(*mine), kTimeout).status()));
}

TEST(Client, AListOfManyPages) {
  FakeKubeServer server;
  Client client(&server);
  for (int i = 0; i < 1201; ++i) {
    server.Set(absl::StrCat("/api/v1/namespaces/ns/pods/p", i),
               absl::StrCat(R"({"spec":{"nodeName":"n)", i % 3, R"("}})"));
  }
  const auto all = client.List<Pod>(kPods, {}, kTimeout);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(*all, SizeIs(1201));
  EXPECT_THAT(server.Requests(), SizeIs(3));
  const auto some =
      client.List<Pod>(kPods, {.fields = "spec.nodeName=n1"}, kTimeout);
  ASSERT_TRUE(some.ok());
  EXPECT_THAT(*some, SizeIs(400));
  EXPECT_THAT(server.Requests().back(),
              HasSubstr("?fieldSelector=spec.nodeName%3dn1&limit=500"));
}

TEST(Client, MetadataAloneIsAskedForWhereItIsEnough) {
  EXPECT_EQ(AcceptHeader(true, true),
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
  EXPECT_EQ(AcceptHeader(true, false),
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
  EXPECT_TRUE(TypeOf<NamespaceMeta>().metadata_only);
  EXPECT_FALSE(TypeOf<Pod>().metadata_only);
}

}  // namespace
}  // namespace espalier::kube
