// Nodes and EspalierNodes for the tests of this folder.
#ifndef ESPALIER_TESTS_UNIT_CONTROLLER_OBJECTS_H_
#define ESPALIER_TESTS_UNIT_CONTROLLER_OBJECTS_H_

#include <memory>
#include <string>
#include <vector>

#include "agent/controller/verifier.h"
#include "agent/kube/objects.h"

namespace espalier::controller {

inline const absl::Time kWall = absl::FromUnixSeconds(1'800'000'000);

inline base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
inline base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

inline AddressPlan Plan() {
  return {.cluster_pod_cidrs = {Net("10.244.0.0/16"), Net("fd00:10:244::/56")},
          .node_cidrs = {Net("192.0.2.0/24"), Net("2001:db8::/64")}};
}

// `age`: so many minutes before kWall it was created.
inline std::shared_ptr<kube::Node> MakeNode(
    const std::string& name, const std::vector<std::string>& addresses,
    const std::vector<std::string>& pod_cidrs, int age = 60) {
  auto node = std::make_shared<kube::Node>();
  node->meta.name = name;
  node->meta.uid = "uid-of-" + name;
  node->meta.created = kWall - absl::Minutes(age);
  for (const std::string& text : addresses) {
    node->internal_addresses.push_back(Ip(text));
  }
  for (const std::string& text : pod_cidrs) {
    node->pod_cidrs.push_back(Net(text));
  }
  return node;
}

inline std::shared_ptr<kube::EspalierNode> MakeEspalierNode(
    const std::string& name) {
  auto object = std::make_shared<kube::EspalierNode>();
  object->meta.name = name;
  object->meta.uid = "uid-of-e-" + name;
  object->meta.resource_version = "1";
  return object;
}

inline std::vector<std::string> Texts(const kube::EspalierNode::Status& s) {
  std::vector<std::string> all;
  for (const base::IpAddress& a : s.addresses) all.push_back(a.ToString());
  for (const base::IpPrefix& p : s.pod_cidrs) all.push_back(p.ToString());
  return all;
}

}  // namespace espalier::controller

#endif  // ESPALIER_TESTS_UNIT_CONTROLLER_OBJECTS_H_
