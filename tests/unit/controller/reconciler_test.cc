#include "agent/controller/reconciler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/objects.h"

namespace espalier::controller {
namespace {

using kube::EspalierNode;
using ::testing::ElementsAre;

// EspalierNodes as the API server keeps them, and what an informer would tell.
class Cluster {
 public:
  void Apply(const std::string& name) {
    EspalierNode object = *MakeEspalierNode(name);
    object.meta.resource_version = std::to_string(++version_);
    objects_[name] = object;
  }
  absl::StatusOr<EspalierNode> Do(const Write& write) {
    writes.push_back(write);
    const auto found = objects_.find(write.name);
    switch (write.kind) {
      case Write::Kind::kFindNode:
        if (nodes.contains(write.name)) return EspalierNode();
        return absl::NotFoundError("no Node");
      case Write::Kind::kReportOwner:
      case Write::Kind::kDeleteReport:
        return EspalierNode();
      case Write::Kind::kDelete:
        if (found == objects_.end()) return absl::NotFoundError("none");
        if (found->second.meta.uid != write.uid) return absl::AbortedError("");
        objects_.erase(found);
        return EspalierNode();
      case Write::Kind::kOwner:
        if (found == objects_.end()) return absl::InvalidArgumentError("");
        found->second.meta.owner_references = {write.owner};
        break;
      case Write::Kind::kStatus:
        if (found == objects_.end()) return absl::NotFoundError("none");
        if (found->second.meta.resource_version !=
                write.node.meta.resource_version ||
            found->second.meta.uid != write.node.meta.uid) {
          return absl::AbortedError("changed meanwhile");
        }
        found->second.status = write.node.status;
        break;
    }
    found->second.meta.resource_version = std::to_string(++version_);
    CheckDisjoint(write.name);
    return found->second;
  }
  void Touch(const std::string& name) {
    objects_[name].meta.resource_version = std::to_string(++version_);
  }
  std::vector<EspalierNode> List() const {
    std::vector<EspalierNode> all;
    for (const auto& [name, object] : objects_) all.push_back(object);
    return all;
  }
  kube::Relist<EspalierNode> Relist() const {
    kube::Relist<EspalierNode> relist;
    for (const auto& [name, object] : objects_) {
      relist.objects.push_back(std::make_shared<const EspalierNode>(object));
    }
    return relist;
  }
  const EspalierNode& operator[](const std::string& name) {
    return objects_[name];
  }
  bool Has(const std::string& name) const { return objects_.contains(name); }

  std::vector<Write> writes;
  Nodes nodes;

 private:
  void CheckDisjoint(const std::string& written) {
    const std::optional<EspalierNode::Status>& status =
        objects_[written].status;
    if (!status.has_value()) return;
    for (const auto& [name, other] : objects_) {
      if (name == written || !other.status.has_value()) continue;
      ASSERT_FALSE(Overlap(*status, *other.status)) << written << " " << name;
    }
  }
  int version_ = 100;
  std::map<std::string, EspalierNode> objects_;
};

class ReconcilerTest : public ::testing::Test {
 protected:
  ReconcilerOptions Options() {
    return {.plan = Plan(), .gather = absl::ZeroDuration()};
  }
  void PutNode(std::shared_ptr<kube::Node> node) {
    cluster_.nodes[node->meta.name] = node;
    reconciler_->Handle(
        now_, kube::Update<kube::Node>(kube::Put<kube::Node>{std::move(node)}));
  }
  void DropNode(const std::string& name) {
    const auto node = cluster_.nodes[name];
    cluster_.nodes.erase(name);
    reconciler_->Handle(
        now_, kube::Update<kube::Node>(kube::Deleted<kube::Node>{node}));
  }
  void Tell(const std::string& name) {
    reconciler_->Handle(
        now_, kube::Update<EspalierNode>(kube::Put<EspalierNode>{
                  std::make_shared<const EspalierNode>(cluster_[name])}));
  }
  void Add(std::shared_ptr<kube::Node> node) {
    const std::string name = node->meta.name;
    cluster_.Apply(name);
    Tell(name);
    PutNode(std::move(node));
  }
  void Sync() {
    kube::Relist<kube::Node> nodes;
    for (const auto& [name, node] : cluster_.nodes) {
      nodes.objects.push_back(node);
    }
    reconciler_->Handle(now_, kube::Update<kube::Node>(nodes));
    reconciler_->Handle(now_, kube::Update<EspalierNode>(cluster_.Relist()));
  }
  void Lead() { reconciler_->BeginTerm(now_, cluster_.List(), {}); }
  // All that can be written within `time`.
  void Run(absl::Duration time = absl::Seconds(30)) {
    const base::Instant end = now_ + time;
    while (now_ < end) {
      while (auto write = reconciler_->Next(now_, kWall)) {
        reconciler_->Done(now_, *write, cluster_.Do(*write));
      }
      now_ = std::clamp(reconciler_->NextTimeout(),
                        now_ + absl::Milliseconds(1), end);
    }
  }
  int Writes(Write::Kind kind) {
    return static_cast<int>(
        std::count_if(cluster_.writes.begin(), cluster_.writes.end(),
                      [&](const Write& write) { return write.kind == kind; }));
  }

