// The loader on the kernel of the machine: stands first, stays without the
// agent, is replaced without a gap, and notices what somebody else does. Once
// by tcx, where the kernel has it, and once by clsact.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/pkt_cls.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/guard/bpf_guard.h"
#include "agent/guard/kernel_bpf_system.h"
#include "agent/netlink/route_client.h"
#include "gmock/gmock.h"
#include "tests/netns/private_namespace.h"
#include "tests/support/manual_loop.h"

namespace espalier::testing {
namespace {

using guard::BpfMap;
using guard::BpfProgram;
using guard::KernelBpfOptions;
using guard::KernelBpfSystem;
using guard::Standing;

constexpr char kPod[] = "esp0123456789a";

class LoaderTest : public PrivateNamespaceTest,
                   public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // A bpffs of the test's own, which goes with it.
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    char pattern[] = "/tmp/espalier-bpf-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    mount_ = pattern;
    ASSERT_EQ(mount("bpf", mount_.c_str(), "bpf", 0, nullptr), 0);
    options_.pin_root = mount_ + "/espalier";
    options_.force_clsact = GetParam();
    auto socket = netlink::Socket::Open();
    ASSERT_TRUE(socket.ok());
    socket_ = *std::move(socket);
    netlink::RouteClient client(socket_.get());
    ASSERT_TRUE(client.AddVeth({.name = kPod}, {.name = "eth1"}).ok());
    ASSERT_TRUE(client.AddVeth({.name = "eth0"}, {.name = "wire"}).ok());
    pod_ = client.GetLink(kPod)->index;
    uplink_ = client.GetLink("eth0")->index;
    system_ = Start();
  }
  void TearDown() override {
    system_.reset();
    if (mount_.empty()) return;
    umount2(mount_.c_str(), MNT_DETACH);
    rmdir(mount_.c_str());
  }

  std::unique_ptr<KernelBpfSystem> Start() {
    auto system = KernelBpfSystem::Open(options_);
    EXPECT_TRUE(system.ok()) << system.status();
    if (!system.ok()) return nullptr;
    const absl::Status status = (*system)->Load();
    EXPECT_TRUE(status.ok()) << status;
    return *std::move(system);
  }
  Standing Look(uint32_t ifindex, BpfProgram program) {
    const auto standing = system_->Inspect(ifindex, program);
    EXPECT_TRUE(standing.ok()) << standing.status();
    return standing.value_or(Standing::kMissing);
  }

  // Somebody else's program that lets everything pass, in front. Its
  // descriptor keeps it there.
  int PutForeignFirst(uint32_t ifindex) {
    const bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 0},
                             {.code = BPF_JMP | BPF_EXIT}};
    const int program = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "foreign", "GPL",
                                      code, 2, nullptr);
    EXPECT_GE(program, 0);
    if (GetParam()) {
      bpf_tc_hook hook{};
      hook.sz = sizeof(hook);
      hook.ifindex = static_cast<int>(ifindex);
      hook.attach_point = BPF_TC_INGRESS;
      bpf_tc_opts opts{};
      opts.sz = sizeof(opts);
      opts.prog_fd = program;
      opts.priority = 1;
      opts.handle = 77;
      EXPECT_EQ(bpf_tc_attach(&hook, &opts), 0);
      return program;
    }
    struct {
      uint32_t prog_fd, ifindex, type, flags, relative, unused;
      uint64_t revision;
    } create{};
    create.prog_fd = program;
    create.ifindex = ifindex;
    create.type = 46;       // BPF_TCX_INGRESS
    create.flags = 1 << 3;  // BPF_F_BEFORE
    const int link = static_cast<int>(
        syscall(__NR_bpf, BPF_LINK_CREATE, &create, sizeof(create)));
    EXPECT_GE(link, 0) << strerror(errno);
    return link;
  }
  // Detaches ours as somebody with root would.
  void DetachByHand(uint32_t ifindex) {
    if (GetParam()) {
      ASSERT_EQ(
          system(absl::StrCat("tc filter del dev ", kPod, " ingress").c_str()),
          0);
      return;
    }
    ASSERT_EQ(unlink(absl::StrCat(system_->pin_directory(), "/links/from_pod-",
                                  ifindex)
                         .c_str()),
              0);
  }

  static int CountFilters() {
    FILE* pipe =
        popen(absl::StrCat("tc filter show dev ", kPod, " ingress | grep -c id")
                  .c_str(),
              "r");
    int count = -1;
    EXPECT_EQ(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
  }
  // Programs in the hook where from_pod stands, asked of the kernel.
  int CountFromPod() const {
    if (GetParam()) return CountFilters();
    struct {
      uint32_t ifindex, type, query_flags, attach_flags;
      uint64_t ids;
      uint32_t count, unused;
      uint64_t rest[4];
    } query{};
    query.ifindex = pod_;
    query.type = 46;  // BPF_TCX_INGRESS
    EXPECT_EQ(syscall(__NR_bpf, BPF_PROG_QUERY, &query, sizeof(query)), 0);
    return static_cast<int>(query.count);
  }

  std::string mount_;
  KernelBpfOptions options_;
  std::unique_ptr<netlink::Socket> socket_;
  std::unique_ptr<KernelBpfSystem> system_;
  uint32_t pod_ = 0, uplink_ = 0;
};

