// The user's own kubectl: its kubeconfig, context and credential plugins are
// what Espalier's cluster views run with.
#ifndef ESPALIER_AGENT_KUBECTL_KUBECTL_PROGRAM_H_
#define ESPALIER_AGENT_KUBECTL_KUBECTL_PROGRAM_H_

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace espalier::kubectl {

struct Output {
  int code = 0;  // of the program; 127: it could not be started
  bool timed_out = false;
  std::string out;
  std::string err;
  bool ok() const { return code == 0 && !timed_out; }
};

using Arguments = std::vector<std::string>;

class KubectlProgram {
 public:
  // `program` is looked up in PATH; `options` (--context, ...) go before each
  // command.
  KubectlProgram(std::string program, Arguments options)
      : program_(std::move(program)), options_(std::move(options)) {}

  // `input` goes to its stdin. At most 256 MiB of an answer are kept.
  Output Run(const Arguments& arguments, const std::string& input = "",
             absl::Duration timeout = absl::Seconds(60)) const;
  // All of them, at most kMostAtOnce at a time: each exec is a stream that the
  // API server and a kubelet keep open. The answers are in the same order.
  static constexpr size_t kMostAtOnce = 32;
  std::vector<Output> RunAll(const std::vector<Arguments>& commands) const;

  const std::string& program() const { return program_; }

 private:
  const std::string program_;
  const Arguments options_;
};

// What went wrong, and what to do about it, for whoever typed the command.
std::string Explain(const KubectlProgram& kubectl, const Output& output);
// Whether the failure is that nobody answers (no kubectl, no API server, no
// chart), in place of an answer that refuses.
bool IsUnreachable(const Output& output);
// Whether the API server refused it to this user.
bool LacksRight(const Output& output);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_KUBECTL_PROGRAM_H_
