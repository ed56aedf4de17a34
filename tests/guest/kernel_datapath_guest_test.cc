// Two nodes as namespaces under a real kernel with ESP: what the driver
// installs carries packets, and what it doesn't install doesn't.
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

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/substitute.h"
#include "agent/base/marks.h"
#include "agent/crypto/random.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "tests/support/poll_loop.h"

namespace espalier::datapath {
namespace {

using base::IpAddress;
using base::IpPrefix;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr base::Reqid kReqid(base::kOwnedReqidFirst + 7);

void Shell(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

IpAddress A(const std::string& text) { return *IpAddress::Parse(text); }

sockaddr_storage SocketAddress(const IpAddress& address, uint16_t port,
                               socklen_t* size) {
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

  IpAddress outer(base::Family family) const {
    return family == base::Family::kIpv4
               ? A(absl::StrCat("192.0.2.", number_))
               : A(absl::StrCat("2001:db8::", number_));
  }
  IpAddress inner(base::Family family) const {
    return family == base::Family::kIpv4
               ? A(absl::StrCat("10.0.", number_, ".1"))
               : A(absl::StrCat("fd00:", number_, "::1"));
  }
  std::vector<IpPrefix> prefixes() const {
    return {*IpPrefix::Parse(absl::StrCat("10.0.", number_, ".0/24")),
            *IpPrefix::Parse(absl::StrCat("fd00:", number_, "::/64"))};
  }

  void Start(const std::string& policy_based_uplink) {
    ready = false;
    datapath = std::make_unique<KernelDatapath>(
        loop_, &random_,
        KernelDatapath::Options{
            .policy_based_uplink = policy_based_uplink,
            .local_addresses = {outer(base::Family::kIpv4),
                                outer(base::Family::kIpv6)}});
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

  bool Send(const IpAddress& to) const {
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
  bool ready = false;
  std::vector<SaKey> seen;
  std::vector<std::pair<SaKey, bool>> expired;
  std::vector<base::Reqid> acquired;
  int disturbed = 0;

 private:
  int Bind(const IpAddress& address, uint16_t port) {
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
  int Encapsulating(const IpAddress& address) {
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

  // Packets of which UDP port 7777 can be read, that A gave to the wire since
  // the last call. At A, because the kernel shows a packet socket at B what
  // came out of ESP too, as if it had come in on the wire.
  int PlaintextOnWire() {
    int count = 0;
    uint8_t octets[2048];
    while (true) {
      sockaddr_ll from{};
      socklen_t from_size = sizeof(from);
      const ssize_t size =
          recvfrom(sniffer_, octets, sizeof(octets), MSG_DONTWAIT,
                   reinterpret_cast<sockaddr*>(&from), &from_size);
      if (size < 0) return count;
      if (from.sll_pkttype != PACKET_OUTGOING) continue;
      const base::ByteSpan packet(octets, static_cast<size_t>(size));
      const size_t header = packet.empty()          ? 0
                            : (packet[0] >> 4) == 4 ? 20
                                                    : 40;
      if (packet.size() < header + 8 || header == 0) continue;
      const uint8_t protocol = header == 20 ? packet[9] : packet[6];
      if (protocol == IPPROTO_UDP && packet[header + 2] == 7777 >> 8 &&
          packet[header + 3] == (7777 & 0xff)) {
        ++count;
      }
    }
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

TEST_F(KernelDatapathTest, FeaturesAreWhatThisKernelStores) {
  const std::string kernel = std::getenv("ESPALIER_GUEST");
  const bool young = kernel != "6.1";
  EXPECT_EQ(a_->datapath->features().direction, young);
  EXPECT_EQ(a_->datapath->features().nat_keepalive, young);
  EXPECT_THAT(Sas(a_.get()), IsEmpty()) << "the probe leaves nothing behind";
}

TEST_F(KernelDatapathTest, CarriesEverySuiteFamilyAndEncapsulation) {
  const base::EspSuite suites[] = {
      {.cipher = base::EspCipher::kAesGcm16, .key_bits = 256},
      {.cipher = base::EspCipher::kAesGcm16, .key_bits = 128, .esn = false},
      {.cipher = base::EspCipher::kChaCha20Poly1305, .key_bits = 256},
      {.cipher = base::EspCipher::kAesCbc,
       .key_bits = 256,
       .integrity = base::EspIntegrity::kHmacSha2_256_128},
      {.cipher = base::EspCipher::kAesCbc,
       .key_bits = 128,
       .integrity = base::EspIntegrity::kHmacSha2_512_256,
       .esn = false}};
  for (base::Family outer : {base::Family::kIpv4, base::Family::kIpv6}) {
    SetPolicies(outer);
    for (const base::EspSuite& suite : suites) {
      for (bool udp : {false, true}) {
        SCOPED_TRACE(absl::StrCat(suite.ToString(), " outer ",
                                  static_cast<int>(outer), udp ? " udp" : ""));
        const SaKey key = InstallPair(a_.get(), b_.get(), suite, outer, udp);
        b_->datapath->WatchInbound(key);
        for (base::Family inner : {base::Family::kIpv4, base::Family::kIpv6}) {
          EXPECT_TRUE(Delivers(*a_, *b_, inner));
        }
        EXPECT_TRUE(loop_.RunUntil([&] { return !b_->seen.empty(); }));
        EXPECT_THAT(b_->seen, ElementsAre(key));
        b_->seen.clear();
        const std::vector<InstalledSa> sas = Sas(b_.get());
        ASSERT_EQ(sas.size(), 1u);
        EXPECT_EQ(sas[0].key, key);
        EXPECT_EQ(sas[0].suite, suite);
        EXPECT_EQ(sas[0].encapsulated, udp);
        EXPECT_GE(sas[0].counters.packets, 2u);
        for (Node* node : {a_.get(), b_.get()}) {
          SaKey here = key;
          here.direction = node == b_.get() ? base::Direction::kInbound
                                            : base::Direction::kOutbound;
          EXPECT_EQ(Wait([&](Done done) {
                      node->datapath->RemoveSa(here, std::move(done));
                    }),
                    absl::OkStatus());
          EXPECT_THAT(Sas(node), IsEmpty());
        }
        EXPECT_EQ(PlaintextOnWire(), 0);
      }
    }
  }
}

TEST_F(KernelDatapathTest, WithoutAnSaNothingLeavesAndAnAcquireIsReported) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  EXPECT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
  EXPECT_THAT(a_->acquired, ::testing::Each(kReqid));
  usleep(200000);
  EXPECT_EQ(PlaintextOnWire(), 0);
  EXPECT_EQ(b_->Receive(base::Family::kIpv4), 0);

  // Control: routed past the tunnel, the same datagram is seen on the wire.
  a_->Enter();
  Shell("ip route replace 10.0.2.0/24 via 192.0.2.2 dev wire src 10.0.1.1");
  int seen = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    seen += PlaintextOnWire();
    return seen > 0;
  }));
}

TEST_F(KernelDatapathTest, AKeyIsInstalledOnce) {
  SetPolicies(base::Family::kIpv4);
  const SaKey key =
      InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  base::EspSa again =
      Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
  EXPECT_TRUE(absl::IsAlreadyExists(Install(b_.get(), std::move(again))));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(
        Wait([&](Done done) { b_->datapath->RemoveSa(key, std::move(done)); }),
        absl::OkStatus())
        << "the second time it is already gone";
  }
}

TEST_F(KernelDatapathTest, APeerCannotSendAsAnother) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4)) << "control";
  b_->Receive(base::Family::kIpv4);
  // A source that is not A's: its own policies let it out, B's must not.
  a_->Enter();
  Shell("ip addr add 10.0.3.1/32 dev lo");
  Policy wide = PolicyBetween(*a_, *b_, base::Family::kIpv4);
  wide.local.push_back(*IpPrefix::Parse("10.0.3.0/24"));
  ASSERT_EQ(SetPolicy(a_.get(), wide), absl::OkStatus());
  Shell("ip route replace 10.0.2.0/24 dev espalier0 src 10.0.3.1");
  const uint64_t before = Sas(b_.get())[0].counters.packets;
  for (int i = 0; i < 10; ++i) {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(10000);
  }
  EXPECT_EQ(Sas(b_.get())[0].counters.packets, before + 10)
      << "they came out of the SA";
  EXPECT_EQ(b_->Receive(base::Family::kIpv4), 0) << "and went no further";
}

TEST_F(KernelDatapathTest, PoliciesAreListedReplacedAndLeftAloneWhenForeign) {
  b_->Enter();
  Shell(
      "ip xfrm state add src 192.0.2.9 dst 192.0.2.2 proto esp spi 0x99 reqid "
      "42 mode tunnel aead 'rfc4106(gcm(aes))' 0x" +
      std::string(40, 'a') + " 128");
  EXPECT_THAT(Sas(b_.get()), IsEmpty()) << "foreign";
  Shell(
      "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out tmpl src "
      "192.0.2.2 dst 192.0.2.9 proto esp reqid 42 mode tunnel");
  Policy policy = PolicyBetween(*b_, *a_, base::Family::kIpv4);
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  policy.remote.pop_back();
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  // One of the parts deleted by hand is noticed.
  Shell(
      "ip xfrm policy delete src 10.0.1.0/24 dst 10.0.2.0/24 dir fwd if_id "
      "0x45500001");
  ASSERT_EQ(Policies(b_.get()).size(), 1u);
  EXPECT_NE(Policies(b_.get())[0], policy);
  ASSERT_EQ(SetPolicy(b_.get(), policy), absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
  EXPECT_EQ(Wait([&](Done done) {
              b_->datapath->RemovePolicy(kReqid, std::move(done));
            }),
            absl::OkStatus());
  EXPECT_THAT(Policies(b_.get()), IsEmpty());
  Shell("ip xfrm policy list | grep -q 10.9.0.0/16");
  Shell("ip xfrm state list | grep -q 'spi 0x00000099'");
}

TEST_F(KernelDatapathTest, LimitsBecomeEvents) {
  SetPolicies(base::Family::kIpv4);
  ++next_spi_;
  base::EspSa in =
      Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
  base::EspSa out =
      Sa(*a_, *b_, base::Direction::kOutbound, {}, base::Family::kIpv4, false);
  out.limits.soft_packets = 3;
  out.limits.hard_packets = 6;
  const SaKey key{out.direction, out.outer_destination, out.spi};
  ASSERT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
  ASSERT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
  EXPECT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    return a_->expired.size() >= 2;
  }));
  EXPECT_THAT(a_->expired,
              ElementsAre(std::pair(key, false), std::pair(key, true)));
}