TEST_P(LoaderTest, AttachesAndDetaches) {
  for (const BpfProgram program : {BpfProgram::kFromPod, BpfProgram::kToPod}) {
    EXPECT_EQ(Look(pod_, program), Standing::kMissing);
    const absl::Status status = system_->Attach(pod_, program);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Look(pod_, program), Standing::kInPlace);
    EXPECT_TRUE(system_->Attach(pod_, program).ok()) << "again";
  }
  EXPECT_EQ(Look(uplink_, BpfProgram::kUplinkOut), Standing::kMissing);
  ASSERT_TRUE(system_->Detach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  EXPECT_EQ(Look(pod_, BpfProgram::kToPod), Standing::kInPlace);
  EXPECT_TRUE(system_->Detach(pod_, BpfProgram::kFromPod).ok()) << "again";
}

TEST_P(LoaderTest, StandsAtOnceAndIsMadeFirm) {
  const Standing at_once = GetParam() ? Standing::kInPlace : Standing::kStandIn;
  for (const BpfProgram program : {BpfProgram::kFromPod, BpfProgram::kToPod}) {
    for (const char* time : {"once", "again"}) {
      const absl::Status status = system_->AttachAtOnce(pod_, program);
      ASSERT_TRUE(status.ok()) << status << time;
      EXPECT_EQ(Look(pod_, program), at_once) << time;
    }
  }
  EXPECT_EQ(CountFilters(), 1);
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
  EXPECT_EQ(CountFromPod(), 1);
  EXPECT_EQ(CountFilters(), GetParam() ? 1 : 0);
  EXPECT_EQ(Look(pod_, BpfProgram::kToPod), at_once);
  // What stands firmly already is no stand-in.
  ASSERT_TRUE(system_->AttachAtOnce(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
}

// What only tcx can do to a filter; for a minute at most.
TEST_P(LoaderTest, WhoeverCameBeforeAStandInIsOvertaken) {
  ASSERT_TRUE(system_->AttachAtOnce(pod_, BpfProgram::kFromPod).ok());
  const int foreign = PutForeignFirst(pod_);
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod),
            GetParam() ? Standing::kNotFirst : Standing::kStandIn);
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
  EXPECT_EQ(CountFromPod(), 2);
  close(foreign);
}

TEST_P(LoaderTest, AStandInOutlivesTheAgentAndGoesLikeTheRest) {
  const auto stand_in = [&] {
    const absl::Status status =
        system_->AttachAtOnce(pod_, BpfProgram::kFromPod);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(CountFilters(), 1);
  };
  stand_in();
  system_.reset();
  EXPECT_EQ(CountFilters(), 1) << "it stood all the time";
  system_ = Start();
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kOld);
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
  EXPECT_EQ(CountFilters(), GetParam() ? 1 : 0);
  ASSERT_TRUE(system_->Detach(pod_, BpfProgram::kFromPod).ok());
  stand_in();
  ASSERT_TRUE(system_->Detach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  stand_in();
  ASSERT_EQ(
      system(absl::StrCat("tc filter del dev ", kPod, " ingress").c_str()), 0);
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  stand_in();
  ASSERT_TRUE(KernelBpfSystem::Remove(options_).ok());
  EXPECT_EQ(CountFilters(), 0);
}

