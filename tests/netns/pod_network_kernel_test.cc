// agent/pods against the kernel: what Attach makes, and that nothing is left
// when any of its steps fails.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/netlink/network_namespace.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"
#include "agent/network/ownership.h"
#include "agent/pods/names.h"
#include "agent/pods/pod_network.h"
#include "tests/netns/private_namespace.h"

namespace espalier::pods {
namespace {

using netlink::Request;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Nobody guards.
absl::Status Nothing() { return absl::OkStatus(); }

// Fails the n-th thing that is asked of the kernel.
class Fault {
 public:
  void At(int n) { countdown_ = n, failed_ = false; }
  bool Hits() {
    if (countdown_ == 0 || --countdown_ > 0) return false;
    failed_ = true;
    return true;
  }
  bool failed() const { return failed_; }
  static absl::Status Status() { return absl::UnknownError("injected fault"); }

 private:
  int countdown_ = 0;
  bool failed_ = false;
};

// Shows interfaces as not active yet, for some answers.
class Lag {
 public:
  void Start(int answers) { answers_ = answers; }
  bool Pending() const { return answers_ > 0; }
  void Apply(std::vector<netlink::Reply>* replies) {
    if (answers_ == 0) return;
    for (netlink::Reply& reply : *replies) {
      const std::string text(reply.payload.begin(), reply.payload.end());
      const size_t at = text.find("noqueue");
      if (at == std::string::npos) continue;
      // As the kernel's worker has not come to it: "noop", padded by zeros.
      const std::string_view noop("noop\0\0\0", 7);
      std::copy(noop.begin(), noop.end(), reply.payload.begin() + at);
      --answers_;
    }
  }

 private:
  int answers_ = 0;
};

class FaultChannel : public netlink::Channel {
 public:
  FaultChannel(std::unique_ptr<netlink::Channel> real, Fault* fault, Lag* lag)
      : real_(std::move(real)), fault_(fault), lag_(lag) {}
  absl::Status Execute(Request request) override {
    return fault_->Hits() ? Fault::Status()
                          : real_->Execute(std::move(request));
  }
  std::vector<absl::Status> ExecuteBatch(
      std::vector<Request> requests) override {
    std::vector<absl::Status> out;
    for (Request& request : requests) {
      out.push_back(Execute(std::move(request)));
    }
    return out;
  }
  absl::StatusOr<std::vector<netlink::Reply>> Query(Request request) override {
    if (fault_->Hits()) return Fault::Status();
    auto replies = real_->Query(std::move(request));
    if (replies.ok()) lag_->Apply(&*replies);
    return replies;
  }
  absl::StatusOr<std::vector<netlink::Reply>> Dump(Request request) override {
    if (fault_->Hits()) return Fault::Status();
    return real_->Dump(std::move(request));
  }

 private:
  std::unique_ptr<netlink::Channel> real_;
  Fault* fault_;
  Lag* lag_;
};

class FaultSysctl : public network::Sysctl {
 public:
  explicit FaultSysctl(Fault* fault) : fault_(fault) {}
  absl::StatusOr<std::string> Read(const std::string& name) override {
    if (fault_->Hits()) return Fault::Status();
    return Sysctl::Read(name);
  }
  absl::Status Write(const std::string& name,
                     const std::string& value) override {
    return fault_->Hits() ? Fault::Status() : Sysctl::Write(name, value);
  }

 private:
  Fault* fault_;
};

class FaultKernel : public KernelPodNetwork::Kernel {
 public:
  FaultKernel(Fault* fault, Lag* lag)
      : fault_(fault), lag_(lag), sysctl_(fault) {}
  absl::StatusOr<std::unique_ptr<netlink::Channel>> OpenChannel() override {
    if (fault_->Hits()) return Fault::Status();
    auto real = Kernel::OpenChannel();
    if (!real.ok()) return real.status();
    return std::make_unique<FaultChannel>(*std::move(real), fault_, lag_);
  }
  network::Sysctl* sysctl() override { return &sysctl_; }

 private:
  Fault* fault_;
  Lag* lag_;
  FaultSysctl sysctl_;
};

class PodNetworkTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (HasFatalFailure() || IsSkipped()) return;
    host_ = *netlink::Socket::Open();
    ASSERT_TRUE(netlink::RunInNetworkNamespace(pod_namespace_.fd(), [this] {
                  pod_ = *netlink::Socket::Open();
                  return absl::OkStatus();
                }).ok());
  }

