#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/output.h"
#include "espalier/v1/agent.grpc.pb.h"

namespace espalier::kubectl {
namespace {

constexpr std::chrono::seconds kDeadline(15);

constexpr char kFooter[] = R"(
Examples:
  kubectl-espalier --socket SOCKET status
  kubectl-espalier --socket SOCKET tunnels -o wide
  kubectl-espalier --socket SOCKET show node-b
  kubectl-espalier --socket SOCKET tunnels -o json | jq '.tunnels[] | select(.state != "up")'
  kubectl-espalier --socket SOCKET drops
  kubectl-espalier --socket SOCKET drops -o json | jq '.drops[] | select(.pod == "shop/web-0")'
  kubectl-espalier --socket SOCKET verify && echo no plaintext can leave this node
  kubectl-espalier --socket SOCKET verify shop/web-0
  kubectl-espalier --socket SOCKET rekey node-b --ike
  kubectl-espalier --socket /run/node-a/agent.sock pods

Exit codes: 0 done; 1 the agent refused; 2 wrong use; 3 no agent answers;
4 (status) not ready, or a tunnel is down; 5 (verify) not proven.)";

struct Options {
  std::string socket = kDefaultSocket;
  Format format = Format::kTable;
  std::string peer;
  std::string pod;  // NAMESPACE/NAME
  bool ike = false;
  bool protocol50 = false;
};

class Client {
 public:
  Client(const Options& options, std::ostream& out, std::ostream& err)
      : options_(options),
        out_(out),
        err_(err),
        stub_(v1::Agent::NewStub(
            grpc::CreateChannel(absl::StrCat("unix:", options.socket),
                                grpc::InsecureChannelCredentials()))) {}

  // gRPC's own words for an absent server help nobody: asks the kernel first.
  bool AgentIsThere() {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    if (options_.socket.size() >= sizeof(to.sun_path)) {
      err_ << "the socket path is longer than " << sizeof(to.sun_path) - 1
           << " octets: " << options_.socket << "\n";
      return false;
    }
    memcpy(to.sun_path, options_.socket.data(), options_.socket.size());
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool there =
        fd >= 0 &&
        connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
    const int error = errno;
    if (fd >= 0) close(fd);
    if (there) return true;
    if (error == ENOENT) {
      err_ << "there is no socket " << options_.socket
           << ": is espalier-agent running on this node, and is its "
              "runDirectory another one (--socket)?\n";
    } else if (error == ECONNREFUSED) {
      err_ << "nobody listens on " << options_.socket
           << ": espalier-agent ended; see its log\n";
    } else if (error == EACCES || error == EPERM) {
      err_ << "no right to use " << options_.socket
           << ": only root and the agent's user may (try sudo)\n";
    } else {
      err_ << "cannot reach the agent on " << options_.socket << ": "
           << strerror(error) << "\n";
    }
    return false;
  }

  int Status() {
    v1::AgentStatus status;
    const int code = Ask(&v1::Agent::Stub::GetStatus, {}, &status);
    if (code != kExitOk) return code;
    Print(status, [&](bool) { return StatusText(status); });
    return status.ready() && status.tunnels_up() == status.tunnels_wanted()
               ? kExitOk
               : kExitDegraded;
  }

  int Tunnels() {
    v1::ListTunnelsResponse tunnels;
    const int code = Ask(&v1::Agent::Stub::ListTunnels, {}, &tunnels);
    if (code != kExitOk) return code;
    Print(tunnels, [&](bool wide) { return TunnelsText(tunnels, wide); });
    return kExitOk;
  }

  int Show() {
    v1::ShowTunnelRequest request;
    request.set_peer(options_.peer);
    v1::Tunnel tunnel;
    const int code = Ask(&v1::Agent::Stub::ShowTunnel, request, &tunnel);
    if (code != kExitOk) return code;
    Print(tunnel, [&](bool) { return TunnelText(tunnel); });
    return kExitOk;
  }

  int Pods() {
    v1::ListPodsResponse pods;
    const int code = Ask(&v1::Agent::Stub::ListPods, {}, &pods);
    if (code != kExitOk) return code;
    Print(pods, [&](bool wide) { return PodsText(pods, wide); });
    return kExitOk;
  }

  int Drops() {
    v1::ListDropsResponse drops;
    const int code = Ask(&v1::Agent::Stub::ListDrops, {}, &drops);
    if (code != kExitOk) return code;
    Print(drops, [&](bool wide) { return DropsText(drops, wide); });
    return kExitOk;
  }

  int Verify() {
    v1::VerifyRequest request;
    if (!options_.pod.empty()) {
      const size_t slash = options_.pod.find('/');
      if (slash == std::string::npos) {
        err_ << "'" << options_.pod << "' is no pod: expected NAMESPACE/NAME\n";
        return kExitUsage;
      }
      request.set_namespace_(options_.pod.substr(0, slash));
      request.set_name(options_.pod.substr(slash + 1));
    }
    v1::VerifyResponse proof;
    const int code = Ask(&v1::Agent::Stub::Verify, request, &proof);
    if (code != kExitOk) return code;
    Print(proof, [&](bool) { return ProofText(proof); });
    // Of a node without `required` pods nothing is wrong, and nothing proven.
    return proof.proven() && !proof.pods().empty() ? kExitOk : kExitNotProven;
  }

