#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/mesh/config/cluster_source.h"
#include "agent/mesh/config/config.h"
#include "agent/mesh/config/files.h"
#include "agent/mesh/config/modes.h"
#include "agent/mesh/config/proposals.h"
#include "agent/mesh/config/reader.h"
#include "agent/mesh/config/sockets.h"
#include "agent/mesh/config/tunnel_kinds.h"
#include "agent/mesh/config/yaml_tree.h"

namespace espalier::mesh {
namespace {

constexpr size_t kMaxPeers = 10'000;
constexpr size_t kMaxCidrs = 256;
constexpr size_t kMaxProposals = 16;
// What the core takes for one peer.
constexpr uint64_t kMaxCpuSas = 256;
// DESIGN 3: hard limits lie at least this long after soft ones, so that an
// agent's upgrade never meets one.
constexpr absl::Duration kHardAfterSoft = absl::Minutes(15);
constexpr uint64_t kMaxVxlanId = (1 << 24) - 1;  // RFC 7348 5
constexpr absl::Duration kLongest = absl::Hours(24 * 365);

bool IsDnsName(const std::string& text) {
  if (text.empty() || text.size() > 253) return false;
  if (!absl::ascii_isalnum(static_cast<unsigned char>(text.front())) ||
      !absl::ascii_isalnum(static_cast<unsigned char>(text.back()))) {
    return false;
  }
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
  });
}

ike::Identity TextIdentity(ike::Identity::Type type, const std::string& text) {
  ike::Identity identity;
  identity.type = type;
  identity.data.assign(text.begin(), text.end());
  return identity;
}

// RFC 7296 3.5: an address, "fqdn:", "email:" or "keyid:" (hexadecimal); a
// plain name is an FQDN.
absl::StatusOr<ike::Identity> ParseIdentity(const std::string& text) {
  if (absl::StatusOr<base::IpAddress> address = base::IpAddress::Parse(text);
      address.ok()) {
    ike::Identity identity;
    identity.type = address->is_v4() ? ike::Identity::Type::kIpv4
                                     : ike::Identity::Type::kIpv6;
    identity.data.assign(address->bytes().begin(), address->bytes().end());
    return identity;
  }
  const size_t colon = text.find(':');
  const std::string kind =
      colon == std::string::npos ? "fqdn" : text.substr(0, colon);
  const std::string rest =
      colon == std::string::npos ? text : text.substr(colon + 1);
  if (kind == "fqdn" && IsDnsName(rest)) {
    return TextIdentity(ike::Identity::Type::kFqdn, rest);
  }
  if (kind == "email" && rest.size() <= 253 && absl::StrContains(rest, '@')) {
    return TextIdentity(ike::Identity::Type::kRfc822, rest);
  }
  if (kind == "keyid") {
    ike::Identity identity;
    identity.type = ike::Identity::Type::kKeyId;
    if (!rest.empty() && rest.size() <= 512 &&
        base::FromHex(rest, &identity.data)) {
      return identity;
    }
  }
  return absl::InvalidArgumentError(
      "an identity: a DNS name, an IP address, 'fqdn:NAME', 'email:NAME@HOST' "
      "or 'keyid:HEX'");
}

absl::Status CheckAddress(const base::IpAddress& address) {
  if (address.IsUnspecified() || address.IsMulticast()) {
    return absl::InvalidArgumentError(
        absl::StrCat(address.ToString(), " is no address of one host"));
  }
  if (address.IsLinkLocal()) {
    return absl::InvalidArgumentError(
        absl::StrCat(address.ToString(),
                     " is link-local: expected an address that does not need "
                     "the name of an interface"));
  }
  return absl::OkStatus();
}

