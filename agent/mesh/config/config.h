// The standalone cluster source: one YAML file in place of the API server
// (DESIGN 7, "Standalone"). These are the values that came out of it, checked;
// docs/configuration.md has every field.
#ifndef ESPALIER_AGENT_MESH_CONFIG_CONFIG_H_
#define ESPALIER_AGENT_MESH_CONFIG_CONFIG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/bytes.h"
#include "agent/base/file_stamp.h"
#include "agent/base/ip_address.h"
#include "agent/base/log.h"
#include "agent/base/pod_modes.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/security_association.h"
#include "agent/ike/config.h"

namespace espalier::mesh {

// A file that the configuration names, with the place where it does, so that
// an error about the file can say who asked for it. Relative paths are taken
// from the folder of the configuration file.
struct FileReference {
  std::string path;
  int line = 0;
  int column = 0;
};

struct PskCredential {
  FileReference file;
  // Filled by LoadFiles; never empty after it. Shared because a configuration
  // is copied while the secret is not.
  std::shared_ptr<const base::SecretBytes> secret;
};

struct PublicKeyCredential {
  // Read from the configuration or by LoadFiles: DER SubjectPublicKeyInfo.
  // More than one: the peer is changing its key.
  std::vector<base::Bytes> keys;
  std::vector<FileReference> files;
};

using PeerCredential = std::variant<PskCredential, PublicKeyCredential>;

enum class Initiate : uint8_t {
  kAuto,    // the lower identity of the pair begins (DESIGN 3)
  kAlways,  // for peers that never begin
  kNever,   // for peers that cannot be reached first (behind a NAT)
};

struct Peer {
  std::string name;  // unique in the file
  ike::Identity identity;
  // At most one of each family, the first is preferred.
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  // Of those, where the peer's `disabled` pods are: all others are ESP or drop.
  std::vector<base::IpPrefix> plaintext_blocks;
  PeerCredential credential;
  // Empty: the file's `proposals`, already copied in.
  std::vector<ike::IkeProposal> ike_proposals;
  std::vector<ike::ChildProposal> child_proposals;
  // Unset: UDP with the user datapath, where protocol 50 has no segmentation
  // offload; as NAT detection says with the kernel's.
  std::optional<bool> force_encapsulation;
  Initiate initiate = Initiate::kAuto;
  // Probes in its tunnel tell whether packets pass; off for peers of other
  // makers, who do not answer them.
  bool probe = true;
  // Transport mode: between the nodes' own addresses, without pods.
  bool transport_mode = false;
  // Where the peer's entry stands in the file.
  int line = 0;
  int column = 0;
};

struct Node {
  std::string name;
  ike::Identity identity;
  // This node's own, that IKE and ESP leave from; at most one of each family.
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  uint32_t uplink_mtu = 1500;
};

// The node's own key pair for peers with public keys.
struct PrivateKeySource {
  FileReference file;
  bool generate = false;  // make an Ed25519 key when the file is not there
  // Read by LoadFiles; null while it is still to be made.
  std::shared_ptr<const crypto::PrivateKey> key;
};

// Where /metrics is served over TLS to whoever the API server lets read it.
struct SecureMetricsSocket {
  base::Endpoint listen;
  std::string certificate_file;  // PEM, as key_file; read again on change
  std::string key_file;
};

// DESIGN 5: the node's own packets to its peers' node addresses.
enum class NodeTraffic : uint8_t {
  kOff,   // stays out of the tunnels
  kSend,  // through a tunnel while that is up, else in plaintext
  // kSend, and kRequire towards each peer whose agent says that it does either.
  kConfirm,
  kRequire,  // through the tunnel or not at all
};

struct NodeTrafficException {
  uint8_t ip_protocol = 0;
  uint16_t port = 0;  // of either end
  friend bool operator==(const NodeTrafficException&,
                         const NodeTrafficException&) = default;
};

struct Timers {
  absl::Duration liveness_interval = absl::Seconds(30);
  absl::Duration nat_keepalive_interval = absl::Seconds(20);
  absl::Duration drain_time = absl::Seconds(5);
  absl::Duration grace = absl::Seconds(10);
  absl::Duration idle = absl::Minutes(10);  // with `on_demand`
  absl::Duration retransmit_base = absl::Milliseconds(500);
  absl::Duration retransmit_max = absl::Seconds(15);
  int retransmit_tries = 8;
};

struct Lifetimes {
  absl::Duration ike_soft = absl::Hours(4);
  absl::Duration ike_hard = absl::Hours(5);
  base::SaLimits child = {.soft_time = absl::Hours(1),
                          .hard_time = absl::Minutes(80)};
};

// The way that plaintext between `disabled` pods takes (DESIGN 5).
enum class PlaintextPath : uint8_t {
  kNone,    // there is none: nothing can be `disabled`
  kDirect,  // by the peer's own address, on the same link
  kVxlan,   // in a VXLAN between the nodes' addresses
};
// Of the path kVxlan; every node's are the same.
struct VxlanSettings {
  uint32_t id = 69;
  uint16_t port = 4790;  // VXLAN-GPE, as IANA has it
  friend bool operator==(const VxlanSettings&, const VxlanSettings&) = default;
};

enum class GuardBpf : uint8_t {
  kAuto,  // on; a kernel that cannot have it is a problem that is reported
  kOn,    // on; such a kernel keeps the agent from starting
  kOff,   // for tests of the other guard
};

struct GuardSettings {
  GuardBpf bpf = GuardBpf::kAuto;
  bool nftables = true;
  friend bool operator==(const GuardSettings&, const GuardSettings&) = default;
};

enum class DatapathDriver : uint8_t {
  kUser,    // espalier-espd
  kKernel,  // XFRM
  kAuto,    // the kernel's when it has ESP, asked once at the start
};

// How the kernel datapath finds the tunnel of a packet.
enum class KernelRouting : uint8_t {
  kRouteBased,   // an xfrm interface
  kPolicyBased,  // policies on the uplink, for kernels without the interface
};

// Where the peers, the addresses and the modes come from.
enum class ClusterSource : uint8_t {
  kFile,        // this file
  kKubernetes,  // the API server; mesh/kubernetes fills them in
};

struct Config {
  ClusterSource source = ClusterSource::kFile;
  // Empty: the pod's own service account.
  std::string kubeconfig;
  Node node;
  // What counts as inside the cluster; holds every pod CIDR of the file.
  std::vector<base::IpPrefix> cluster_pod_cidrs;
  // What else is inside: the nodes' networks, besides their own addresses.
  std::vector<base::IpPrefix> node_cidrs;
  PlaintextPath plaintext_path = PlaintextPath::kNone;
  VxlanSettings vxlan;
  base::PodModes modes;
  GuardSettings guard;
  std::optional<PrivateKeySource> private_key;
  std::vector<Peer> peers;
  // `proposals`, for peers that do not come out of the file.
  std::vector<ike::IkeProposal> ike_proposals = {ike::IkeProposal{}};
  std::vector<ike::ChildProposal> child_proposals = {ike::ChildProposal{}};
  // Tunnels come with the first packet instead of at the start.
  bool on_demand = false;
  NodeTraffic node_traffic = NodeTraffic::kOff;
  // The API server and DNS, without which no node starts.
  std::vector<NodeTrafficException> node_traffic_exceptions = {
      {6, 6443}, {6, 53}, {17, 53}};
  Lifetimes lifetimes;
  Timers timers;
  uint32_t replay_window = 4096;
  size_t cookie_threshold = 64;
  size_t fragment_size = 1200;
  DatapathDriver datapath_driver = DatapathDriver::kUser;
  KernelRouting kernel_routing = KernelRouting::kRouteBased;
  // RFC 9611: so many CPUs get SAs of their own, where the kernel has them.
  uint32_t per_cpu_sas = 0;
  std::string espd_socket = "/run/espalier/espd.sock";
  // Holds base::RunDirectory and the agent's own socket, agent.sock.
  std::string run_directory = "/run/espalier";
  std::string state_directory = "/var/lib/espalier";
  // 127.0.0.1:9469 unless said otherwise; nullopt: no HTTP at all.
  std::optional<base::Endpoint> metrics_listen;
  // /metrics for others than the node itself; in Kubernetes alone.
  std::optional<SecureMetricsSocket> secure_metrics;
  base::LogLevel log_level = base::LogLevel::kInfo;
  // Empty: no key log. Whoever reads that folder reads the traffic.
  std::string key_log_directory;
  int crypto_threads = 2;
  // What stands in the file and was taken as something stronger, one line
  // each, as an error has it.
  std::vector<std::string> warnings;
  // What LoadConfig and LoadFiles read, as it was just before: a change of one
  // is a change of the configuration. Not the key of a node of Kubernetes,
  // which the agent itself rotates.
  std::map<std::string, base::FileStamp> files;
};

// Whether espalier-espd could not carry what this peer asks for.
bool NeedsKernelDatapath(const Peer& peer);

// Parses `text`, which came from the file `name`; reads no other file. On an
// error: InvalidArgument whose message has one line for each error of the
// file, "name:line:column: what was found, what was expected". With
// ClusterSource::kKubernetes a file without node.name is `node_name`'s.
absl::StatusOr<Config> ParseConfig(const std::string& text,
                                   const std::string& name,
                                   const std::string& node_name = "");

// Reads the files that the configuration names (pre-shared keys, public keys);
// errors as ParseConfig. A secret that others may read is refused.
absl::Status LoadFiles(const std::string& name, Config* config);

// Both, for a file on disk of at most 1 MiB; `node_name` is the environment's
// NODE_NAME.
absl::StatusOr<Config> LoadConfig(const std::string& path);
// The same without the files that it names, which may be gone.
absl::StatusOr<Config> ReadConfig(const std::string& path);

// Every field that the file may have, as dotted paths ("node.podCIDRs",
// "peers[].identity"), for the check that all of them are documented.
std::vector<std::string> ConfigFields();

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_CONFIG_H_