  PodNetworkSpec Spec(const std::string& owner = "c1@eth0") {
    PodNetworkSpec spec;
    spec.network = "net";
    spec.owner = owner;
    spec.network_namespace = pod_namespace_.path();
    spec.interface_name = ParseOwner(owner)->interface_name;
    spec.mtu = 1400;
    spec.addresses = {*base::IpAddress::Parse("10.1.0.2"),
                      *base::IpAddress::Parse("fd00::2")};
    return spec;
  }

  netlink::RouteClient Host() { return netlink::RouteClient(host_.get()); }
  netlink::RouteClient Pod() { return netlink::RouteClient(pod_.get()); }

  // Of interfaces, loopback (and what the kernel adds to each namespace by
  // itself) aside.
  static std::vector<std::string> Veths(netlink::RouteClient client) {
    std::vector<std::string> out;
    const auto links = client.ListLinks();
    EXPECT_TRUE(links.ok()) << links.status();
    for (const auto& link : *links) {
      if (link.kind == "veth") out.push_back(link.name);
    }
    return out;
  }
  std::vector<netlink::Route> PodRoutes() {
    netlink::RouteClient::RouteFilter filter;
    filter.protocol = network::kPodRouteProtocol;
    return *Host().ListRoutes(filter);
  }
  void ExpectNothing() {
    EXPECT_THAT(Veths(Host()), IsEmpty());
    EXPECT_THAT(Veths(Pod()), IsEmpty());
    EXPECT_THAT(PodRoutes(), IsEmpty());
  }

  testing::OtherNamespace pod_namespace_;
  std::unique_ptr<netlink::Channel> host_, pod_;
  Fault fault_;
  Lag lag_;
  FaultKernel kernel_{&fault_, &lag_};
  KernelPodNetwork network_{&kernel_};
};

TEST_F(PodNetworkTest, AttachVerifyCutOffDestroy) {
  const PodNetworkSpec spec = Spec();
  ExpectNothing();
  ASSERT_TRUE(network_.Attach(spec, Nothing).ok());
  const absl::Status verified = network_.Verify(spec);
  EXPECT_TRUE(verified.ok()) << verified;
  EXPECT_THAT(Veths(Host()),
              ::testing::ElementsAre(HostInterfaceName(spec.owner)));
  EXPECT_THAT(Veths(Pod()), ::testing::ElementsAre("eth0"));
  const auto listed = network_.List();
  ASSERT_TRUE(listed.ok());
  ASSERT_THAT(*listed, SizeIs(1));
  EXPECT_EQ(listed->front().owner, spec.owner);
  EXPECT_EQ(listed->front().network, "net");
  EXPECT_EQ(listed->front().mtu, 1400u);
  EXPECT_EQ(listed->front().addresses, spec.addresses);

  ASSERT_TRUE(network_.CutOff(spec).ok());
  EXPECT_THAT(PodRoutes(), IsEmpty());
  EXPECT_FALSE(network_.Verify(spec).ok());
  EXPECT_TRUE(network_.CutOff(spec).ok()) << "twice";
  EXPECT_THAT(network_.List()->front().addresses, IsEmpty());

  ASSERT_TRUE(network_.Destroy(spec.owner).ok());
  EXPECT_TRUE(network_.Destroy(spec.owner).ok()) << "twice";
  EXPECT_TRUE(network_.CutOff(spec).ok());
  ExpectNothing();
}

TEST_F(PodNetworkTest, EachFamilyAlone) {
  for (const char* address : {"10.1.0.2", "fd00::2"}) {
    PodNetworkSpec spec = Spec();
    spec.addresses = {*base::IpAddress::Parse(address)};
    const absl::Status attached = network_.Attach(spec, Nothing);
    ASSERT_TRUE(attached.ok()) << attached;
    EXPECT_TRUE(network_.Verify(spec).ok());
    ASSERT_TRUE(network_.Destroy(spec.owner).ok());
  }
}

TEST_F(PodNetworkTest, ASandboxThatTurnedIpv6Off) {
  network::Sysctl sysctl;
  ASSERT_TRUE(netlink::RunInNetworkNamespace(pod_namespace_.fd(), [&] {
                return sysctl.Write("net/ipv6/conf/default/disable_ipv6", "1");
              }).ok());
  const absl::Status attached = network_.Attach(Spec(), Nothing);
  ASSERT_TRUE(attached.ok()) << attached;
  EXPECT_TRUE(network_.Verify(Spec()).ok());
}

