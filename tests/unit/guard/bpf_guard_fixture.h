// A BpfGuard over a faked kernel, for the tests of its rules and of its faults.
#ifndef TESTS_UNIT_GUARD_BPF_GUARD_FIXTURE_H_
#define TESTS_UNIT_GUARD_BPF_GUARD_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "agent/guard/bpf_guard.h"
#include "tests/support/fake_bpf_system.h"
#include "tests/support/manual_loop.h"

namespace espalier::testing {

inline constexpr char kPod[] = "esp0123456789a";

class BpfGuardTest : public ::testing::Test {
 protected:
  BpfGuardTest() {
    loopback_ = kernel_.AddLink("lo", "", ARPHRD_LOOPBACK);
    uplink_ = kernel_.AddLink("eth0", "");
    tunnel_ = kernel_.AddLink("espalier0", "tun", ARPHRD_NONE);
    pod_ = kernel_.AddLink(kPod);
    desired_.tunnel_interface = "espalier0";
    desired_.pods = {Pod(kPod, "10.244.1.5")};
    desired_.inside = {guard::InsideBlock::Pods(
                           base::IpPrefix::Parse("10.244.0.0/16").value()),
                       guard::InsideBlock::PlaintextPods(
                           base::IpPrefix::Parse("10.244.2.240/28").value())};
    desired_.own_addresses = {base::IpAddress::Parse("192.0.2.1").value()};
    desired_.in_sync = true;
    Start();
  }

  static guard::GuardedPod Pod(const std::string& interface,
                               const std::string& address,
                               base::Mode mode = base::Mode::kRequired) {
    return {.host_interface = interface,
            .addresses = {base::IpAddress::Parse(address).value()},
            .mac = {2, 0, 0, 0, 0, 5},
            .mode = mode,
            .name = "shop/" + interface};
  }

  // A new agent on the same kernel.
  void Start() {
    guard_.reset();
    auto system = std::make_unique<FakeBpfSystem>(&kernel_);
    system_ = system.get();
    guard_ = std::make_unique<guard::BpfGuard>(
        &loop_, &loop_, std::move(system), nullptr, guard::BpfGuardOptions());
    guard_->OnRepair(
        [this](const guard::GuardProblem& p) { repairs_.push_back(p.item); });
    guard_->OnDrop([this](const guard::DropEvent& d) { drops_.push_back(d); });
  }
  int life() const { return kernel_.lives; }
  espalier_pod PodEntry(uint32_t ifindex) {
    return guard::FromBytes<espalier_pod>(
        kernel_.maps[guard::BpfMap::kPods][guard::ToBytes(ifindex)]);
  }
  espalier_config Config() {
    return guard::FromBytes<espalier_config>(
        kernel_.maps[guard::BpfMap::kConfig][guard::ToBytes(uint32_t{0})]);
  }

  ManualLoop loop_;
  FakeBpfKernel kernel_;
  guard::DesiredGuard desired_;
  FakeBpfSystem* system_ = nullptr;
  std::unique_ptr<guard::BpfGuard> guard_;
  std::vector<std::string> repairs_;
  std::vector<guard::DropEvent> drops_;
  uint32_t loopback_ = 0, uplink_ = 0, tunnel_ = 0, pod_ = 0;
};

}  // namespace espalier::testing

#endif  // TESTS_UNIT_GUARD_BPF_GUARD_FIXTURE_H_
