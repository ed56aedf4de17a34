#include "agent/mesh/kubernetes/compose.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/crypto/keys.h"

namespace espalier::mesh {
namespace {

constexpr char kConfigHash[] = "kubernetes.io/config.hash";

bool Inside(const std::vector<base::IpPrefix>& prefixes,
            const base::IpPrefix& prefix) {
  return std::ranges::any_of(
      prefixes, [&](const base::IpPrefix& p) { return p.Contains(prefix); });
}

// At most one of each family, such as one host has, within nodeCIDRs.
std::vector<base::IpAddress> UsableAddresses(
    const std::vector<base::IpAddress>& addresses,
    const std::vector<base::IpPrefix>& node_cidrs,
    std::vector<std::string>* left_out) {
  std::vector<base::IpAddress> usable;
  for (const base::IpAddress& address : addresses) {
    const bool second =
        std::ranges::any_of(usable, [&](const base::IpAddress& a) {
          return a.family() == address.family();
        });
    if (second) continue;
    if (address.IsUnspecified() || address.IsMulticast() ||
        address.IsLinkLocal()) {
      left_out->push_back(
          absl::StrCat("address ", address.ToString(), " is of no one host"));
    } else if (!node_cidrs.empty() &&
               !Inside(node_cidrs, base::IpPrefix::Host(address))) {
      left_out->push_back(absl::StrCat("address ", address.ToString(),
                                       " is outside cluster.nodeCIDRs"));
    } else {
      usable.push_back(address);
    }
  }
  return usable;
}

std::vector<base::IpPrefix> UsableCidrs(
    const std::vector<base::IpPrefix>& cidrs, const Config& config,
    std::vector<std::string>* left_out) {
  std::vector<base::IpPrefix> usable;
  for (const base::IpPrefix& cidr : cidrs) {
    if (Inside(config.cluster_pod_cidrs, cidr)) {
      usable.push_back(cidr);
    } else {
      left_out->push_back(absl::StrCat("pod CIDR ", cidr.ToString(),
                                       " is outside cluster.podCIDRs"));
    }
  }
  return usable;
}

// Who holds what, while peers are filled in: the older object comes first.
class Holders {
 public:
  explicit Holders(const Node& own) : own_(own) {}

  bool TakeAddress(const base::IpAddress& address) {
    return std::ranges::find(own_.addresses, address) == own_.addresses.end() &&
           addresses_.insert(address).second;
  }
  bool TakeCidr(const base::IpPrefix& cidr) {
    const auto overlaps = [&](const base::IpPrefix& other) {
      return other.Overlaps(cidr);
    };
    if (std::ranges::any_of(own_.pod_cidrs, overlaps)) return false;
    // Taken ones never overlap, so only neighbours in order can.
    const auto next = cidrs_.lower_bound(cidr);
    if (next != cidrs_.end() && overlaps(*next)) return false;
    if (next != cidrs_.begin() && overlaps(*std::prev(next))) return false;
    cidrs_.insert(next, cidr);
    return true;
  }

 private:
  const Node& own_;
  std::set<base::IpAddress> addresses_;
  std::set<base::IpPrefix> cidrs_;
};

std::vector<base::Bytes> UsableKeys(const std::vector<base::Bytes>& keys,
                                    std::vector<std::string>* left_out) {
  std::vector<base::Bytes> usable;
  for (const base::Bytes& der : keys) {
    const auto key = crypto::PublicKey::FromDer(der);
    if (key.ok()) {
      usable.push_back((*key)->der());
    } else {
      left_out->push_back(
          absl::StrCat("a public key: ", key.status().message()));
    }
  }
  return usable;
}

Peer PeerOf(const kube::EspalierNode& node, const Config& config,
            Holders* holders, std::vector<std::string>* left_out) {
  Peer peer;
  peer.name = node.meta.name;
  peer.identity.type = ike::Identity::Type::kFqdn;
  peer.identity.data.assign(peer.name.begin(), peer.name.end());
  for (const base::IpAddress& address :
       UsableAddresses(node.status->addresses, config.node_cidrs, left_out)) {
    if (holders->TakeAddress(address)) {
      peer.addresses.push_back(address);
    } else {
      left_out->push_back(absl::StrCat("address ", address.ToString(),
                                       " is held by another node"));
    }
  }
  for (const base::IpPrefix& cidr :
       UsableCidrs(node.status->pod_cidrs, config, left_out)) {
    if (holders->TakeCidr(cidr)) {
      peer.pod_cidrs.push_back(cidr);
    } else {
      left_out->push_back(absl::StrCat("pod CIDR ", cidr.ToString(),
                                       " is held by another node"));
    }
  }
  for (const base::IpPrefix& block : node.spec.plaintext_blocks) {
    if (Inside(peer.pod_cidrs, block)) {
      peer.plaintext_blocks.push_back(block);
    } else {
      left_out->push_back(absl::StrCat("plaintext block ", block.ToString(),
                                       " is outside its pod CIDRs"));
    }
  }
  PublicKeyCredential credential;
  credential.keys = UsableKeys(node.spec.public_keys, left_out);
  peer.credential = std::move(credential);
  peer.ike_proposals = config.ike_proposals;
  peer.child_proposals = config.child_proposals;
  // Between a user node and any other ESP is in UDP (DESIGN 4); of a node
  // that says nothing, or a word from the future, UDP is what everyone has.
  if (node.spec.datapath != "kernel") peer.force_encapsulation = true;
  return peer;
}

void Complain(std::string text, base::PodWish* wish) {
  absl::StrAppend(&wish->problem, wish->problem.empty() ? "" : "; ", text);
}

std::optional<std::string> Annotation(const kube::ObjectMeta& meta,
                                      const char* key) {
  const auto found = meta.annotations.find(key);
  if (found == meta.annotations.end()) return std::nullopt;
  return found->second;
}

// True for `yes`; an unknown word counts as "deny".
std::optional<bool> ReadWord(const kube::ObjectMeta& meta, const char* key,
                             absl::string_view yes, base::PodWish* wish) {
  std::optional<std::string> word = Annotation(meta, key);
  if (!word) return std::nullopt;
  if (*word != "allow" && *word != "deny") {
    Complain(absl::StrCat(key, " is '", word->substr(0, 40),
                          "': expected allow or deny; taken as deny"),
             wish);
    word = "deny";
  }
  return *word == yes;
}

}  // namespace

absl::Status FillNode(const kube::EspalierNode* own, Config* config) {
  const std::string name = absl::StrCat("EspalierNode ", config->node.name);
  if (own == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is not there yet"));
  }
  if (!own->status) {
    return absl::FailedPreconditionError(absl::StrCat(
        name,
        " has no status yet: espalier-controller writes it (kubectl -n "
        "espalier-system get deployment espalier-controller)"));
  }
  std::vector<std::string> left_out;
  Node node = config->node;
  node.addresses =
      UsableAddresses(own->status->addresses, config->node_cidrs, &left_out);
  node.pod_cidrs = UsableCidrs(own->status->pod_cidrs, *config, &left_out);
  std::string reason;
  for (const std::string& line : left_out) absl::StrAppend(&reason, "; ", line);
  for (const kube::Condition& condition : own->status->conditions) {
    if (condition.status != "True" && !condition.message.empty()) {
      absl::StrAppend(&reason, "; ", condition.type, ": ", condition.message);
    }
  }
  if (node.addresses.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, " has no verified address of this node yet", reason));
  }
  if (node.pod_cidrs.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        name,
        " has no verified pod CIDR (does the controller manager run with "
        "--allocate-node-cidrs?)",
        reason));
  }
  config->node = std::move(node);
  return absl::OkStatus();
}

