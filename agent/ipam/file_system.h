// The file operations of a checkpoint, each of which may fail on its own.
#ifndef ESPALIER_AGENT_IPAM_FILE_SYSTEM_H_
#define ESPALIER_AGENT_IPAM_FILE_SYSTEM_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace espalier::ipam {

// Errors have the canonical code of their errno (ENOENT is NotFound) and name
// the operation and the path. Virtual for tests.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Descriptor of an empty file, mode 0600, for Write, Sync and Close.
  virtual absl::StatusOr<int> Create(const std::string& path);
  virtual absl::Status Write(int fd, absl::string_view data);
  virtual absl::Status Sync(int fd);
  virtual absl::Status Close(int fd);
  virtual absl::Status Rename(const std::string& from, const std::string& to);
  // Makes renames inside durable.
  virtual absl::Status SyncDirectory(const std::string& path);
  // With its parents, mode 0700; OK when it is there.
  virtual absl::Status MakeDirectory(const std::string& path);
  // ResourceExhausted when it holds more than `limit` octets.
  virtual absl::StatusOr<std::string> Read(const std::string& path,
                                           size_t limit);
  // OK when it is gone.
  virtual absl::Status Remove(const std::string& path);
  // Names of regular files that do not begin with a dot; empty when the folder
  // is not there.
  virtual absl::StatusOr<std::vector<std::string>> List(
      const std::string& path);

  // Replaces `path` in one step: after a crash it holds the old contents or
  // the new, never a part. Durable when `durable`.
  absl::Status Replace(const std::string& path, absl::string_view data,
                       bool durable);
};

}  // namespace espalier::ipam

#endif  // ESPALIER_AGENT_IPAM_FILE_SYSTEM_H_
