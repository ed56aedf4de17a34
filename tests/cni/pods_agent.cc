// The part of espalier-agent that attaches pods, as a program of its own: for
// tests that kill it, starve it or time it without tunnels.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/ip_address.h"
#include "agent/service/cni_server.h"

namespace espalier {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Attaches pods of one node, without tunnels.");
  service::CniServer::Options options;
  std::vector<std::string> cidrs;
  bool not_ready = false;
  options.settings.mtu = 1400;
  app.add_option("--run-directory", options.run_directory)->required();
  app.add_option("--state-directory", options.state_directory)->required();
  app.add_option("--pod-cidr", cidrs);
  app.add_option("--mtu", options.settings.mtu);
  app.add_flag("--not-ready", not_ready);
  CLI11_PARSE(app, argc, argv);
  for (const std::string& text : cidrs) {
    const auto prefix = base::IpPrefix::Parse(text);
    if (!prefix.ok()) {
      std::fprintf(stderr, "%s\n", prefix.status().ToString().c_str());
      return 2;
    }
    options.settings.pod_cidrs.push_back(*prefix);
  }

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Before any thread is made, so that all of them leave it to sigwait.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  auto server = service::CniServer::Start(std::move(options));
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  if (!not_ready) (*server)->SetReady(absl::OkStatus());
  int caught = 0;
  sigwait(&signals, &caught);
  return 0;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
