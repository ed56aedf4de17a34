#include "agent/kube/cluster_access.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/ip_address.h"
#include "agent/base/status_macros.h"

namespace espalier::kube {
namespace {

constexpr size_t kMostOctets = size_t{1} << 20;
constexpr size_t kFirstOctets = 4096;

absl::StatusOr<base::SecretBytes> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("read ", path, ": ", strerror(errno)));
  }
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  base::SecretBytes octets(kFirstOctets);
  size_t used = 0;
  while (true) {
    if (used == octets.size()) {
      if (used >= kMostOctets) {
        return absl::FailedPreconditionError(
            absl::StrCat("read ", path, ": longer than 1 MiB"));
      }
      base::SecretBytes larger(used * 2);
      std::memcpy(larger.mutable_span().data(), octets.span().data(), used);
      octets = std::move(larger);
    }
    const base::MutableByteSpan rest = octets.mutable_span().subspan(used);
    const ssize_t n = read(fd, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("read ", path, ": ", strerror(errno)));
    }
    if (n == 0) break;
    used += static_cast<size_t>(n);
  }
  return octets.Slice(0, used);
}

std::string AsText(const base::SecretBytes& octets) {
  return std::string(reinterpret_cast<const char*>(octets.span().data()),
                     octets.size());
}

// A header's value: without white space around it, and nothing in it that
// could end the header.
absl::StatusOr<base::SecretBytes> TokenFrom(const base::SecretBytes& octets) {
  const base::ByteSpan all = octets.span();
  size_t begin = 0;
  size_t end = all.size();
  while (begin < end && absl::ascii_isspace(all[begin])) ++begin;
  while (end > begin && absl::ascii_isspace(all[end - 1])) --end;
  for (size_t i = begin; i < end; ++i) {
    if (!absl::ascii_isgraph(all[i])) {
      return absl::FailedPreconditionError(
          "the token for the API server has a character no token has");
    }
  }
  return octets.Slice(begin, end - begin);
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

absl::StatusOr<ClusterAccess::Parts> ClusterAccess::ServiceAccount(
    const std::string& folder) {
  const std::string host = Environment("KUBERNETES_SERVICE_HOST");
  const std::string port = Environment("KUBERNETES_SERVICE_PORT");
  uint32_t number = 0;
  if (host.empty() || !absl::SimpleAtoi(port, &number) || number < 1 ||
      number > 65535) {
    return absl::FailedPreconditionError(
        "find the API server: KUBERNETES_SERVICE_HOST and "
        "KUBERNETES_SERVICE_PORT are not set, so this is not a pod; outside "
        "one, name a kubeconfig file");
  }
  const absl::StatusOr<base::IpAddress> address = base::IpAddress::Parse(host);
  if (!address.ok()) {
    for (const unsigned char c : host) {
      if (!absl::ascii_isalnum(c) && c != '.' && c != '-' && c != '_') {
        return absl::FailedPreconditionError(
            absl::StrCat("find the API server: KUBERNETES_SERVICE_HOST \"",
                         host, "\" is neither an address nor a name"));
      }
    }
  }
  const bool brackets = address.ok() && address->is_v6();
  Parts parts;
  parts.server = absl::StrCat("https://", brackets ? "[" : "", host,
                              brackets ? "]" : "", ":", number);
  parts.ca.file = absl::StrCat(folder, "/ca.crt");
  parts.token.file = absl::StrCat(folder, "/token");
  parts.name_space = "default";
  if (absl::StatusOr<base::SecretBytes> name =
          ReadFile(absl::StrCat(folder, "/namespace"));
      name.ok() && !name->empty()) {
    parts.name_space = std::string(absl::StripAsciiWhitespace(AsText(*name)));
  }
  return parts;
}

absl::StatusOr<ClusterAccess::Parts> ClusterAccess::Find(
    const std::string& kubeconfig) {
  return kubeconfig.empty() ? ServiceAccount() : Kubeconfig(kubeconfig);
}

absl::Status ClusterAccess::ReadOne(const FileOrData& source, const char* what,
                                    base::SecretBytes* last,
                                    base::SecretBytes* out) {
  if (source.file.empty()) {
    *out = source.data.Clone();
    return absl::OkStatus();
  }
  absl::StatusOr<base::SecretBytes> read = ReadFile(source.file);
  // An empty file is one that is just being written.
  if (read.ok() && !read->empty()) {
    *last = *std::move(read);
  } else if (last->empty()) {
    return base::Annotate(read.ok()
                              ? absl::FailedPreconditionError(
                                    absl::StrCat(source.file, " is empty"))
                              : read.status(),
                          absl::StrCat("the API server's ", what));
  }
  *out = last->Clone();
  return absl::OkStatus();
}

absl::StatusOr<Credentials> ClusterAccess::Read() {
  const std::lock_guard lock(mutex_);
  Credentials credentials;
  credentials.server = parts_.server;
  credentials.tls_server_name = parts_.tls_server_name;
  base::SecretBytes octets;
  ESPALIER_RETURN_IF_ERROR(
      ReadOne(parts_.ca, "CA certificate", &last_ca_, &octets));
  credentials.ca = AsText(octets);
  ESPALIER_RETURN_IF_ERROR(ReadOne(parts_.client_certificate,
                                   "client certificate", &last_certificate_,
                                   &octets));
  credentials.client_certificate = AsText(octets);
  ESPALIER_RETURN_IF_ERROR(ReadOne(parts_.client_key, "client key", &last_key_,
                                   &credentials.client_key));
  ESPALIER_RETURN_IF_ERROR(
      ReadOne(parts_.token, "token", &last_token_, &octets));
  ESPALIER_ASSIGN_OR_RETURN(credentials.token, TokenFrom(octets));
  return credentials;
}

}  // namespace espalier::kube