// At most one of each family.
bool ReadAddresses(const MapReader& map, std::vector<base::IpAddress>* out) {
  std::vector<base::IpAddress> addresses;
  const bool ok = map.List(
      "addresses", "IP addresses, as in [192.0.2.1, \"2001:db8::1\"]", 16,
      [&](const std::string& text) -> absl::Status {
        absl::StatusOr<base::IpAddress> address = base::IpAddress::Parse(text);
        if (!address.ok()) {
          return absl::InvalidArgumentError(
              absl::StrCat("'", text.substr(0, 60),
                           "' is no IP address: expected one as 192.0.2.1 or "
                           "2001:db8::1, without a prefix length"));
        }
        ESPALIER_RETURN_IF_ERROR(CheckAddress(*address));
        for (const base::IpAddress& other : addresses) {
          if (other.family() == address->family()) {
            return absl::InvalidArgumentError(absl::StrCat(
                address->ToString(), " comes after ", other.ToString(),
                ": expected at most one address of each family"));
          }
        }
        addresses.push_back(*address);
        return absl::OkStatus();
      });
  if (ok) *out = std::move(addresses);
  return ok;
}

bool ReadCidrs(const MapReader& map, const std::string& key,
               std::vector<base::IpPrefix>* out) {
  std::vector<base::IpPrefix> prefixes;
  const bool ok = map.List(
      key, "prefixes, as in [10.244.1.0/24, \"fd00:1::/64\"]", kMaxCidrs,
      [&](const std::string& text) -> absl::Status {
        absl::StatusOr<base::IpPrefix> prefix = base::IpPrefix::Parse(text);
        if (!prefix.ok()) return prefix.status();
        if (prefix->length() == 0) {
          return absl::InvalidArgumentError(
              absl::StrCat(text,
                           " holds every address: expected the "
                           "pods' addresses only"));
        }
        for (const base::IpPrefix& other : prefixes) {
          if (other.Overlaps(*prefix)) {
            return absl::InvalidArgumentError(absl::StrCat(
                prefix->ToString(), " overlaps ", other.ToString()));
          }
        }
        prefixes.push_back(*prefix);
        return absl::OkStatus();
      });
  if (ok) *out = std::move(prefixes);
  return ok;
}

bool ReadName(const MapReader& map, std::string* name) {
  constexpr char kExpected[] =
      "a name of letters, digits, '-', '_' and '.', at most 253 long";
  map.Missing("name", kExpected);
  std::string text;
  if (!map.Text("name", kExpected, &text)) return false;
  if (!IsDnsName(text)) {
    map.Wrong("name", *map.Get("name"), kExpected);
    return false;
  }
  *name = text;
  return true;
}

void ReadIdentity(const MapReader& map, const std::string& name,
                  ike::Identity* out) {
  *out = TextIdentity(ike::Identity::Type::kFqdn, name);
  std::string text;
  if (!map.Text("identity", "an identity", &text)) return;
  absl::StatusOr<ike::Identity> identity = ParseIdentity(text);
  if (!identity.ok()) {
    map.Wrong("identity", *map.Get("identity"),
              std::string(identity.status().message()));
    return;
  }
  *out = *std::move(identity);
}

bool ReadFile(const MapReader& map, const std::string& key,
              FileReference* out) {
  const YamlNode* value = map.Get(key);
  if (value == nullptr || !map.Text(key, "the path of a file", &out->path)) {
    return false;
  }
  out->line = value->line;
  out->column = value->column;
  return true;
}

// What a peer without an own value gets.
struct Defaults {
  std::optional<FileReference> psk_file;
  std::vector<ike::IkeProposal> ike_proposals = {ike::IkeProposal{}};
  std::vector<ike::ChildProposal> child_proposals = {ike::ChildProposal{}};
};

