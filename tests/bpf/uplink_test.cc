// uplink_in and uplink_out: what comes off the wire, and the witness of what
// leaves; drop events.
#include <gtest/gtest.h>

#include "tests/bpf/scene.h"

namespace espalier::testing {
namespace {

using base::IpAddress;
using base::Mark;
using guard::BpfProgram;

class UplinkTest : public SceneTest {
 protected:
  Outcome In(const IpAddress& source, const IpAddress& destination,
             Mark mark = Mark::kNone) {
    return UplinkIn(UdpFrame(source, destination, kRouter), mark);
  }
  Outcome Out(const IpAddress& source, const IpAddress& destination,
              uint32_t input, Mark mark) {
    return UplinkOut(UdpFrame(source, destination, kRouter), input, mark);
  }
  // As from_pod has marked it.
  Outcome Leaves(const ScenePod& pod, const char* to, int family, Mark mark) {
    return Out(pod.address(family), At(to, family), pod.ifindex, mark);
  }
};

TEST_F(UplinkTest, PlaintextFromInsideToARequiredPodStopsAtTheDoor) {
  for (const int family : {4, 6}) {
    for (const char* from : {"peer_pod", "plaintext_pod", "unknown_pod",
                             "peer_node", "other_node", "own_node"}) {
      EXPECT_DROPPED(In(At(from, family), required_.address(family)),
                     "wire_plaintext", required_.slot);
      EXPECT_MARKED(In(At(from, family), preferred_.address(family)),
                    Mark::kWireInside);
      EXPECT_MARKED(In(At(from, family), disabled_.address(family)),
                    Mark::kWireInside);
      EXPECT_MARKED(In(At(from, family), At("own_node", family)),
                    Mark::kWireInside);
    }
    // A pod of this node, forged.
    EXPECT_DROPPED(In(preferred_.address(family), required_.address(family)),
                   "wire_plaintext", required_.slot);
  }
}

TEST_F(UplinkTest, TheOutsideIsMarkedByWhereItGoes) {
  for (const int family : {4, 6}) {
    const IpAddress outside = At("outside", family);
    EXPECT_MARKED(In(outside, At("own_node", family)), Mark::kWireToNode);
    EXPECT_MARKED(In(outside, required_.address(family)), Mark::kWireOutside);
    EXPECT_MARKED(In(outside, At("peer_pod", family)), Mark::kWireOutside);
  }
}

TEST_F(UplinkTest, AMarkThatComesInIsNotBelieved) {
  for (const Mark mark : {Mark::kFromEsp, Mark::kBypass, Mark::kWireToNode,
                          Mark::kFromRequired}) {
    EXPECT_MARKED(In(At("outside", 4), required_.ipv4, mark),
                  Mark::kWireOutside);
    EXPECT_DROPPED(In(At("peer_pod", 4), required_.ipv4, mark),
                   "wire_plaintext", required_.slot);
    // Not even on what is not IP, or is ESP.
    EXPECT_MARKED(UplinkIn(Frame(kRouter, 0x0806, std::string(28, '\0')), mark),
                  Mark::kNone);
    EXPECT_MARKED(
        UplinkIn(Frame(kRouter, 0x0800,
                       Ipv4(At("peer_node", 4), At("own_node", 4), 50, "esp")),
                 mark),
        Mark::kNone);
  }
}

TEST_F(UplinkTest, PolicyBasedLeavesWhatWasDecryptedAlone) {
  desired_.policy_based = true;
  Apply();
  EXPECT_MARKED(In(At("peer_pod", 4), required_.ipv4, Mark::kFromEsp),
                Mark::kFromEsp);
  EXPECT_DROPPED(In(At("peer_pod", 4), required_.ipv4), "wire_plaintext",
                 required_.slot);
}

TEST_F(UplinkTest, EspForAPodIsPlaintextToo) {
  EXPECT_DROPPED(
      UplinkIn(Frame(kRouter, 0x0800,
                     Ipv4(At("peer_pod", 4), required_.ipv4, 50, "esp"))),
      "wire_plaintext", required_.slot);
}

TEST_F(UplinkTest, VlanTagsHideNothing) {
  for (const std::string& tags :
       {VlanTag(7), VlanTag(7, 0x88a8) + VlanTag(8)}) {
    EXPECT_DROPPED(
        UplinkIn(Frame(kRouter, 0x0800,
                       Ipv4(At("peer_pod", 4), required_.ipv4, 17, Udp(1, 2)),
                       tags)),
        "wire_plaintext", required_.slot);
    EXPECT_DROPPED(
        UplinkOut(
            Frame(kRouter, 0x0800,
                  Ipv4(required_.ipv4, At("peer_pod", 4), 17, Udp(1, 2)), tags),
            required_.ifindex, Mark::kFromRequired),
        "leak_from_pod", required_.slot);
  }
}

TEST_F(UplinkTest, FragmentsAndIcmpErrorsFollowTheAddresses) {
  EXPECT_DROPPED(UplinkIn(Frame(kRouter, 0x0800,
                                Ipv4(At("peer_pod", 4), required_.ipv4, 17,
                                     "rest", {.fragment = 0x00b9}))),
                 "wire_plaintext", required_.slot);
  EXPECT_DROPPED(
      UplinkIn(Frame(kRouter, 0x0800,
                     Ipv4(At("peer_node", 4), required_.ipv4, 1, Icmp(3)))),
      "wire_plaintext", required_.slot);
  EXPECT_DROPPED(UplinkOut(Frame(kRouter, 0x0800,
                                 Ipv4(required_.ipv4, At("peer_pod", 4), 17,
                                      "rest", {.fragment = 0x00b9})),
                           required_.ifindex, Mark::kFromRequired),
                 "leak_from_pod", required_.slot);
  EXPECT_DROPPED(UplinkOut(Frame(kRouter, 0x86dd,
                                 Ipv6(required_.ipv6, At("peer_pod", 6), 58,
                                      Icmp6(2, "too big"))),
                           required_.ifindex, Mark::kFromRequired),
                 "leak_from_pod", required_.slot);
}

TEST_F(UplinkTest, ARequiredPodNeverLeavesTowardsTheInside) {
  for (const int family : {4, 6}) {
    for (const char* to :
         {"peer_pod", "plaintext_pod", "agentless_pod", "unknown_pod",
          "peer_node", "agentless_node", "other_node", "multicast"}) {
      EXPECT_DROPPED(Leaves(required_, to, family, Mark::kFromRequired),
                     "leak_from_pod", required_.slot);
      EXPECT_DROPPED(Leaves(denied_, to, family, Mark::kFromRequiredInside),
                     "leak_from_pod", denied_.slot);
    }
    EXPECT_LEFT(Leaves(required_, "outside", family, Mark::kFromRequired),
                "to_outside");
  }
}

TEST_F(UplinkTest, JudgedByMarkAndByInterfaceNotBySource) {
  for (const int family : {4, 6}) {
    // Masquerading has changed the source.
    EXPECT_DROPPED(Out(At("own_node", family), At("peer_pod", family),
                       required_.ifindex, Mark::kFromRequired),
                   "leak_from_pod", required_.slot);
    // The interface is gone from the map, or was lost on the way.
    EXPECT_DROPPED(Out(At("own_node", family), At("peer_node", family), 0,
                       Mark::kFromRequired),
                   "leak_from_pod", 0);
    // Somebody has overwritten the mark.
    for (const Mark mark :
         {Mark::kNone, Mark::kFromDisabled, Mark::kFromPreferred}) {
      EXPECT_DROPPED(Leaves(required_, "plaintext_pod", family, mark),
                     "leak_from_pod", required_.slot);
    }
    // The source address alone says nothing.
    EXPECT_LEFT(Out(required_.address(family), At("other_node", family), 0,
                    Mark::kNone),
                "node_out");
  }
}

TEST_F(UplinkTest, OutsideDenied) {
  for (const int family : {4, 6}) {
    EXPECT_DROPPED(
        Leaves(denied_, "outside", family, Mark::kFromRequiredInside),
        "outside_denied", denied_.slot);
    EXPECT_DROPPED(Leaves(denied_, "outside", family, Mark::kNone),
                   "outside_denied", denied_.slot);
    // An answer to what was let in.
    EXPECT_LEFT(Leaves(denied_, "outside", family, Mark::kFromRequired),
                "to_outside");
  }
}

TEST_F(UplinkTest, WhereTheOtherModesMayGoInPlaintext) {
  for (const int family : {4, 6}) {
    // Two ends that are disabled.
    EXPECT_LEFT(Leaves(disabled_, "plaintext_pod", family, Mark::kFromDisabled),
                "plaintext_out");
    EXPECT_DROPPED(
        Leaves(preferred_, "plaintext_pod", family, Mark::kFromPreferred),
        "leak_to_pod", preferred_.slot);
    // Any address of a peer that is not published: ESP or drop to everybody.
    EXPECT_DROPPED(Leaves(disabled_, "peer_pod", family, Mark::kFromDisabled),
                   "leak_to_pod", disabled_.slot);
    EXPECT_DROPPED(Leaves(preferred_, "peer_pod", family, Mark::kFromPreferred),
                   "leak_to_pod", preferred_.slot);
    EXPECT_DROPPED(
        Leaves(disabled_, "unknown_pod", family, Mark::kFromDisabled),
        "leak_to_pod", disabled_.slot);
    // Nodes without an agent: preferred reaches them, and it is counted.
    EXPECT_LEFT(
        Leaves(preferred_, "agentless_pod", family, Mark::kFromPreferred),
        "plaintext_out");
    EXPECT_LEFT(Leaves(disabled_, "agentless_pod", family, Mark::kFromDisabled),
                "plaintext_out");
    // Nodes: ESP or drop for preferred where there is an agent.
    EXPECT_DROPPED(
        Leaves(preferred_, "peer_node", family, Mark::kFromPreferred),
        "leak_to_pod", preferred_.slot);
    EXPECT_LEFT(Leaves(preferred_, "other_node", family, Mark::kFromPreferred),
                "plaintext_out");
    EXPECT_LEFT(Leaves(disabled_, "peer_node", family, Mark::kFromDisabled),
                "plaintext_out");
    for (const ScenePod* pod : {&preferred_, &disabled_}) {
      EXPECT_LEFT(Leaves(*pod, "outside", family,
                         pod == &preferred_ ? Mark::kFromPreferred
                                            : Mark::kFromDisabled),
                  "to_outside");
    }
  }
}

TEST_F(UplinkTest, TheNodeItself) {
  for (const int family : {4, 6}) {
    const IpAddress own = At("own_node", family);
    // IKE, the API server, kubelet.
    EXPECT_LEFT(Out(own, At("peer_node", family), 0, Mark::kNone), "node_out");
    EXPECT_LEFT(Out(own, At("outside", family), 0, Mark::kNone), "node_out");
    EXPECT_LEFT(Out(own, At("multicast", family), 0, Mark::kNone), "node_out");
    // To a pod that may be required.
    EXPECT_DROPPED(Out(own, At("peer_pod", family), 0, Mark::kNone),
                   "leak_to_pod", 0);
    EXPECT_DROPPED(Out(own, At("plaintext_pod", family), 0, Mark::kNone),
                   "leak_to_pod", 0);
    EXPECT_LEFT(Out(own, At("agentless_pod", family), 0, Mark::kNone),
                "node_out");
    // What it routes from the outside, a NodePort say, to a peer's pod.
    EXPECT_DROPPED(Out(own, At("peer_pod", family), kWire, Mark::kWireToNode),
                   "leak_to_pod", 0);
  }
}

TEST_F(UplinkTest, OuterPacketsPassByTheirMark) {
  // Their inner source was a required pod, whose interface they came in by.
  const std::string esp = Frame(
      kRouter, 0x0800, Ipv4(At("own_node", 4), At("peer_node", 4), 50, "esp"));
  EXPECT_LEFT(UplinkOut(esp, required_.ifindex, Mark::kBypass), "outer");
  EXPECT_DROPPED(UplinkOut(esp, required_.ifindex, Mark::kFromRequired),
                 "leak_from_pod", required_.slot)
      << "ESP that the pod made itself";
}

TEST_F(UplinkTest, WhatCameOutOfEspDoesNotLeaveAgain) {
  for (const int family : {4, 6}) {
    for (const char* to : {"unknown_pod", "plaintext_pod", "agentless_pod",
                           "peer_node", "other_node"}) {
      EXPECT_DROPPED(
          Out(At("peer_pod", family), At(to, family), kTunnel, Mark::kNone),
          "leak_from_esp", 0);
      EXPECT_DROPPED(
          Out(At("peer_pod", family), At(to, family), kWire, Mark::kFromEsp),
          "leak_from_esp", 0);
    }
    // A pod of this node that was deleted meanwhile.
    EXPECT_DROPPED(Out(At("peer_pod", family), required_.address(family),
                       kTunnel, Mark::kFromEsp),
                   "leak_from_esp", 0);
    // The answer to a client outside whose NodePort is here.
    EXPECT_LEFT(Out(At("own_node", family), At("outside", family), kTunnel,
                    Mark::kFromEsp),
                "to_outside");
  }
}

TEST_F(UplinkTest, BeforeTheFirstSyncPodsSendNothing) {
  desired_.in_sync = false;
  Apply();
  for (const int family : {4, 6}) {
    EXPECT_DROPPED(Leaves(required_, "outside", family, Mark::kFromRequired),
                   "not_in_sync", required_.slot);
    EXPECT_DROPPED(
        Leaves(disabled_, "plaintext_pod", family, Mark::kFromDisabled),
        "not_in_sync", disabled_.slot);
    EXPECT_DROPPED(Out(At("peer_pod", family), At("outside", family), kTunnel,
                       Mark::kNone),
                   "not_in_sync", 0);
    EXPECT_LEFT(
        Out(At("own_node", family), At("peer_node", family), 0, Mark::kNone),
        "node_out");
    EXPECT_MARKED(In(At("outside", family), At("own_node", family)),
                  Mark::kWireInside);
  }
}

TEST_F(UplinkTest, NotIp) {
  const std::string arp = Frame(kRouter, 0x0806, std::string(28, '\0'));
  EXPECT_LEFT(UplinkOut(arp, 0, Mark::kNone), "");
  // MPLS around a pod's packet.
  const std::string mpls = Frame(kRouter, 0x8847, std::string(40, 'm'));
  EXPECT_LEFT(UplinkOut(mpls, 0, Mark::kNone), "");
  EXPECT_DROPPED(UplinkOut(mpls, 0, Mark::kFromRequired), "leak_from_pod", 0);
  EXPECT_DROPPED(UplinkOut(mpls, required_.ifindex, Mark::kNone),
                 "leak_from_pod", required_.slot);
}

TEST_F(UplinkTest, HeadersCutShort) {
  std::string packet = Ipv4(At("peer_pod", 4), required_.ipv4, 17, Udp(1, 2));
  packet[0] = 0x42;
  EXPECT_DROPPED(UplinkIn(Frame(kRouter, 0x0800, packet)), "wire_malformed", 0);
  EXPECT_DROPPED(UplinkOut(Frame(kRouter, 0x0800, packet), required_.ifindex,
                           Mark::kFromRequired),
                 "out_malformed", required_.slot);
}

// BPF_PROG_TEST_RUN knows only frames; these are IP packets whose source
// address has the frame's type where the frame has it.
TEST_F(UplinkTest, DevicesWithoutALinkHeader) {
  // The kernel wants a whole IP header behind the frame's.
  const std::string padded = Udp(1, 2) + std::string(40, '\0');
  const IpAddress source = Ip("8.0.0.1");
  const std::string in = Ipv4(source, At("own_node", 4), 17, padded);
  EXPECT_MARKED(Run(BpfProgram::kL3In, in, {.input = kWire}),
                Mark::kWireToNode);
  const std::string out = Ipv4(source, At("peer_pod", 4), 17, padded);
  EXPECT_DROPPED(Run(BpfProgram::kL3Out, out,
                     {.input = required_.ifindex, .mark = Mark::kFromRequired}),
                 "leak_from_pod", required_.slot);
  EXPECT_LEFT(
      Run(BpfProgram::kL3Out, Ipv4(source, At("outside", 4), 17, padded),
          {.input = required_.ifindex, .mark = Mark::kFromRequired}),
      "to_outside");
  const IpAddress source6 = Ip("2001:db8:86dd::1");
  EXPECT_DROPPED(
      Run(BpfProgram::kL3Out, Ipv6(source6, At("peer_pod", 6), 17, padded),
          {.input = required_.ifindex, .mark = Mark::kFromRequired}),
      "leak_from_pod", required_.slot);
}

// The device itself is a wire like others; what leaves it has been judged, and
// its outer packets, which keep the mark, are the node's.
TEST_F(UplinkTest, WhatLeavesByTheVxlanIsJudgedThereOnce) {
  // A device that is there; which one says the map.
  const uint32_t vxlan = open_.ifindex;
  places_.vxlan_ifindex = vxlan;
  Apply();
  for (const int family : {4, 6}) {
    const auto out = [&](const ScenePod& pod, const char* to,
                         uint32_t ifindex) {
      const Mark mark =
          &pod == &disabled_ ? Mark::kFromDisabled : Mark::kFromRequired;
      return Run(guard::BpfProgram::kUplinkOut,
                 UdpFrame(pod.address(family), At(to, family), kRouter),
                 {.input = pod.ifindex, .mark = mark, .ifindex = ifindex});
    };
    const Outcome judged = out(disabled_, "plaintext_pod", vxlan);
    EXPECT_TRUE(Is(judged, false, "plaintext_out", Mark::kBypass));
    EXPECT_DROPPED(out(disabled_, "peer_pod", vxlan), "leak_to_pod",
                   disabled_.slot);
    EXPECT_DROPPED(out(required_, "plaintext_pod", vxlan), "leak_from_pod",
                   required_.slot);
    // The control: another device gives no mark.
    EXPECT_TRUE(Is(out(disabled_, "plaintext_pod", preferred_.ifindex), false,
                   "plaintext_out", Mark::kFromDisabled));
  }
}

TEST_F(UplinkTest, DropsAreTold) {
  Leaves(required_, "peer_pod", 6, Mark::kFromRequired);
  Leaves(required_, "outside", 6, Mark::kFromRequired);
  const std::vector<espalier_event> events = Events();
  ASSERT_EQ(events.size(), 1u) << "of what passes nothing is told";
  const espalier_event& event = events[0];
  EXPECT_EQ(event.verdict, ESPALIER_V_LEAK_FROM_POD);
  EXPECT_EQ(event.hook, ESPALIER_HOOK_UPLINK_OUT);
  EXPECT_EQ(event.slot, required_.slot);
  EXPECT_EQ(event.input_ifindex, required_.ifindex);
  EXPECT_EQ(event.family, 6);
  EXPECT_EQ(event.protocol, 17);
  EXPECT_EQ(event.source_port, 40000);
  EXPECT_EQ(event.destination_port, 80);
  EXPECT_EQ(guard::FromBpfAddress(event.source, 6), required_.ipv6);
  EXPECT_EQ(guard::FromBpfAddress(event.destination, 6), At("peer_pod", 6));
  EXPECT_EQ(event.length, 52u);
}

TEST_F(UplinkTest, EventsAreLimitedForEachPodAndCountedAllTheSame) {
  const std::string frame =
      UdpFrame(required_.ipv4, At("peer_pod", 4), kRouter);
  uint64_t dropped = 0;
  for (int i = 0; i < 200; ++i) {
    dropped += UplinkOut(frame, required_.ifindex, Mark::kFromRequired).dropped;
  }
  EXPECT_EQ(dropped, 200u);
  const size_t told = Events().size();
  EXPECT_GE(told, 1u);
  // The runs may spread over several seconds of a slow machine.
  EXPECT_LT(told, 200u);
  // Another pod has a budget of its own.
  Leaves(denied_, "peer_pod", 4, Mark::kFromRequiredInside);
  EXPECT_EQ(Events().size(), 1u);
}

}  // namespace
}  // namespace espalier::testing
