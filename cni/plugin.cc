#include "cni/plugin.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/run_directory.h"
#include "cni/error.h"
#include "cni/network_config.h"
#include "cni/result.h"

namespace espalier::cni {
namespace {

bool IsTryAgainLater(const v1::Error& error) {
  return error.code() == static_cast<uint32_t>(ErrorCode::kTryAgainLater);
}

Error FromAgent(const v1::Error& error) {
  // A code of 0 would be no error to a runtime.
  const uint32_t code = error.code() != 0
                            ? error.code()
                            : static_cast<uint32_t>(ErrorCode::kInternal);
  return Error(code, error.message(), error.details());
}

void SetAttachment(const Invocation& invocation, v1::AttachmentId* id) {
  id->set_container_id(invocation.container_id);
  id->set_interface_name(invocation.interface_name);
}

// One operation whose configuration has been read.
class Operation {
 public:
  Operation(const Surroundings& surroundings, Invocation invocation,
            NetworkConfig config)
      : surroundings_(surroundings),
        invocation_(std::move(invocation)),
        config_(std::move(config)),
        agent_(surroundings.connect(config_.run_directory)) {}

  // What goes to standard output.
  Outcome<std::string> Run() {
    switch (invocation_.command) {
      case Command::kAdd:
        return Add();
      case Command::kDelete:
        return Delete();
      case Command::kCheck:
        return Check();
      case Command::kCollectGarbage:
        return CollectGarbage();
      case Command::kStatus:
        return Status();
      case Command::kVersion:
        break;
    }
    return std::string();
  }

 private:
  // Of a call that brought no answer.
  Error NoAnswer(const absl::Status& status) const {
    const std::string socket =
        base::RunDirectory(config_.run_directory).CniSocket();
    if (absl::IsUnavailable(status)) {
      return Error(ErrorCode::kTryAgainLater,
                   absl::StrCat("espalier-agent does not answer on ", socket),
                   absl::StrCat(status.message(),
                                "; check that it runs on this node and that "
                                "\"runDirectory\" is its run directory"));
    }
    if (absl::IsDeadlineExceeded(status)) {
      return Error(
          ErrorCode::kTryAgainLater,
          absl::StrCat("espalier-agent did not answer in time on ", socket),
          "it is overloaded or stuck; see its log");
    }
    return Error(ErrorCode::kInternal,
                 absl::StrCat("espalier-agent failed on ", socket),
                 status.ToString());
  }

  Outcome<std::string> Add() {
    if (!config_.previous_result.is_null()) {
      return Error(ErrorCode::kInvalidNetworkConfig,
                   "ADD with a \"prevResult\": Espalier is not the first "
                   "plugin",
                   "put espalier-cni first in the list \"plugins\"; it makes "
                   "the interface that the others change");
    }
    v1::AddRequest request;
    request.set_network(config_.name);
    SetAttachment(invocation_, request.mutable_attachment());
    request.set_network_namespace(invocation_.network_namespace);
    request.mutable_pod()->set_namespace_(invocation_.pod_namespace);
    request.mutable_pod()->set_name(invocation_.pod_name);
    request.mutable_pod()->set_uid(invocation_.pod_uid);
    v1::AddResponse response;
    const absl::Status status = agent_->Add(request, &response);
    if (!status.ok()) return NoAnswer(status);
    if (response.has_error()) return FromAgent(response.error());
    if (!response.has_attachment()) {
      return Error(ErrorCode::kInternal,
                   "espalier-agent answered ADD with nothing",
                   "agent and plugin are of versions that do not fit");
    }
    return FormatSuccess(config_.version, response.attachment(),
                         invocation_.network_namespace, config_.dns);
  }

  // "prevResult" is not needed: the agent knows what it attached.
  Outcome<std::string> Delete() {
    v1::DeleteRequest request;
    request.set_network(config_.name);
    SetAttachment(invocation_, request.mutable_attachment());
    v1::DeleteResponse response;
    const absl::Status status = agent_->Delete(request, &response);
    if (status.ok() && !response.has_error()) return std::string();
    if (status.ok() && !IsTryAgainLater(response.error())) {
      return FromAgent(response.error());
    }
    if (!status.ok() && !absl::IsUnavailable(status) &&
        !absl::IsDeadlineExceeded(status)) {
      return NoAnswer(status);
    }
    // The agent is away, or not far enough: it will find the file.
    const absl::Status queued =
        surroundings_.files(config_.run_directory)->QueueDeletion(request);
    if (queued.ok()) return std::string();
    return Error(ErrorCode::kIo,
                 "espalier-agent is away and the DEL could not be left for it",
                 std::string(queued.message()));
  }