void ReadProposals(const std::string& path, const YamlNode* node,
                   ErrorList* errors, std::vector<ike::IkeProposal>* ike,
                   std::vector<ike::ChildProposal>* child) {
  if (node == nullptr) return;
  const MapReader map(path, *node, errors);
  std::vector<ike::IkeProposal> ike_list;
  if (map.List("ike", "proposals, as in [aes256gcm16-prfsha384-x25519]",
               kMaxProposals, [&](const std::string& text) -> absl::Status {
                 ESPALIER_ASSIGN_OR_RETURN(ike::IkeProposal proposal,
                                           ParseIkeProposal(text));
                 ike_list.push_back(std::move(proposal));
                 return absl::OkStatus();
               })) {
    *ike = std::move(ike_list);
  }
  std::vector<ike::ChildProposal> child_list;
  if (map.List("child", "proposals, as in [aes256gcm16-x25519]", kMaxProposals,
               [&](const std::string& text) -> absl::Status {
                 ESPALIER_ASSIGN_OR_RETURN(ike::ChildProposal proposal,
                                           ParseChildProposal(text));
                 child_list.push_back(std::move(proposal));
                 return absl::OkStatus();
               })) {
    *child = std::move(child_list);
  }
}

void ReadNode(const YamlNode& node, ErrorList* errors, bool from_file,
              Node* out) {
  const MapReader map("node", node, errors);
  if (from_file || map.Has("name")) ReadName(map, &out->name);
  ReadIdentity(map, out->name, &out->identity);
  if (from_file) {
    map.Missing("addresses", "this node's own IP addresses");
    ReadAddresses(map, &out->addresses);
    map.Missing("podCIDRs", "the prefixes of this node's pods");
    ReadCidrs(map, "podCIDRs", &out->pod_cidrs);
  }
  uint64_t number = 0;
  if (map.Number("uplinkMTU", 1280, 65535, &number)) {
    out->uplink_mtu = static_cast<uint32_t>(number);
  }
}

void ReadPeerCredential(const MapReader& peer, const Defaults& defaults,
                        Peer* out) {
  const YamlNode* node = peer.Get("auth");
  if (node == nullptr) {
    if (defaults.psk_file) {
      out->credential = PskCredential{*defaults.psk_file, nullptr};
    } else if (!peer.Has("auth") && peer.node().kind == YamlNode::Kind::kMap) {
      peer.errors()->Add(
          peer.node(),
          absl::StrCat("peer '", out->name,
                       "' has no auth: expected auth.pskFile, "
                       "auth.publicKeys or auth.publicKeyFiles here, or "
                       "auth.pskFile for the whole file"));
    }
    return;
  }
  const MapReader map("peers[].auth", *node, peer.errors());
  PskCredential psk;
  const bool has_psk = ReadFile(map, "pskFile", &psk.file);
  PublicKeyCredential keys;
  map.List("publicKeys", "public keys in PEM or base64", 8,
           [&](const std::string& text) -> absl::Status {
             ESPALIER_ASSIGN_OR_RETURN(base::Bytes key, ParsePublicKey(text));
             keys.keys.push_back(std::move(key));
             return absl::OkStatus();
           });
  if (const YamlNode* files = map.Get("publicKeyFiles"); files != nullptr) {
    size_t at = 0;
    map.List("publicKeyFiles", "paths of files", 8,
             [&](const std::string& text) -> absl::Status {
               const YamlNode& element = files->elements[at++];
               if (text.empty()) {
                 return absl::InvalidArgumentError(
                     "'' is empty: expected the path of a file");
               }
               keys.files.push_back({text, element.line, element.column});
               return absl::OkStatus();
             });
  }
  const bool wants_keys = map.Has("publicKeys") || map.Has("publicKeyFiles");
  if (map.Has("pskFile") && wants_keys) {
    peer.errors()->Add(*node,
                       "peers[].auth has a pre-shared key and public keys: "
                       "expected one kind");
  } else if (wants_keys) {
    out->credential = std::move(keys);
  } else if (has_psk) {
    out->credential = std::move(psk);
  } else if (node->kind == YamlNode::Kind::kMap && node->entries.empty()) {
    peer.errors()->Add(*node,
                       "peers[].auth is empty: expected pskFile, publicKeys "
                       "or publicKeyFiles");
  }
}

