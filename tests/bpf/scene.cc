#include "tests/bpf/scene.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"

namespace espalier::testing {

using base::IpAddress;
using base::IpPrefix;
using base::Mark;
using guard::BpfMap;
using guard::BpfProgram;
using guard::InsideBlock;

namespace {

IpPrefix Prefix(const std::string& text) {
  return IpPrefix::Parse(text).value();
}

constexpr uint32_t kSlots = 8;

const char* VerdictKey(int verdict) {
  switch (verdict) {
#define VERDICT_KEY(name, drop, hook, key, text) \
  case ESPALIER_V_##name:                        \
    return key;
    ESPALIER_VERDICTS(VERDICT_KEY)
#undef VERDICT_KEY
    default:
      return "?";
  }
}

}  // namespace

std::set<std::string>& SeenVerdicts() {
  static auto& seen = *new std::set<std::string>;
  return seen;
}

std::string Outcome::ToString() const {
  return absl::StrCat(dropped ? "dropped" : "passed", " ", verdict, " slot ",
                      slot, " mark ", static_cast<int>(mark));
}

IpAddress SceneTest::At(const std::string& place, int family) {
  static const auto& places =
      *new std::map<std::string, std::pair<const char*, const char*>>{
          {"own_node", {"192.0.2.1", "fd00:c0::1"}},
          {"peer_node", {"192.0.2.2", "fd00:c0::2"}},
          {"agentless_node", {"192.0.2.3", "fd00:c0::3"}},
          {"other_node", {"192.0.2.77", "fd00:c0::77"}},
          {"peer_pod", {"10.244.2.5", "fd00:244:2::5"}},
          {"plaintext_pod", {"10.244.2.245", "fd00:244:2::f5"}},
          {"agentless_pod", {"10.244.3.5", "fd00:244:3::5"}},
          {"unknown_pod", {"10.244.9.5", "fd00:244:9::5"}},
          {"outside", {"198.51.100.7", "2001:db8::7"}},
          {"elsewhere", {"203.0.113.9", "2001:db8:9::9"}},
          {"multicast", {"224.0.0.251", "ff02::fb"}},
      };
  const auto& [ipv4, ipv6] = places.at(place);
  return Ip(family == 4 ? ipv4 : ipv6);
}

void SceneTest::SetUp() {
  PrivateNamespaceTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  // Loading takes longer than all the rest of a test.
  static guard::BpfObject* const shared = [] {
    auto object = guard::BpfObject::Load("");
    EXPECT_TRUE(object.ok()) << object.status();
    return object.ok() ? object->release() : nullptr;
  }();
  ASSERT_NE(shared, nullptr);
  object_ = shared;
  ForgetTheLastTest();
  auto socket = netlink::Socket::Open();
  ASSERT_TRUE(socket.ok()) << socket.status();
  netlink::RouteClient client(socket->get());
  uint8_t number = 0;
  for (ScenePod* pod :
       {&required_, &preferred_, &disabled_, &denied_, &open_}) {
    ++number;
    pod->name = absl::StrCat("pod", number);
    pod->ipv4 = Ip(absl::StrCat("10.244.1.", 10 + number));
    pod->ipv6 = Ip(absl::StrCat("fd00:244:1::", 10 + number));
    pod->mac = {2, 0, 0x5e, 0, 1, number};
    pod->slot = number;
    ASSERT_TRUE(
        client.AddVeth({.name = pod->name}, {.name = pod->name + "p"}).ok());
    pod->ifindex = client.GetLink(pod->name)->index;
    places_.ifindex[pod->name] = pod->ifindex;
    places_.slot[pod->ifindex] = pod->slot;
    desired_.pods.push_back({.host_interface = pod->name,
                             .addresses = {pod->ipv4, pod->ipv6},
                             .mac = pod->mac});
  }
  desired_pod(preferred_).mode = base::Mode::kPreferred;
  desired_pod(disabled_).mode = base::Mode::kDisabled;
  desired_pod(denied_).outside_denied = true;
  desired_pod(open_).outside_in = true;
  desired_.tunnel_interface = "tunnel";
  places_.tunnel_ifindex = kTunnel;
  desired_.tunnel_needs_mark = true;
  for (const char* text :
       {"10.244.0.0/16", "fd00:244::/32", "10.244.2.0/24", "fd00:244:2::/64"}) {
    desired_.inside.push_back(InsideBlock::Pods(Prefix(text)));
  }
  for (const char* text : {"10.244.2.240/28", "fd00:244:2::f0/124"}) {
    desired_.inside.push_back(InsideBlock::PlaintextPods(Prefix(text)));
  }
  for (const char* text : {"10.244.3.0/24", "fd00:244:3::/64"}) {
    desired_.inside.push_back(InsideBlock::PodsWithoutAgent(Prefix(text)));
  }
  for (const char* text : {"192.0.2.0/24", "fd00:c0::/64"}) {
    desired_.inside.push_back(InsideBlock::OtherNodes(Prefix(text)));
  }
  for (const char* text : {"192.0.2.2/32", "fd00:c0::2/128"}) {
    desired_.inside.push_back(InsideBlock::AgentNode(Prefix(text)));
  }
  desired_.own_addresses = {At("own_node", 4), At("own_node", 6)};
  desired_.in_sync = true;
  Apply();
}

void SceneTest::ForgetTheLastTest() {
  for (const BpfMap map : {BpfMap::kFlows, BpfMap::kPods, BpfMap::kAddresses,
                           BpfMap::kBlocks4, BpfMap::kBlocks6}) {
    const auto contents = object_->Read(map);
    ASSERT_TRUE(contents.ok()) << contents.status();
    for (const auto& [key, value] : *contents) {
      ASSERT_TRUE(object_->Delete(map, key).ok());
    }
  }
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    ASSERT_TRUE(object_
                    ->Update(BpfMap::kBudgets, guard::ToBytes(slot),
                             guard::ToBytes(espalier_event_budget{}))
                    .ok());
  }
  Events();
}

