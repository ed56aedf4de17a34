#include "agent/main/key_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"

namespace espalier::agent {
namespace {

absl::StatusOr<int> OpenTable(const std::string& path) {
  const int fd =
      open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  // A file that was there before may have been anyone's to read.
  if (fd < 0 || fchmod(fd, 0600) != 0) {
    if (fd >= 0) close(fd);
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("cannot open the key log ", path));
  }
  return fd;
}

// One write a line. The text is not wiped: it is in the file anyway.
void Append(int fd, const std::string& line) {
  if (write(fd, line.data(), line.size()) !=
      static_cast<ssize_t>(line.size())) {
    base::Log(base::LogLevel::kWarning, "key log not written",
              {{"error", absl::ErrnoToStatus(errno, "write")}});
  }
}

std::string Hex(const base::SecretBytes& key) {
  return base::ToHex(key.span());
}

const char* IkeIntegrity(crypto::Integrity integrity) {
  switch (integrity) {
    case crypto::Integrity::kNone:
      return "NONE [RFC4306]";
    case crypto::Integrity::kHmacSha2_256_128:
      return "HMAC_SHA2_256_128 [RFC4868]";
    case crypto::Integrity::kHmacSha2_384_192:
      return "HMAC_SHA2_384_192 [RFC4868]";
    case crypto::Integrity::kHmacSha2_512_256:
      return "HMAC_SHA2_512_256 [RFC4868]";
  }
  return "NONE [RFC4306]";
}

const char* EspIntegrity(base::EspIntegrity integrity) {
  switch (integrity) {
    case base::EspIntegrity::kNone:
      return "NULL";
    case base::EspIntegrity::kHmacSha2_256_128:
      return "HMAC-SHA-256-128 [RFC4868]";
    case base::EspIntegrity::kHmacSha2_384_192:
      return "HMAC-SHA-384-192 [RFC4868]";
    case base::EspIntegrity::kHmacSha2_512_256:
      return "HMAC-SHA-512-256 [RFC4868]";
  }
  return "NULL";
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeyLog>> KeyLog::Open(
    const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot make the key log's folder ", folder));
  }
  ESPALIER_ASSIGN_OR_RETURN(const int ike,
                            OpenTable(folder + "/ikev2_decryption_table"));
  absl::StatusOr<int> esp = OpenTable(folder + "/esp_sa");
  if (!esp.ok()) {
    close(ike);
    return esp.status();
  }
  base::Log(base::LogLevel::kWarning,
            "every key is written to disk (keyLogDirectory)",
            {{"folder", folder}});
  return std::unique_ptr<KeyLog>(new KeyLog(ike, *esp));
}

KeyLog::~KeyLog() {
  close(ike_fd_);
  close(esp_fd_);
}

void KeyLog::Write(const ike::LogIkeKeys& keys) {
  std::string cipher;
  if (keys.cipher == crypto::Cipher::kAesGcm16) {
    cipher =
        absl::StrCat("AES-GCM-", keys.key_bits, " with 16 octet ICV [RFC5282]");
  } else if (keys.cipher == crypto::Cipher::kAesCbc) {
    cipher = absl::StrCat("AES-CBC-", keys.key_bits, " [RFC3602]");
  } else {
    return;
  }
  Append(ike_fd_, absl::StrFormat("%016x,%016x,%s,%s,\"%s\",%s,%s,\"%s\"\n",
                                  keys.initiator_spi, keys.responder_spi,
                                  Hex(keys.sk_ei), Hex(keys.sk_er), cipher,
                                  Hex(keys.sk_ai), Hex(keys.sk_ar),
                                  IkeIntegrity(keys.integrity)));
}

void KeyLog::Write(const base::EspSa& sa) {
  const char* cipher = nullptr;
  if (sa.suite.cipher == base::EspCipher::kAesGcm16) {
    cipher = "AES-GCM with 16 octet ICV [RFC4106]";
  } else if (sa.suite.cipher == base::EspCipher::kAesCbc) {
    cipher = "AES-CBC [RFC3602]";
  } else {
    return;
  }
  const std::string integrity_key =
      sa.integrity_key.empty() ? "" : absl::StrCat("0x", Hex(sa.integrity_key));
  Append(esp_fd_,
         absl::StrFormat(
             "\"%s\",\"%s\",\"%s\",\"0x%08x\",\"%s\",\"0x%s\",\"%s\",\"%s\"\n",
             sa.outer_source.is_v4() ? "IPv4" : "IPv6",
             sa.outer_source.ToString(), sa.outer_destination.ToString(),
             sa.spi.value(), cipher, Hex(sa.encryption_key),
             EspIntegrity(sa.suite.integrity), integrity_key));
}

}  // namespace espalier::agent
