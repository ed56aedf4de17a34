#include "agent/runtime/probe_sockets.h"

#include <string>
#include <vector>

#include "agent/runtime/loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::runtime {
namespace {

struct Got {
  base::IpAddress local, remote;
  base::Bytes bytes;
};

constexpr uint16_t kPort = 39470;

// 127.0.0.1 talks to 127.0.0.2, ::1 to itself; "the tunnel" is the loopback
// interface, or is not.
class ProbeSocketsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    sockets_.SetLocal({Local()});
    if (!GetParam().starts_with("127")) return;
    others_.SetLocal({Other()});
  }
  base::IpAddress Local() { return *base::IpAddress::Parse(GetParam()); }
  base::IpAddress Other() {
    return *base::IpAddress::Parse(GetParam() == "::1" ? "::1" : "127.0.0.2");
  }
  ProbeSockets::Handlers Into(std::vector<Got>* got,
                              std::vector<Got>* unreachable) {
    const auto into = [this](std::vector<Got>* out) {
      return [this, out](const base::IpAddress& local,
                         const base::IpAddress& remote, base::ByteSpan bytes) {
        out->push_back({local, remote, {bytes.begin(), bytes.end()}});
        loop_.Stop();
      };
    };
    return {into(got), into(unreachable)};
  }
  void RunFor(absl::Duration duration) {
    loop_.RunAfter(duration, [this] { loop_.Stop(); });
    loop_.Run();
  }

  Loop loop_;
  std::string interface_ = "lo";
  std::vector<Got> got_, unreachable_, others_got_, others_unreachable_;
  ProbeSockets sockets_{&loop_, kPort, [this] { return interface_; },
                        Into(&got_, &unreachable_)};
  ProbeSockets others_{&loop_, kPort, [] { return std::string("lo"); },
                       Into(&others_got_, &others_unreachable_)};
};

TEST_P(ProbeSocketsTest, CarriesWhatComesThroughTheTunnel) {
  std::vector<Got>& got = GetParam() == "::1" ? got_ : others_got_;
  ASSERT_TRUE(sockets_.Send(Local(), Other(), base::Bytes{1, 2, 3}).ok());
  loop_.Run();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].remote, Local());
  EXPECT_EQ(got[0].local, Other());
  EXPECT_EQ(got[0].bytes, (base::Bytes{1, 2, 3}));
}

TEST_P(ProbeSocketsTest, DropsWhatComesFromAnywhereElse) {
  interface_ = "no-such-device";
  EXPECT_FALSE(sockets_.Send(Local(), Other(), base::Bytes{1}).ok());
  if (GetParam() == "::1") return;  // nobody else to send it
  ASSERT_TRUE(others_.Send(Other(), Local(), base::Bytes{1}).ok());
  RunFor(absl::Milliseconds(100));
  EXPECT_TRUE(got_.empty());
  // The control: the same datagram is taken once the interface is right.
  interface_ = "lo";
  ASSERT_TRUE(others_.Send(Other(), Local(), base::Bytes{2}).ok());
  loop_.Run();
  ASSERT_EQ(got_.size(), 1u);
}

TEST_P(ProbeSocketsTest, TellsOfUnreachablePorts) {
  // ::1 has no second address; tests/netns/tunnel_test.py has IPv6.
  if (GetParam() == "::1") return;
  others_.SetLocal({});
  const base::IpAddress nobody = Other();
  ASSERT_TRUE(sockets_.Send(Local(), nobody, base::Bytes{5, 6}).ok());
  loop_.Run();
  ASSERT_EQ(unreachable_.size(), 1u);
  EXPECT_EQ(unreachable_[0].remote, nobody);
  EXPECT_EQ(unreachable_[0].bytes, (base::Bytes{5, 6}));
  EXPECT_TRUE(got_.empty());
  // Each is told once, and the socket goes on, in both directions.
  ASSERT_TRUE(sockets_.Send(Local(), nobody, base::Bytes{5, 7}).ok());
  loop_.Run();
  ASSERT_EQ(unreachable_.size(), 2u);
  RunFor(absl::Milliseconds(50));
  EXPECT_EQ(unreachable_.size(), 2u);
  others_.SetLocal({Other()});
  ASSERT_TRUE(sockets_.Send(Local(), Other(), base::Bytes{7}).ok());
  loop_.Run();
  EXPECT_EQ(others_got_.size(), 1u);
  ASSERT_TRUE(others_.Send(Other(), Local(), base::Bytes{8}).ok());
  loop_.Run();
  EXPECT_EQ(got_.size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Families, ProbeSocketsTest,
                         ::testing::Values("127.0.0.1", "::1"));

}  // namespace
}  // namespace espalier::runtime
