// The allocator's state on disk.
#ifndef ESPALIER_AGENT_IPAM_CHECKPOINT_H_
#define ESPALIER_AGENT_IPAM_CHECKPOINT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/ipam/allocator.h"
#include "agent/ipam/file_system.h"

namespace espalier::ipam {

// The file's text: JSON with "version" 1. ParseState is total; its errors are
// InvalidArgument and say where.
std::string FormatState(const State& state, const std::string& boot_id);
struct ParsedState {
  State state;
  std::string boot_id;
};
absl::StatusOr<ParsedState> ParseState(absl::string_view text);

class Checkpoint {
 public:
  // `files` is borrowed and outlives this.
  Checkpoint(FileSystem* files, std::string path)
      : files_(files), path_(std::move(path)) {}

  struct Loaded {
    State state;  // empty when there was none
    // Of the boot in which it was written; empty when there was none.
    std::string boot_id;
    // Not empty: the file was unusable, is kept here, and why. What is in use
    // has to be found out from the live interfaces.
    std::string kept_aside;
    std::string reason;
  };
  // Only a file that cannot be read, or not be put aside, is an error: to go
  // on without it could give an address to two pods.
  absl::StatusOr<Loaded> Load();

  // Atomic and durable. After an error the old file or the new one is there.
  absl::Status Save(const State& state, const std::string& boot_id);

 private:
  FileSystem* files_;
  std::string path_;
};

}  // namespace espalier::ipam

#endif  // ESPALIER_AGENT_IPAM_CHECKPOINT_H_
