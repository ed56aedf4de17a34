// What the mesh's probes go through: the runtime's sockets.
#ifndef ESPALIER_AGENT_MAIN_PROBE_ADAPTER_H_
#define ESPALIER_AGENT_MAIN_PROBE_ADAPTER_H_

#include <string>
#include <utility>
#include <vector>

#include "agent/mesh/probe.h"
#include "agent/runtime/probe_sockets.h"

namespace espalier::agent {

class ProbeAdapter : public mesh::ProbeLink {
 public:
  // As ProbeSockets.
  ProbeAdapter(base::EventLoop* loop, std::function<std::string()> interface,
               runtime::ProbeSockets::Handlers handlers)
      : sockets_(loop, mesh::kProbePort, std::move(interface),
                 std::move(handlers)) {}

  void SetLocal(const std::vector<base::IpAddress>& addresses) override {
    sockets_.SetLocal(addresses);
  }
  absl::Status Send(const base::IpAddress& local, const base::IpAddress& remote,
                    base::ByteSpan bytes) override {
    return sockets_.Send(local, remote, bytes);
  }

 private:
  runtime::ProbeSockets sockets_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_PROBE_ADAPTER_H_