Peer ReadPeer(const YamlNode& node, const Defaults& defaults,
              ErrorList* errors) {
  Peer peer;
  peer.line = node.line;
  peer.column = node.column;
  const MapReader map("peers[]", node, errors);
  ReadName(map, &peer.name);
  ReadIdentity(map, peer.name, &peer.identity);
  map.Missing("addresses", "the peer's IP addresses");
  ReadAddresses(map, &peer.addresses);
  ReadTunnelKind(map, &peer);
  if (!peer.transport_mode) {
    map.Missing("podCIDRs", "the prefixes of the peer's pods");
  }
  ReadCidrs(map, "podCIDRs", &peer.pod_cidrs);
  ReadCidrs(map, "plaintextBlocks", &peer.plaintext_blocks);
  ReadPeerCredential(map, defaults, &peer);
  peer.ike_proposals = defaults.ike_proposals;
  peer.child_proposals = defaults.child_proposals;
  ReadProposals("peers[].proposals", map.Get("proposals"), errors,
                &peer.ike_proposals, &peer.child_proposals);
  bool force = false;
  if (map.Bool("forceEncapsulation", &force)) peer.force_encapsulation = force;
  std::string initiate;
  if (map.OneOf("initiate", {"auto", "always", "never"}, &initiate)) {
    peer.initiate = initiate == "auto"     ? Initiate::kAuto
                    : initiate == "always" ? Initiate::kAlways
                                           : Initiate::kNever;
  }
  std::string probe;
  if (map.OneOf("probe", {"auto", "off"}, &probe)) peer.probe = probe == "auto";
  return peer;
}

void ReadLifetimes(const YamlNode& node, ErrorList* errors, Lifetimes* out) {
  const MapReader map("lifetimes", node, errors);
  const auto times = [&](const MapReader& kind, absl::Duration* soft,
                         absl::Duration* hard) {
    if (kind.Duration("rekeyAfter", absl::Seconds(1), kLongest, soft)) {
      *hard = *soft + std::max(absl::Minutes(20), *soft / 4);
    }
    const bool own =
        kind.Duration("expireAfter", absl::Seconds(1), 2 * kLongest, hard);
    if (own && *hard < *soft + kHardAfterSoft) {
      kind.Wrong(
          "expireAfter", *kind.Get("expireAfter"),
          absl::StrCat("at least ", absl::FormatDuration(kHardAfterSoft),
                       " more than rekeyAfter (", absl::FormatDuration(*soft),
                       "), so that an SA outlives an agent's upgrade"));
    }
  };
  if (const YamlNode* ike = map.Get("ike"); ike != nullptr) {
    times(MapReader("lifetimes.ike", *ike, errors), &out->ike_soft,
          &out->ike_hard);
  }
  const YamlNode* child_node = map.Get("child");
  if (child_node == nullptr) return;
  const MapReader child("lifetimes.child", *child_node, errors);
  times(child, &out->child.soft_time, &out->child.hard_time);
  child.ByteCount("rekeyAfterBytes", &out->child.soft_bytes);
  child.ByteCount("expireAfterBytes", &out->child.hard_bytes);
  child.Number("rekeyAfterPackets", 0, uint64_t{1} << 62,
               &out->child.soft_packets);
  child.Number("expireAfterPackets", 0, uint64_t{1} << 62,
               &out->child.hard_packets);
  const auto check = [&](const char* key, uint64_t soft, uint64_t hard) {
    if (hard != 0 && hard <= soft && child.Get(key) != nullptr) {
      child.Wrong(key, *child.Get(key), "more than its rekeyAfter limit");
    }
  };
  check("expireAfterBytes", out->child.soft_bytes, out->child.hard_bytes);
  check("expireAfterPackets", out->child.soft_packets, out->child.hard_packets);
}