// The test of the promise: "a failed ADD leaves nothing behind".
TEST_F(PodNetworkTest, EachStepOfAttachFailsInTurn) {
  int n = 1;
  for (;; ++n) {
    SCOPED_TRACE(n);
    fault_.At(n);
    const absl::Status status = network_.Attach(Spec(), Nothing);
    if (!fault_.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      break;
    }
    fault_.At(0);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("injected fault"));
    ExpectNothing();
    if (HasFailure()) return;
  }
  fault_.At(0);
  // Sockets, links, settings, addresses, routes, neighbours of both ends.
  EXPECT_GT(n, 25);
  EXPECT_TRUE(network_.Verify(Spec()).ok());
}

// Packets that a pod sends at once must not be lost.
TEST_F(PodNetworkTest, AttachWaitsUntilThePodsEndIsActive) {
  lag_.Start(3);
  ASSERT_TRUE(network_.Attach(Spec(), Nothing).ok());
  EXPECT_FALSE(lag_.Pending());
}

TEST_F(PodNetworkTest, AnEndThatNeverBecomesActiveLeavesNothing) {
  lag_.Start(1 << 30);
  const absl::Status status = network_.Attach(Spec(), Nothing);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("did not activate"));
  ExpectNothing();
}

TEST_F(PodNetworkTest, EachStepOfTheOthersFailsInTurn) {
  ASSERT_TRUE(network_.Attach(Spec(), Nothing).ok());
  const auto each = [this](const std::function<absl::Status()>& call) {
    for (int n = 1;; ++n) {
      fault_.At(n);
      const absl::Status status = call();
      if (!fault_.failed()) return;
      EXPECT_FALSE(status.ok()) << n;
    }
  };
  each([this] { return network_.Verify(Spec()); });
  each([this] { return network_.List().status(); });
  each([this] { return network_.CutOff(Spec()); });
  each([this] { return network_.Destroy(Spec().owner); });
  fault_.At(0);
  ExpectNothing();
}

TEST_F(PodNetworkTest, AnInterfaceOfThatNameExists) {
  ASSERT_TRUE(network_.Attach(Spec(), Nothing).ok());
  PodNetworkSpec other = Spec("c2@eth0");
  EXPECT_TRUE(absl::IsAlreadyExists(network_.Attach(other, Nothing)));
  // The first one's is untouched.
  EXPECT_TRUE(network_.Verify(Spec()).ok());
  EXPECT_THAT(Veths(Host()), SizeIs(1));
  other = Spec("c2@net1");
  other.addresses = {*base::IpAddress::Parse("10.1.0.3")};
  // A second default route of IPv4 cannot be: undone, and the first stays.
  const absl::Status second = network_.Attach(other, Nothing);
  EXPECT_TRUE(absl::IsAlreadyExists(second));
  EXPECT_THAT(second.message(), ::testing::HasSubstr("one interface only"));
  EXPECT_TRUE(network_.Verify(Spec()).ok());
  EXPECT_THAT(Veths(Host()), SizeIs(1));
}

TEST_F(PodNetworkTest, NeverTheNodesOwnNamespaceNorWhatIsNone) {
  PodNetworkSpec spec = Spec();
  spec.network_namespace = "/proc/thread-self/ns/net";
  EXPECT_TRUE(absl::IsFailedPrecondition(network_.Attach(spec, Nothing)));
  spec.network_namespace = "/proc/self/ns/mnt";
  EXPECT_TRUE(absl::IsFailedPrecondition(network_.Attach(spec, Nothing)));
  spec.network_namespace = "/etc/hostname";
  EXPECT_TRUE(absl::IsFailedPrecondition(network_.Attach(spec, Nothing)));
  spec.network_namespace = "/nowhere";
  EXPECT_TRUE(absl::IsNotFound(network_.Attach(spec, Nothing)));
  ExpectNothing();
}

TEST_F(PodNetworkTest, NeverDeletesAnothersInterface) {
  const std::string owner = "c1@eth0";
  netlink::LinkSpec local, peer;
  local.name = HostInterfaceName(owner);
  peer.name = "other";
  ASSERT_TRUE(Host().AddVeth(local, peer).ok());
  const int32_t index = Host().GetLink(local.name)->index;
  netlink::LinkChange change;
  change.alias = "somebody else's";
  ASSERT_TRUE(Host().ChangeLink(index, change).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(network_.Destroy(owner)));
  EXPECT_THAT(*network_.List(), IsEmpty());
  EXPECT_TRUE(Host().GetLink(local.name).ok());
  // Another attachment's either.
  change.alias = FormatAlias("net", "c2@eth0");
  ASSERT_TRUE(Host().ChangeLink(index, change).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(network_.Destroy(owner)));
  EXPECT_THAT(*network_.List(), IsEmpty());
}