  int Rekey() {
    v1::RekeyRequest request;
    request.set_peer(options_.peer);
    request.set_what(options_.protocol50 ? v1::RekeyRequest::WHAT_PROTOCOL50
                     : options_.ike      ? v1::RekeyRequest::WHAT_IKE
                                         : v1::RekeyRequest::WHAT_CHILD);
    v1::RekeyResponse response;
    const int code = Ask(&v1::Agent::Stub::Rekey, request, &response);
    if (code != kExitOk) return code;
    Print(response, [&](bool) {
      if (options_.protocol50) {
        return absl::StrCat("Trying protocol 50 again with ", options_.peer,
                            ".\n");
      }
      return absl::StrCat("Rekeying the ", options_.ike ? "IKE_SA" : "ESP SAs",
                          " with ", options_.peer, ".\n");
    });
    return kExitOk;
  }

  int Watch() {
    grpc::ClientContext context;
    auto reader = stub_->Watch(&context, {});
    v1::Event event;
    while (reader->Read(&event)) {
      Print(event, [&](bool) { return EventText(event); });
      out_.flush();
    }
    return Explain(reader->Finish());
  }

 private:
  template <typename Request, typename Response>
  int Ask(grpc::Status (v1::Agent::Stub::*method)(grpc::ClientContext*,
                                                  const Request&, Response*),
          const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    return Explain((stub_.get()->*method)(&context, request, response));
  }

  int Explain(const grpc::Status& status) {
    if (status.ok()) return kExitOk;
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      // It accepted, looked at who asks, and hung up; or it ended just now.
      err_ << "the agent on " << options_.socket
           << " hung up: it serves root and its own user only ("
           << status.error_message() << ")\n";
      return kExitNoAgent;
    }
    err_ << "the agent refused: " << status.error_message() << "\n";
    return kExitRefused;
  }

  template <typename Text>
  void Print(const google::protobuf::Message& message, const Text& text) {
    switch (options_.format) {
      case Format::kJson:
        out_ << ToJson(message);
        break;
      case Format::kYaml:
        out_ << ToYaml(message);
        break;
      case Format::kTable:
      case Format::kWide:
        out_ << text(options_.format == Format::kWide);
        break;
    }
  }

  const Options& options_;
  std::ostream& out_;
  std::ostream& err_;
  std::unique_ptr<v1::Agent::Stub> stub_;
};

}  // namespace

int RunOnSocket(const std::vector<std::string>& arguments, std::ostream& out,
                std::ostream& err) {
  Options options;
  int (Client::*command)() = nullptr;
  CLI::App app(
      "Looks into the tunnels and pods of one Espalier node. Without "
      "--socket, into a whole cluster's.",
      "kubectl-espalier");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", ESPALIER_VERSION);
  app.add_option("--socket", options.socket, "The agent's socket")
      ->envname("ESPALIER_SOCKET")
      ->capture_default_str();
  const std::map<std::string, Format> formats = {{"table", Format::kTable},
                                                 {"wide", Format::kWide},
                                                 {"json", Format::kJson},
                                                 {"yaml", Format::kYaml}};
  std::string format = "table";
  app.add_option("-o,--output", format, "table, wide, json or yaml")
      ->check(CLI::IsMember({"table", "wide", "json", "yaml"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  const auto add = [&](const char* name, const char* text,
                       int (Client::*method)()) {
    CLI::App* sub = app.add_subcommand(name, text);
    sub->callback([&command, method] { command = method; });
    return sub;
  };
  add("status", "The node at a glance", &Client::Status);
  add("tunnels", "One line for each peer", &Client::Tunnels);
  CLI::App* show =
      add("show", "A tunnel with its SAs and their counters", &Client::Show);
  show->add_option("PEER", options.peer, "The peer's name")->required();
  add("pods", "The pods attached on this node", &Client::Pods);
  add("drops", "What the guards dropped, and why", &Client::Drops);
  CLI::App* verify = add("verify",
                         "Whether plaintext of required pods can leave, by the "
                         "guards and the witness's counters",
                         &Client::Verify);
  verify->add_option("POD", options.pod,
                     "NAMESPACE/NAME; without it every required pod here");
  CLI::App* rekey =
      add("rekey", "Begins a rekey of a tunnel now", &Client::Rekey);
  rekey->add_option("PEER", options.peer, "The peer's name")->required();
  CLI::Option* ike =
      rekey->add_flag("--ike", options.ike, "The IKE_SA and not the ESP SAs");
  rekey
      ->add_flag("--protocol50", options.protocol50,
                 "A new tunnel without UDP, after a fallback to UDP 4500")
      ->excludes(ike);
  add("watch", "Prints what happens until it is interrupted", &Client::Watch);
  try {
    // CLI11 wants them in reverse.
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, out, err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  options.format = formats.at(format);
  Client client(options, out, err);
  if (!client.AgentIsThere()) return kExitNoAgent;
  return (client.*command)();
}

}  // namespace espalier::kubectl
