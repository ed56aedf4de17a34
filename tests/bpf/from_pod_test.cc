// from_pod: the source must be the pod's own; what it marks; what a pod may
// say on its link.
#include <gtest/gtest.h>

#include "tests/bpf/scene.h"

namespace espalier::testing {
namespace {

using base::IpAddress;
using base::Mark;

class FromPodTest : public SceneTest {
 protected:
  // A frame with that source address, out of the required pod.
  Outcome Sends(const IpAddress& source, const std::string& l3) {
    return FromPod(required_, Frame(required_.mac, Type(source), l3));
  }
  Outcome SendsIcmp6(const IpAddress& source, const std::string& body,
                     uint8_t hop_limit = 255) {
    return Sends(source, Ipv6(source, Ip("ff02::1"), 58, body, hop_limit));
  }
  IpAddress link_local() { return guard::LinkLocalOf(required_.mac); }
  static constexpr Mac kStranger = {2, 0x66, 0x66, 0x66, 0x66, 0x66};
};

TEST_F(FromPodTest, MarksByMode) {
  for (const int family : {4, 6}) {
    const IpAddress peer = At("peer_pod", family);
    const auto send = [&](const ScenePod& pod) {
      return FromPod(pod, UdpFrame(pod.address(family), peer, pod.mac));
    };
    EXPECT_SENT(send(required_), Mark::kFromRequired);
    EXPECT_SENT(send(preferred_), Mark::kFromPreferred);
    EXPECT_SENT(send(disabled_), Mark::kFromDisabled);
    EXPECT_SENT(send(open_), Mark::kFromRequired);
    // Whether it is the outside is known only after Services were translated.
    EXPECT_SENT(send(denied_), Mark::kFromRequiredInside);
  }
}

TEST_F(FromPodTest, CountsForThePod) {
  const Outcome outcome = FromPod(
      disabled_, UdpFrame(disabled_.ipv4, At("outside", 4), disabled_.mac));
  EXPECT_EQ(outcome.slot, disabled_.slot);
  EXPECT_EQ(outcome.verdict, "sent");
}

TEST_F(FromPodTest, OtherBitsOfTheMarkStay) {
  const Outcome outcome =
      Run(guard::BpfProgram::kFromPod,
          UdpFrame(required_.ipv4, At("peer_pod", 4), required_.mac),
          {.input = required_.ifindex,
           .mark = Mark::kBypass,  // whatever stood there is replaced
           .other_marks = 0x4000,
           .ifindex = required_.ifindex});
  EXPECT_EQ(outcome.raw_mark,
            0x4000 | base::MarkValue(desired_.mark_mask, Mark::kFromRequired));
}

TEST_F(FromPodTest, AnotherMaskMovesTheMark) {
  desired_.mark_mask = 0x00f00000;
  Apply();
  const Outcome outcome = FromPod(
      required_, UdpFrame(required_.ipv4, At("peer_pod", 4), required_.mac));
  EXPECT_EQ(outcome.raw_mark, 0x00100000u);
}

TEST_F(FromPodTest, ModeThatNobodyKnowsIsRequired) {
  espalier_pod pod{};
  const std::string key = guard::ToBytes(required_.ifindex);
  pod = guard::FromBytes<espalier_pod>(
      object_->Read(guard::BpfMap::kPods)->at(key));
  pod.mode = 77;
  ASSERT_TRUE(
      object_->Update(guard::BpfMap::kPods, key, guard::ToBytes(pod)).ok());
  EXPECT_SENT(FromPod(required_, UdpFrame(required_.ipv4, At("peer_pod", 4),
                                          required_.mac)),
              Mark::kFromRequired);
}

TEST_F(FromPodTest, UnknownPodSendsNothing) {
  desired_.pods.clear();
  Apply();
  for (const int family : {4, 6}) {
    EXPECT_DROPPED(
        FromPod(required_, UdpFrame(required_.address(family),
                                    At("peer_pod", family), required_.mac)),
        "unknown_pod", 0);
  }
  EXPECT_DROPPED(FromPod(required_, Frame(required_.mac, 0x0806,
                                          Arp(1, required_.mac, required_.ipv4,
                                              Ip("169.254.1.1")))),
                 "unknown_pod", 0);
}

TEST_F(FromPodTest, SourceMustBeItsOwn) {
  for (const int family : {4, 6}) {
    for (const char* place : {"peer_pod", "own_node", "outside", "peer_node"}) {
      EXPECT_DROPPED(
          FromPod(required_, UdpFrame(At(place, family), At("peer_pod", family),
                                      required_.mac)),
          "wrong_source", required_.slot);
    }
    EXPECT_DROPPED(
        FromPod(required_, UdpFrame(preferred_.address(family),
                                    At("peer_pod", family), required_.mac)),
        "wrong_source", required_.slot);
  }
  EXPECT_DROPPED(
      FromPod(required_, UdpFrame(Ip("0.0.0.0"), Ip("255.255.255.255"),
                                  required_.mac, 68, 67)),
      "wrong_source", required_.slot);
}

TEST_F(FromPodTest, PodWithoutThatFamilySendsNothingInIt) {
  desired_pod(required_).addresses = {required_.ipv4};
  Apply();
  EXPECT_DROPPED(FromPod(required_, UdpFrame(required_.ipv6, At("peer_pod", 6),
                                             required_.mac)),
                 "wrong_source", required_.slot);
  EXPECT_DROPPED(
      FromPod(required_, UdpFrame(Ip("::"), At("peer_pod", 6), required_.mac)),
      "wrong_source", required_.slot);
  desired_pod(required_).addresses = {required_.ipv6};
  Apply();
  EXPECT_DROPPED(FromPod(required_, UdpFrame(required_.ipv4, At("peer_pod", 4),
                                             required_.mac)),
                 "wrong_source", required_.slot);
  EXPECT_DROPPED(FromPod(required_, UdpFrame(Ip("0.0.0.0"), At("peer_pod", 4),
                                             required_.mac)),
                 "wrong_source", required_.slot);
}

TEST_F(FromPodTest, LinkAddressMustBeItsOwn) {
  EXPECT_DROPPED(FromPod(required_, UdpFrame(required_.ipv4, At("peer_pod", 4),
                                             kStranger)),
                 "wrong_mac", required_.slot);
}

TEST_F(FromPodTest, NoVlanTagsAndNothingButIp) {
  const std::string ip = Ipv4(required_.ipv4, At("peer_pod", 4), 17, Udp(1, 2));
  EXPECT_DROPPED(
      FromPod(required_, Frame(required_.mac, 0x0800, ip, VlanTag(7))), "vlan",
      required_.slot);
  EXPECT_DROPPED(FromPod(required_, Frame(required_.mac, 0x0800, ip,
                                          VlanTag(7, 0x88a8) + VlanTag(8))),
                 "vlan", required_.slot);
  EXPECT_DROPPED(FromPod(required_, Frame(required_.mac, 0x8847, ip)), "not_ip",
                 required_.slot);
  EXPECT_SENT(FromPod(required_, Frame(required_.mac, 0x0800, ip)),
              Mark::kFromRequired);
}

TEST_F(FromPodTest, HeadersCutShortOrWrong) {
  const IpAddress& own = required_.ipv4;
  const IpAddress peer = At("peer_pod", 4);
  std::string packet = Ipv4(own, peer, 17, Udp(1, 2));
  packet[0] = 0x4f;  // options that are not there
  EXPECT_DROPPED(Sends(own, packet.substr(0, 24)), "malformed", required_.slot);
  packet = Ipv4(own, peer, 17, Udp(1, 2));
  packet[0] = 0x44;  // a header of 16 octets
  EXPECT_DROPPED(Sends(own, packet), "malformed", required_.slot);
  packet[0] = 0x65;  // another version than the frame says
  EXPECT_DROPPED(Sends(own, packet), "malformed", required_.slot);
  EXPECT_DROPPED(Sends(own, Ipv4(own, peer, 6, "ab")), "malformed",
                 required_.slot);
  EXPECT_DROPPED(
      Sends(required_.ipv6, Ipv6(required_.ipv6, At("peer_pod", 6), 0, "")),
      "malformed", required_.slot);
  EXPECT_DROPPED(
      Sends(required_.ipv6, Ipv6(required_.ipv6, At("peer_pod", 6), 58, "")),
      "malformed", required_.slot);
}

TEST_F(FromPodTest, OptionsAndExtensionHeadersAreFollowed) {
  const IpAddress peer4 = At("peer_pod", 4), peer6 = At("peer_pod", 6);
  EXPECT_SENT(Sends(required_.ipv4, Ipv4(required_.ipv4, peer4, 17, Udp(1, 2),
                                         {.options = Octets({1, 1, 1, 0})})),
              Mark::kFromRequired);
  // A DHCP server's port behind options is found all the same.
  EXPECT_DROPPED(
      Sends(required_.ipv4, Ipv4(required_.ipv4, peer4, 17, Udp(67, 68),
                                 {.options = Octets({1, 1, 1, 0})})),
      "dhcp_server", required_.slot);
  std::string chain = Udp(547, 546);
  uint8_t next = 17;
  for (const uint8_t header : {60, 43, 135, 60, 60, 0}) {
    chain = Extension(next) + chain;
    next = header;
    EXPECT_DROPPED(
        Sends(required_.ipv6, Ipv6(required_.ipv6, peer6, next, chain)),
        "dhcp_server", required_.slot);
  }
  for (int i = 0; i < 3; ++i) chain = Extension(60) + chain;
  EXPECT_DROPPED(Sends(required_.ipv6, Ipv6(required_.ipv6, peer6, 60, chain)),
                 "too_many_headers", required_.slot);
}

TEST_F(FromPodTest, DhcpServers) {
  EXPECT_DROPPED(FromPod(required_, UdpFrame(required_.ipv4, At("peer_pod", 4),
                                             required_.mac, 67, 68)),
                 "dhcp_server", required_.slot);
  EXPECT_DROPPED(FromPod(required_, UdpFrame(required_.ipv6, At("peer_pod", 6),
                                             required_.mac, 547, 546)),
                 "dhcp_server", required_.slot);
  EXPECT_SENT(FromPod(required_, UdpFrame(required_.ipv4, At("peer_pod", 4),
                                          required_.mac, 68, 67)),
              Mark::kFromRequired);
  // TCP from that port is no DHCP.
  EXPECT_SENT(Sends(required_.ipv4,
                    Ipv4(required_.ipv4, At("peer_pod", 4), 6, Tcp(67, 68))),
              Mark::kFromRequired);
}

TEST_F(FromPodTest, FragmentsFollowTheAddresses) {
  const IpAddress peer4 = At("peer_pod", 4), peer6 = At("peer_pod", 6);
  // Its first octets would be a DHCP server's port.
  EXPECT_SENT(Sends(required_.ipv4, Ipv4(required_.ipv4, peer4, 17, Udp(67, 68),
                                         {.fragment = 0x00b9})),
              Mark::kFromRequired);
  EXPECT_DROPPED(Sends(required_.ipv4, Ipv4(required_.ipv4, peer4, 17,
                                            Udp(67, 68), {.fragment = 0x2000})),
                 "dhcp_server", required_.slot);
  EXPECT_DROPPED(
      Sends(peer4, Ipv4(peer4, required_.ipv4, 17, "x", {.fragment = 0x00b9})),
      "wrong_source", required_.slot);
  EXPECT_SENT(Sends(required_.ipv6,
                    Ipv6(required_.ipv6, peer6, 44,
                         FragmentHeader(17, 100, true) + Udp(547, 546))),
              Mark::kFromRequired);
  EXPECT_DROPPED(
      Sends(required_.ipv6, Ipv6(required_.ipv6, peer6, 44,
                                 FragmentHeader(17, 0, true) + Udp(547, 546))),
      "dhcp_server", required_.slot);
}

TEST_F(FromPodTest, Arp) {
  const auto send = [&](const std::string& arp) {
    return FromPod(required_, Frame(required_.mac, 0x0806, arp));
  };
  const IpAddress gateway = Ip("169.254.1.1");
  EXPECT_LINK(send(Arp(1, required_.mac, required_.ipv4, gateway)));
  EXPECT_LINK(send(Arp(2, required_.mac, required_.ipv4, gateway)));
  EXPECT_LINK(send(Arp(1, required_.mac, Ip("0.0.0.0"), required_.ipv4)));
  EXPECT_DROPPED(send(Arp(2, required_.mac, gateway, required_.ipv4)),
                 "forged_arp", required_.slot);
  EXPECT_DROPPED(send(Arp(2, kStranger, required_.ipv4, gateway)), "forged_arp",
                 required_.slot);
  EXPECT_DROPPED(send(Arp(2, required_.mac, Ip("0.0.0.0"), gateway)),
                 "forged_arp", required_.slot);
  EXPECT_DROPPED(
      send(Arp(1, required_.mac, required_.ipv4, gateway).substr(0, 20)),
      "malformed", required_.slot);
}

TEST_F(FromPodTest, NeighbourDiscovery) {
  const Mac& mac = required_.mac;
  for (const IpAddress& source : {link_local(), required_.ipv6}) {
    EXPECT_LINK(SendsIcmp6(source, Nd(135, Ip("fe80::1"), 1, mac)));
    EXPECT_LINK(SendsIcmp6(source, Nd(136, required_.ipv6, 2, mac)));
    EXPECT_LINK(SendsIcmp6(source, Nd(136, link_local(), 0, mac)));
    EXPECT_DROPPED(SendsIcmp6(source, Nd(135, Ip("fe80::1"), 1, kStranger)),
                   "forged_nd", required_.slot);
    EXPECT_DROPPED(SendsIcmp6(source, Nd(136, required_.ipv6, 2, kStranger)),
                   "forged_nd", required_.slot);
    EXPECT_DROPPED(SendsIcmp6(source, Nd(136, preferred_.ipv6, 2, mac)),
                   "forged_nd", required_.slot);
    EXPECT_DROPPED(SendsIcmp6(source, Nd(135, Ip("fe80::1"), 1, mac), 64),
                   "forged_nd", required_.slot)
        << "routed neighbour discovery";
    EXPECT_LINK(
        SendsIcmp6(source, Icmp6(133, Octets({0, 0, 0, 0, 1, 1}) + Raw(mac))));
    EXPECT_DROPPED(SendsIcmp6(source, Icmp6(133, Octets({0, 0, 0, 0, 1, 1}) +
                                                     Raw(kStranger))),
                   "forged_nd", required_.slot);
  }
  // The second option carries the lie; an option of no length never ends.
  EXPECT_DROPPED(SendsIcmp6(link_local(), Nd(136, required_.ipv6, 2, mac) +
                                              Octets({2, 1}) + Raw(kStranger)),
                 "forged_nd", required_.slot);
  EXPECT_DROPPED(SendsIcmp6(link_local(), Nd(136, required_.ipv6, 0, mac) +
                                              Octets({5, 0, 0, 0, 0, 0, 0, 0})),
                 "forged_nd", required_.slot);
  EXPECT_DROPPED(
      SendsIcmp6(link_local(), Nd(136, required_.ipv6, 0, mac).substr(0, 12)),
      "malformed", required_.slot);
  EXPECT_DROPPED(SendsIcmp6(Ip("fe80::9"), Nd(135, Ip("fe80::1"), 1, mac)),
                 "wrong_source", required_.slot);
}

TEST_F(FromPodTest, FragmentedNeighbourDiscoveryIsForged) {
  EXPECT_DROPPED(
      Sends(link_local(), Ipv6(link_local(), Ip("ff02::1"), 44,
                               FragmentHeader(58, 0, true) +
                                   Nd(136, required_.ipv6, 2, required_.mac),
                               255)),
      "forged_nd", required_.slot);
  EXPECT_DROPPED(
      Sends(link_local(), Ipv6(link_local(), Ip("ff02::1"), 44,
                               FragmentHeader(58, 5, false) + "x", 255)),
      "wrong_source", required_.slot);
}

TEST_F(FromPodTest, DuplicateAddressDetection) {
  const IpAddress none = Ip("::");
  const Mac& mac = required_.mac;
  EXPECT_LINK(SendsIcmp6(none, Nd(135, required_.ipv6, 0, mac)));
  EXPECT_LINK(SendsIcmp6(none, Nd(135, link_local(), 0, mac)));
  EXPECT_LINK(SendsIcmp6(none, Nd(135, required_.ipv6, 14, mac)))
      << "a nonce, RFC 7527";
  EXPECT_DROPPED(SendsIcmp6(none, Nd(135, preferred_.ipv6, 0, mac)),
                 "forged_nd", required_.slot);
  EXPECT_DROPPED(SendsIcmp6(none, Nd(135, required_.ipv6, 1, mac)), "forged_nd",
                 required_.slot);
  EXPECT_DROPPED(SendsIcmp6(none, Nd(136, required_.ipv6, 2, mac)), "forged_nd",
                 required_.slot);
}

TEST_F(FromPodTest, MulticastListeners) {
  const std::string report = Octets({0, 0, 0, 0});
  for (const IpAddress& source : {Ip("::"), link_local()}) {
    // As Linux sends it: behind a hop-by-hop router alert.
    EXPECT_LINK(Sends(source, Ipv6(source, Ip("ff02::16"), 0,
                                   Extension(58) + Icmp6(143, report), 1)));
    EXPECT_LINK(SendsIcmp6(source, Icmp6(131, report), 1));
    EXPECT_LINK(SendsIcmp6(source, Icmp6(132, report), 1));
  }
  EXPECT_DROPPED(SendsIcmp6(link_local(), Icmp6(130, report), 1), "forged_nd",
                 required_.slot)
      << "a querier";
}

TEST_F(FromPodTest, LinkLocalIsForNothingElse) {
  EXPECT_DROPPED(SendsIcmp6(link_local(), Icmp6(128, "ping")), "wrong_source",
                 required_.slot);
  EXPECT_DROPPED(SendsIcmp6(Ip("::"), Icmp6(128, "ping")), "wrong_source",
                 required_.slot);
  EXPECT_DROPPED(FromPod(required_, UdpFrame(link_local(), At("peer_pod", 6),
                                             required_.mac)),
                 "wrong_source", required_.slot);
  EXPECT_SENT(SendsIcmp6(required_.ipv6, Icmp6(128, "ping")),
              Mark::kFromRequired);
}

TEST_F(FromPodTest, RoutersAreNotPods) {
  const std::string body = std::string(16, '\0');
  for (const IpAddress& source : {link_local(), required_.ipv6}) {
    EXPECT_DROPPED(SendsIcmp6(source, Icmp6(134, body)), "router_advertisement",
                   required_.slot);
    EXPECT_DROPPED(SendsIcmp6(source, Icmp6(137, body)), "router_advertisement",
                   required_.slot);
    EXPECT_DROPPED(Sends(source, Ipv6(source, Ip("ff02::1"), 60,
                                      Extension(58) + Icmp6(134, body), 255)),
                   "router_advertisement", required_.slot)
        << "behind an extension header (RFC 7113)";
  }
}

}  // namespace
}  // namespace espalier::testing
