// kubectl-espalier: a cluster's state through the user's kubectl, or one
// agent's through its socket.
#ifndef ESPALIER_AGENT_KUBECTL_COMMAND_H_
#define ESPALIER_AGENT_KUBECTL_COMMAND_H_

#include <iosfwd>
#include <string>
#include <vector>

namespace espalier::kubectl {

// What the program exits with.
inline constexpr int kExitOk = 0;
inline constexpr int kExitRefused = 1;  // the agent answered with an error
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNoAgent = 3;    // nobody answers on the socket
inline constexpr int kExitDegraded = 4;   // status: not ready, or a tunnel down
inline constexpr int kExitNotProven = 5;  // verify

inline constexpr char kDefaultSocket[] = "/run/espalier/agent.sock";

// Whether the command is for one agent: it names a socket (or the environment
// does), or nothing names a cluster and this host has an agent.
bool IsForSocket(const std::vector<std::string>& arguments);
int RunOnSocket(const std::vector<std::string>& arguments, std::ostream& out,
                std::ostream& err);
int RunOnCluster(const std::vector<std::string>& arguments, std::ostream& out,
                 std::ostream& err);

// `arguments` without the program's name.
int RunCommand(const std::vector<std::string>& arguments, std::ostream& out,
               std::ostream& err);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_COMMAND_H_