// Each thing that Attach makes is missed when it is gone.
TEST_F(PodNetworkTest, VerifySeesEachDifference) {
  const PodNetworkSpec spec = Spec();
  const std::string host = HostInterfaceName(spec.owner);
  const std::vector<std::pair<std::string, std::pair<bool, std::string>>>
      breaks = {
          {"ip link set eth0 mtu 1300", {true, "MTU 1300"}},
          {"ip link set eth0 down", {true, "down"}},
          {"ip link set eth0 address 02:00:00:00:00:01", {true, "MAC"}},
          {"ip addr del 10.1.0.2/32 dev eth0", {true, "address 10.1.0.2"}},
          {"ip addr del fd00::2/128 dev eth0", {true, "address fd00::2"}},
          {"ip route del default", {true, "169.254.1.1"}},
          {"ip -6 route del default", {true, "fe80::1"}},
          {"ip neigh del 169.254.1.1 dev eth0", {true, "neighbour entry"}},
          {"ip neigh del fe80::1 dev eth0", {true, "neighbour entry"}},
          {"ip link set eth0 name eth9", {true, "eth0"}},
          {"ip link set " + host + " down", {false, "down"}},
          {"ip link set " + host + " mtu 1200", {false, "MTU 1200"}},
          {"ip link set " + host + " alias x", {false, "alias"}},
          {"ip route del 10.1.0.2", {false, "the route to 10.1.0.2"}},
          {"ip -6 route del fd00::2", {false, "the route to fd00::2"}},
          {"ip neigh del 10.1.0.2 dev " + host, {false, "neighbour entry"}},
          {"ip neigh del fd00::2 dev " + host, {false, "neighbour entry"}},
          {"sh -c 'echo 0 > /proc/sys/net/ipv4/conf/" + host + "/rp_filter'",
           {false, "rp_filter"}},
          {"sh -c 'echo 1 > /proc/sys/net/ipv6/conf/" + host + "/accept_ra'",
           {false, "accept_ra"}},
          {"ip link del " + host, {false, host}},
      };
  for (const auto& [command, where] : breaks) {
    SCOPED_TRACE(command);
    ASSERT_TRUE(network_.Attach(spec, Nothing).ok());
    ASSERT_TRUE(network_.Verify(spec).ok());
    const auto run = [&line = command] {
      return std::system(line.c_str()) == 0
                 ? absl::OkStatus()
                 : absl::InternalError("the command failed");
    };
    const absl::Status broken =
        where.first ? netlink::RunInNetworkNamespace(pod_namespace_.fd(), run)
                    : run();
    ASSERT_TRUE(broken.ok()) << broken;
    const absl::Status status = network_.Verify(spec);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(where.second));
    if (command.find("alias") != std::string::npos) {
      ASSERT_TRUE(Host().DeleteLink(host).ok());
    }
    ASSERT_TRUE(network_.Destroy(spec.owner).ok());
  }
}

TEST_F(PodNetworkTest, PacketsPassBothWays) {
  const PodNetworkSpec spec = Spec();
  ASSERT_TRUE(network_.Attach(spec, Nothing).ok());
  // An address for the node to be spoken to.
  ASSERT_EQ(
      std::system("ip link set lo up && ip addr add 10.1.0.1/32 dev lo && "
                  "ip addr add fd00::1/128 dev lo"),
      0);
  for (const char* command : {"ping -c1 -W10 10.1.0.2 >/dev/null",
                              "ping -6 -c1 -W10 fd00::2 >/dev/null"}) {
    EXPECT_EQ(std::system(command), 0) << command;
  }
  EXPECT_TRUE(netlink::RunInNetworkNamespace(pod_namespace_.fd(), [] {
                return std::system(
                           "ping -c1 -W10 10.1.0.1 >/dev/null && "
                           "ping -6 -c1 -W10 fd00::1 >/dev/null") == 0
                           ? absl::OkStatus()
                           : absl::InternalError("no answer");
              }).ok());
  // Another's source address goes nowhere (with the control above).
  EXPECT_FALSE(netlink::RunInNetworkNamespace(pod_namespace_.fd(), [] {
                 return std::system(
                            "ip addr add 10.1.0.77/32 dev eth0 && "
                            "ping -c1 -W1 -I 10.1.0.77 10.1.0.1 >/dev/null") ==
                                0
                            ? absl::OkStatus()
                            : absl::InternalError("no answer");
               }).ok());
}

}  // namespace
}  // namespace espalier::pods