std::vector<std::string> FillPeers(const KnownNodes::Nodes& nodes,
                                   Config* config) {
  std::vector<const kube::EspalierNode*> ordered;
  for (const auto& [name, node] : nodes) {
    if (name != config->node.name) ordered.push_back(node.get());
  }
  std::ranges::sort(ordered, [](const auto* a, const auto* b) {
    return std::pair(a->meta.created, absl::string_view(a->meta.name)) <
           std::pair(b->meta.created, absl::string_view(b->meta.name));
  });
  std::vector<std::string> problems;
  Holders holders(config->node);
  config->peers.clear();
  for (const kube::EspalierNode* node : ordered) {
    if (!node->status) {
      problems.push_back(absl::StrCat(node->meta.name, ": not verified yet"));
      continue;
    }
    std::vector<std::string> left_out;
    Peer peer = PeerOf(*node, *config, &holders, &left_out);
    const auto& keys = std::get<PublicKeyCredential>(peer.credential).keys;
    const char* lacks = peer.addresses.empty()   ? "address"
                        : peer.pod_cidrs.empty() ? "pod CIDR"
                        : keys.empty()           ? "public key"
                                                 : nullptr;
    if (lacks != nullptr) {
      left_out.push_back(absl::StrCat("no peer, for want of a usable ", lacks));
    } else {
      config->peers.push_back(std::move(peer));
    }
    for (const std::string& line : left_out) {
      problems.push_back(absl::StrCat(node->meta.name, ": ", line));
    }
  }
  std::ranges::sort(config->peers, {}, &Peer::name);
  return problems;
}

base::PodWish WishOf(const kube::ObjectMeta& meta, bool plaintext) {
  base::PodWish wish;
  if (const auto word = Annotation(meta, kEncryptionAnnotation)) {
    wish.encryption = base::ParseMode(*word);
    if (!wish.encryption) {
      Complain(absl::StrCat(kEncryptionAnnotation, " is '", word->substr(0, 40),
                            "': expected required, preferred or disabled; "
                            "taken as required"),
               &wish);
      wish.encryption = base::Mode::kRequired;
    } else if (*wish.encryption == base::Mode::kDisabled && !plaintext) {
      Complain(absl::StrCat(kEncryptionAnnotation,
                            " is disabled, and cluster.plaintextPath is none: "
                            "taken as preferred"),
               &wish);
      wish.encryption = base::Mode::kPreferred;
    }
  }
  wish.outside_denied = ReadWord(meta, kOutsideAnnotation, "deny", &wish);
  wish.outside_in_allowed =
      ReadWord(meta, kOutsideInAnnotation, "allow", &wish);
  return wish;
}

std::string PodUid(const kube::Pod& pod) {
  return Annotation(pod.meta, kConfigHash).value_or(pod.meta.uid);
}

base::PodModes ModesOf(const Config& config, const Namespaces& namespaces,
                       const Pods& pods) {
  const bool plaintext = config.plaintext_path != PlaintextPath::kNone;
  base::PodModes modes;
  modes.default_mode = config.modes.default_mode;
  modes.listed = true;
  for (const auto& [name, object] : namespaces) {
    modes.namespaces[name] = WishOf(object->meta, plaintext);
  }
  for (const auto& [key, pod] : pods) {
    modes.pods[modes.PodKey(pod->meta.name_space, pod->meta.name,
                            PodUid(*pod))] = WishOf(pod->meta, plaintext);
  }
  return modes;
}

}  // namespace espalier::mesh