TEST_F(KernelDatapathTest, AnotherAgentFindsWhatTheFirstLeft) {
  SetPolicies(base::Family::kIpv4);
  const SaKey key =
      InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  const Policy policy = PolicyBetween(*b_, *a_, base::Family::kIpv4);
  b_->datapath.reset();
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4))
      << "SAs flow on without an agent";
  b_->Enter();
  crypto::SystemRandom random;
  b_->datapath = std::make_unique<KernelDatapath>(
      &loop_, &random,
      KernelDatapath::Options{
          .local_addresses = {b_->outer(base::Family::kIpv4)}});
  ASSERT_EQ(b_->datapath->Start(), absl::OkStatus());
  const std::vector<InstalledSa> sas = Sas(b_.get());
  ASSERT_EQ(sas.size(), 1u);
  EXPECT_EQ(sas[0].key, key);
  EXPECT_THAT(Policies(b_.get()), ElementsAre(policy));
}

TEST_F(KernelDatapathTest, TrafficThatWaitedBeforeTheAgentIsAnAcquire) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  ASSERT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
  a_->datapath.reset();
  a_->Enter();
  a_->acquired.clear();
  a_->Start("");
  EXPECT_THAT(Sas(a_.get()), IsEmpty()) << "a larval state is no SA";
  EXPECT_THAT(a_->acquired, ElementsAre(kReqid));
}

