// The folder through which espalier-cni and the agent meet, and the two file
// formats in it. It must not outlive a boot (/run): an agent of before the
// reboot says nothing about this one.
#ifndef ESPALIER_AGENT_BASE_RUN_DIRECTORY_H_
#define ESPALIER_AGENT_BASE_RUN_DIRECTORY_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "agent/base/clock.h"

namespace espalier::base {

inline constexpr char kDefaultRunDirectory[] = "/run/espalier";

class RunDirectory {
 public:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  // Where the agent serves espalier.v1.Cni.
  std::string CniSocket() const { return path_ + "/cni.sock"; }
  std::string HeartbeatFile() const { return path_ + "/heartbeat"; }
  // One file for each DEL that the agent was not there to do: a serialized
  // espalier.v1.DeleteRequest, written beside it under a name that begins with
  // a dot and renamed.
  std::string DeletionQueue() const { return path_ + "/deletions"; }

 private:
  std::string path_;
};

// "<container id>@<interface>": neither holds a '/', an id holds no '@'.
std::string DeletionFileName(const std::string& container_id,
                             const std::string& interface_name);

// When the agent was last ready to attach pods.
struct Heartbeat {
  std::string boot_id;  // /proc/sys/kernel/random/boot_id
  Instant at;           // SteadyClock

  // One line: the boot id, a space, nanoseconds.
  std::string ToString() const;
  static std::optional<Heartbeat> Parse(const std::string& text);
};

// How old a heartbeat may be for STATUS to call an absent agent able: long
// enough for an upgrade, short enough that a node without an agent is noticed.
inline constexpr absl::Duration kHeartbeatLifetime = absl::Minutes(2);
inline constexpr absl::Duration kHeartbeatInterval = absl::Seconds(10);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_RUN_DIRECTORY_H_
