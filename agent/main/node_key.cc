#include "agent/main/node_key.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/mesh/config/files.h"

namespace espalier::agent {
namespace {

constexpr size_t kMaxKeySize = 16384;

// Writes `text` to `path` by way of a file beside it.
absl::Status WriteWhole(const std::string& path, base::ByteSpan text,
                        mode_t mode) {
  const std::string draft = absl::StrCat(path, ".new");
  const auto error = [&](const char* what) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
  };
  unlink(draft.c_str());
  const int fd =
      open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return error("create");
  const bool written = write(fd, text.data(), text.size()) ==
                           static_cast<ssize_t>(text.size()) &&
                       fchmod(fd, mode) == 0 && fsync(fd) == 0;
  close(fd);
  // link and not rename: a key that another agent made in the meantime stays.
  if (!written || link(draft.c_str(), path.c_str()) != 0) {
    const absl::Status status = error("write");
    unlink(draft.c_str());
    return status;
  }
  unlink(draft.c_str());
  return absl::OkStatus();
}

absl::Status Generate(const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(
      const std::shared_ptr<const crypto::PrivateKey> key,
      crypto::PrivateKey::Generate(crypto::KeyType::kEd25519));
  const std::string public_path = path + ".pub";
  unlink(public_path.c_str());
  const std::string public_pem = key->public_key()->ToPem();
  ESPALIER_RETURN_IF_ERROR(
      WriteWhole(public_path, base::AsBytes(public_pem), 0644));
  const base::SecretBytes pem = key->ToPem();
  ESPALIER_RETURN_IF_ERROR(WriteWhole(path, pem.span(), 0600));
  base::Log(base::LogLevel::kInfo, "node key made",
            {{"file", path},
             {"public key", public_path},
             {"fingerprint", key->public_key()->Fingerprint()}});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const crypto::PrivateKey>> LoadNodeKey(
    const mesh::PrivateKeySource& source) {
  const std::string& path = source.file.path;
  if (source.generate && access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    ESPALIER_RETURN_IF_ERROR(Generate(path));
  }
  ESPALIER_ASSIGN_OR_RETURN(const base::SecretBytes pem,
                            mesh::ReadSecretFile(path, kMaxKeySize));
  absl::StatusOr<std::shared_ptr<const crypto::PrivateKey>> key =
      crypto::PrivateKey::FromPem(pem);
  if (!key.ok()) return base::Annotate(key.status(), path);
  return key;
}

std::optional<absl::Duration> KeyAge(const std::string& path, absl::Time now) {
  struct stat info{};
  if (path.empty() || stat(path.c_str(), &info) != 0) return std::nullopt;
  return std::max(now - absl::TimeFromTimespec(info.st_mtim),
                  absl::ZeroDuration());
}

}  // namespace espalier::agent