void ReadTimers(const YamlNode& node, ErrorList* errors, Timers* out) {
  const MapReader map("timers", node, errors);
  const absl::Duration second = absl::Seconds(1);
  map.Duration("liveness", second, absl::Hours(1), &out->liveness_interval);
  map.Duration("natKeepalive", second, absl::Minutes(10),
               &out->nat_keepalive_interval);
  map.Duration("drain", second, absl::Minutes(10), &out->drain_time);
  map.Duration("grace", absl::ZeroDuration(), absl::Minutes(10), &out->grace);
  map.Duration("idle", second, absl::Hours(24), &out->idle);
  map.Duration("retransmitFirst", absl::Milliseconds(10), absl::Minutes(1),
               &out->retransmit_base);
  map.Duration("retransmitMax", absl::Milliseconds(10), absl::Minutes(10),
               &out->retransmit_max);
  uint64_t tries = 0;
  if (map.Number("retransmitTries", 1, 30, &tries)) {
    out->retransmit_tries = static_cast<int>(tries);
  }
  if (out->retransmit_max < out->retransmit_base) {
    const char* key = map.Get("retransmitMax") != nullptr ? "retransmitMax"
                                                          : "retransmitFirst";
    map.Wrong(key, *map.Get(key), "retransmitFirst not above retransmitMax");
  }
}

void ReadIke(const YamlNode& node, ErrorList* errors, Config* out) {
  const MapReader map("ike", node, errors);
  uint64_t number = 0;
  // RFC 7383 2.5.1: what every IPv4 path carries, at least; and no more than
  // a UDP datagram holds.
  if (map.Number("fragmentSize", 548, 65507, &number)) {
    out->fragment_size = number;
  }
  if (map.Number("cookieThreshold", 0, 1'000'000, &number)) {
    out->cookie_threshold = number;
  }
  if (map.Number("cryptoThreads", 1, 64, &number)) {
    out->crypto_threads = static_cast<int>(number);
  }
}

void ReadDatapath(const YamlNode& node, ErrorList* errors, Config* out) {
  const MapReader map("datapath", node, errors);
  std::string driver;
  if (map.OneOf("driver", {"user", "kernel", "auto"}, &driver)) {
    out->datapath_driver = driver == "user"     ? DatapathDriver::kUser
                           : driver == "kernel" ? DatapathDriver::kKernel
                                                : DatapathDriver::kAuto;
  }
  if (const YamlNode* kernel = map.Get("kernel"); kernel != nullptr) {
    const MapReader options("datapath.kernel", *kernel, errors);
    std::string routing;
    if (options.OneOf("routing", {"route-based", "policy-based"}, &routing)) {
      out->kernel_routing = routing == "route-based"
                                ? KernelRouting::kRouteBased
                                : KernelRouting::kPolicyBased;
    }
    uint64_t cpus = 0;
    if (options.Number("perCpuSas", 0, kMaxCpuSas, &cpus)) {
      out->per_cpu_sas = static_cast<uint32_t>(cpus);
    }
    if (out->datapath_driver == DatapathDriver::kUser) {
      errors->Add(*kernel,
                  "datapath.kernel is there, but datapath.driver is 'user': "
                  "expected driver 'kernel' or 'auto' with it");
    }
  }
  if (map.Text("espdSocket", "the path of a unix socket", &out->espd_socket) &&
      (out->espd_socket.size() > 107 ||
       !absl::StartsWith(out->espd_socket, "/"))) {
    // What sockaddr_un holds, with a zero at its end.
    map.Wrong("espdSocket", *map.Get("espdSocket"),
              "an absolute path of at most 107 octets");
  }
  uint64_t number = 0;
  if (map.Number("replayWindow", 64, 65536, &number)) {
    out->replay_window = static_cast<uint32_t>(number);
  }
}

