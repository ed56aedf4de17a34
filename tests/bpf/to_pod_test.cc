// to_pod: what reaches a required pod, by where it came in.
#include <gtest/gtest.h>

#include "tests/bpf/scene.h"

namespace espalier::testing {
namespace {

using base::IpAddress;
using base::Mark;

class ToPodTest : public SceneTest {
 protected:
  Outcome Arrives(const ScenePod& pod, const char* from, int family,
                  uint32_t input, Mark mark = Mark::kNone) {
    return ToPod(pod, UdpFrame(At(from, family), pod.address(family), kRouter),
                 input, mark);
  }
  std::string ToRequired(const IpAddress& source, uint8_t protocol,
                         const std::string& payload) {
    return Frame(kRouter, Type(source),
                 Packet(source, required_.address(source.is_v4() ? 4 : 6),
                        protocol, payload));
  }
};

TEST_F(ToPodTest, ThisNodeIsToldByTheInterfaceNeverByTheAddress) {
  for (const int family : {4, 6}) {
    // kubelet's probes: made here.
    EXPECT_RECEIVED(Arrives(required_, "own_node", family, 0), "from_node");
    EXPECT_RECEIVED(Arrives(required_, "own_node", family, 1), "from_node");
    // The node's own address, forged on the wire.
    EXPECT_DROPPED(Arrives(required_, "own_node", family, kWire),
                   "plaintext_to_pod", required_.slot);
    EXPECT_DROPPED(
        Arrives(required_, "own_node", family, kWire, Mark::kWireInside),
        "plaintext_to_pod", required_.slot);
  }
}

TEST_F(ToPodTest, PodsOfThisNode) {
  for (const int family : {4, 6}) {
    for (const ScenePod* from : {&required_, &preferred_, &disabled_}) {
      EXPECT_RECEIVED(
          ToPod(open_,
                UdpFrame(from->address(family), open_.address(family), kRouter),
                from->ifindex, Mark::kFromDisabled),
          "from_local_pod");
    }
    // The same addresses off the wire.
    EXPECT_DROPPED(ToPod(open_,
                         UdpFrame(preferred_.address(family),
                                  open_.address(family), kRouter),
                         kWire),
                   "plaintext_to_pod", open_.slot);
  }
}

TEST_F(ToPodTest, OutOfEspByInterfaceAndMark) {
  for (const int family : {4, 6}) {
    EXPECT_RECEIVED(
        Arrives(required_, "peer_pod", family, kTunnel, Mark::kFromEsp),
        "from_esp");
    // An SA that does not encrypt sets no mark.
    for (const Mark mark : {Mark::kNone, Mark::kWireToNode, Mark::kBypass}) {
      EXPECT_DROPPED(Arrives(required_, "peer_pod", family, kTunnel, mark),
                     "unencrypted_tunnel", required_.slot);
    }
    // The mark without the interface.
    EXPECT_DROPPED(
        Arrives(required_, "peer_pod", family, kWire, Mark::kFromEsp),
        "plaintext_to_pod", required_.slot);
  }
}

TEST_F(ToPodTest, TunOfEspdNeedsNoMark) {
  desired_.tunnel_needs_mark = false;
  Apply();
  EXPECT_RECEIVED(Arrives(required_, "peer_pod", 4, kTunnel), "from_esp");
  EXPECT_DROPPED(Arrives(required_, "peer_pod", 4, kWire), "plaintext_to_pod",
                 required_.slot);
}

TEST_F(ToPodTest, PolicyBasedTrustsTheMark) {
  desired_.policy_based = true;
  desired_.tunnel_interface = "";
  places_.tunnel_ifindex = 0;
  Apply();
  EXPECT_RECEIVED(Arrives(required_, "peer_pod", 6, kWire, Mark::kFromEsp),
                  "from_esp");
  EXPECT_DROPPED(Arrives(required_, "peer_pod", 6, kWire), "plaintext_to_pod",
                 required_.slot);
}

TEST_F(ToPodTest, PlaintextFromInside) {
  for (const int family : {4, 6}) {
    for (const char* from :
         {"peer_pod", "plaintext_pod", "agentless_pod", "unknown_pod",
          "peer_node", "agentless_node", "other_node"}) {
      for (const Mark mark :
           {Mark::kNone, Mark::kWireInside, Mark::kWireOutside}) {
        EXPECT_DROPPED(Arrives(required_, from, family, kWire, mark),
                       "plaintext_to_pod", required_.slot);
      }
      EXPECT_RECEIVED(
          Arrives(preferred_, from, family, kWire, Mark::kWireInside),
          "plaintext_allowed");
      EXPECT_RECEIVED(
          Arrives(disabled_, from, family, kWire, Mark::kWireInside),
          "plaintext_allowed");
    }
  }
}

TEST_F(ToPodTest, UnknownPodReceivesNothing) {
  desired_.pods.clear();
  Apply();
  EXPECT_DROPPED(Arrives(required_, "own_node", 4, 0), "to_unknown_pod", 0);
  EXPECT_DROPPED(Arrives(required_, "peer_pod", 4, kTunnel, Mark::kFromEsp),
                 "to_unknown_pod", 0);
}

TEST_F(ToPodTest, BeforeTheFirstSyncEverythingIsInside) {
  desired_.in_sync = false;
  desired_.inside.clear();
  Apply();
  EXPECT_DROPPED(Arrives(open_, "outside", 4, kWire), "plaintext_to_pod",
                 open_.slot);
  EXPECT_RECEIVED(Arrives(required_, "own_node", 4, 0), "from_node");
  desired_.in_sync = true;
  Apply();
  EXPECT_RECEIVED(Arrives(open_, "outside", 4, kWire), "outside_allowed");
}

TEST_F(ToPodTest, OutsideInNeedsTheAnnotation) {
  for (const int family : {4, 6}) {
    EXPECT_DROPPED(
        Arrives(required_, "outside", family, kWire, Mark::kWireOutside),
        "outside_in", required_.slot);
    EXPECT_RECEIVED(
        Arrives(open_, "outside", family, kWire, Mark::kWireOutside),
        "outside_allowed");
    // It allows the outside, not the inside.
    EXPECT_DROPPED(
        Arrives(open_, "peer_pod", family, kWire, Mark::kWireOutside),
        "plaintext_to_pod", open_.slot);
  }
}

TEST_F(ToPodTest, ThroughAPortOfThisNode) {
  for (const int family : {4, 6}) {
    // hostPort, externalTrafficPolicy Local: the client's address is kept.
    EXPECT_RECEIVED(
        Arrives(required_, "outside", family, kWire, Mark::kWireToNode),
        "outside_by_node");
    // NodePort, masqueraded by kube-proxy.
    EXPECT_RECEIVED(
        Arrives(required_, "own_node", family, kWire, Mark::kWireToNode),
        "outside_by_node");
    // From the inside the same is plaintext between nodes.
    EXPECT_DROPPED(
        Arrives(required_, "own_node", family, kWire, Mark::kWireInside),
        "plaintext_to_pod", required_.slot);
  }
}

TEST_F(ToPodTest, RepliesFromTheOutside) {
  for (const int family : {4, 6}) {
    const IpAddress outside = At("outside", family);
    const std::string reply =
        UdpFrame(outside, required_.address(family), kRouter, 53, 40000);
    EXPECT_DROPPED(ToPod(required_, reply, kWire), "outside_in",
                   required_.slot);
    EXPECT_SENT(FromPod(required_, UdpFrame(required_.address(family), outside,
                                            required_.mac, 40000, 53)),
                Mark::kFromRequired);
    EXPECT_RECEIVED(ToPod(required_, reply, kWire), "reply_from_outside");
    // Another port, another host, another protocol, another pod.
    EXPECT_DROPPED(
        ToPod(required_,
              UdpFrame(outside, required_.address(family), kRouter, 54, 40000),
              kWire),
        "outside_in", required_.slot);
    EXPECT_DROPPED(
        ToPod(required_,
              UdpFrame(At("elsewhere", family), required_.address(family),
                       kRouter, 53, 40000),
              kWire),
        "outside_in", required_.slot);
    EXPECT_DROPPED(
        ToPod(required_, ToRequired(outside, 6, Tcp(53, 40000)), kWire),
        "outside_in", required_.slot);
    EXPECT_DROPPED(
        ToPod(denied_,
              UdpFrame(outside, denied_.address(family), kRouter, 53, 40000),
              kWire),
        "outside_in", denied_.slot);
  }
}

TEST_F(ToPodTest, FragmentsAndIcmpErrorsFollowTheAddresses) {
  const IpAddress outside = At("outside", 4);
  const std::string fragment =
      Frame(kRouter, 0x0800,
            Ipv4(outside, required_.ipv4, 17, "rest", {.fragment = 0x00b9}));
  const std::string sent = Ipv4(required_.ipv4, outside, 17, Udp(40000, 53));
  // A router on the way says that the packet was too big.
  const std::string too_big = ToRequired(At("elsewhere", 4), 1, Icmp(3, sent));
  const std::string about_another =
      ToRequired(At("elsewhere", 4), 1,
                 Icmp(3, Ipv4(preferred_.ipv4, outside, 17, Udp(40000, 53))));
  EXPECT_DROPPED(ToPod(required_, fragment, kWire), "outside_in",
                 required_.slot);
  EXPECT_DROPPED(ToPod(required_, too_big, kWire), "outside_in",
                 required_.slot);
  EXPECT_SENT(FromPod(required_, Frame(required_.mac, 0x0800, sent)),
              Mark::kFromRequired);
  EXPECT_RECEIVED(ToPod(required_, fragment, kWire), "reply_from_outside");
  EXPECT_RECEIVED(ToPod(required_, too_big, kWire), "reply_from_outside");
  EXPECT_DROPPED(ToPod(required_, about_another, kWire), "outside_in",
                 required_.slot);
  EXPECT_DROPPED(
      ToPod(required_, ToRequired(At("elsewhere", 4), 1, Icmp(3)), kWire),
      "outside_in", required_.slot);

  const IpAddress outside6 = At("outside", 6);
  const std::string sent6 = Ipv6(required_.ipv6, outside6, 17, Udp(40000, 53));
  const std::string too_big6 = ToRequired(
      At("elsewhere", 6), 58, Icmp6(2, Octets({0, 0, 5, 0}) + sent6));
  EXPECT_DROPPED(ToPod(required_, too_big6, kWire), "outside_in",
                 required_.slot);
  EXPECT_SENT(FromPod(required_, Frame(required_.mac, 0x86dd, sent6)),
              Mark::kFromRequired);
  EXPECT_RECEIVED(ToPod(required_, too_big6, kWire), "reply_from_outside");
  // From the inside, plaintext stays plaintext.
  EXPECT_DROPPED(
      ToPod(required_, ToRequired(At("peer_node", 4), 1, Icmp(3, sent)), kWire),
      "plaintext_to_pod", required_.slot);
}

TEST_F(ToPodTest, PingsAreAnswersOnlyAsAnswers) {
  const IpAddress outside = At("outside", 4);
  EXPECT_SENT(
      FromPod(required_, Frame(required_.mac, 0x0800,
                               Ipv4(required_.ipv4, outside, 1, Icmp(8)))),
      Mark::kFromRequired);
  EXPECT_RECEIVED(ToPod(required_, ToRequired(outside, 1, Icmp(0)), kWire),
                  "reply_from_outside");
  EXPECT_DROPPED(ToPod(required_, ToRequired(outside, 1, Icmp(8)), kWire),
                 "outside_in", required_.slot);
}

// Where the outside is denied, what came from there by the guard's own rules
// may be answered, and nothing else.
TEST_F(ToPodTest, AnswersOfAPodThatMayNotReachTheOutside) {
  for (const int family : {4, 6}) {
    const IpAddress outside = At("outside", family);
    const std::string answer =
        UdpFrame(denied_.address(family), outside, denied_.mac, 8080, 40000);
    EXPECT_SENT(FromPod(denied_, answer), Mark::kFromRequiredInside);
    EXPECT_RECEIVED(
        ToPod(denied_,
              UdpFrame(outside, denied_.address(family), kRouter, 40000, 8080),
              kWire, Mark::kWireToNode),
        "outside_by_node");
    EXPECT_SENT(FromPod(denied_, answer), Mark::kFromRequired);
    EXPECT_SENT(FromPod(denied_, UdpFrame(denied_.address(family), outside,
                                          denied_.mac, 8081, 40000)),
                Mark::kFromRequiredInside);
  }
}

TEST_F(ToPodTest, OffTheWireMalformedOrNotIp) {
  EXPECT_DROPPED(
      ToPod(required_, Frame(kRouter, 0x8847, std::string(40, 'x')), kWire),
      "not_ip", required_.slot);
  std::string packet = Ipv4(At("outside", 4), required_.ipv4, 17, Udp(1, 2));
  packet[0] = 0x4f;
  EXPECT_DROPPED(
      ToPod(required_, Frame(kRouter, 0x0800, packet.substr(0, 24)), kWire),
      "malformed", required_.slot);
}

}  // namespace
}  // namespace espalier::testing
