// Whether a file is still what was read of it.
#ifndef ESPALIER_AGENT_BASE_FILE_STAMP_H_
#define ESPALIER_AGENT_BASE_FILE_STAMP_H_

#include <cstdint>
#include <string>

namespace espalier::base {

// What tells one content of a path from the next, without reading it.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size = 0;
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// Of what stands behind `path`, through links; an empty one where nothing does.
FileStamp StampOf(const std::string& path);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_FILE_STAMP_H_
