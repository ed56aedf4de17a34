// What is removed of the kernel's SAs and policies, over a kernel that is a
// list of them; tests/guest has a real one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/xfrm.h>

#include <utility>

#include "agent/datapath/kernel/removal.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::datapath {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

base::Bytes Copy(base::ByteSpan bytes) { return {bytes.begin(), bytes.end()}; }

// Answers dumps with what a request to add it would say, and notes deletions.
class FakeKernel : public netlink::Channel {
 public:
  absl::Status Execute(netlink::Request request) override {
    removed.push_back(request.what());
    return request.what() == fails ? absl::ResourceExhaustedError("no buffers")
                                   : status;
  }
  std::vector<absl::Status> ExecuteBatch(
      std::vector<netlink::Request> requests) override {
    std::vector<absl::Status> results;
    for (netlink::Request& request : requests) {
      results.push_back(Execute(std::move(request)));
    }
    return results;
  }
  absl::StatusOr<std::vector<netlink::Reply>> Query(netlink::Request) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::vector<netlink::Reply>> Dump(
      netlink::Request request) override {
    return request.type() == XFRM_MSG_GETSA ? states : policies;
  }

  void AddState(uint32_t reqid, uint32_t spi) {
    base::EspSa sa;
    sa.direction = base::Direction::kOutbound;
    sa.spi = base::Spi(spi);
    sa.outer_source = *base::IpAddress::Parse("192.0.2.1");
    sa.outer_destination = *base::IpAddress::Parse("192.0.2.2");
    sa.encryption_key =
        base::SecretBytes(base::Bytes(sa.suite.encryption_key_size(), 0xaa));
    sa.reqid = base::Reqid(reqid);
    auto request = netlink::AddStateRequest(sa, {});
    ASSERT_TRUE(request.ok()) << request.status();
    states.push_back({XFRM_MSG_NEWSA, 0, Copy(request->payload())});
  }
  void AddPolicy(uint32_t reqid, const char* destination) {
    netlink::XfrmPolicy policy;
    policy.source = *base::IpPrefix::Parse("10.1.0.0/16");
    policy.destination = *base::IpPrefix::Parse(destination);
    policy.reqid = base::Reqid(reqid);
    policy.outer_source = *base::IpAddress::Parse("192.0.2.1");
    policy.outer_destination = *base::IpAddress::Parse("192.0.2.2");
    policies.push_back({XFRM_MSG_NEWPOLICY, 0,
                        Copy(netlink::SetPolicyRequest(policy).payload())});
  }

  std::vector<netlink::Reply> states;
  std::vector<netlink::Reply> policies;
  std::vector<std::string> removed;
  absl::Status status;
  std::string fails;
};

constexpr uint32_t kOurs = base::kOwnedReqidFirst + 3;
constexpr uint32_t kForeign = 17;

TEST(RemoveTunnels, OnlyWhatIsOursAndThePoliciesLast) {
  FakeKernel kernel;
  kernel.AddState(kOurs, 0xc0ffee01);
  kernel.AddState(kForeign, 0xc0ffee02);
  kernel.AddState(base::kOwnedReqidLast, 0xc0ffee03);
  kernel.AddState(base::kOwnedReqidLast + 1, 0xc0ffee04);
  kernel.AddPolicy(kForeign, "10.9.0.0/16");
  kernel.AddPolicy(kOurs, "10.2.0.0/16");
  const auto removed = RemoveTunnels(&kernel);
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->sas, 2u);
  EXPECT_EQ(removed->policies, 1u);
  EXPECT_THAT(kernel.removed,
              ElementsAre(HasSubstr("c0ffee01"), HasSubstr("c0ffee03"),
                          HasSubstr("10.2.0.0/16")));
}

TEST(RemoveTunnels, WhatIsGoneAlreadyIsGone) {
  FakeKernel kernel;
  EXPECT_EQ(RemoveTunnels(&kernel)->sas, 0u);
  kernel.AddState(kOurs, 0xc0ffee01);
  kernel.status = absl::NotFoundError("ESRCH");
  EXPECT_TRUE(RemoveTunnels(&kernel).ok());
}

TEST(RemoveTunnels, AnSaThatStaysKeepsThePolicies) {
  FakeKernel kernel;
  kernel.AddState(kOurs, 0xc0ffee01);
  kernel.AddState(kOurs, 0xc0ffee02);
  kernel.AddPolicy(kOurs, "10.2.0.0/16");
  ASSERT_TRUE(RemoveTunnels(&kernel).ok());
  kernel.fails = kernel.removed.front();
  kernel.removed.clear();
  kernel.states.clear();
  kernel.AddState(kOurs, 0xc0ffee01);
  kernel.AddState(kOurs, 0xc0ffee02);
  EXPECT_TRUE(absl::IsResourceExhausted(RemoveTunnels(&kernel).status()));
  // The other SA went all the same.
  EXPECT_THAT(kernel.removed,
              ElementsAre(HasSubstr("c0ffee01"), HasSubstr("c0ffee02")));
}

}  // namespace
}  // namespace espalier::datapath