void ReadNodeTraffic(const MapReader& map, Config* out) {
  std::string stage;
  if (map.OneOf("encryptNodeTraffic", {"off", "send", "confirm", "require"},
                &stage)) {
    out->node_traffic = stage == "off"       ? NodeTraffic::kOff
                        : stage == "send"    ? NodeTraffic::kSend
                        : stage == "confirm" ? NodeTraffic::kConfirm
                                             : NodeTraffic::kRequire;
  }
  std::vector<NodeTrafficException> exceptions;
  const auto read = [&](const std::string& text) -> absl::Status {
    const bool tcp = absl::StartsWith(text, "tcp/");
    uint32_t port = 0;
    if ((!tcp && !absl::StartsWith(text, "udp/")) ||
        !absl::SimpleAtoi(text.substr(4), &port) || port == 0 || port > 65535) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text.substr(0, 60),
                       "' is no port: expected tcp/PORT or udp/PORT"));
    }
    exceptions.push_back({.ip_protocol = static_cast<uint8_t>(tcp ? 6 : 17),
                          .port = static_cast<uint16_t>(port)});
    return absl::OkStatus();
  };
  if (map.List("nodeTrafficExceptions", "ports, as in [tcp/6443, udp/53]", 64,
               read)) {
    out->node_traffic_exceptions = std::move(exceptions);
  }
}

void ReadCluster(const YamlNode& node, ErrorList* errors, Config* out) {
  const MapReader cluster("cluster", node, errors);
  std::string word;
  cluster.OneOf("source", {"file", "kubernetes"}, &word);
  cluster.Missing("podCIDRs", "the prefixes of all pods of the mesh");
  ReadCidrs(cluster, "podCIDRs", &out->cluster_pod_cidrs);
  ReadCidrs(cluster, "nodeCIDRs", &out->node_cidrs);
  if (cluster.OneOf("plaintextPath", {"none", "direct", "vxlan"}, &word)) {
    out->plaintext_path = word == "none"     ? PlaintextPath::kNone
                          : word == "direct" ? PlaintextPath::kDirect
                                             : PlaintextPath::kVxlan;
  }
  uint64_t number = 0;
  if (cluster.Number("vxlanId", 1, kMaxVxlanId, &number)) {
    out->vxlan.id = static_cast<uint32_t>(number);
  }
  if (cluster.Number("vxlanPort", 1, 65535, &number)) {
    out->vxlan.port = static_cast<uint16_t>(number);
  }
}

// A claim on inner addresses, for the check that no two holders overlap.
struct Claim {
  base::IpPrefix prefix;
  std::string holder;
  int line;
  int column;
};

void CheckClaims(const Config& config, std::vector<Claim> claims,
                 ErrorList* errors) {
  for (const Claim& claim : claims) {
    const bool inside = std::any_of(
        config.cluster_pod_cidrs.begin(), config.cluster_pod_cidrs.end(),
        [&](const base::IpPrefix& c) { return c.Contains(claim.prefix); });
    if (!inside && !config.cluster_pod_cidrs.empty()) {
      errors->Add(claim.line, claim.column,
                  absl::StrCat(claim.holder, " has ", claim.prefix.ToString(),
                               ": expected a prefix inside cluster.podCIDRs"));
    }
  }
  // Sorted by address, shorter first: whatever overlaps a prefix comes right
  // after the nearest one that holds it.
  std::sort(claims.begin(), claims.end(),
            [](const Claim& a, const Claim& b) { return a.prefix < b.prefix; });
  const Claim* widest = nullptr;
  for (const Claim& claim : claims) {
    if (widest != nullptr && widest->prefix.Contains(claim.prefix)) {
      const Claim& later = std::pair(widest->line, widest->column) <
                                   std::pair(claim.line, claim.column)
                               ? claim
                               : *widest;
      const Claim& earlier = &later == &claim ? *widest : claim;
      errors->Add(later.line, later.column,
                  absl::StrCat(later.holder, " has ", later.prefix.ToString(),
                               ", which overlaps ", earlier.prefix.ToString(),
                               " of ", earlier.holder,
                               ": expected every address to have one holder"));
      continue;
    }
    widest = &claim;
  }
}

void CheckPlaintextBlocks(const Peer& peer, const std::string& title,
                          ErrorList* errors) {
  for (const base::IpPrefix& block : peer.plaintext_blocks) {
    const bool own = std::any_of(
        peer.pod_cidrs.begin(), peer.pod_cidrs.end(),
        [&](const base::IpPrefix& cidr) { return cidr.Contains(block); });
    if (own) continue;
    errors->Add(
        peer.line, peer.column,
        absl::StrCat(title, " has the plaintext block ", block.ToString(),
                     ": expected a part of its podCIDRs"));
  }
}

