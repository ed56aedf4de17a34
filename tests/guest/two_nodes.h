// Two nodes as namespaces on one wire, each with the kernel's driver: for tests
// under a real kernel with ESP.
#ifndef ESPALIER_TESTS_GUEST_TWO_NODES_H_
#define ESPALIER_TESTS_GUEST_TWO_NODES_H_

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "agent/base/marks.h"
#include "agent/crypto/random.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "tests/support/poll_loop.h"

namespace espalier::datapath {

inline constexpr base::Reqid kReqid(base::kOwnedReqidFirst + 7);

inline void Shell(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

inline base::IpAddress A(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

inline sockaddr_storage SocketAddress(const base::IpAddress& address,
                                      uint16_t port, socklen_t* size) {
  sockaddr_storage storage{};
  if (address.is_v4()) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    std::copy_n(address.bytes().data(), 4,
                reinterpret_cast<uint8_t*>(&v4->sin_addr));
    *size = sizeof(*v4);
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    std::copy_n(address.bytes().data(), 16,
                reinterpret_cast<uint8_t*>(&v6->sin6_addr));
    *size = sizeof(*v6);
  }
  return storage;
}

// number 1 or 2: outer 192.0.2.N and 2001:db8::N, inner 10.0.N.1 and fd00:N::1.
class Node {
 public:
  Node(testing::PollLoop* loop, int number) : loop_(loop), number_(number) {
    name_ = absl::StrCat("n", number);
    Shell("ip netns add " + name_);
    Enter();
    Shell("ip link set lo up");
  }
  ~Node() {
    datapath.reset();
    for (int fd : {socket4_, socket6_, encap4_, encap6_}) {
      if (fd >= 0) close(fd);
    }
    Shell("ip netns del " + name_);
  }

  void Enter() const {
    const int fd =
        open(absl::StrCat("/run/netns/", name_).c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(setns(fd, CLONE_NEWNET), 0);
    close(fd);
  }

  base::IpAddress outer(base::Family family) const {
    return family == base::Family::kIpv4
               ? A(absl::StrCat("192.0.2.", number_))
               : A(absl::StrCat("2001:db8::", number_));
  }
  base::IpAddress inner(base::Family family) const {
    return family == base::Family::kIpv4
               ? A(absl::StrCat("10.0.", number_, ".1"))
               : A(absl::StrCat("fd00:", number_, "::1"));
  }
  std::vector<base::IpPrefix> prefixes() const {
    return {*base::IpPrefix::Parse(absl::StrCat("10.0.", number_, ".0/24")),
            *base::IpPrefix::Parse(absl::StrCat("fd00:", number_, "::/64"))};
  }

  void Start(const std::string& policy_based_uplink) {
    ready = false;
    datapath = std::make_unique<KernelDatapath>(
        loop_, &random_,
        KernelDatapath::Options{.policy_based_uplink = policy_based_uplink,
                                .local_addresses = {outer(base::Family::kIpv4),
                                                    outer(base::Family::kIpv6)},
                                .nat_keepalive = nat_keepalive});
    Events events;
    events.ready = [this] { ready = true; };
    events.inbound_seen = [this](const SaKey& key) { seen.push_back(key); };
    events.expired = [this](const SaKey& key, bool hard) {
      expired.emplace_back(key, hard);
    };
    events.acquire = [this](base::Reqid reqid) { acquired.push_back(reqid); };
    events.disturbed = [this] { ++disturbed; };
    datapath->SetEvents(std::move(events));
    const absl::Status started = datapath->Start();
    ASSERT_TRUE(started.ok()) << started;
    ASSERT_TRUE(loop_->RunUntil([this] { return ready; }));
  }

  // The wire exists by now.
  void SetUp(const std::string& policy_based_uplink) {
    Enter();
    Shell(absl::Substitute(
        "ip addr add 192.0.2.$0/24 dev wire; ip addr add 2001:db8::$0/64 dev "
        "wire nodad; ip link set wire up; ip addr add 10.0.$0.1/32 dev lo; ip "
        "addr add fd00:$0::1/128 dev lo nodad; "
        "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter",
        number_));
    socket4_ = Bind(A("0.0.0.0"), 7777);
    socket6_ = Bind(A("::"), 7777);
    encap4_ = Encapsulating(A("0.0.0.0"));
    encap6_ = Encapsulating(A("::"));
    Start(policy_based_uplink);
    if (policy_based_uplink.empty()) {
      Shell("echo 0 >/proc/sys/net/ipv4/conf/espalier0/rp_filter");
    }
  }

  void RouteTo(const Node& peer) const {
    Enter();
    const std::string device = datapath->tunnel_interface();
    const std::string next =
        device == "wire" ? absl::StrCat(" via 192.0.2.", peer.number_) : "";
    const std::string next6 =
        device == "wire" ? absl::StrCat(" via 2001:db8::", peer.number_) : "";
    Shell(absl::Substitute(
        "ip route replace 10.0.$0.0/24$3 dev $1 src 10.0.$2.1; "
        "ip -6 route replace fd00:$0::/64$4 dev $1 src fd00:$2::1",
        peer.number_, device, number_, next, next6));
  }

  bool Send(const base::IpAddress& to) const {
    socklen_t size = 0;
    const sockaddr_storage address = SocketAddress(to, 7777, &size);
    const int fd = to.is_v4() ? socket4_ : socket6_;
    return sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr*>(&address),
                  size) == 1;
  }
  // Datagrams that have come in so far, of the family.
  int Receive(base::Family family) const {
    int count = 0;
    char octets[16];
    const int fd = family == base::Family::kIpv4 ? socket4_ : socket6_;
    while (recv(fd, octets, sizeof(octets), MSG_DONTWAIT) >= 0) ++count;
    return count;
  }

  std::unique_ptr<KernelDatapath> datapath;
  absl::Duration nat_keepalive = absl::Seconds(20);  // from Start() on
  bool ready = false;
  std::vector<SaKey> seen;
  std::vector<std::pair<SaKey, bool>> expired;
  std::vector<base::Reqid> acquired;
  int disturbed = 0;

 private:
  int Bind(const base::IpAddress& address, uint16_t port) {
    const int fd = socket(address.is_v4() ? AF_INET : AF_INET6,
                          SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (address.is_v6()) {
      setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    socklen_t size = 0;
    const sockaddr_storage any = SocketAddress(address, port, &size);
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&any), size), 0);
    return fd;
  }
  int Encapsulating(const base::IpAddress& address) {
    const int fd = Bind(address, 4500);
    const int type = UDP_ENCAP_ESPINUDP;
    EXPECT_EQ(setsockopt(fd, IPPROTO_UDP, UDP_ENCAP, &type, sizeof(type)), 0);
    return fd;
  }

  testing::PollLoop* loop_;
  crypto::SystemRandom random_;
  int number_;
  std::string name_;

  int socket4_ = -1, socket6_ = -1, encap4_ = -1, encap6_ = -1;
};

class KernelDatapathTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_NE(std::getenv("ESPALIER_GUEST"), nullptr)
        << "run this by: ./dev guest " << "build/dev/bin/...";
    home_ = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    a_ = std::make_unique<Node>(&loop_, 1);
    b_ = std::make_unique<Node>(&loop_, 2);
    Shell("ip -n n1 link add wire type veth peer name wire netns n2");
    a_->SetUp(uplink());
    b_->SetUp(uplink());
    a_->RouteTo(*b_);
    b_->RouteTo(*a_);
    a_->Enter();
    sniffer_ = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL));
    sockaddr_ll wire{};
    wire.sll_family = AF_PACKET;
    wire.sll_protocol = htons(ETH_P_ALL);
    wire.sll_ifindex = static_cast<int>(if_nametoindex("wire"));
    ASSERT_EQ(bind(sniffer_, reinterpret_cast<sockaddr*>(&wire), sizeof(wire)),
              0);
  }
  void TearDown() override {
    a_.reset();
    b_.reset();
    close(sniffer_);
    setns(home_, CLONE_NEWNET);
    close(home_);
  }
  // "" is route-based.
  virtual std::string uplink() const { return ""; }

  // Packets of UDP that A gave to the wire since the last call, as what follows
  // their IP header. At A, because the kernel shows a packet socket at B what
  // came out of ESP too, as if it had come in on the wire.
  std::vector<base::Bytes> UdpOnWire() {
    std::vector<base::Bytes> found;
    uint8_t octets[2048];
    while (true) {
      sockaddr_ll from{};
      socklen_t from_size = sizeof(from);
      const ssize_t size =
          recvfrom(sniffer_, octets, sizeof(octets), MSG_DONTWAIT,
                   reinterpret_cast<sockaddr*>(&from), &from_size);
      if (size < 0) return found;
      if (from.sll_pkttype != PACKET_OUTGOING) continue;
      const base::ByteSpan packet(octets, static_cast<size_t>(size));
      const size_t header = packet.empty()          ? 0
                            : (packet[0] >> 4) == 4 ? 20
                                                    : 40;
      if (packet.size() < header + 8 || header == 0) continue;
      const uint8_t protocol = header == 20 ? packet[9] : packet[6];
      if (protocol != IPPROTO_UDP) continue;
      found.emplace_back(packet.begin() + static_cast<ptrdiff_t>(header),
                         packet.end());
    }
  }
  static bool IsTo(const base::Bytes& udp, uint16_t port) {
    return udp[2] == port >> 8 && udp[3] == (port & 0xff);
  }
  int PlaintextOnWire() {
    const std::vector<base::Bytes> all = UdpOnWire();
    return static_cast<int>(std::ranges::count_if(
        all, [](const base::Bytes& udp) { return IsTo(udp, 7777); }));
  }

  absl::Status Wait(const std::function<void(Done)>& call) {
    std::optional<absl::Status> result;
    call([&](const absl::Status& status) { result = status; });
    EXPECT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }
  absl::Status Install(Node* node, base::EspSa sa) {
    return Wait([&](Done done) {
      node->datapath->InstallSa(std::move(sa), std::move(done));
    });
  }
  absl::Status SetPolicy(Node* node, const Policy& policy) {
    return Wait(
        [&](Done done) { node->datapath->SetPolicy(policy, std::move(done)); });
  }
  std::vector<InstalledSa> Sas(Node* node) {
    std::optional<absl::StatusOr<std::vector<InstalledSa>>> result;
    node->datapath->ListSas([&](auto list) { result = std::move(list); });
    EXPECT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
    EXPECT_TRUE((*result).ok()) << result->status();
    return result->ok() ? **std::move(result) : std::vector<InstalledSa>();
  }
  std::vector<Policy> Policies(Node* node) {
    std::optional<absl::StatusOr<std::vector<Policy>>> result;
    node->datapath->ListPolicies([&](auto list) { result = std::move(list); });
    EXPECT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
    EXPECT_TRUE((*result).ok()) << result->status();
    return result->ok() ? **std::move(result) : std::vector<Policy>();
  }

  static Policy PolicyBetween(const Node& from, const Node& to,
                              base::Family outer) {
    return {.reqid = kReqid,
            .local = from.prefixes(),
            .remote = to.prefixes(),
            .outer_source = from.outer(outer),
            .outer_destination = to.outer(outer)};
  }
  // From `from` to `to`, as seen by the end that `direction` belongs to.
  base::EspSa Sa(const Node& from, const Node& to, base::Direction direction,
                 const base::EspSuite& suite, base::Family outer, bool udp) {
    base::EspSa sa;
    sa.direction = direction;
    sa.spi = base::Spi(next_spi_);
    sa.outer_source = from.outer(outer);
    sa.outer_destination = to.outer(outer);
    if (udp) sa.encapsulation = base::EspSa::Encapsulation{};
    sa.suite = suite;
    sa.encryption_key = base::SecretBytes(base::Bytes(
        suite.encryption_key_size(), static_cast<uint8_t>(next_spi_)));
    sa.integrity_key =
        base::SecretBytes(base::Bytes(suite.integrity_key_size(), 0x5a));
    sa.reqid = kReqid;
    return sa;
  }
  // One direction at both ends, inbound first; the inbound key.
  SaKey InstallPair(Node* from, Node* to, const base::EspSuite& suite,
                    base::Family outer, bool udp) {
    ++next_spi_;
    base::EspSa in =
        Sa(*from, *to, base::Direction::kInbound, suite, outer, udp);
    base::EspSa out =
        Sa(*from, *to, base::Direction::kOutbound, suite, outer, udp);
    const SaKey key{in.direction, in.outer_destination, in.spi};
    EXPECT_EQ(Install(to, std::move(in)), absl::OkStatus());
    EXPECT_EQ(Install(from, std::move(out)), absl::OkStatus());
    return key;
  }
  void SetPolicies(base::Family outer) {
    ASSERT_EQ(SetPolicy(a_.get(), PolicyBetween(*a_, *b_, outer)),
              absl::OkStatus());
    ASSERT_EQ(SetPolicy(b_.get(), PolicyBetween(*b_, *a_, outer)),
              absl::OkStatus());
  }

  // Sends until one arrives: neighbour discovery may eat the first.
  bool Delivers(const Node& from, const Node& to, base::Family inner) {
    int got = 0;
    return loop_.RunUntil(
        [&] {
          from.Send(to.inner(inner));
          usleep(20000);
          got += to.Receive(inner);
          return got > 0;
        },
        absl::Seconds(10));
  }

  // One datagram without an SA: no ICMP error while a tunnel is negotiated.
  void SendWithoutSa() {
    SetPolicies(base::Family::kIpv4);
    // A connected socket would report what ICMP says.
    a_->Enter();
    socklen_t size = 0;
    const sockaddr_storage to =
        SocketAddress(b_->inner(base::Family::kIpv4), 7777, &size);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), size), 0);
    ASSERT_EQ(send(fd, "x", 1, 0), 1);
    ASSERT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
    int error = 0;
    socklen_t error_size = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
    EXPECT_EQ(error, 0) << "no ICMP error while a tunnel is being negotiated";
    close(fd);
  }

  testing::PollLoop loop_;
  std::unique_ptr<Node> a_, b_;
  uint32_t next_spi_ = 0x1000;
  int sniffer_ = -1;
  int home_ = -1;
};

}  // namespace espalier::datapath

#endif  // ESPALIER_TESTS_GUEST_TWO_NODES_H_
