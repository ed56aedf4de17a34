// agent/netlink against the running kernel.
#include <linux/if.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "agent/netlink/network_namespace.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"
#include "agent/network/sysctl.h"
#include "gmock/gmock.h"
#include "tests/netns/private_namespace.h"

namespace espalier::netlink {
namespace {

using ::testing::HasSubstr;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

class NetlinkKernelTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto socket = Socket::Open();
    ASSERT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
    client_ = std::make_unique<RouteClient>(socket_.get());
  }

  // A veth pair, both ends here, up; the index of the first.
  int32_t MakeUplink() {
    EXPECT_TRUE(
        client_->AddVeth({.name = "up0", .up = true}, {.name = "up1"}).ok());
    const absl::StatusOr<Link> peer = client_->GetLink("up1");
    EXPECT_TRUE(client_->ChangeLink(peer->index, {.up = true}).ok());
    return client_->GetLink("up0")->index;
  }

  std::unique_ptr<Socket> socket_;
  std::unique_ptr<RouteClient> client_;
};

TEST_F(NetlinkKernelTest, MakesAVethIntoAnotherNamespaceInOneMessage) {
  testing::OtherNamespace pod;
  ASSERT_GE(pod.fd(), 0);
  const MacAddress host_mac = {0x02, 0, 0, 0, 0, 1};
  const MacAddress pod_mac = {0x02, 0, 0, 0, 0, 2};
  const absl::Status made = client_->AddVeth(
      {.name = "esp123", .mtu = 1400, .mac = host_mac, .up = true},
      {.name = "eth0", .mtu = 1400, .mac = pod_mac, .netns_fd = pod.fd()});
  ASSERT_TRUE(made.ok()) << made;
  ASSERT_TRUE(
      client_
          ->ChangeLink(client_->GetLink("esp123")->index,
                       {.alias = "pod ns/name", .no_ipv6_link_local = true})
          .ok());
  const absl::StatusOr<Link> host = client_->GetLink("esp123");
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_EQ(host->kind, "veth");
  EXPECT_EQ(host->mtu, 1400u);
  EXPECT_EQ(host->alias, "pod ns/name");
  EXPECT_EQ(host->mac, host_mac);
  EXPECT_TRUE(host->up());
  EXPECT_GE(host->peer_netns_id, 0);

  auto inside = Socket::OpenInNamespace(pod.path());
  ASSERT_TRUE(inside.ok()) << inside.status();
  RouteClient pod_client(inside->get());
  const absl::StatusOr<Link> eth0 = pod_client.GetLink("eth0");
  ASSERT_TRUE(eth0.ok()) << eth0.status();
  EXPECT_EQ(eth0->mtu, 1400u);
  EXPECT_EQ(eth0->mac, pod_mac);
  EXPECT_FALSE(eth0->up());
  EXPECT_EQ(host->peer_index, eth0->index);
  ASSERT_TRUE(pod_client.ChangeLink(eth0->index, {.up = true}).ok());
  EXPECT_TRUE(pod_client.GetLink("eth0")->up());

  // The name does not exist out here.
  EXPECT_EQ(client_->GetLink("eth0").status().code(),
            absl::StatusCode::kNotFound);

  EXPECT_EQ(client_->AddVeth({.name = "esp123"}, {.name = "x"}).code(),
            absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(client_->DeleteLink("esp123").ok());
  EXPECT_EQ(client_->DeleteLink("esp123").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pod_client.GetLink("eth0").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(NetlinkKernelTest, AddressesComeBackAsTheyWereAdded) {
  const int32_t index = MakeUplink();
  for (const char* text : {"10.1.0.7", "fd00:1::7"}) {
    Address address{.interface_index = index,
                    .address = Ip(text),
                    .prefix_length = static_cast<uint8_t>(Ip(text).bits()),
                    .flags = IFA_F_NODAD};
    ASSERT_TRUE(client_->Apply(Verb::kAdd, address).ok());
    EXPECT_EQ(client_->Apply(Verb::kAdd, address).code(),
              absl::StatusCode::kAlreadyExists);
    EXPECT_TRUE(client_->Apply(Verb::kReplace, address).ok());
    const auto listed = client_->ListAddresses(index);
    ASSERT_TRUE(listed.ok()) << listed.status();
    EXPECT_THAT(
        *listed,
        ::testing::Contains(::testing::AllOf(
            ::testing::Field(&Address::address, Ip(text)),
            ::testing::Field(&Address::prefix_length, Ip(text).bits()))));
    EXPECT_TRUE(client_->Apply(Verb::kDelete, address).ok());
    EXPECT_EQ(client_->Apply(Verb::kDelete, address).code(),
              absl::StatusCode::kNotFound);
  }
}

TEST_F(NetlinkKernelTest, RoutesComeBackAsTheyWereAdded) {
  const int32_t index = MakeUplink();
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Address{.interface_index = index,
                                              .address = Ip("10.1.0.1"),
                                              .prefix_length = 32})
                  .ok());
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Address{.interface_index = index,
                                              .address = Ip("fd00:1::1"),
                                              .prefix_length = 128,
                                              .flags = IFA_F_NODAD})
                  .ok());
  std::vector<Route> routes = {
      {.destination = Net("10.2.0.0/16"),
       .table = 4500,
       .protocol = 69,
       .scope = RT_SCOPE_LINK,
       .metric = 7,
       .interface_index = index,
       .preferred_source = Ip("10.1.0.1"),
       .mtu = 1400},
      {.destination = Net("10.3.0.0/16"),
       .table = 4500,
       .protocol = 69,
       .interface_index = index,
       .gateway = Ip("192.0.2.1"),
       .onlink = true,
       .advmss = 1300},
      {.destination = Net("10.0.0.0/8"),
       .table = 4500,
       .type = RTN_UNREACHABLE,
       .protocol = 69},
      {.destination = Net("fd00:2::/64"),
       .table = 4500,
       .protocol = 69,
       .metric = 1024,
       .interface_index = index,
       .preferred_source = Ip("fd00:1::1"),
       .mtu = 1380},
  };
  for (const Route& route : routes) {
    ASSERT_TRUE(client_->Apply(Verb::kAdd, route).ok()) << route.ToString();
    EXPECT_EQ(client_->Apply(Verb::kAdd, route).code(),
              absl::StatusCode::kAlreadyExists);
    EXPECT_TRUE(client_->Apply(Verb::kReplace, route).ok());
  }
  const auto listed = client_->ListRoutes({.table = 4500, .protocol = 69});
  ASSERT_TRUE(listed.ok()) << listed.status();
  EXPECT_THAT(*listed, ::testing::UnorderedElementsAreArray(routes));
  EXPECT_THAT(*client_->ListRoutes({.table = 4500, .protocol = 70}),
              ::testing::IsEmpty());
  EXPECT_THAT(*client_->ListRoutes({.table = 4501}), ::testing::IsEmpty());
  for (const Route& route : routes) {
    EXPECT_TRUE(client_->Apply(Verb::kDelete, route).ok()) << route.ToString();
    EXPECT_EQ(client_->Apply(Verb::kDelete, route).code(),
              absl::StatusCode::kNotFound);
  }
}