TEST_P(LoaderTest, StaysWithoutTheAgentAndIsReplacedInPlace) {
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  const std::string key = guard::ToBytes(pod_);
  ASSERT_TRUE(
      system_
          ->Update(BpfMap::kPods, key, guard::ToBytes(espalier_pod{.slot = 5}))
          .ok());
  system_.reset();
  // The next agent, maybe of another version.
  system_ = Start();
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kOld)
      << "the old programs stood all the time";
  const auto pods = system_->Read(BpfMap::kPods);
  ASSERT_TRUE(pods.ok());
  EXPECT_EQ(guard::FromBytes<espalier_pod>(pods->at(key)).slot, 5u)
      << "the maps are the same";
  const absl::Status status = system_->Attach(pod_, BpfProgram::kFromPod);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
}

TEST_P(LoaderTest, AProgramPutInFrontIsNoticedAndOvertaken) {
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  for (int round = 0; round < 5; ++round) {
    const int foreign = PutForeignFirst(pod_);
    EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kNotFirst);
    const absl::Status status = system_->Attach(pod_, BpfProgram::kFromPod);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
    if (GetParam()) {
      ASSERT_EQ(system(absl::StrCat("tc filter del dev ", kPod,
                                    " ingress prio 1 handle 77 bpf")
                           .c_str()),
                0);
    }
    close(foreign);
  }
}

TEST_P(LoaderTest, WhatWasDetachedByHandIsMissing) {
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  DetachByHand(pod_);
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kInPlace);
}

TEST_P(LoaderTest, DevicesThatAreGoneLeaveNothing) {
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  ASSERT_TRUE(netlink::RouteClient(socket_.get()).DeleteLink(kPod).ok());
  EXPECT_FALSE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  ASSERT_TRUE(system_->Forget({uplink_}).ok());
  if (!GetParam()) {
    EXPECT_TRUE(std::filesystem::is_empty(system_->pin_directory() + "/links"));
  }
}

TEST_P(LoaderTest, RemovesItselfWholly) {
  ASSERT_TRUE(system_->Attach(pod_, BpfProgram::kFromPod).ok());
  ASSERT_TRUE(system_->Attach(uplink_, BpfProgram::kUplinkOut).ok());
  const std::string own =
      std::filesystem::path(system_->pin_directory()).parent_path();
  const absl::StatusOr<bool> removed = KernelBpfSystem::Remove(options_);
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_TRUE(*removed);
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  EXPECT_EQ(Look(uplink_, BpfProgram::kUplinkOut), Standing::kMissing);
  EXPECT_FALSE(std::filesystem::exists(own));
  EXPECT_FALSE(KernelBpfSystem::Remove(options_).value()) << "again";
}

TEST_P(LoaderTest, FindsAndRemovesAnotherVersion) {
  EXPECT_FALSE(system_->HasPredecessor().value());
  const std::string other =
      std::filesystem::path(system_->pin_directory()).parent_path() / "v0";
  ASSERT_EQ(mkdir(other.c_str(), 0700), 0);
  ASSERT_EQ(mkdir((other + "/links").c_str(), 0700), 0);
  const int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "old", 4, 4, 1, nullptr);
  ASSERT_GE(map, 0);
  ASSERT_EQ(bpf_obj_pin(map, (other + "/old").c_str()), 0);
  close(map);
  EXPECT_TRUE(system_->HasPredecessor().value());
  const absl::Status status = system_->RemovePredecessor();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_FALSE(std::filesystem::exists(other));
  EXPECT_TRUE(std::filesystem::exists(system_->pin_directory()));
}

TEST_P(LoaderTest, WithoutABpffsItSaysSo) {
  KernelBpfOptions options = options_;
  options.pin_root = "/tmp/espalier-no-bpffs";
  const auto system = KernelBpfSystem::Open(options);
  ASSERT_FALSE(system.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(system.status())) << system.status();
  rmdir(options.pin_root.c_str());
}

guard::DesiredGuard OnePod() {
  guard::DesiredGuard desired;
  desired.tunnel_interface = "wire";
  desired.pods = {{.host_interface = kPod,
                   .addresses = {base::IpAddress::Parse("10.1.0.2").value()},
                   .name = "shop/web"}};
  desired.in_sync = true;
  return desired;
}

