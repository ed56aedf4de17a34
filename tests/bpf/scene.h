// A node as the guard sees it, and a way to run one packet past a program.
#ifndef ESPALIER_TESTS_BPF_SCENE_H_
#define ESPALIER_TESTS_BPF_SCENE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/base/marks.h"
#include "agent/guard/bpf_object.h"
#include "agent/guard/bpf_state.h"
#include "agent/guard/guard.h"
#include "tests/bpf/packets.h"
#include "tests/netns/private_namespace.h"

namespace espalier::testing {

// Devices by number: where a packet came in need not exist for a run.
inline constexpr uint32_t kWire = 4001;
inline constexpr uint32_t kTunnel = 4002;

// Node 1: pods 10.244.1.0/24 and fd00:244:1::/64. Node 2 has an agent and the
// plaintext blocks 10.244.2.240/28 and fd00:244:2::f0/124; node 3 has no agent.
struct ScenePod {
  std::string name;
  base::IpAddress ipv4, ipv6;
  Mac mac;
  uint32_t ifindex = 0;
  uint32_t slot = 0;

  base::IpAddress address(int family) const {
    return family == 4 ? ipv4 : ipv6;
  }
};

struct Outcome {
  bool dropped = false;
  base::Mark mark = base::Mark::kNone;
  uint32_t raw_mark = 0;
  std::string verdict;  // key; empty: not counted
  uint32_t slot = 0;
  std::string ToString() const;
};

// Keys of all that Run has seen in this process.
std::set<std::string>& SeenVerdicts();

inline ::testing::AssertionResult Is(const Outcome& outcome, bool dropped,
                                     const std::string& verdict) {
  if (outcome.dropped == dropped && outcome.verdict == verdict) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << outcome.ToString();
}
inline ::testing::AssertionResult Is(const Outcome& outcome, bool dropped,
                                     const std::string& verdict,
                                     uint32_t slot) {
  if (outcome.slot != slot) {
    return ::testing::AssertionFailure() << outcome.ToString();
  }
  return Is(outcome, dropped, verdict);
}
inline ::testing::AssertionResult Is(const Outcome& outcome, bool dropped,
                                     const std::string& verdict,
                                     base::Mark mark) {
  if (outcome.mark != mark) {
    return ::testing::AssertionFailure() << outcome.ToString();
  }
  return Is(outcome, dropped, verdict);
}
#define EXPECT_DROPPED(outcome, verdict, slot) \
  EXPECT_TRUE(Is(outcome, true, verdict, uint32_t{slot}))
// from_pod, uplink_in: passed with that mark.
#define EXPECT_SENT(outcome, mark) EXPECT_TRUE(Is(outcome, false, "sent", mark))
#define EXPECT_LINK(outcome) \
  EXPECT_TRUE(Is(outcome, false, "sent_link", Mark::kNone))
#define EXPECT_MARKED(outcome, mark) EXPECT_TRUE(Is(outcome, false, "", mark))
#define EXPECT_RECEIVED(outcome, verdict) \
  EXPECT_TRUE(Is(outcome, false, verdict))
#define EXPECT_LEFT(outcome, verdict) EXPECT_TRUE(Is(outcome, false, verdict))

struct Input {
  uint32_t input = 0;  // device by number, 0: made here
  base::Mark mark = base::Mark::kNone;
  uint32_t other_marks = 0;
  uint32_t ifindex = 0;  // where the program stands; 0: any
};

// Empty maps and a namespace of its own for each test.
class SceneTest : public PrivateNamespaceTest {
 protected:
  void SetUp() override;

  void ForgetTheLastTest();
  // Writes what `desired_` says into the maps.
  void Apply();
  Outcome Run(guard::BpfProgram program, const std::string& frame,
              const Input& input);
  // A frame that `pod` sends.
  Outcome FromPod(const ScenePod& pod, const std::string& frame);
  // A frame to `pod` that came in there.
  Outcome ToPod(const ScenePod& pod, const std::string& frame, uint32_t input,
                base::Mark mark = base::Mark::kNone);
  Outcome UplinkIn(const std::string& frame,
                   base::Mark mark = base::Mark::kNone);
  Outcome UplinkOut(const std::string& frame, uint32_t input,
                    base::Mark mark = base::Mark::kNone);
  guard::GuardedPod& desired_pod(const ScenePod& pod);
  std::vector<espalier_event> Events();

  // UDP between two addresses, in a frame from `mac`.
  static std::string UdpFrame(const base::IpAddress& source,
                              const base::IpAddress& destination,
                              const Mac& mac, uint16_t source_port = 40000,
                              uint16_t destination_port = 80);

  // Of `family`: addresses of the scene by name ("peer_pod").
  static base::IpAddress At(const std::string& place, int family);

  guard::BpfObject* object_ = nullptr;  // one for all tests of a program
  guard::DesiredGuard desired_;
  guard::BpfPlaces places_;
  ScenePod required_, preferred_, disabled_, denied_, open_;
  static constexpr Mac kRouter = {2, 0, 0, 0, 0, 9};
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_BPF_SCENE_H_