void CheckMesh(const Config& config, int node_line, int node_column,
               ErrorList* errors) {
  std::map<std::string, std::string> names;
  std::map<ike::Identity, std::string> identities;
  std::map<base::IpAddress, std::string> addresses;
  std::vector<Claim> claims;
  names[config.node.name] = "this node";
  identities[config.node.identity] = "this node";
  for (const base::IpAddress& a : config.node.addresses) {
    addresses[a] = "this node";
  }
  for (const base::IpPrefix& p : config.node.pod_cidrs) {
    claims.push_back({p, "this node", node_line, node_column});
  }
  for (const Peer& peer : config.peers) {
    if (peer.name.empty()) continue;
    const std::string title = absl::StrCat("peer '", peer.name, "'");
    const auto once = [&](bool inserted, const std::string& what,
                          const std::string& holder) {
      if (inserted) return;
      errors->Add(peer.line, peer.column,
                  absl::StrCat(title, " has the ", what, " of ", holder,
                               ": expected one of its own"));
    };
    const auto name = names.emplace(peer.name, title);
    once(name.second, "name", name.first->second);
    const auto identity = identities.emplace(peer.identity, title);
    if (name.second) {
      once(identity.second, "identity", identity.first->second);
    }
    bool common = config.node.addresses.empty() || peer.addresses.empty();
    for (const base::IpAddress& a : peer.addresses) {
      const auto address = addresses.emplace(a, title);
      once(address.second, absl::StrCat("address ", a.ToString()),
           address.first->second);
      for (const base::IpAddress& own : config.node.addresses) {
        common = common || own.family() == a.family();
      }
    }
    if (!common) {
      errors->Add(peer.line, peer.column,
                  absl::StrCat(title,
                               " has no address of a family that this node "
                               "has: expected IPv4 on both or IPv6 on both"));
    }
    if (std::holds_alternative<PublicKeyCredential>(peer.credential) &&
        !config.private_key) {
      errors->Add(peer.line, peer.column,
                  absl::StrCat(title,
                               " authenticates by public keys: expected "
                               "auth.privateKeyFile for this node's own"));
    }
    for (const base::IpPrefix& p : peer.pod_cidrs) {
      claims.push_back({p, title, peer.line, peer.column});
    }
    CheckPlaintextBlocks(peer, title, errors);
  }
  CheckClaims(config, std::move(claims), errors);
}

void ReadAuth(const YamlNode& node, ErrorList* errors, Config* config,
              Defaults* defaults) {
  const MapReader map("auth", node, errors);
  FileReference psk;
  if (ReadFile(map, "pskFile", &psk)) defaults->psk_file = psk;
  PrivateKeySource key;
  const bool has_key = ReadFile(map, "privateKeyFile", &key.file);
  map.Bool("generatePrivateKey", &key.generate);
  if (has_key) {
    config->private_key = key;
  } else if (key.generate) {
    map.Missing("privateKeyFile", "where the generated key is to be kept");
  }
}

