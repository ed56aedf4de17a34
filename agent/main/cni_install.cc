#include "agent/main/cni_install.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/mesh/config/files.h"

namespace espalier::agent {
namespace {

constexpr char kPluginName[] = "espalier-cni";
constexpr absl::Duration kAnswerTime = absl::Seconds(5);
constexpr size_t kMaxAnswer = 64 * 1024;
constexpr size_t kMaxBinary = size_t{256} << 20;
constexpr absl::Duration kLookEvery = absl::Milliseconds(200);
constexpr absl::Duration kKeepEvery = absl::Seconds(2);
constexpr absl::Duration kTellEvery = absl::Seconds(20);

absl::Status FileError(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

// Until the other end closes it, or the time is over.
absl::StatusOr<std::string> ReadAnswer(int fd) {
  const absl::Time end = absl::Now() + kAnswerTime;
  std::string answer;
  while (answer.size() < kMaxAnswer) {
    pollfd poller{.fd = fd, .events = POLLIN};
    const int64_t left = absl::ToInt64Milliseconds(end - absl::Now());
    const int ready = left <= 0 ? 0 : poll(&poller, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return absl::UnavailableError("it does not answer");
    char buffer[4096];
    const ssize_t size = read(fd, buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    answer.append(buffer, static_cast<size_t>(size));
  }
  return answer;
}

absl::StatusOr<std::string> RunVersion(const std::string& plugin) {
  int in[2] = {-1, -1};
  int out[2] = {-1, -1};
  const absl::Cleanup close_all = [&] {
    for (int fd : {in[0], in[1], out[0], out[1]}) {
      if (fd >= 0) close(fd);
    }
  };
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
    return FileError("make a pipe to", plugin);
  }
  constexpr char kInput[] = R"({"cniVersion":"1.0.0"})";
  if (write(in[1], kInput, sizeof(kInput) - 1) < 0) {
    return FileError("write to", plugin);
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  std::string command = "CNI_COMMAND=VERSION";
  std::string path = plugin;
  char* const arguments[] = {path.data(), nullptr};
  char* const environment[] = {command.data(), nullptr};
  pid_t pid = -1;
  const int failed = posix_spawn(&pid, plugin.c_str(), &actions, nullptr,
                                 arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot run ", plugin, ": ", strerror(failed)));
  }
  close(std::exchange(in[1], -1));
  close(std::exchange(out[1], -1));
  absl::StatusOr<std::string> answer = ReadAnswer(out[0]);
  if (!answer.ok()) kill(pid, SIGKILL);
  int ended = 0;
  while (waitpid(pid, &ended, 0) < 0 && errno == EINTR) {
  }
  return answer;
}

bool SameContent(const std::string& path, const std::string& content,
                 mode_t mode) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0 || (info.st_mode & 07777) != mode ||
      static_cast<size_t>(info.st_size) != content.size()) {
    return false;
  }
  const absl::StatusOr<std::string> now =
      mesh::ReadWholeFile(path, content.size());
  return now.ok() && *now == content;
}

absl::Status WriteAll(int fd, const std::string& content) {
  size_t at = 0;
  while (at < content.size()) {
    const ssize_t size = write(fd, content.data() + at, content.size() - at);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return absl::ErrnoToStatus(errno, "write");
    at += static_cast<size_t>(size);
  }
  return absl::OkStatus();
}

// A runtime reads every *.conflist there, but nothing that begins with a dot.
std::string DraftOf(const std::string& folder, const std::string& name) {
  return absl::StrCat(folder, "/.", name, ".new");
}

absl::Status Place(const std::string& folder, const std::string& name,
                   const std::string& content, mode_t mode) {
  const std::string path = absl::StrCat(folder, "/", name);
  if (SameContent(path, content, mode)) return absl::OkStatus();
  const std::string draft = DraftOf(folder, name);
  unlink(draft.c_str());
  const int fd =
      open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return FileError("create", draft);
  absl::Status status = WriteAll(fd, content);
  if (status.ok() && (fchmod(fd, mode) != 0 || fsync(fd) != 0)) {
    status = FileError("write", draft);
  }
  close(fd);
  if (status.ok() && rename(draft.c_str(), path.c_str()) != 0) {
    status = FileError("rename to", path);
  }
  if (!status.ok()) unlink(draft.c_str());
  return base::Annotate(status, path);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AskPluginVersions(
    const std::string& plugin) {
  if (access(plugin.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(
        plugin,
        " is not there: install the reference CNI plugins (hostPort "
        "needs portmap)"));
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::string answer, RunVersion(plugin));
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  std::vector<std::string> versions;
  if (json.is_object() && json.contains("supportedVersions")) {
    for (const auto& version : json["supportedVersions"]) {
      if (version.is_string()) versions.push_back(version);
    }
  }
  if (versions.empty()) {
    return absl::UnavailableError(
        absl::StrCat(plugin, " does not say which CNI versions it speaks"));
  }
  return versions;
}

absl::StatusOr<std::string> MakeConflist(
    const std::vector<std::string>& portmap_versions,
    const std::string& run_directory) {
  const auto speaks = [&](const char* version) {
    return std::ranges::find(portmap_versions, version) !=
           portmap_versions.end();
  };
  if (!speaks("1.0.0")) {
    return absl::FailedPreconditionError(absl::StrCat(
        "portmap speaks CNI ", absl::StrJoin(portmap_versions, ", "),
        ": expected 1.0.0 among them; install plugins of 1.0.0 "
        "or newer"));
  }
  nlohmann::ordered_json list;
  list["cniVersion"] = "1.0.0";
  if (speaks("1.1.0")) list["cniVersions"] = {"1.0.0", "1.1.0"};
  list["name"] = "espalier";
  list["plugins"] = nlohmann::ordered_json::array(
      {{{"type", "espalier-cni"}, {"runDirectory", run_directory}},
       {{"type", "portmap"}, {"capabilities", {{"portMappings", true}}}}});
  return list.dump(2) + "\n";
}

absl::Status InstallCni(const CniInstallOptions& options) {
  const std::string portmap = options.binary_directory + "/portmap";
  absl::StatusOr<std::vector<std::string>> versions =
      AskPluginVersions(portmap);
  if (absl::IsUnavailable(versions.status())) {
    // Built for the host's libraries, perhaps; what every portmap of the last
    // years speaks is safe to name.
    base::Log(base::LogLevel::kWarning, "portmap could not be asked: CNI 1.0.0",
              {{"error", versions.status()}});
    versions = std::vector<std::string>{"1.0.0"};
  }
  if (!versions.ok()) return versions.status();
  ESPALIER_ASSIGN_OR_RETURN(const std::string conflist,
                            MakeConflist(*versions, options.run_directory));
  ESPALIER_ASSIGN_OR_RETURN(const std::string binary,
                            mesh::ReadWholeFile(options.binary, kMaxBinary));
  ESPALIER_RETURN_IF_ERROR(
      Place(options.binary_directory, kPluginName, binary, 0755));
  return Place(options.config_directory, kConflistName, conflist, 0644);
}

absl::StatusOr<CniFiles::Kept> CniFiles::Keep() {
  Kept kept;
  if (conflist_) {
    kept.repaired = Difference();
    if (kept.repaired.empty()) return kept;
  }
  ESPALIER_RETURN_IF_ERROR(InstallCni(options_));
  kept.installed = !conflist_;
  ESPALIER_ASSIGN_OR_RETURN(
      conflist_, mesh::ReadWholeFile(absl::StrCat(options_.config_directory,
                                                  "/", kConflistName),
                                     kMaxAnswer));
  struct stat info{};
  const std::string binary = options_.binary_directory + "/espalier-cni";
  if (stat(binary.c_str(), &info) != 0) return FileError("look at", binary);
  binary_size_ = static_cast<uint64_t>(info.st_size);
  return kept;
}

std::string CniFiles::Difference() const {
  const std::string list =
      absl::StrCat(options_.config_directory, "/", kConflistName);
  if (access(list.c_str(), F_OK) != 0) return list + " was removed";
  if (!SameContent(list, *conflist_, 0644)) return list + " was changed";
  const std::string binary = options_.binary_directory + "/espalier-cni";
  struct stat info{};
  if (stat(binary.c_str(), &info) != 0) return binary + " was removed";
  const bool same = static_cast<uint64_t>(info.st_size) == binary_size_ &&
                    (info.st_mode & 07777) == 0755;
  return same ? "" : binary + " was changed";
}

absl::StatusOr<std::vector<std::string>> RemoveCni(
    const CniInstallOptions& options) {
  std::vector<std::string> removed;
  for (const auto& [folder, name] :
       {std::pair(options.config_directory, kConflistName),
        std::pair(options.binary_directory, kPluginName)}) {
    for (const std::string& path :
         {absl::StrCat(folder, "/", name), DraftOf(folder, name)}) {
      if (unlink(path.c_str()) == 0) {
        removed.push_back(path);
      } else if (errno != ENOENT && errno != ENOTDIR) {
        return FileError("remove", path);
      }
    }
  }
  return removed;
}

void CniInstaller::Begin() {
  // Before the first ADD is served.
  if (absl::StatusOr<CniConfigs> configs = ReadCniConfigs(folder_);
      configs.ok()) {
    agent_->SetCniConfigs(*std::move(configs));
  }
  Look();
}

void CniInstaller::Look() {
  worker_.Post([this, ready = agent_->ready()] {
    // Not before this node can serve ADD.
    absl::StatusOr<CniFiles::Kept> kept = CniFiles::Kept();
    if (ready) kept = files_.Keep();
    const absl::StatusOr<CniConfigs> configs = ReadCniConfigs(folder_);
    agent_->loop().Post([this, ready, kept, configs] {
      Tell(kept);
      if (configs.ok()) agent_->SetCniConfigs(*configs);
      agent_->loop().RunAfter(ready ? kKeepEvery : kLookEvery,
                              [this] { Look(); });
    });
  });
}

void CniInstaller::Tell(const absl::StatusOr<CniFiles::Kept>& kept) {
  if (!kept.ok()) {
    if (clock_.Now() - told_ < kTellEvery) return;
    told_ = clock_.Now();
    base::Log(base::LogLevel::kError,
              "CNI plugin not installed, the node stays NotReady; trying again",
              {{"error", kept.status()}});
  } else if (!kept->repaired.empty()) {
    base::Log(base::LogLevel::kWarning,
              "CNI plugin or its configuration was touched; put back",
              {{"what", kept->repaired}});
  } else if (kept->installed) {
    base::Log(base::LogLevel::kInfo, "CNI plugin installed",
              {{"configuration", absl::StrCat(folder_, "/", kConflistName)}});
  }
}

}  // namespace espalier::agent
