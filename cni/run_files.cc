#include "cni/run_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::cni {
namespace {

absl::Status ErrnoStatus(const std::string& what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
}

absl::Status MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return ErrnoStatus("create folder", path);
}

absl::Status WriteAll(int fd, const std::string& text,
                      const std::string& path) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write", path);
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

// Empty when it cannot be read. These are files of one line.
std::string ReadSmallFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return "";
  char buffer[256];
  const ssize_t n = read(fd, buffer, sizeof(buffer));
  close(fd);
  return n <= 0 ? "" : std::string(buffer, static_cast<size_t>(n));
}

}  // namespace

absl::Status RunFiles::QueueDeletion(const v1::DeleteRequest& request) {
  ESPALIER_RETURN_IF_ERROR(MakeDirectory(directory_.path()));
  const std::string queue = directory_.DeletionQueue();
  ESPALIER_RETURN_IF_ERROR(MakeDirectory(queue));
  const std::string name =
      base::DeletionFileName(request.attachment().container_id(),
                             request.attachment().interface_name());
  const std::string path = absl::StrCat(queue, "/", name);
  const std::string temporary = absl::StrCat(queue, "/.", name, ".", getpid());
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus("create", temporary);
  absl::Status status = WriteAll(fd, request.SerializeAsString(), temporary);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus("close", temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus("rename to", path);
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

std::optional<absl::Duration> RunFiles::HeartbeatAge() {
  const auto heartbeat =
      base::Heartbeat::Parse(ReadSmallFile(directory_.HeartbeatFile()));
  if (!heartbeat.has_value()) return std::nullopt;
  std::string boot = ReadSmallFile("/proc/sys/kernel/random/boot_id");
  while (!boot.empty() && boot.back() == '\n') boot.pop_back();
  if (boot != heartbeat->boot_id) return std::nullopt;
  return base::SteadyClock().Now() - heartbeat->at;
}

}  // namespace espalier::cni
