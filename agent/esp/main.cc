// espalier-espd: user-space ESP as a process of its own.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "agent/base/log.h"
#include "agent/base/marks.h"
#include "agent/base/security_association.h"
#include "agent/esp/holder.h"
#include "agent/esp/loop.h"

namespace {

constexpr int kExitUsage = 2;
constexpr int kExitFailure = 1;

// Fits every suite that a mesh uses, with UDP over either family, on the
// usual link.
size_t DefaultMtu() {
  return espalier::base::InnerMtu({}, espalier::base::Family::kIpv6,
                                  /*udp=*/true, 1500);
}

}  // namespace

int main(int argc, char** argv) {
  namespace base = espalier::base;
  using espalier::esp::CipherChoice;
  espalier::esp::EspdOptions options;
  options.socket_path = "/run/espalier/espd.sock";
  options.tun.name = "espalier0";
  options.tun.mtu = DefaultMtu();
  std::string log_level = "info";
  bool transient = false;
  bool openssl = false;
  bool hold = false;

  CLI::App app{
      "User-space ESP (RFC 4303) behind a TUN device. Keys and policies come\n"
      "from espalier-agent over the control socket; SAs, sockets and the TUN\n"
      "live on while no agent is connected.",
      "espalier-espd"};
  app.footer(
      "Example:\n"
      "  espalier-espd --socket /run/espalier/espd.sock --tun espalier0\n"
      "  espalier-espd --hold-udp-encap   (for datapath.driver: kernel)\n"
      "Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failure, 2 usage.\n"
      "Needs at start CAP_NET_ADMIN and CAP_NET_RAW, keeps no capability.");
  app.add_option("--socket", options.socket_path, "Control socket (0600)")
      ->capture_default_str();
  app.add_flag("--hold-udp-encap", hold,
               "For the kernel datapath: no TUN and no ESP, only hold UDP 4500 "
               "for the agent");
  app.add_option("--tun", options.tun.name, "Name of the TUN device")
      ->capture_default_str();
  app.add_option("--mtu", options.tun.mtu, "MTU of the TUN device, octets")
      ->check(CLI::Range(576, 65535))
      ->capture_default_str();
  app.add_option("--port", options.outer.port,
                 "UDP port for ESP and IKE in both families")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  options.outer.mark =
      base::MarkValue(base::kDefaultMarkMask, base::Mark::kBypass);
  app.add_option(
         "--mark", options.outer.mark,
         "SO_MARK on everything sent to peers, for the agent's routing\n"
         "rules and guards; 0 for none")
      ->capture_default_str();
  app.add_flag("--transient-tun", transient,
               "Delete the TUN on exit (its routes go with it)");
  app.add_flag("--take-over", options.take_over,
               "Upgrade: take TUN, sockets and SAs over from the espd that\n"
               "serves the control socket, if there is one; it then exits");
  app.add_flag("--wait-after-hand-over", options.wait_after_hand_over,
               "Once the next espd has taken over, wait for SIGTERM and do\n"
               "not exit: for supervisors that would start it again");
  app.add_flag("--openssl", openssl, "Never use ipsec-mb");
  app.add_option("--log-level", log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  options.tun.persistent = !transient;
  if (openssl) options.cipher = CipherChoice::kOpenssl;
  espalier::base::LogLevel level;
  if (espalier::base::ParseLogLevel(log_level, &level)) {
    espalier::base::SetLogLevel(level);
  }

  const absl::Status status =
      hold ? espalier::esp::RunHolder({.socket_path = options.socket_path,
                                       .port = options.outer.port,
                                       .mark = options.outer.mark})
           : espalier::esp::RunEspd(options);
  if (!status.ok()) {
    espalier::base::Log(espalier::base::LogLevel::kError, "espd failed",
                        {{"error", status}});
    return kExitFailure;
  }
  return 0;
}