  base::Instant now_ = absl::UnixEpoch() + absl::Hours(1);
  Cluster cluster_;
  std::unique_ptr<Reconciler> reconciler_ =
      std::make_unique<Reconciler>(Options());
};

TEST_F(ReconcilerTest, WritesStatusAndOwnersOnceAndNoMore) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.2.0/24"}));
  Lead();
  Run();
  EXPECT_THAT(Texts(*cluster_["a"].status),
              ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_EQ(cluster_["b"].meta.owner_references.at(0).uid, "uid-of-b");
  EXPECT_EQ(cluster_.writes.size(), 6u);  // status, owner, report's owner
  Tell("a");
  Tell("b");
  PutNode(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Sync();
  Run();
  EXPECT_EQ(cluster_.writes.size(), 6u) << "nothing had changed";
  EXPECT_EQ(reconciler_->tally().verified, 2u);
}

TEST_F(ReconcilerTest, WritesNothingBeforeItLeadsAndIsInSync) {
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  EXPECT_TRUE(cluster_.writes.empty()) << "no list has been read";
  reconciler_->EndTerm();
  Sync();
  Run();
  EXPECT_TRUE(cluster_.writes.empty()) << "another may lead";
  Lead();
  Run();
  EXPECT_FALSE(cluster_.writes.empty());
}

TEST_F(ReconcilerTest, OneLosesBeforeAnotherGets) {
  Sync();
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  // b's block moves to a: Cluster::Do fails the test if both have it.
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  PutNode(MakeNode("b", {"192.0.2.2"}, {"10.244.9.0/24"}));
  Run();
  EXPECT_THAT(Texts(*cluster_["a"].status),
              ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_THAT(Texts(*cluster_["b"].status),
              ElementsAre("192.0.2.2", "10.244.9.0/24"));
}

TEST_F(ReconcilerTest, NobodyGetsWhatTheLoserStillHasInTheServer) {
  Sync();
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  PutNode(MakeNode("b", {"192.0.2.2"}, {}));
  // b's loss is refused again and again.
  for (int i = 0; i < 50; ++i) {
    const auto write = reconciler_->Next(now_, kWall);
    if (write.has_value()) {
      if (write->name == "b" && write->kind == Write::Kind::kStatus) {
        reconciler_->Done(now_, *write, absl::UnavailableError("down"));
      } else {
        reconciler_->Done(now_, *write, cluster_.Do(*write));
      }
    }
    now_ += absl::Seconds(1);
  }
  EXPECT_FALSE(cluster_["a"].status.has_value());
  Run(absl::Minutes(3));
  EXPECT_THAT(Texts(*cluster_["a"].status),
              ElementsAre("192.0.2.1", "10.244.1.0/24"));
}

// The informer has not yet seen what the leader before it wrote.
TEST_F(ReconcilerTest, ANewLeaderWithAStaleCacheKeepsTheHolder) {
  cluster_.Apply("young");
  cluster_.nodes["young"] =
      MakeNode("young", {"192.0.2.1"}, {"10.244.1.0/24"}, 1);
  cluster_.Apply("old");
  cluster_.nodes["old"] = MakeNode("old", {"192.0.2.2"}, {}, 99);
  const auto stale = cluster_.Relist();
  Sync();
  Lead();
  Run();
  ASSERT_THAT(Texts(*cluster_["young"].status),
              ElementsAre("192.0.2.1", "10.244.1.0/24"));
  Reconciler next(Options());
  cluster_.nodes["old"] = MakeNode("old", {"192.0.2.2"}, {"10.244.1.0/24"}, 99);
  kube::Relist<kube::Node> nodes;
  for (const auto& [name, node] : cluster_.nodes) nodes.objects.push_back(node);
  next.Handle(now_, kube::Update<kube::Node>(nodes));
  next.Handle(now_, kube::Update<EspalierNode>(stale));
  next.BeginTerm(now_, cluster_.List(), {});
  while (auto write = next.Next(now_, kWall)) {
    next.Done(now_, *write, cluster_.Do(*write));
    now_ += absl::Milliseconds(10);
  }
  EXPECT_THAT(Texts(*cluster_["young"].status),
              ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_THAT(Texts(*cluster_["old"].status), ElementsAre("192.0.2.2"));
}

TEST_F(ReconcilerTest, AWriteFromStaleKnowledgeIsRefusedAndRepeated) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Lead();
  cluster_.Touch("a");  // its agent wrote; the informer has not told
  Run(absl::Seconds(1));
  EXPECT_FALSE(cluster_["a"].status.has_value());
  EXPECT_GE(reconciler_->counters().refused_stale, 1u);
  Tell("a");
  Run(absl::Minutes(2));
  EXPECT_TRUE(cluster_["a"].status.has_value());
}

TEST_F(ReconcilerTest, ARestartedLeaderRepeatsNothing) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  const size_t before = cluster_.writes.size();
  kube::ObjectMeta report;
  report.name = "a";
  report.owner_references = {{.kind = "Node", .name = "a", .uid = "uid-of-a"}};
  reconciler_ = std::make_unique<Reconciler>(Options());
  Sync();
  reconciler_->BeginTerm(now_, cluster_.List(), {report});
  Run();
  EXPECT_EQ(cluster_.writes.size(), before);
}

TEST_F(ReconcilerTest, AServerSetBackToAnOlderStateIsBelieved) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  const EspalierNode old = cluster_["a"];
  Lead();
  Run();
  auto relist = kube::Relist<EspalierNode>{
      .objects = {std::make_shared<const EspalierNode>(old)},
      .older_than_seen = true};
  Cluster restored;
  restored.Apply("a");
  relist.objects = {std::make_shared<const EspalierNode>(restored["a"])};
  cluster_ = restored;
  cluster_.nodes["a"] = MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"});
  reconciler_->Handle(now_, kube::Update<EspalierNode>(relist));
  EXPECT_EQ(reconciler_->counters().suspicious_relists, 1u);
  Run();
  EXPECT_TRUE(cluster_["a"].status.has_value())
      << "it still believed what the server had before";
}

TEST_F(ReconcilerTest, AnObjectWithoutANodeIsDeletedOnlyWhenTheServerSaysSo) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  // The list lost it, the API server has it.
  const auto node = cluster_.nodes["a"];
  DropNode("a");
  cluster_.nodes["a"] = node;
  Run(absl::Minutes(30));
  EXPECT_TRUE(cluster_.Has("a"));
  EXPECT_GE(Writes(Write::Kind::kFindNode), 1);
  EXPECT_EQ(Texts(*cluster_["a"].status),
            (std::vector<std::string>{"192.0.2.1", "10.244.1.0/24"}))
      << "tunnels must not end by a faulty list";
  cluster_.nodes.erase("a");
  Run(absl::Minutes(21));
  EXPECT_FALSE(cluster_.Has("a"));
  EXPECT_EQ(Writes(Write::Kind::kDeleteReport), 1);
}

TEST_F(ReconcilerTest, ANodeThatComesBackInTimeKeepsItsObject) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Lead();
  Run();
  DropNode("a");
  Run(absl::Minutes(8));
  PutNode(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Run(absl::Minutes(1));
  DropNode("a");
  Run(absl::Minutes(8));
  EXPECT_TRUE(cluster_.Has("a")) << "the two absences were added up";
}

TEST_F(ReconcilerTest, WritesAreBounded) {
  Sync();
  for (int i = 0; i < 200; ++i) {
    Add(MakeNode(absl::StrCat("n", i), {absl::StrCat("192.0.2.", i)},
                 {absl::StrCat("10.244.", i, ".0/24")}));
  }
  Lead();
  Run(absl::Seconds(10));
  EXPECT_LE(cluster_.writes.size(), 40u + 200u + 1u);
  EXPECT_GE(cluster_.writes.size(), 200u);
  Run(absl::Minutes(1));
  EXPECT_EQ(cluster_.writes.size(), 600u);
  EXPECT_EQ(reconciler_->waiting(), 0u);
}

TEST_F(ReconcilerTest, OneThatFailsDoesNotHoldUpTheOthers) {
  Sync();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.2.0/24"}));
  Lead();
  int tries = 0;
  for (int i = 0; i < 600; ++i) {
    while (auto write = reconciler_->Next(now_, kWall)) {
      if (write->name == "a") {
        ++tries;
        reconciler_->Done(now_, *write, absl::PermissionDeniedError("no"));
      } else {
        reconciler_->Done(now_, *write, cluster_.Do(*write));
      }
    }
    now_ += absl::Seconds(1);
  }
  EXPECT_TRUE(cluster_["b"].status.has_value());
  EXPECT_GE(tries, 8);
  EXPECT_LE(tries, 20) << "it does not back off";
}

}  // namespace
}  // namespace espalier::controller
