#include "agent/mesh/config/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/keys.h"
#include "agent/mesh/config/config.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {
namespace {

constexpr size_t kMaxSecretSize = 4096;
constexpr size_t kMinPskSize = 16;
constexpr size_t kMaxPublicKeySize = 8192;

absl::Status FileError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

// Opens a regular file; the caller closes *fd.
absl::Status OpenRegular(const std::string& path, size_t max_size, int* fd,
                         struct stat* info) {
  // O_NONBLOCK: a FIFO in the file's place must not hang the agent.
  *fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (*fd < 0) return FileError(path, "open");
  if (fstat(*fd, info) != 0) return FileError(path, "examine");
  if (!S_ISREG(info->st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no regular file"));
  }
  if (info->st_size < 0 || static_cast<size_t>(info->st_size) > max_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has ", info->st_size, " octets: expected at most ", max_size));
  }
  return absl::OkStatus();
}

// Reads until the end or until `out` is full.
absl::StatusOr<size_t> ReadAll(const std::string& path, int fd,
                               base::MutableByteSpan out) {
  size_t size = 0;
  while (size < out.size()) {
    const ssize_t n = read(fd, out.data() + size, out.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(path, "read");
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  return size;
}

}  // namespace

absl::StatusOr<base::Bytes> ParsePublicKey(const std::string& text) {
  constexpr absl::string_view kBegin = "-----BEGIN PUBLIC KEY-----";
  constexpr absl::string_view kEnd = "-----END PUBLIC KEY-----";
  if (absl::StrContains(text, "PRIVATE KEY")) {
    // Not quoted: it would put the key into the log.
    return absl::InvalidArgumentError(
        "a private key stands where a peer's public key belongs; treat it as "
        "known to others and make a new one");
  }
  std::string body = text;
  if (const size_t begin = text.find(kBegin.data()); begin != text.npos) {
    const size_t end = text.find(kEnd.data(), begin);
    if (end == text.npos) {
      return absl::InvalidArgumentError(
          "the public key has no END PUBLIC KEY line");
    }
    body = text.substr(begin + kBegin.size(), end - begin - kBegin.size());
  }
  std::string base64;
  for (char c : body) {
    if (!absl::ascii_isspace(static_cast<unsigned char>(c))) {
      base64.push_back(c);
    }
  }
  std::string der_text;
  base::Bytes der;
  if (base64.size() <= kMaxPublicKeySize &&
      absl::Base64Unescape(base64, &der_text)) {
    der.assign(der_text.begin(), der_text.end());
  }
  if (der.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", absl::CHexEscape(text.substr(0, 40)),
                     "' is no public key: expected PEM (BEGIN PUBLIC KEY) or "
                     "the base64 of its DER, as `openssl pkey -pubout` prints "
                     "it"));
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::shared_ptr<const crypto::PublicKey> key,
                            crypto::PublicKey::FromDer(der));
  return key->der();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path,
                                          size_t max_size) {
  int fd = -1;
  const absl::Cleanup close_fd = [&] {
    if (fd >= 0) close(fd);
  };
  struct stat info{};
  ESPALIER_RETURN_IF_ERROR(OpenRegular(path, max_size, &fd, &info));
  // By the file's size, not by what it may have: that is 256 MB for a program.
  std::string text;
  size_t size = 0;
  do {
    // One more than there should be: it may grow meanwhile.
    const size_t room =
        std::max(static_cast<size_t>(info.st_size), 2 * size) + 1;
    text.resize(std::min(room, max_size + 1));
    ESPALIER_ASSIGN_OR_RETURN(
        const size_t read,
        ReadAll(path, fd,
                {reinterpret_cast<uint8_t*>(text.data()) + size,
                 text.size() - size}));
    size += read;
  } while (size == text.size() && size <= max_size);
  if (size > max_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " grew beyond ", max_size, " octets"));
  }
  text.resize(size);
  return text;
}

absl::StatusOr<base::SecretBytes> ReadSecretFile(const std::string& path,
                                                 size_t max_size) {
  int fd = -1;
  const absl::Cleanup close_fd = [&] {
    if (fd >= 0) close(fd);
  };
  struct stat info{};
  ESPALIER_RETURN_IF_ERROR(OpenRegular(path, max_size, &fd, &info));
  if (info.st_uid != 0 && info.st_uid != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat(
        path, " belongs to user ", info.st_uid,
        ": expected root or the agent's user (chown root ", path, ")"));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(
        path, " may be used by others (mode ", absl::Hex(info.st_mode >> 6 & 7),
        absl::Hex(info.st_mode >> 3 & 7), absl::Hex(info.st_mode & 7),
        "): expected mode 600 (chmod 600 ", path, ")"));
  }
  base::SecretBytes buffer(max_size);
  ESPALIER_ASSIGN_OR_RETURN(const size_t size,
                            ReadAll(path, fd, buffer.mutable_span()));
  return buffer.Slice(0, size);
}

