// EspalierNodes for tests.
#ifndef ESPALIER_TESTS_UNIT_MESH_KUBERNETES_OBJECTS_H_
#define ESPALIER_TESTS_UNIT_MESH_KUBERNETES_OBJECTS_H_

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/crypto/keys.h"
#include "agent/kube/objects.h"

namespace espalier::mesh {

inline base::IpPrefix Cidr(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}
inline base::IpAddress Address(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

// Node `n<i>` at 192.0.2.<i> with 10.1.<i>.0/24.
inline kube::EspalierNode MakeNode(int i, int version = 1) {
  static const base::Bytes key =
      (*crypto::PrivateKey::Generate(crypto::KeyType::kEd25519))
          ->public_key()
          ->der();
  kube::EspalierNode node;
  node.meta.name = absl::StrCat("n", i);
  node.meta.uid = absl::StrCat("uid-", i);
  node.meta.resource_version = absl::StrCat(version);
  node.meta.generation = 1;
  node.meta.created = absl::FromUnixSeconds(i);
  node.spec.public_keys = {key};
  node.spec.datapath = "kernel";
  node.status.emplace();
  node.status->addresses = {Address(absl::StrCat("192.0.2.", i))};
  node.status->pod_cidrs = {Cidr(absl::StrCat("10.1.", i, ".0/24"))};
  return node;
}
template <typename T>
std::shared_ptr<const T> Share(T value) {
  return std::make_shared<const T>(std::move(value));
}

}  // namespace espalier::mesh

#endif  // ESPALIER_TESTS_UNIT_MESH_KUBERNETES_OBJECTS_H_