TEST_F(NetlinkKernelTest, LooksUpTheRouteOfAPacket) {
  const int32_t index = MakeUplink();
  EXPECT_FALSE(client_->LookUpRoute(Ip("198.51.100.1")).ok());
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Address{.interface_index = index,
                                              .address = Ip("198.51.100.2"),
                                              .prefix_length = 24})
                  .ok());
  const auto route = client_->LookUpRoute(Ip("198.51.100.1"));
  ASSERT_TRUE(route.ok()) << route.status();
  EXPECT_EQ(route->interface_index, index);
  EXPECT_EQ(route->preferred_source, Ip("198.51.100.2"));
}

TEST_F(NetlinkKernelTest, RulesComeBackAsTheyWereAdded) {
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    const Rule rule{.family = family,
                    .priority = 100,
                    .table = 4500,
                    .source = Net(family == base::Family::kIpv4 ? "10.0.0.0/8"
                                                                : "fd00::/16"),
                    .input_interface = "esp0",
                    .mark = 0x10000,
                    .mark_mask = 0xf0000,
                    .protocol = 69};
    ASSERT_TRUE(client_->Apply(Verb::kAdd, rule).ok());
    EXPECT_EQ(client_->Apply(Verb::kAdd, rule).code(),
              absl::StatusCode::kAlreadyExists);
    const auto rules = client_->ListRules();
    ASSERT_TRUE(rules.ok()) << rules.status();
    EXPECT_THAT(*rules, ::testing::Contains(rule));
    EXPECT_TRUE(client_->Apply(Verb::kDelete, rule).ok());
    EXPECT_EQ(client_->Apply(Verb::kDelete, rule).code(),
              absl::StatusCode::kNotFound);
  }
}

