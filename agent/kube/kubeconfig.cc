// A kubeconfig as kubectl reads one, as far as a program without a person
// beside it can use it.
#include <exception>
#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/base/status_macros.h"
#include "agent/kube/cluster_access.h"
#include "yaml-cpp/yaml.h"

namespace espalier::kube {
namespace {

// yaml-cpp throws; Kubeconfig() catches.
std::string Text(const YAML::Node& node, const char* key) {
  const YAML::Node value = node[key];
  return value.IsDefined() && value.IsScalar() ? value.Scalar() : "";
}

YAML::Node Named(const YAML::Node& root, const char* list, const char* part,
                 const std::string& name) {
  for (const YAML::Node& entry : root[list]) {
    if (Text(entry, "name") == name) return entry[part];
  }
  return YAML::Node(YAML::NodeType::Undefined);
}

std::string Beside(const std::filesystem::path& folder,
                   const std::string& file) {
  return file.empty() ? "" : (folder / file).lexically_normal().string();
}

// KEY-data in base64, else the file that KEY names.
absl::StatusOr<FileOrData> Part(const YAML::Node& node, const std::string& key,
                                const std::filesystem::path& folder) {
  FileOrData part;
  const std::string encoded = Text(node, absl::StrCat(key, "-data").c_str());
  if (encoded.empty()) {
    part.file = Beside(folder, Text(node, key.c_str()));
    return part;
  }
  std::string decoded;
  if (!absl::Base64Unescape(encoded, &decoded)) {
    return absl::InvalidArgumentError(absl::StrCat(key, "-data is not base64"));
  }
  part.data = base::SecretBytes(base::AsBytes(decoded));
  base::Wipe({reinterpret_cast<uint8_t*>(decoded.data()), decoded.size()});
  return part;
}

absl::Status ReadCluster(const YAML::Node& cluster,
                         const std::filesystem::path& folder,
                         ClusterAccess::Parts* parts) {
  parts->server = Text(cluster, "server");
  parts->server = std::string(absl::StripSuffix(parts->server, "/"));
  if (!absl::StartsWith(parts->server, "https://") ||
      parts->server.size() <= 8 ||
      parts->server.find_first_of("@?# \r\n") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the cluster's server \"", parts->server,
        "\" is not https://HOST[:PORT]; Espalier talks to no other"));
  }
  if (Text(cluster, "insecure-skip-tls-verify") == "true") {
    return absl::InvalidArgumentError(
        "insecure-skip-tls-verify is set; Espalier takes keys from this "
        "server and always verifies it: give certificate-authority");
  }
  if (!Text(cluster, "proxy-url").empty()) {
    return absl::InvalidArgumentError("proxy-url is not supported");
  }
  parts->tls_server_name = Text(cluster, "tls-server-name");
  ESPALIER_ASSIGN_OR_RETURN(parts->ca,
                            Part(cluster, "certificate-authority", folder));
  return absl::OkStatus();
}

absl::Status ReadUser(const YAML::Node& user,
                      const std::filesystem::path& folder,
                      ClusterAccess::Parts* parts) {
  if (user["exec"].IsDefined() || user["auth-provider"].IsDefined()) {
    return absl::InvalidArgumentError(
        "the user's credentials come from a plugin (exec or auth-provider), "
        "which needs a person; give a token, a tokenFile or a client "
        "certificate");
  }
  ESPALIER_ASSIGN_OR_RETURN(parts->client_certificate,
                            Part(user, "client-certificate", folder));
  ESPALIER_ASSIGN_OR_RETURN(parts->client_key,
                            Part(user, "client-key", folder));
  if (parts->client_certificate.empty() != parts->client_key.empty()) {
    return absl::InvalidArgumentError(
        "client-certificate and client-key belong together");
  }
  // As client-go has it: the file wins, it is the one that is renewed.
  parts->token.file = Beside(folder, Text(user, "tokenFile"));
  if (parts->token.file.empty()) {
    parts->token.data = base::SecretBytes(base::AsBytes(Text(user, "token")));
  }
  return absl::OkStatus();
}

absl::StatusOr<ClusterAccess::Parts> Load(const std::string& path,
                                          const std::string& wanted) {
  const YAML::Node root = YAML::LoadFile(path);
  const std::filesystem::path folder =
      std::filesystem::absolute(path).parent_path();
  const std::string name =
      wanted.empty() ? Text(root, "current-context") : wanted;
  const YAML::Node context = Named(root, "contexts", "context", name);
  if (name.empty() || !context.IsDefined() || !context.IsMap()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no context \"", name, "\" in it"));
  }
  const YAML::Node cluster =
      Named(root, "clusters", "cluster", Text(context, "cluster"));
  if (!cluster.IsDefined() || !cluster.IsMap()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no cluster \"", Text(context, "cluster"), "\" in it"));
  }
  ClusterAccess::Parts parts;
  parts.name_space = Text(context, "namespace");
  if (parts.name_space.empty()) parts.name_space = "default";
  ESPALIER_RETURN_IF_ERROR(ReadCluster(cluster, folder, &parts));
  const YAML::Node user = Named(root, "users", "user", Text(context, "user"));
  if (user.IsDefined() && user.IsMap()) {
    ESPALIER_RETURN_IF_ERROR(ReadUser(user, folder, &parts));
  }
  return parts;
}

}  // namespace

absl::StatusOr<ClusterAccess::Parts> ClusterAccess::Kubeconfig(
    const std::string& path, const std::string& context) {
  try {
    absl::StatusOr<Parts> parts = Load(path, context);
    if (!parts.ok()) {
      return base::Annotate(parts.status(), absl::StrCat("kubeconfig ", path));
    }
    return parts;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("kubeconfig ", path, ": ", error.what()));
  }
}

}  // namespace espalier::kube