TEST_F(KernelDatapathTest, NoErrorReachesThePodBeforeTheFirstSa) {
  SendWithoutSa();
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  EXPECT_EQ(PlaintextOnWire(), 0);
}

TEST_F(KernelDatapathTest, WhatHandsRemoveIsNoticed) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  a_->Enter();
  // The interface comes back with its if_id: once routed again, traffic flows.
  Shell("ip link delete espalier0");
  ASSERT_TRUE(loop_.RunUntil([] { return if_nametoindex("espalier0") != 0; }));
  a_->RouteTo(*b_);
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  Shell("ip link set espalier0 down");
  ASSERT_TRUE(loop_.RunUntil([] {
    return std::system("ip link show espalier0 | grep -q '[<,]UP[,>]'") == 0;
  }));
  // Policies: told at once. The SA: by the acquire that its traffic causes.
  a_->disturbed = 0;
  Shell("ip xfrm policy flush");
  EXPECT_TRUE(loop_.RunUntil([&] { return a_->disturbed > 0; }));
  EXPECT_THAT(Policies(a_.get()), IsEmpty());
  SetPolicies(base::Family::kIpv4);
  a_->acquired.clear();
  a_->Enter();
  Shell("ip xfrm state flush");
  a_->RouteTo(*b_);
  a_->Send(b_->inner(base::Family::kIpv4));
  EXPECT_TRUE(loop_.RunUntil([&] { return !a_->acquired.empty(); }));
}