  Outcome<std::string> Check() {
    Outcome<PreviousAttachment> previous = FindPreviousAttachment(
        config_, invocation_.interface_name, invocation_.network_namespace);
    if (const Error* error = ErrorOf(previous)) return *error;
    const auto& expected = std::get<PreviousAttachment>(previous);
    v1::CheckRequest request;
    request.set_network(config_.name);
    SetAttachment(invocation_, request.mutable_attachment());
    request.set_network_namespace(invocation_.network_namespace);
    for (const std::string& address : expected.addresses) {
      request.add_addresses(address);
    }
    request.set_mac(expected.mac);
    v1::CheckResponse response;
    const absl::Status status = agent_->Check(request, &response);
    if (!status.ok()) return NoAnswer(status);
    if (response.has_error()) return FromAgent(response.error());
    return std::string();
  }

  Outcome<std::string> CollectGarbage() {
    v1::CollectGarbageRequest request;
    request.set_network(config_.name);
    request.set_has_valid(config_.valid.has_value());
    if (config_.valid.has_value()) {
      for (const auto& [container_id, interface_name] : *config_.valid) {
        v1::AttachmentId* id = request.add_valid();
        id->set_container_id(container_id);
        id->set_interface_name(interface_name);
      }
    }
    v1::CollectGarbageResponse response;
    const absl::Status status = agent_->CollectGarbage(request, &response);
    if (!status.ok()) return NoAnswer(status);
    if (response.has_error()) return FromAgent(response.error());
    return std::string();
  }

  Outcome<std::string> Status() {
    v1::StatusResponse response;
    const absl::Status status = agent_->Status({}, &response);
    if (status.ok() && !response.has_error()) return std::string();
    const bool away = !status.ok() || IsTryAgainLater(response.error());
    if (away) {
      // An agent that is being upgraded must not make the node NotReady.
      const std::optional<absl::Duration> age =
          surroundings_.files(config_.run_directory)->HeartbeatAge();
      if (age.has_value() && *age <= base::kHeartbeatLifetime) {
        return std::string();
      }
    }
    Error error = status.ok() ? FromAgent(response.error()) : NoAnswer(status);
    if (away) error.code = static_cast<uint32_t>(ErrorCode::kNotAvailable);
    return error;
  }

  const Surroundings& surroundings_;
  const Invocation invocation_;
  const NetworkConfig config_;
  const std::unique_ptr<AgentClient> agent_;
};

Output Failure(Version version, const Error& error) {
  return {1, FormatError(version, error)};
}

}  // namespace

Output Run(const Surroundings& surroundings) {
  constexpr Version kNewest = kVersions.back();
  Outcome<Invocation> read = ReadInvocation(surroundings.environment);
  if (const Error* error = ErrorOf(read)) return Failure(kNewest, *error);
  Invocation& invocation = std::get<Invocation>(read);

  std::string input;
  const absl::Status status = surroundings.read_input(&input);
  if (!status.ok()) {
    return Failure(kNewest,
                   Error(ErrorCode::kIo,
                         "network configuration could not be read from "
                         "standard input",
                         std::string(status.message())));
  }
  if (invocation.command == Command::kVersion) {
    return {0,
            FormatVersions(FindVersion(input).value_or(VersionName(kNewest)))};
  }

  Outcome<NetworkConfig> parsed = ParseNetworkConfig(input, invocation.command);
  if (const Error* error = ErrorOf(parsed)) {
    const auto version = ParseVersion(FindVersion(input).value_or(""));
    return Failure(version.value_or(kNewest), *error);
  }
  NetworkConfig& config = std::get<NetworkConfig>(parsed);
  const Version version = config.version;
  Outcome<std::string> outcome =
      Operation(surroundings, std::move(invocation), std::move(config)).Run();
  if (const Error* error = ErrorOf(outcome)) return Failure(version, *error);
  return {0, std::get<std::string>(std::move(outcome))};
}

}  // namespace espalier::cni