// The whole, on real devices.
TEST_P(LoaderTest, GuardStandsEverywhereAndRepairs) {
  system_.reset();
  ManualLoop loop;
  auto opened = guard::BpfGuard::Open(&loop, &loop, options_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::unique_ptr<guard::BpfGuard> bpf = *std::move(opened);
  std::vector<std::string> repairs;
  bpf->OnRepair(
      [&](const guard::GuardProblem& p) { repairs.push_back(p.item); });
  const guard::DesiredGuard desired = OnePod();
  bpf->SetDesired(desired);
  for (const guard::GuardProblem& problem : bpf->Problems()) {
    ADD_FAILURE() << problem.item << ": " << problem.status;
  }
  system_ = Start();
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kOld);
  EXPECT_EQ(Look(pod_, BpfProgram::kToPod), Standing::kOld);
  EXPECT_EQ(Look(uplink_, BpfProgram::kUplinkIn), Standing::kOld);
  EXPECT_EQ(Look(uplink_, BpfProgram::kUplinkOut), Standing::kOld);
  DetachByHand(pod_);
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kMissing);
  loop.Advance(absl::Seconds(2));
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kOld);
  EXPECT_EQ(repairs,
            std::vector<std::string>{absl::StrCat("from_pod on ", kPod)});
}

// Pins go with their bpffs, and tcx links with their pins.
TEST_P(LoaderTest, AnUnmountedBpffsIsToldAndMadeGood) {
  system_.reset();
  ManualLoop loop;
  auto opened = guard::BpfGuard::Open(&loop, &loop, options_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::unique_ptr<guard::BpfGuard> bpf = *std::move(opened);
  std::vector<std::string> repairs;
  bpf->OnRepair(
      [&](const guard::GuardProblem& p) { repairs.push_back(p.item); });
  const guard::DesiredGuard desired = OnePod();
  bpf->SetDesired(desired);
  loop.Advance(absl::Seconds(2));
  EXPECT_TRUE(bpf->Problems().empty());
  EXPECT_TRUE(repairs.empty());
  ASSERT_EQ(CountFromPod(), 1);

  ASSERT_EQ(umount2(mount_.c_str(), 0), 0);
  // A tcx link dies with its pin, a little later: the kernel defers it.
  const int left = GetParam() ? 1 : 0;
  for (int i = 0; i < 500 && CountFromPod() != left; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(CountFromPod(), left);
  loop.Advance(absl::Seconds(2));
  EXPECT_EQ(CountFromPod(), 1) << "held by the agent";
  ASSERT_EQ(bpf->Problems().size(), 1u);
  EXPECT_EQ(bpf->Problems()[0].item, "pins");
  EXPECT_TRUE(absl::IsFailedPrecondition(bpf->Problems()[0].status));
  EXPECT_THAT(bpf->Problems()[0].status.ToString(),
              ::testing::HasSubstr("mount -t bpf"));
  // A pod that comes in this time is guarded all the same.
  EXPECT_TRUE(bpf->Protect(desired.pods[0]).ok());

  ASSERT_EQ(mount("bpf", mount_.c_str(), "bpf", 0, nullptr), 0);
  loop.Advance(absl::Minutes(1));
  EXPECT_TRUE(bpf->Problems().empty()) << bpf->Problems()[0].status;
  EXPECT_EQ(std::ranges::count(repairs, "pins"), 1);
  EXPECT_EQ(CountFromPod(), 1);
  // As ever: what stands outlives the agent, with the same maps.
  bpf.reset();
  EXPECT_EQ(CountFromPod(), 1);
  system_ = Start();
  EXPECT_EQ(Look(pod_, BpfProgram::kFromPod), Standing::kOld);
  EXPECT_TRUE(
      system_->Read(BpfMap::kPods).value().contains(guard::ToBytes(pod_)));
}

std::vector<bool> Ways() {
  if (guard::KernelHasTcx()) return {false, true};
  return {true};
}

INSTANTIATE_TEST_SUITE_P(Ways, LoaderTest, ::testing::ValuesIn(Ways()),
                         [](const auto& info) {
                           return info.param ? "clsact" : "tcx";
                         });

}  // namespace
}  // namespace espalier::testing
