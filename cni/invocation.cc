#include "cni/invocation.h"

#include <net/if.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace espalier::cni {
namespace {

Error EnvironmentError(std::string message, std::string details = "") {
  return Error(ErrorCode::kInvalidEnvironment, std::move(message),
               std::move(details));
}

std::optional<Command> ParseCommand(const std::string& text) {
  if (text == "ADD") return Command::kAdd;
  if (text == "DEL") return Command::kDelete;
  if (text == "CHECK") return Command::kCheck;
  if (text == "GC") return Command::kCollectGarbage;
  if (text == "STATUS") return Command::kStatus;
  if (text == "VERSION") return Command::kVersion;
  return std::nullopt;
}

// As the kernel's dev_valid_name.
bool IsInterfaceName(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." &&
         name != ".." &&
         std::none_of(
             name.begin(), name.end(),
             [](char c) {
               return c == '/' || c == ':' ||
                      absl::ascii_isspace(static_cast<unsigned char>(c));
             });
}

// "KEY=value;KEY=value". Keys that are not ours belong to others.
std::optional<Error> ReadArguments(const std::string& text, Invocation* out) {
  for (const absl::string_view pair :
       absl::StrSplit(text, ';', absl::SkipWhitespace())) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (pair.find('=') == absl::string_view::npos || parts.first.empty()) {
      return EnvironmentError(
          absl::StrCat("CNI_ARGS: \"", pair, "\" is not KEY=VALUE"),
          "CNI_ARGS is a list of KEY=VALUE, separated by semicolons");
    }
    if (parts.first == "K8S_POD_NAMESPACE") out->pod_namespace = parts.second;
    if (parts.first == "K8S_POD_NAME") out->pod_name = parts.second;
    if (parts.first == "K8S_POD_UID") out->pod_uid = parts.second;
    // Not granting what was asked for would be found out much later.
    if (parts.first == "IP" || parts.first == "MAC") {
      return EnvironmentError(
          absl::StrCat("CNI_ARGS: ", parts.first, " is not supported"),
          "Espalier chooses addresses out of the node's pod CIDRs");
    }
  }
  return std::nullopt;
}

}  // namespace

bool IsIdentifier(const std::string& text) {
  return !text.empty() &&
         absl::ascii_isalnum(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  c == '_' || c == '.' || c == '-';
         });
}

Outcome<Invocation> ReadInvocation(const Environment& environment) {
  Invocation out;
  const std::string command = environment("CNI_COMMAND");
  if (command.empty()) {
    return EnvironmentError(
        "CNI_COMMAND is not set",
        "espalier-cni is started by a container runtime, which says in "
        "CNI_COMMAND what to do");
  }
  const std::optional<Command> parsed = ParseCommand(command);
  if (!parsed.has_value()) {
    return EnvironmentError(
        absl::StrCat("CNI_COMMAND is \"", command, "\""),
        "one of ADD, DEL, CHECK, GC, STATUS, VERSION was expected");
  }
  out.command = *parsed;
  if (out.command != Command::kAdd && out.command != Command::kDelete &&
      out.command != Command::kCheck) {
    return out;
  }

  out.container_id = environment("CNI_CONTAINERID");
  out.network_namespace = environment("CNI_NETNS");
  out.interface_name = environment("CNI_IFNAME");
  std::vector<std::string> missing;
  if (out.container_id.empty()) missing.push_back("CNI_CONTAINERID");
  if (out.interface_name.empty()) missing.push_back("CNI_IFNAME");
  // After a reboot runtimes repeat DEL without it.
  if (out.network_namespace.empty() && out.command != Command::kDelete) {
    missing.push_back("CNI_NETNS");
  }
  if (!missing.empty()) {
    return EnvironmentError(
        absl::StrCat(absl::StrJoin(missing, ", "), " not set"),
        absl::StrCat(command, " needs them"));
  }
  if (!IsIdentifier(out.container_id) ||
      out.container_id.size() > kMaxContainerId) {
    return EnvironmentError(
        absl::StrCat("CNI_CONTAINERID is \"", out.container_id, "\""),
        absl::StrCat("a letter or digit, then letters, digits, '_', '.', '-' "
                     "was expected, at most ",
                     kMaxContainerId, " characters"));
  }
  if (!IsInterfaceName(out.interface_name)) {
    return EnvironmentError(
        absl::StrCat("CNI_IFNAME is \"", out.interface_name, "\""),
        "1 to 15 characters without '/', ':' and spaces were expected");
  }
  // The path is opened in another process, which has its own directory.
  if (!out.network_namespace.empty() && out.network_namespace[0] != '/') {
    return EnvironmentError(
        absl::StrCat("CNI_NETNS is \"", out.network_namespace, "\""),
        "an absolute path was expected");
  }
  if (out.command == Command::kAdd) {
    if (auto error = ReadArguments(environment("CNI_ARGS"), &out)) {
      return *std::move(error);
    }
  }
  return out;
}

}  // namespace espalier::cni
