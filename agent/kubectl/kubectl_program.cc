#include "agent/kubectl/kubectl_program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

extern char** environ;

namespace espalier::kubectl {
namespace {

constexpr size_t kMostOctets = size_t{256} << 20;
constexpr int kNotStarted = 127;

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) ends[0] = ends[1] = -1;
  }
  ~Pipe() {
    Close(0);
    Close(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  bool ok() const { return ends[0] >= 0; }
  void Close(int end) {
    if (ends[end] >= 0) close(ends[end]);
    ends[end] = -1;
  }
};

// False at the end of the stream.
bool ReadSome(int fd, std::string* text) {
  char buffer[65536];
  const ssize_t n = read(fd, buffer, sizeof(buffer));
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  if (n == 0) return false;
  const size_t room = kMostOctets - std::min(kMostOctets, text->size());
  text->append(buffer, std::min(room, static_cast<size_t>(n)));
  return true;
}

// Until both of its streams have ended, or the time is over.
void Exchange(Pipe* in, Pipe* out, Pipe* err, const std::string& input,
              absl::Time deadline, Output* output) {
  fcntl(in->ends[1], F_SETFL, O_NONBLOCK);
  size_t written = 0;
  if (input.empty()) in->Close(1);
  while (out->ends[0] >= 0 || err->ends[0] >= 0) {
    pollfd fds[] = {{out->ends[0], POLLIN, 0},
                    {err->ends[0], POLLIN, 0},
                    {in->ends[1], POLLOUT, 0}};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0) {
      output->timed_out = true;
      return;
    }
    if (poll(fds, 3, static_cast<int>(std::min<int64_t>(left, 60000))) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (fds[0].revents != 0 && !ReadSome(out->ends[0], &output->out)) {
      out->Close(0);
    }
    if (fds[1].revents != 0 && !ReadSome(err->ends[0], &output->err)) {
      err->Close(0);
    }
    if (fds[2].revents != 0) {
      const ssize_t n =
          write(in->ends[1], input.data() + written, input.size() - written);
      if (n > 0) written += static_cast<size_t>(n);
      if ((n < 0 && errno != EAGAIN && errno != EINTR) ||
          written == input.size()) {
        in->Close(1);
      }
    }
  }
}

}  // namespace

Output KubectlProgram::Run(const Arguments& arguments, const std::string& input,
                           absl::Duration timeout) const {
  Output output;
  Pipe in;
  Pipe out;
  Pipe err;
  if (!in.ok() || !out.ok() || !err.ok()) {
    output.code = kNotStarted;
    output.err = absl::StrCat("cannot make a pipe: ", strerror(errno));
    return output;
  }
  std::vector<char*> argv = {const_cast<char*>(program_.c_str())};
  for (const Arguments* some : {&options_, &arguments}) {
    for (const std::string& argument : *some) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.ends[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out.ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, err.ends[1], 2);
  // A terminal's interrupt is for kubectl too; SIGPIPE is ignored here alone.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, program_.c_str(), &actions, &attributes,
                                 argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  in.Close(0);
  out.Close(1);
  err.Close(1);
  if (error != 0) {
    output.code = kNotStarted;
    output.err = strerror(error);
    return output;
  }
  Exchange(&in, &out, &err, input, absl::Now() + timeout, &output);
  if (output.timed_out) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  output.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return output;
}

std::vector<Output> KubectlProgram::RunAll(
    const std::vector<Arguments>& commands) const {
  std::vector<Output> outputs(commands.size());
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::min(kMostAtOnce, commands.size()); ++i) {
    threads.emplace_back([&] {
      for (size_t n = next++; n < commands.size(); n = next++) {
        outputs[n] = Run(commands[n]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outputs;
}

// The second wording is that of a kubectl whose cache still knows the kind,
// from before it was removed or from another cluster at the same address.
bool LacksOurKinds(const Output& output) {
  return absl::StrContains(output.err, "doesn't have a resource type") ||
         absl::StrContains(output.err,
                           "the server could not find the requested resource");
}

bool IsUnreachable(const Output& output) {
  return output.code == kNotStarted || output.timed_out ||
         LacksOurKinds(output) ||
         absl::StrContains(output.err, "Unable to connect to the server") ||
         absl::StrContains(output.err, "was refused - did you specify") ||
         absl::StrContains(output.err, "no such host");
}

bool LacksRight(const Output& output) {
  return !output.ok() && (absl::StrContains(output.err, "(Forbidden)") ||
                          absl::StrContains(output.err, "is forbidden"));
}

std::string Explain(const KubectlProgram& kubectl, const Output& output) {
  std::string words(absl::StripAsciiWhitespace(output.err));
  if (output.code == kNotStarted) {
    return absl::StrCat("cannot run ", kubectl.program(), ": ", words,
                        ". Put kubectl on PATH, or its path into $KUBECTL; on "
                        "a host outside Kubernetes, use --socket");
  }
  if (output.timed_out) {
    return absl::StrCat("no answer within a minute. ", words);
  }
  if (LacksOurKinds(output)) {
    return "Espalier is not installed in this cluster (it has no "
           "EspalierNodes). Install the chart: helm install espalier "
           "charts/espalier --namespace espalier-system --create-namespace "
           "--set 'clusterPodCIDRs={...}', or choose another --context";
  }
  if (LacksRight(output)) {
    return absl::StrCat(
        "you lack a right: ", words,
        ". Reading needs the ClusterRole espalier-view; live details need "
        "create on pods/exec in Espalier's namespace; rotate needs "
        "espalier-rotate");
  }
  if (IsUnreachable(output)) {
    return absl::StrCat("cannot reach the API server: ", words);
  }
  if (words.empty()) {
    return absl::StrCat(kubectl.program(), " failed with exit code ",
                        output.code);
  }
  return words;
}

}  // namespace espalier::kubectl