void ReadFileLevel(const MapReader& map, Config* config) {
  if (map.Text("runDirectory", "the path of a folder",
               &config->run_directory) &&
      (config->run_directory.size() > 80 ||
       !absl::StartsWith(config->run_directory, "/"))) {
    // Sockets lie in it, and sockaddr_un holds 108 octets.
    map.Wrong("runDirectory", *map.Get("runDirectory"),
              "an absolute path of at most 80 octets");
  }
  map.Text("stateDirectory", "the path of a folder", &config->state_directory);
  map.Text("keyLogDirectory", "the path of a folder",
           &config->key_log_directory);
  std::string level;
  if (map.OneOf("logLevel", {"debug", "info", "warning", "error"}, &level)) {
    base::ParseLogLevel(level, &config->log_level);
  }
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& text,
                                   const std::string& name,
                                   const std::string& node_name) {
  ESPALIER_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(text, name));
  ErrorList errors(name);
  Config config;
  config.metrics_listen =
      base::Endpoint{base::IpAddress::V4({127, 0, 0, 1}), 9469};
  const MapReader map("", root, &errors);
  ReadClusterSource(map, node_name, &config);
  const bool from_file = config.source == ClusterSource::kFile;
  int node_line = 1;
  int node_column = 1;
  if (from_file) {
    map.Missing("node", "a map with this node's name, addresses and podCIDRs");
  }
  config.node.identity =
      TextIdentity(ike::Identity::Type::kFqdn, config.node.name);
  if (const YamlNode* node = map.Get("node"); node != nullptr) {
    node_line = node->line;
    node_column = node->column;
    ReadNode(*node, &errors, from_file, &config.node);
  }
  if (!from_file && !IsDnsName(config.node.name)) {
    errors.Add(node_line, node_column,
               "this node's name is not known: expected the environment's "
               "NODE_NAME (the downward API's spec.nodeName), or node.name");
  }
  map.Missing("cluster", "a map with podCIDRs, what counts as inside");
  if (const YamlNode* node = map.Get("cluster"); node != nullptr) {
    ReadCluster(*node, &errors, &config);
  }
  if (const YamlNode* node = map.Get("modes"); node != nullptr) {
    ReadModes(*node, &errors, name, &config);
  }
  if (const YamlNode* node = map.Get("guard"); node != nullptr) {
    ReadGuard(*node, &errors, &config);
  }
  std::string mesh;
  if (map.OneOf("mesh", {"eager", "on-demand"}, &mesh)) {
    config.on_demand = mesh == "on-demand";
  }
  ReadNodeTraffic(map, &config);
  Defaults defaults;
  if (const YamlNode* node = map.Get("auth"); node != nullptr) {
    ReadAuth(*node, &errors, &config, &defaults);
  }
  ReadProposals("proposals", map.Get("proposals"), &errors,
                &defaults.ike_proposals, &defaults.child_proposals);
  config.ike_proposals = defaults.ike_proposals;
  config.child_proposals = defaults.child_proposals;
  RefuseAh(map, defaults.child_proposals);
  if (const YamlNode* node = map.Get("peers"); node != nullptr) {
    if (node->kind != YamlNode::Kind::kSequence) {
      map.Wrong("peers", *node, "a list of peers");
    } else if (node->elements.size() > kMaxPeers) {
      map.Wrong("peers", *node, absl::StrCat("at most ", kMaxPeers, " peers"));
    } else {
      for (const YamlNode& peer : node->elements) {
        config.peers.push_back(ReadPeer(peer, defaults, &errors));
      }
    }
  }
  if (const YamlNode* node = map.Get("lifetimes"); node != nullptr) {
    ReadLifetimes(*node, &errors, &config.lifetimes);
  }
  if (const YamlNode* node = map.Get("timers"); node != nullptr) {
    ReadTimers(*node, &errors, &config.timers);
  }
  if (const YamlNode* node = map.Get("ike"); node != nullptr) {
    ReadIke(*node, &errors, &config);
  }
  if (const YamlNode* node = map.Get("datapath"); node != nullptr) {
    ReadDatapath(*node, &errors, &config);
  }
  if (const YamlNode* node = map.Get("sockets"); node != nullptr) {
    ReadSockets(*node, &errors, &config);
  }
  ReadFileLevel(map, &config);
  if (!from_file) SetOwnKey(&config);
  CheckMesh(config, node_line, node_column, &errors);
  CheckTunnelKinds(config, &errors);
  if (const YamlNode* stage = map.Get("encryptNodeTraffic"); stage != nullptr) {
    CheckNodeTraffic(config, *stage, &errors);
  }
  ESPALIER_RETURN_IF_ERROR(errors.ToStatus());
  return config;
}

}  // namespace espalier::mesh
