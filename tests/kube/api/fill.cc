// kube-api-fill KUBECONFIG nodes FIRST COUNT ROUND | namespaces FIRST COUNT |
//     pods FIRST COUNT
// Objects as a large cluster has them: EspalierNodes with their status, whose
// key changes with ROUND; namespaces with a few labels, three of four
// annotated; pods in the namespace "elsewhere", each bound to the EspalierNode
// of its number.
#include <cstdio>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/kube/client.h"
#include "agent/kube/cluster_access.h"
#include "agent/kube/curl_transport.h"

namespace espalier::kube {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);

base::IpAddress Address(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

std::string NodeName(int number) {
  return absl::StrCat("ip-10-", number / 250, "-", number % 250,
                      ".region.compute.internal");
}

// What the API server holds of one node in a cluster of two families.
EspalierNode Node(int number, int round) {
  EspalierNode node{.meta = {.name = NodeName(number)}};
  // Ed25519 in SubjectPublicKeyInfo.
  base::Bytes key = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                     0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
  for (int i = 0; i < 32; ++i) {
    key.push_back(static_cast<uint8_t>(number * 31 + i * 7 + round));
  }
  node.spec = {.public_keys = {key}, .datapath = "kernel"};
  const std::string middle = absl::StrCat(number / 250, ".", number % 250);
  node.status = EspalierNodeStatus{
      .node_uid = absl::StrCat("0f4a1a2c-7f6e-4c7b-9a39-",
                               absl::Dec(number, absl::kZeroPad12)),
      .addresses = {Address(absl::StrCat("10.", middle, ".1")),
                    Address(
                        absl::StrCat("2001:db8:1::", absl::Hex(number + 1)))},
      .pod_cidrs = {*base::IpPrefix::Make(
                        Address(absl::StrCat("100.", middle, ".0")), 24),
                    *base::IpPrefix::Make(
                        Address(
                            absl::StrCat("fd64:", absl::Hex(number + 1), "::")),
                        64)},
      .conditions = {{"Verified", "True", "Verified",
                      "addresses and pod CIDRs are the Node's own",
                      absl::FromUnixSeconds(1800000000 + round)}}};
  return node;
}

absl::Status ApplyNode(Client& client, const EspalierNode& node) {
  absl::Status status =
      client
          .ServerSideApply(ObjectPath(kEspalierNodes, node.meta.name),
                           EncodeSpec(node), "espalier-agent", true, kTimeout)
          .status();
  if (!status.ok()) return status;
  return client
      .ServerSideApply(StatusPath(kEspalierNodes, node.meta.name),
                       EncodeStatus(node), "espalier-controller", true,
                       kTimeout)
      .status();
}

std::string NamespaceBody(int number) {
  const char* const encryption[] = {R"("espalier.dev/encryption":"required",)",
                                    R"("espalier.dev/encryption":"preferred",)",
                                    R"("espalier.dev/encryption":"disabled",)",
                                    ""};
  return absl::StrCat(R"({"metadata":{"name":"team-)", number,
                      R"(","labels":{"team":"t)", number,
                      R"(","pod-security.kubernetes.io/enforce":"baseline"},)",
                      R"("annotations":{)", encryption[number % 4],
                      R"("owner":"someone@example.org"}}})");
}

std::string PodBody(int number) {
  return absl::StrCat(R"({"metadata":{"name":"pod-)", number,
                      R"("},"spec":{"nodeName":")", NodeName(number),
                      R"(","terminationGracePeriodSeconds":0,"containers":)",
                      R"([{"name":"main","image":"none"}]}})");
}

absl::Status Fill(Client& client, const std::string& kind, int number,
                  int round) {
  if (kind == "nodes") return ApplyNode(client, Node(number, round));
  const bool pod = kind == "pods";
  return client
      .Create(pod ? PodsPath("elsewhere") : kNamespaces,
              pod ? PodBody(number) : NamespaceBody(number), kTimeout)
      .status();
}

int Main(int argc, char** argv) {
  int first = 0, count = 0, round = 0;
  const std::string kind = argc > 2 ? argv[2] : "";
  if (argc < 5 || !absl::SimpleAtoi(argv[3], &first) ||
      !absl::SimpleAtoi(argv[4], &count) ||
      (argc > 5 && !absl::SimpleAtoi(argv[5], &round)) ||
      (kind != "nodes" && kind != "namespaces" && kind != "pods")) {
    std::cerr << "usage: " << argv[0]
              << " KUBECONFIG nodes|namespaces|pods FIRST COUNT [ROUND]\n";
    return 2;
  }
  absl::StatusOr<ClusterAccess::Parts> parts =
      ClusterAccess::Kubeconfig(argv[1]);
  if (!parts.ok()) {
    std::cerr << parts.status() << "\n";
    return 1;
  }
  ClusterAccess access(*std::move(parts));
  CurlTransport transport(&access);
  Client client(&transport);
  for (int i = first; i < first + count; ++i) {
    const absl::Status status = Fill(client, kind, i, round);
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace espalier::kube

int main(int argc, char** argv) { return espalier::kube::Main(argc, argv); }
