// How to reach the API server, and as whom: a pod's service account, or a
// kubeconfig. TLS is always verified: an http server and
// insecure-skip-tls-verify are refused.
#ifndef ESPALIER_AGENT_KUBE_CLUSTER_ACCESS_H_
#define ESPALIER_AGENT_KUBE_CLUSTER_ACCESS_H_

#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/secret_bytes.h"

namespace espalier::kube {

// What a connection is made with. Secrets are PEM text or the bare token.
struct Credentials {
  std::string server;           // https://host:port, without a slash at the end
  std::string tls_server_name;  // empty: the server's host
  std::string ca;               // PEM; empty: the system's
  std::string client_certificate;  // PEM; empty: none
  base::SecretBytes client_key;
  base::SecretBytes token;  // empty: none
};

// A value in the file itself, or in a file of its own.
struct FileOrData {
  std::string file;
  base::SecretBytes data;
  bool empty() const { return file.empty() && data.empty(); }
};

class ClusterAccess {
 public:
  struct Parts {
    std::string server;
    std::string tls_server_name;
    std::string name_space;
    FileOrData ca;
    FileOrData client_certificate;
    FileOrData client_key;
    FileOrData token;
  };
  static constexpr char kServiceAccountFolder[] =
      "/var/run/secrets/kubernetes.io/serviceaccount";

  explicit ClusterAccess(Parts parts) : parts_(std::move(parts)) {}
  // KUBERNETES_SERVICE_HOST and _PORT, and the files kubelet puts in the pod.
  static absl::StatusOr<ClusterAccess::Parts> ServiceAccount(
      const std::string& folder = kServiceAccountFolder);
  // The file's current context, or the one named. Credential plugins (exec)
  // and auth-provider are for people's tools and refused.
  static absl::StatusOr<ClusterAccess::Parts> Kubeconfig(
      const std::string& path, const std::string& context = "");
  // `kubeconfig`, or the service account when that is empty.
  static absl::StatusOr<ClusterAccess::Parts> Find(
      const std::string& kubeconfig);

  // The namespace of the pod or context; "default" when none is named.
  const std::string& name_space() const { return parts_.name_space; }

  // Reads the files each time, so that a renewed token or CA is used from the
  // next request on. A file that cannot be read now but could be before is
  // taken as it was. From any thread.
  absl::StatusOr<Credentials> Read();

 private:
  absl::Status ReadOne(const FileOrData& source, const char* what,
                       base::SecretBytes* last, base::SecretBytes* out);

  const Parts parts_;
  std::mutex mutex_;  // of what follows
  base::SecretBytes last_ca_;
  base::SecretBytes last_certificate_;
  base::SecretBytes last_key_;
  base::SecretBytes last_token_;
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_CLUSTER_ACCESS_H_
