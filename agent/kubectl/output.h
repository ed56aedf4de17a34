// The agent's answers as text: tables for people, JSON and YAML for programs.
#ifndef ESPALIER_AGENT_KUBECTL_OUTPUT_H_
#define ESPALIER_AGENT_KUBECTL_OUTPUT_H_

#include <google/protobuf/message.h>

#include <string>
#include <utility>
#include <vector>

#include "espalier/v1/agent.pb.h"

namespace espalier::kubectl {

enum class Format { kTable, kWide, kJson, kYaml };

// The whole message, empty fields included, names as in agent.proto; a uint64
// is a string, as protobuf's JSON has it.
std::string ToJson(const google::protobuf::Message& message);
// The same values as YAML.
std::string ToYaml(const google::protobuf::Message& message);

std::string StatusText(const v1::AgentStatus& status);
std::string TunnelsText(const v1::ListTunnelsResponse& tunnels, bool wide);
std::string TunnelText(const v1::Tunnel& tunnel);
std::string PodsText(const v1::ListPodsResponse& pods, bool wide);
std::string DropsText(const v1::ListDropsResponse& drops, bool wide);
std::string ProofText(const v1::VerifyResponse& proof);
std::string EventText(const v1::Event& event);

// The same tables of several nodes, each line with its node's name.
template <typename T>
using ByNode = std::vector<std::pair<std::string, T>>;
std::string ClusterTunnelsText(const ByNode<v1::ListTunnelsResponse>& nodes,
                               bool wide);
std::string ClusterPodsText(const ByNode<v1::ListPodsResponse>& nodes,
                            bool wide);
std::string ClusterDropsText(const ByNode<v1::ListDropsResponse>& nodes,
                             bool wide, bool counters);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_OUTPUT_H_