TEST_F(NetlinkKernelTest, PermanentNeighbours) {
  const int32_t index = MakeUplink();
  for (const char* text : {"10.1.0.9", "fd00:1::9"}) {
    const Neighbour neighbour{.interface_index = index,
                              .address = Ip(text),
                              .mac = MacAddress{2, 0, 0, 0, 0, 9}};
    ASSERT_TRUE(client_->Apply(Verb::kReplace, neighbour).ok());
    const auto listed = client_->ListNeighbours(index);
    ASSERT_TRUE(listed.ok()) << listed.status();
    EXPECT_THAT(*listed, ::testing::Contains(neighbour));
    EXPECT_TRUE(client_->Apply(Verb::kDelete, neighbour).ok());
  }
}

TEST_F(NetlinkKernelTest, AFailureOfABatchStopsNeitherItsNeighboursNorItself) {
  const int32_t index = MakeUplink();
  std::vector<Request> requests;
  constexpr int kRoutes = 1000;
  for (int i = 0; i < kRoutes; ++i) {
    Route route{.destination = *base::IpPrefix::Make(
                    Ip("10.0.0.0").Plus(static_cast<uint64_t>(i) << 8), 24),
                .table = 4500,
                .protocol = 69,
                .interface_index = i == 500 ? 9999 : index};
    requests.push_back(RouteRequest(Verb::kAdd, route));
  }
  const std::vector<absl::Status> results =
      socket_->ExecuteBatch(std::move(requests));
  ASSERT_EQ(results.size(), static_cast<size_t>(kRoutes));
  for (int i = 0; i < kRoutes; ++i) {
    EXPECT_EQ(results[i].ok(), i != 500) << i << ": " << results[i];
  }
  EXPECT_EQ(results[500].code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(results[500].message()), HasSubstr("10.1.244.0/24"));
  EXPECT_EQ(client_->ListRoutes({.table = 4500})->size(), kRoutes - 1u);
}

TEST_F(NetlinkKernelTest, ErrorsCarryTheKernelsExplanation) {
  const absl::Status status =
      client_->Apply(Verb::kAdd, Route{.destination = Net("10.9.0.0/16"),
                                       .interface_index = MakeUplink(),
                                       .gateway = Ip("203.0.113.1")});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("add route 10.9.0.0/16"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("kernel: "));
}

TEST_F(NetlinkKernelTest, NotificationsArriveOnTheLoopsSocket) {
  auto listener = Socket::Open();
  ASSERT_TRUE(listener.ok());
  std::vector<std::string> names;
  ASSERT_TRUE((*listener)
                  ->Subscribe(
                      {RTNLGRP_LINK},
                      [&](const Reply& reply) {
                        const auto link = DecodeLink(reply.payload);
                        if (link.ok()) names.push_back(link->name);
                      },
                      [] {})
                  .ok());
  MakeUplink();
  (*listener)->HandleReadable();
  EXPECT_THAT(names, ::testing::Contains("up0"));
}