TEST_F(KernelDatapathTest, AfterLostNotificationsSoftLimitsAreToldByTheList) {
  SetPolicies(base::Family::kIpv4);
  ++next_spi_;
  base::EspSa in =
      Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
  base::EspSa out =
      Sa(*a_, *b_, base::Direction::kOutbound, {}, base::Family::kIpv4, false);
  out.limits.soft_packets = 2;
  const SaKey key{out.direction, out.outer_destination, out.spi};
  ASSERT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
  ASSERT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
  ASSERT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    return !a_->expired.empty();
  }));
  a_->expired.clear();
  Sas(a_.get());
  EXPECT_THAT(a_->expired, IsEmpty()) << "told once";
  a_->ready = false;
  a_->datapath->HandleOverrun();
  EXPECT_TRUE(a_->ready);
  Sas(a_.get());
  EXPECT_THAT(a_->expired, ElementsAre(std::pair(key, false)));
}

TEST_F(KernelDatapathTest, MarksTellWhatCameOutOfEsp) {
  SetPolicies(base::Family::kIpv4);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  b_->Enter();
  Shell(absl::StrCat(
      "nft 'table inet t {\n chain i {\n type filter hook input priority 0;\n"
      "udp dport 7777 meta mark & ",
      base::kDefaultMarkMask,
      " == ", base::MarkValue(base::kDefaultMarkMask, base::Mark::kFromEsp),
      " counter\n }\n}'"));
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  Shell("nft list table inet t | grep -q 'packets [1-9]'");
}

