// A file system whose n-th operation fails.
#ifndef ESPALIER_TESTS_UNIT_IPAM_FAULT_FILE_SYSTEM_H_
#define ESPALIER_TESTS_UNIT_IPAM_FAULT_FILE_SYSTEM_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/ipam/file_system.h"

namespace espalier::ipam {

class FaultFileSystem : public FileSystem {
 public:
  // The n-th operation from now on fails, counted from 1; 0: none.
  void FailAt(int n) { countdown_ = n; }
  // Whether that has happened.
  bool failed() const { return failed_; }
  void Reset() { countdown_ = 0, failed_ = false; }

  absl::StatusOr<int> Create(const std::string& path) override {
    if (Fails()) return Fault();
    return FileSystem::Create(path);
  }
  absl::Status Write(int fd, absl::string_view data) override {
    if (!Fails()) return FileSystem::Write(fd, data);
    // As a full disk does: a part of it is written.
    (void)FileSystem::Write(fd, data.substr(0, data.size() / 2));
    return Fault();
  }
  absl::Status Sync(int fd) override {
    return Fails() ? Fault() : FileSystem::Sync(fd);
  }
  absl::Status Close(int fd) override {
    const absl::Status status = FileSystem::Close(fd);
    return Fails() ? Fault() : status;
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Fails() ? Fault() : FileSystem::Rename(from, to);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    return Fails() ? Fault() : FileSystem::SyncDirectory(path);
  }
  absl::Status MakeDirectory(const std::string& path) override {
    return Fails() ? Fault() : FileSystem::MakeDirectory(path);
  }
  absl::StatusOr<std::string> Read(const std::string& path,
                                   size_t limit) override {
    if (Fails()) return Fault();
    return FileSystem::Read(path, limit);
  }
  absl::Status Remove(const std::string& path) override {
    return Fails() ? Fault() : FileSystem::Remove(path);
  }
  absl::StatusOr<std::vector<std::string>> List(
      const std::string& path) override {
    if (Fails()) return Fault();
    return FileSystem::List(path);
  }

 private:
  bool Fails() {
    if (countdown_ == 0 || --countdown_ > 0) return false;
    failed_ = true;
    return true;
  }
  static absl::Status Fault() { return absl::UnknownError("injected fault"); }

  int countdown_ = 0;
  bool failed_ = false;
};

}  // namespace espalier::ipam

#endif  // ESPALIER_TESTS_UNIT_IPAM_FAULT_FILE_SYSTEM_H_
