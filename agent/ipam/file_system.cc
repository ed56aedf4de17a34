#include "agent/ipam/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::ipam {
namespace {

absl::Status ErrnoStatus(absl::string_view what) {
  return absl::ErrnoToStatus(errno, what);
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

absl::StatusOr<int> FileSystem::Create(const std::string& path) {
  const int fd =
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(absl::StrCat("create ", path));
  return fd;
}

absl::Status FileSystem::Write(int fd, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status FileSystem::Sync(int fd) {
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus("fsync");
}

absl::Status FileSystem::Close(int fd) {
  return close(fd) == 0 ? absl::OkStatus() : ErrnoStatus("close");
}

absl::Status FileSystem::Rename(const std::string& from,
                                const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("rename ", from, " to ", to));
}

absl::Status FileSystem::SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(absl::StrCat("open folder ", path));
  absl::Status status;
  if (fsync(fd) != 0) status = ErrnoStatus(absl::StrCat("fsync ", path));
  close(fd);
  return status;
}

absl::Status FileSystem::MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  const std::string parent = ParentOf(path);
  if (errno != ENOENT || parent == path || parent == ".") {
    return ErrnoStatus(absl::StrCat("create folder ", path));
  }
  ESPALIER_RETURN_IF_ERROR(MakeDirectory(parent));
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return ErrnoStatus(absl::StrCat("create folder ", path));
}

absl::StatusOr<std::string> FileSystem::Read(const std::string& path,
                                             size_t limit) {
  // Not blocking: what lies there may be no file at all.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(absl::StrCat("open ", path));
  std::string out;
  char buffer[65536];
  absl::Status status;
  while (out.size() <= limit) {
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = ErrnoStatus(absl::StrCat("read ", path));
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  ESPALIER_RETURN_IF_ERROR(status);
  if (out.size() > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("read ", path, ": more than ", limit, " octets"));
  }
  return out;
}

absl::Status FileSystem::Remove(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("remove ", path));
}

absl::StatusOr<std::vector<std::string>> FileSystem::List(
    const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()),
                                                      &closedir);
  if (directory == nullptr) {
    if (errno == ENOENT) return names;
    return ErrnoStatus(absl::StrCat("list ", path));
  }
  while (true) {
    errno = 0;
    const dirent* entry = readdir(directory.get());
    if (entry == nullptr) {
      if (errno != 0) return ErrnoStatus(absl::StrCat("list ", path));
      return names;
    }
    if (entry->d_name[0] != '.' && entry->d_type != DT_DIR) {
      names.emplace_back(entry->d_name);
    }
  }
}

absl::Status FileSystem::Replace(const std::string& path,
                                 absl::string_view data, bool durable) {
  const std::string temporary = path + ".new";
  ESPALIER_ASSIGN_OR_RETURN(const int fd, Create(temporary));
  absl::Status status = Write(fd, data);
  if (status.ok() && durable) status = Sync(fd);
  const absl::Status closed = Close(fd);
  if (status.ok()) status = closed;
  if (status.ok()) status = Rename(temporary, path);
  if (!status.ok()) {
    // The next try truncates it anyway.
    (void)Remove(temporary);
    return base::Annotate(status, absl::StrCat("replace ", path));
  }
  return durable ? SyncDirectory(ParentOf(path)) : absl::OkStatus();
}

}  // namespace espalier::ipam