TEST_F(NetlinkKernelTest, AnOverrunIsTold) {
  auto listener = Socket::Open({.receive_buffer = 1});
  ASSERT_TRUE(listener.ok());
  int overruns = 0;
  ASSERT_TRUE((*listener)
                  ->Subscribe(
                      {RTNLGRP_LINK}, [](const Reply&) {}, [&] { ++overruns; })
                  .ok());
  for (int i = 0; i < 20; ++i) {
    MakeUplink();
    ASSERT_TRUE(client_->DeleteLink("up0").ok());
  }
  (*listener)->HandleReadable();
  EXPECT_GE(overruns, 1);
}

TEST_F(NetlinkKernelTest, AStartedRequestCompletesFromHandleReadable) {
  const int32_t index = MakeUplink();
  absl::Status result = absl::UnknownError("not run");
  socket_->Start(
      RouteRequest(Verb::kAdd, {.destination = Net("10.5.0.0/16"),
                                .interface_index = index}),
      [&](absl::Status status, std::vector<Reply>) { result = status; });
  EXPECT_TRUE(absl::IsUnknown(result));
  socket_->HandleReadable();
  EXPECT_TRUE(result.ok()) << result;
}

TEST_F(NetlinkKernelTest, SysctlsAreThoseOfTheNamespace) {
  testing::OtherNamespace pod;
  network::Sysctl sysctl;
  ASSERT_TRUE(sysctl.Ensure("net/ipv4/ip_forward", "1").ok());
  EXPECT_EQ(*sysctl.Read("net/ipv4/ip_forward"), "1");
  ASSERT_TRUE(RunInNetworkNamespace(pod.path(), [&] {
                return sysctl.Ensure("net/ipv4/ip_forward", "0");
              }).ok());
  EXPECT_EQ(*sysctl.Read("net/ipv4/ip_forward"), "1");
  EXPECT_EQ(sysctl.Read("net/ipv4/conf/nolink/rp_filter").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(sysctl.Read("../kernel/x").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(NetlinkKernelTest, OpeningAPathThatIsNoNamespaceFails) {
  EXPECT_EQ(Socket::OpenInNamespace("/run/netns/no-such").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Socket::OpenInNamespace("/dev/null").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// The kernel answers a second dump on a socket with EBUSY while one runs.
TEST_F(NetlinkKernelTest, DumpsStartedTogetherRunOneAfterAnother) {
  const int32_t uplink = MakeUplink();
  for (uint8_t i = 0; i < 250; ++i) {
    ASSERT_TRUE(client_
                    ->Apply(Verb::kAdd, Route{.destination = Net(absl::StrCat(
                                                  "10.9.", i, ".0/24")),
                                              .interface_index = uplink})
                    .ok());
  }
  std::vector<size_t> sizes;
  for (int i = 0; i < 3; ++i) {
    Request request(RTM_GETROUTE, NLM_F_DUMP, "list routes");
    rtmsg header{};
    header.rtm_family = AF_INET;
    request.PutStruct(header);
    socket_->Start(std::move(request),
                   [&](const absl::Status& status, std::vector<Reply> replies) {
                     EXPECT_TRUE(status.ok()) << status;
                     sizes.push_back(replies.size());
                   });
  }
  for (int i = 0; i < 1000 && sizes.size() < 3; ++i) {
    socket_->HandleReadable();
    usleep(1000);
  }
  ASSERT_EQ(sizes.size(), 3u);
  EXPECT_GE(sizes[0], 250u);
  EXPECT_EQ(sizes[0], sizes[1]);
  EXPECT_EQ(sizes[0], sizes[2]);
}

}  // namespace
}  // namespace espalier::netlink