std::string RelativeTo(const std::string& from, const std::string& path) {
  const size_t slash = from.rfind('/');
  if (absl::StartsWith(path, "/") || slash == std::string::npos) return path;
  return absl::StrCat(from.substr(0, slash + 1), path);
}

absl::Status LoadFiles(const std::string& name, Config* config) {
  ErrorList errors(name);
  const auto wrong = [&](const FileReference& file,
                         const absl::Status& status) {
    errors.Add(file.line, file.column, std::string(status.message()));
  };
  const auto stamp = [&](const FileReference& file) {
    config->files[file.path] = base::StampOf(file.path);
  };
  // One shared secret for all peers that name the same file.
  std::map<std::string, std::shared_ptr<const base::SecretBytes>> secrets;
  const auto load_psk = [&](PskCredential* psk) {
    psk->file.path = RelativeTo(name, psk->file.path);
    const auto known = secrets.find(psk->file.path);
    if (known != secrets.end()) {
      psk->secret = known->second;
      return;
    }
    secrets[psk->file.path] = nullptr;  // its error is said once
    stamp(psk->file);
    absl::StatusOr<base::SecretBytes> read =
        ReadSecretFile(psk->file.path, kMaxSecretSize);
    if (!read.ok()) return wrong(psk->file, read.status());
    size_t size = read->size();
    if (size > 0 && read->span()[size - 1] == '\n') --size;
    if (size < kMinPskSize) {
      return wrong(
          psk->file,
          absl::InvalidArgumentError(absl::StrCat(
              psk->file.path, " holds ", size,
              " octets: expected a pre-shared key of at least ", kMinPskSize,
              " (openssl rand -base64 32 > ", psk->file.path, ")")));
    }
    psk->secret =
        std::make_shared<const base::SecretBytes>(read->Slice(0, size));
    secrets[psk->file.path] = psk->secret;
  };
  const auto load_keys = [&](PublicKeyCredential* keys) {
    for (FileReference& file : keys->files) {
      file.path = RelativeTo(name, file.path);
      stamp(file);
      absl::StatusOr<std::string> text =
          ReadWholeFile(file.path, kMaxPublicKeySize);
      if (!text.ok()) {
        wrong(file, text.status());
        continue;
      }
      absl::StatusOr<base::Bytes> key = ParsePublicKey(*text);
      if (!key.ok()) {
        wrong(file, base::Annotate(key.status(), file.path));
        continue;
      }
      keys->keys.push_back(*std::move(key));
    }
  };
  for (Peer& peer : config->peers) {
    if (auto* psk = std::get_if<PskCredential>(&peer.credential)) {
      load_psk(psk);
    } else {
      load_keys(&std::get<PublicKeyCredential>(peer.credential));
    }
  }
  if (config->private_key) {
    FileReference& file = config->private_key->file;
    file.path = RelativeTo(name, file.path);
    if (config->source == ClusterSource::kFile) stamp(file);
    const bool absent = access(file.path.c_str(), F_OK) != 0 && errno == ENOENT;
    if (!absent || !config->private_key->generate) {
      absl::StatusOr<base::SecretBytes> pem =
          ReadSecretFile(file.path, kMaxPublicKeySize);
      absl::Status status = pem.status();
      if (pem.ok()) {
        auto key = crypto::PrivateKey::FromPem(*pem);
        status = base::Annotate(key.status(), file.path);
        if (key.ok()) config->private_key->key = *std::move(key);
      }
      if (!status.ok()) wrong(file, status);
    }
  }
  return errors.ToStatus();
}

absl::StatusOr<Config> ReadConfig(const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(const std::string text,
                            ReadWholeFile(path, kMaxConfigSize));
  const char* node_name = getenv("NODE_NAME");
  return ParseConfig(text, path, node_name == nullptr ? "" : node_name);
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  const base::FileStamp stamp = base::StampOf(path);
  ESPALIER_ASSIGN_OR_RETURN(Config config, ReadConfig(path));
  config.files[path] = stamp;
  ESPALIER_RETURN_IF_ERROR(LoadFiles(path, &config));
  return config;
}

}  // namespace espalier::mesh
