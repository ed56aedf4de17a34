#include "agent/main/key_rotation.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/ipam/file_system.h"
#include "agent/main/node_key.h"
#include "agent/mesh/config/files.h"

namespace espalier::agent {
namespace {

constexpr size_t kMaxRequest = 64 * 1024;

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<KeyRotation::Key> Load(const std::string& path, bool generate) {
  return LoadNodeKey({.file = {.path = path}, .generate = generate});
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", from));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeyRotation>> KeyRotation::Open(
    const std::string& key_file) {
  auto rotation = std::unique_ptr<KeyRotation>(new KeyRotation(key_file));
  const std::string old_file = key_file + ".old";
  const std::string next_file = key_file + ".next";
  if (!Exists(key_file) && Exists(old_file) && Exists(next_file)) {
    // Killed between the two renames of the switch.
    ESPALIER_RETURN_IF_ERROR(Rename(next_file, key_file));
  }
  rotation->made_now_ = !Exists(key_file);
  ESPALIER_ASSIGN_OR_RETURN(rotation->key_, Load(key_file, true));
  if (Exists(next_file)) {
    ESPALIER_ASSIGN_OR_RETURN(rotation->next_, Load(next_file, false));
  }
  if (Exists(old_file)) {
    ESPALIER_ASSIGN_OR_RETURN(rotation->old_, Load(old_file, false));
  }
  const absl::StatusOr<std::string> done =
      mesh::ReadWholeFile(key_file + ".rotated", kMaxRequest);
  if (done.ok()) rotation->done_ = *done;
  return rotation;
}

std::vector<base::Bytes> KeyRotation::public_keys() const {
  std::vector<base::Bytes> keys;
  for (const Key& key : {key_, next_, old_}) {
    if (key == nullptr) continue;
    const base::Bytes& der = key->public_key()->der();
    if (std::ranges::find(keys, der) == keys.end()) keys.push_back(der);
  }
  return keys;
}

absl::Status KeyRotation::Note(const std::string& value) {
  ipam::FileSystem files;
  ESPALIER_RETURN_IF_ERROR(
      files.Replace(file_ + ".rotated", value, /*durable=*/true));
  done_ = value;
  return absl::OkStatus();
}

absl::Status KeyRotation::Request(const std::string& value) {
  if (value.size() > kMaxRequest) {
    return absl::InvalidArgumentError("espalier.dev/rotate is too long");
  }
  if (std::exchange(made_now_, false)) return Note(value);
  if (value.empty() || value == done_ || under_way()) return absl::OkStatus();
  ESPALIER_ASSIGN_OR_RETURN(next_, Load(file_ + ".next", true));
  // From here on the files carry the change to its end.
  ESPALIER_RETURN_IF_ERROR(Note(value));
  since_ = absl::InfiniteFuture();
  base::Log(base::LogLevel::kInfo, "key change begins",
            {{"to", next_->public_key()->Fingerprint()}});
  return absl::OkStatus();
}

absl::StatusOr<bool> KeyRotation::Advance(base::Instant now, bool published,
                                          bool replaced) {
  if (!under_way()) return false;
  // Both files: the old one of a change before this was not withdrawn yet.
  const bool condition = published && (old_ == nullptr || replaced);
  if (!condition) {
    since_ = absl::InfiniteFuture();
    return false;
  }
  since_ = std::min(since_, now);
  if (old_ != nullptr) {
    if (now - since_ < kDrain) return false;
    ipam::FileSystem files;
    ESPALIER_RETURN_IF_ERROR(files.Remove(file_ + ".old"));
    base::Log(base::LogLevel::kInfo,
              "key change ends: the old one is withdrawn",
              {{"old", old_->public_key()->Fingerprint()}});
    old_.reset();
    since_ = absl::InfiniteFuture();
    return false;
  }
  if (now - since_ < kLearn) return false;
  ESPALIER_RETURN_IF_ERROR(Rename(file_, file_ + ".old"));
  ESPALIER_RETURN_IF_ERROR(Rename(file_ + ".next", file_));
  // For people only.
  (void)Rename(file_ + ".next.pub", file_ + ".pub");
  old_ = std::exchange(key_, std::exchange(next_, nullptr));
  since_ = absl::InfiniteFuture();
  base::Log(base::LogLevel::kInfo, "the new key is in use",
            {{"key", key_->public_key()->Fingerprint()}});
  return true;
}

}  // namespace espalier::agent
