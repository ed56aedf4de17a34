// What a runtime says through the environment (CNI specification, section 2).
#ifndef ESPALIER_CNI_INVOCATION_H_
#define ESPALIER_CNI_INVOCATION_H_

#include <cstdint>
#include <functional>
#include <string>

#include "cni/error.h"

namespace espalier::cni {

enum class Command : uint8_t {
  kAdd,
  kDelete,
  kCheck,
  kCollectGarbage,
  kStatus,
  kVersion
};

struct Invocation {
  Command command = Command::kVersion;
  std::string container_id;
  std::string network_namespace;  // may be empty for DEL
  std::string interface_name;
  // Out of CNI_ARGS; empty where absent.
  std::string pod_namespace;
  std::string pod_name;
  std::string pod_uid;
};

// Empty for a variable that is not set.
using Environment = std::function<std::string(const char* name)>;

// Only what the command uses is looked at. Every error is code 4 and names the
// variable.
Outcome<Invocation> ReadInvocation(const Environment& environment);

// Longest container id that is accepted: with the network's name it has to fit
// into an interface's alias, by which the agent knows its own.
inline constexpr size_t kMaxContainerId = 128;
inline constexpr size_t kMaxNetworkName = 64;

// The specification's identifiers: a letter or digit, then letters, digits,
// '_', '.', '-'.
bool IsIdentifier(const std::string& text);

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_INVOCATION_H_