TEST_F(KernelDatapathTest, EachCpuSendsOnItsOwnSa) {
  if (!a_->datapath->features().per_cpu) {
    EXPECT_EQ(std::string(std::getenv("ESPALIER_GUEST")), "6.1");
    base::EspSa out = Sa(*a_, *b_, base::Direction::kOutbound, {},
                         base::Family::kIpv4, false);
    out.cpu = 0;
    EXPECT_TRUE(absl::IsUnimplemented(Install(a_.get(), std::move(out))));
    return;
  }
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) return;  // the boot with --cpus 2
  SetPolicies(base::Family::kIpv4);
  const auto pair = [&](std::optional<uint32_t> cpu) {
    ++next_spi_;
    base::EspSa in =
        Sa(*a_, *b_, base::Direction::kInbound, {}, base::Family::kIpv4, false);
    base::EspSa out = Sa(*a_, *b_, base::Direction::kOutbound, {},
                         base::Family::kIpv4, false);
    out.cpu = cpu;
    EXPECT_EQ(Install(b_.get(), std::move(in)), absl::OkStatus());
    EXPECT_EQ(Install(a_.get(), std::move(out)), absl::OkStatus());
    return base::Spi(next_spi_);
  };
  const auto send_from = [&](int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    for (int i = 0; i < 5; ++i) a_->Send(b_->inner(base::Family::kIpv4));
  };
  const auto packets = [&](base::Spi spi) {
    for (const InstalledSa& sa : Sas(a_.get())) {
      if (sa.key.spi == spi) return sa.counters.packets;
    }
    return uint64_t{0};
  };
  const base::Spi fallback = pair(std::nullopt);
  ASSERT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  // Until a CPU has its own, its traffic takes the fallback SA. (With the
  // kernel's XFRM_POLICY_CPU_ACQUIRE it would wait for an answer instead: seen
  // on 6.18, behind an xfrm interface.)
  const uint64_t start = packets(fallback);
  send_from(0);
  send_from(1);
  const base::Spi first = pair(0);
  const base::Spi second = pair(1);
  const uint64_t before = packets(fallback);
  EXPECT_EQ(before, start + 10);
  send_from(0);
  EXPECT_EQ(packets(first), 5u);
  EXPECT_EQ(packets(second), 0u);
  send_from(1);
  EXPECT_EQ(packets(first), 5u);
  EXPECT_EQ(packets(second), 5u);
  EXPECT_EQ(packets(fallback), before);
  EXPECT_EQ(PlaintextOnWire(), 0);
}

class PolicyBasedTest : public KernelDatapathTest {
 protected:
  std::string uplink() const override { return "wire"; }
};

TEST_F(PolicyBasedTest, PacketsAreHeldUntilTheFirstSa) {
  SendWithoutSa();
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  int got = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    usleep(20000);
    got += b_->Receive(base::Family::kIpv4);
    return got > 0;
  })) << "the first packet was held, not dropped";
  EXPECT_EQ(PlaintextOnWire(), 0);
}

TEST_F(PolicyBasedTest, CarriesPacketsAndFailsClosed) {
  SetPolicies(base::Family::kIpv4);
  a_->Send(b_->inner(base::Family::kIpv4));
  usleep(100000);
  EXPECT_EQ(PlaintextOnWire(), 0);
  InstallPair(a_.get(), b_.get(), {}, base::Family::kIpv4, false);
  for (base::Family inner : {base::Family::kIpv4, base::Family::kIpv6}) {
    EXPECT_TRUE(Delivers(*a_, *b_, inner));
  }
  EXPECT_EQ(PlaintextOnWire(), 0);
  // What is between the nodes themselves stays theirs.
  for (const auto& [from, to] :
       {std::pair(a_.get(), b_.get()), std::pair(b_.get(), a_.get())}) {
    Policy nodes = PolicyBetween(*from, *to, base::Family::kIpv4);
    nodes.local.push_back(
        base::IpPrefix::Host(from->outer(base::Family::kIpv4)));
    nodes.remote.push_back(
        base::IpPrefix::Host(to->outer(base::Family::kIpv4)));
    ASSERT_EQ(SetPolicy(from, nodes), absl::OkStatus());
    EXPECT_THAT(Policies(from), ElementsAre(nodes));
  }
  EXPECT_TRUE(Delivers(*a_, *b_, base::Family::kIpv4));
  a_->Enter();
  Shell("ping -n -q -c 1 -W 5 192.0.2.2");
  // Control: without the policy the same datagram goes out in plaintext.
  EXPECT_EQ(Wait([&](Done done) {
              a_->datapath->RemovePolicy(kReqid, std::move(done));
            }),
            absl::OkStatus());
  int seen = 0;
  EXPECT_TRUE(loop_.RunUntil([&] {
    a_->Send(b_->inner(base::Family::kIpv4));
    usleep(20000);
    seen += PlaintextOnWire();
    return seen > 0;
  }));
}

}  // namespace
}  // namespace espalier::datapath