void SceneTest::Apply() {
  const guard::BpfState state = MakeBpfState(desired_, places_);
  ASSERT_TRUE(state.problems.empty()) << state.problems[0].status;
  for (const auto& [map, contents] : state.maps) {
    const auto actual = object_->Read(map);
    ASSERT_TRUE(actual.ok()) << actual.status();
    for (const auto& [key, value] : *actual) {
      if (map != BpfMap::kConfig && !contents.contains(key)) {
        ASSERT_TRUE(object_->Delete(map, key).ok());
      }
    }
    for (const auto& [key, value] : contents) {
      const absl::Status status = object_->Update(map, key, value);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
}

guard::GuardedPod& SceneTest::desired_pod(const ScenePod& pod) {
  return desired_.pods.at(pod.slot - 1);
}

Outcome SceneTest::Run(BpfProgram program, const std::string& frame,
                       const Input& input) {
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    EXPECT_TRUE(object_->ResetCounters(slot).ok());
  }
  __sk_buff in{}, out{};
  in.mark = input.other_marks | base::MarkValue(desired_.mark_mask, input.mark);
  in.ingress_ifindex = input.input;
  in.ifindex = input.ifindex;
  bpf_test_run_opts options{};
  options.sz = sizeof(options);
  options.data_in = frame.data();
  options.data_size_in = static_cast<uint32_t>(frame.size());
  options.ctx_in = &in;
  options.ctx_size_in = sizeof(in);
  options.ctx_out = &out;
  options.ctx_size_out = sizeof(out);
  Outcome outcome;
  if (bpf_prog_test_run_opts(object_->fd(program), &options) != 0) {
    ADD_FAILURE() << "BPF_PROG_TEST_RUN: " << strerror(errno);
    return outcome;
  }
  constexpr uint32_t kNext = 0xffffffff, kShot = 2;
  EXPECT_TRUE(options.retval == kNext || options.retval == kShot)
      << "returned " << options.retval;
  outcome.dropped = options.retval == kShot;
  outcome.raw_mark = out.mark;
  outcome.mark = static_cast<Mark>((out.mark & desired_.mark_mask) >>
                                   std::countr_zero(desired_.mark_mask));
  uint64_t counted = 0;
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    const auto counters = object_->ReadCounters(slot);
    EXPECT_TRUE(counters.ok()) << counters.status();
    for (int v = 0; v < ESPALIER_VERDICT_SLOTS; ++v) {
      if (counters->packets[v] == 0) continue;
      counted += counters->packets[v];
      outcome.verdict = VerdictKey(v);
      outcome.slot = slot;
      SeenVerdicts().insert(outcome.verdict);
    }
  }
  EXPECT_LE(counted, 1u) << "a packet has one verdict";
  return outcome;
}

Outcome SceneTest::FromPod(const ScenePod& pod, const std::string& frame) {
  return Run(BpfProgram::kFromPod, frame,
             {.input = pod.ifindex, .ifindex = pod.ifindex});
}

Outcome SceneTest::ToPod(const ScenePod& pod, const std::string& frame,
                         uint32_t input, Mark mark) {
  return Run(BpfProgram::kToPod, frame,
             {.input = input, .mark = mark, .ifindex = pod.ifindex});
}

Outcome SceneTest::UplinkIn(const std::string& frame, Mark mark) {
  return Run(BpfProgram::kUplinkIn, frame, {.input = kWire, .mark = mark});
}

Outcome SceneTest::UplinkOut(const std::string& frame, uint32_t input,
                             Mark mark) {
  return Run(BpfProgram::kUplinkOut, frame, {.input = input, .mark = mark});
}

std::string SceneTest::UdpFrame(const IpAddress& source,
                                const IpAddress& destination, const Mac& mac,
                                uint16_t source_port,
                                uint16_t destination_port) {
  return Frame(
      mac, Type(source),
      Packet(source, destination, 17, Udp(source_port, destination_port)));
}

std::vector<espalier_event> SceneTest::Events() {
  std::vector<espalier_event> events;
  ring_buffer* ring = ring_buffer__new(
      object_->fd(BpfMap::kEvents),
      [](void* context, void* data, size_t size) {
        espalier_event event{};
        EXPECT_EQ(size, sizeof(event));
        std::memcpy(&event, data, sizeof(event));
        static_cast<std::vector<espalier_event>*>(context)->push_back(event);
        return 0;
      },
      &events, nullptr);
  EXPECT_NE(ring, nullptr);
  if (ring == nullptr) return events;
  ring_buffer__consume(ring);
  ring_buffer__free(ring);
  return events;
}

}  // namespace espalier::testing
