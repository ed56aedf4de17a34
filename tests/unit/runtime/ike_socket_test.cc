#include "agent/runtime/ike_socket.h"

#include <string>
#include <vector>

#include "agent/runtime/loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::runtime {
namespace {

base::Endpoint At(const std::string& address, uint16_t port = 0) {
  return {*base::IpAddress::Parse(address), port};
}

struct Got {
  base::Endpoint local, remote;
  base::Bytes bytes;
};

class IkeSocketTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<IkeSocket> Open(const base::Endpoint& at,
                                  std::vector<Got>* got, size_t stop_at) {
    auto socket = IkeSocket::Open(
        &loop_, at,
        [this, got, stop_at](const base::Endpoint& local,
                             const base::Endpoint& remote,
                             base::ByteSpan bytes) {
          got->push_back({local, remote, {bytes.begin(), bytes.end()}});
          if (got->size() == stop_at) loop_.Stop();
        });
    EXPECT_TRUE(socket.ok()) << socket.status();
    return socket.ok() ? *std::move(socket) : nullptr;
  }
  Loop loop_;
};

TEST_P(IkeSocketTest, CarriesDatagramsBothWaysWithTheirAddresses) {
  std::vector<Got> at_a, at_b;
  auto a = Open(At(GetParam()), &at_a, 1);
  auto b = Open(At(GetParam()), &at_b, 200);
  ASSERT_TRUE(a && b);
  EXPECT_NE(a->local().port, 0);
  // More than one batch of a readiness, the largest among them.
  for (int i = 0; i < 199; ++i) {
    ASSERT_TRUE(
        a->Send(b->local(), base::Bytes(10, static_cast<uint8_t>(i))).ok());
  }
  ASSERT_TRUE(a->Send(b->local(), base::Bytes(60'000, 7)).ok());
  loop_.Run();
  ASSERT_EQ(at_b.size(), 200u);
  EXPECT_EQ(at_b[5].bytes, base::Bytes(10, 5));
  EXPECT_EQ(at_b[199].bytes.size(), 60'000u);
  EXPECT_EQ(at_b[0].remote, a->local());
  EXPECT_EQ(at_b[0].local, b->local());
  ASSERT_TRUE(b->Send(at_b[0].remote, base::Bytes{1, 2}).ok());
  loop_.Run();
  EXPECT_EQ(at_a[0].bytes, (base::Bytes{1, 2}));
}

TEST_P(IkeSocketTest, TwoOnOneEndpointAreRefused) {
  std::vector<Got> got;
  auto a = Open(At(GetParam()), &got, 1);
  ASSERT_TRUE(a);
  auto second = IkeSocket::Open(&loop_, a->local(), nullptr);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition)
      << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              ::testing::HasSubstr(a->local().ToString()));
}

INSTANTIATE_TEST_SUITE_P(Families, IkeSocketTest,
                         ::testing::Values("127.0.0.1", "::1"),
                         [](const auto& p) {
                           return p.param == "::1" ? "IPv6" : "IPv4";
                         });

TEST(IkeSocket, FamiliesDoNotMix) {
  Loop loop;
  auto socket = IkeSocket::Open(&loop, At("127.0.0.1"), nullptr);
  ASSERT_TRUE(socket.ok());
  EXPECT_EQ((*socket)->Send(At("::1", 500), base::Bytes(1)).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(IkeSocket, AnAddressThatIsNotThereYetMayBeBound) {
  Loop loop;
  EXPECT_TRUE(IkeSocket::Open(&loop, At("192.0.2.77"), nullptr).ok());
  EXPECT_TRUE(IkeSocket::Open(&loop, At("2001:db8::77"), nullptr).ok());
}

}  // namespace
}  // namespace espalier::runtime
