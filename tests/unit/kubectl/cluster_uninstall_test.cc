// `kubectl espalier uninstall` against a kubectl that answers from recorded
// texts; tests/kube/install_test.py has it on a real cluster.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/kubectl/cluster_views.h"
#include "gmock/gmock.h"
#include "tests/unit/kubectl/cluster_fixture.h"

namespace espalier::kubectl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kGone[] =
    "error: the server doesn't have a resource type \"espaliernodes\"\n";

Json NodeJson(const std::string& name, const std::string& ready) {
  return {{"metadata", {{"name", name}}},
          {"status",
           {{"conditions", L(Json{{"type", "Ready"}, {"status", ready}})}}}};
}

Json Named(const std::string& name) { return {{"metadata", {{"name", name}}}}; }

Json CleaningPod(const std::string& node, const std::string& phase) {
  return {{"metadata", {{"name", "espalier-uninstall-" + node}}},
          {"spec", {{"nodeName", node}}},
          {"status", {{"phase", phase}}}};
}

class UninstallTest : public KubectlTest {
 protected:
  void SetUp() override {
    KubectlTest::SetUp();
    // By default nobody is there and everything can be done.
    Answer("^delete ", "");
  }
  void Recipe() {
    const Json pod = {
        {"kind", "Pod"},
        {"metadata", {{"generateName", "espalier-uninstall-"}}},
        {"spec", {{"containers", L(Json{{"args", L("--uninstall")}})}}}};
    Json map = Named("recipe");
    map["metadata"]["namespace"] = "espalier-system";
    map["metadata"]["labels"] = {{"app.kubernetes.io/instance", "mesh"}};
    map["data"] = {{"pod.json", pod.dump()}};
    Answer("^get configmaps --all-namespaces -l .*component=uninstall",
           ListOf(L(map)));
  }
  void Nodes(const std::vector<std::pair<std::string, std::string>>& nodes) {
    Json objects = Json::array();
    Json kubes = Json::array();
    for (const auto& [name, ready] : nodes) {
      objects.push_back(Named(name));
      kubes.push_back(NodeJson(name, ready));
    }
    Answer("^get espaliernodes -o json", ListOf(objects));
    Answer("^get nodes -o json", ListOf(kubes));
  }
  void NoAgents() {
    Answer("^get pods --all-namespaces -l .*component.*agent",
           ListOf(Json::array()));
    Answer("^get pods -n espalier-system -l .*agent,espd",
           ListOf(Json::array()));
    // Of an earlier run.
    Answer("^get pods -n espalier-system -l .*=uninstall",
           ListOf(Json::array()), "", 0, /*once=*/true);
    Answer("^create -n espalier-system -f -$", "");
  }
  void Ends(const Json& pods) {
    Answer("^get pods -n espalier-system -l .*=uninstall", ListOf(pods));
  }
  void Log(const std::string& node, const std::string& text) {
    Answer("^logs -n espalier-system espalier-uninstall-" + node + "$", text);
  }
  int RunNow(UninstallOptions options = {}) {
    std::ofstream(folder_ / "answers.json") << answers_.dump();
    out_.str("");
    err_.str("");
    options.timeout = absl::Milliseconds(500);
    options.interval = absl::Milliseconds(10);
    const KubectlProgram kubectl(getenv("KUBECTL"), {});
    return ClusterUninstall(Cluster(&kubectl, Format::kTable, &out_, &err_),
                            options);
  }
  std::string Created() const {
    std::ifstream file(folder_ / "inputs.log");
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(UninstallTest, CleansEveryNodeAndNamesTheNextCommand) {
  Recipe();
  Nodes({{"a", "True"}, {"b", "False"}});
  NoAgents();
  Ends(L(CleaningPod("a", "Succeeded"), CleaningPod("b", "Succeeded")));
  Log("a", "CNI plugin: removed /x\neBPF guard: removed\n");
  Log("b", "CNI plugin: nothing there\n");
  EXPECT_EQ(RunNow(), kExitOk) << err();
  EXPECT_THAT(out(),
              AllOf(HasSubstr("a: CNI plugin: removed /x\n"),
                    HasSubstr("a: eBPF guard: removed\n"),
                    HasSubstr("b: CNI plugin: nothing there\n"),
                    HasSubstr("2 of 2 nodes are clean"),
                    HasSubstr("helm uninstall mesh -n espalier-system")));
  const Json created = Json::parse(Created());
  ASSERT_EQ(created["items"].size(), 2u);
  EXPECT_EQ(created["items"][1]["spec"]["nodeName"], "b");
  EXPECT_EQ(created["items"][1]["spec"]["containers"][0]["args"],
            L("--uninstall"));
  EXPECT_THAT(Calls(),
              AllOf(HasSubstr("delete daemonsets -n espalier-system"),
                    HasSubstr("delete espaliernodes,espaliernodereports a b"),
                    HasSubstr("delete configmap -n espalier-system recipe")));
  // The agents end before the first node is cleaned.
  EXPECT_LT(Calls().find("delete daemonsets"), Calls().find("create"));
}

TEST_F(UninstallTest, RefusedWithTheNamesOfAttachedPods) {
  Recipe();
  Nodes({{"a", "True"}});
  Agents(L(AgentPodJson("a")));
  Answer("^get pods --all-namespaces -l .*agent,espd", ListOf(Json::array()));
  Exec("a", "pods",
       {{"pods", L(Json{{"namespace", "shop"}, {"name", "web"}})}});
  EXPECT_EQ(RunNow(), kExitRefused);
  EXPECT_THAT(err(), AllOf(HasSubstr("refused: 1 pods"),
                           HasSubstr("shop/web on a"), HasSubstr("--force")));
  EXPECT_THAT(Calls(),
              AllOf(Not(HasSubstr("delete")), Not(HasSubstr("create"))));
}

TEST_F(UninstallTest, ForcedAsksNobodyAndTellsTheNodes) {
  Recipe();
  Nodes({{"a", "True"}});
  NoAgents();
  Ends(L(CleaningPod("a", "Succeeded")));
  Log("a", "forced: 1 pods lose their network\n");
  EXPECT_EQ(RunNow({.force = true}), kExitOk) << err();
  EXPECT_THAT(Calls(), Not(HasSubstr("exec")));
  EXPECT_EQ(Json::parse(Created())["items"][0]["spec"]["containers"][0]["args"],
            L("--uninstall", "--force"));
}

TEST_F(UninstallTest, ANodeThatIsAwayIsNamedAndTheOthersAreCleaned) {
  Recipe();
  Nodes({{"a", "True"}, {"b", "Unknown"}, {"c", "True"}});
  NoAgents();
  Ends(L(CleaningPod("a", "Succeeded"), CleaningPod("c", "Failed")));
  Log("a", "state: removed\n");
  Log("c", "routes and rules: FAILED: no\nnot everything is removed\n");
  EXPECT_EQ(RunNow(), kExitDegraded);
  EXPECT_THAT(out(), AllOf(HasSubstr("1 of 3 nodes are clean"),
                           HasSubstr("c: routes and rules: FAILED: no"),
                           Not(HasSubstr("helm uninstall"))));
  EXPECT_THAT(err(), AllOf(HasSubstr("b is not clean: its kubelet"),
                           HasSubstr("c is not clean: not everything"),
                           HasSubstr("Run this again")));
  // What is still to be done stays known.
  EXPECT_THAT(Calls(),
              AllOf(HasSubstr("delete espaliernodes,espaliernodereports a "
                              "--ignore-not-found"),
                    Not(HasSubstr("delete configmap"))));
}

TEST_F(UninstallTest, APodThatNeverEndsIsNamedWithItsReason) {
  Recipe();
  Nodes({{"a", "True"}});
  NoAgents();
  Json waiting = CleaningPod("a", "Pending");
  waiting["status"]["containerStatuses"] =
      L(Json{{"state", {{"waiting", {{"reason", "ErrImagePull"}}}}}});
  Ends(L(waiting));
  EXPECT_EQ(RunNow(), kExitDegraded);
  EXPECT_THAT(err(), HasSubstr("a is not clean: its cleaning Pod is "
                               "ErrImagePull"));
}

TEST_F(UninstallTest, APodThatMayNotBeMadeIsNamed) {
  Recipe();
  Nodes({{"a", "True"}});
  NoAgents();
  answers_.erase(answers_.end() - 1);
  Answer("^create ", "", "Error from server (Forbidden): no\n", 1);
  Ends(Json::array());
  EXPECT_EQ(RunNow(), kExitDegraded);
  EXPECT_THAT(err(), HasSubstr("a is not clean: no Pod could be made there: "
                               "Error from server (Forbidden): no"));
}

TEST_F(UninstallTest, AnAgentThatDoesNotEndKeepsItsNode) {
  Recipe();
  Nodes({{"a", "True"}});
  Answer("^get pods --all-namespaces -l .*component.*agent",
         ListOf(Json::array()));
  Answer("^get pods -n espalier-system -l .*agent,espd",
         ListOf(L(AgentPodJson("a"))));
  Answer("^get pods -n espalier-system -l .*=uninstall", ListOf(Json::array()));
  EXPECT_EQ(RunNow(), kExitDegraded);
  EXPECT_THAT(err(), HasSubstr("pod espalier-agent-a has not ended yet"));
  EXPECT_THAT(Calls(), Not(HasSubstr("create")));
}

TEST_F(UninstallTest, NeverMoreThanThirtyTwoNodesAtOnce) {
  Recipe();
  std::vector<std::pair<std::string, std::string>> nodes;
  Json ended = Json::array();
  for (int i = 100; i < 140; ++i) {
    nodes.emplace_back(absl::StrCat(i), "True");
    ended.push_back(CleaningPod(absl::StrCat(i), "Succeeded"));
  }
  Nodes(nodes);
  NoAgents();
  Ends(ended);
  Answer("^logs ", "state: removed\n");
  EXPECT_EQ(RunNow(), kExitOk) << err();
  EXPECT_THAT(out(), HasSubstr("40 of 40 nodes are clean"));
  std::vector<size_t> sizes;
  for (const absl::string_view list :
       absl::StrSplit(Created(), '\n', absl::SkipEmpty())) {
    sizes.push_back(Json::parse(list)["items"].size());
  }
  EXPECT_THAT(sizes, ElementsAre(32, 8));
}

TEST_F(UninstallTest, DoneAlready) {
  Answer("^get configmaps", ListOf(Json::array()));
  Answer("^get espaliernodes", ListOf(Json::array()));
  EXPECT_EQ(RunNow(), kExitOk);
  EXPECT_THAT(out(), HasSubstr("No node has anything of Espalier's left"));
}

TEST_F(UninstallTest, WithoutTheRecipeItSaysWhatToDo) {
  Answer("^get configmaps", ListOf(Json::array()));
  Answer("^get espaliernodes", ListOf(L(Named("a"))));
  EXPECT_EQ(RunNow(), kExitNoAgent);
  EXPECT_THAT(err(), AllOf(HasSubstr("1 nodes are not cleaned"),
                           HasSubstr("helm install"),
                           HasSubstr("espalier-agent --config")));
  EXPECT_THAT(Calls(), Not(HasSubstr("delete")));
}

TEST_F(UninstallTest, WithoutTheChart) {
  Answer("^get configmaps", ListOf(Json::array()));
  Answer("^get espaliernodes", "", kGone, 1);
  EXPECT_EQ(RunNow(), kExitNoAgent);
  EXPECT_THAT(err(), HasSubstr("not installed"));
}

TEST_F(UninstallTest, IsACommand) {
  Answer("^get configmaps", ListOf(Json::array()));
  Answer("^get espaliernodes", ListOf(Json::array()));
  EXPECT_EQ(Run({"uninstall", "--force", "--timeout", "5s"}), kExitOk) << err();
  EXPECT_EQ(Run({"uninstall", "node-a"}), kExitUsage);
  for (const char* shell : {"bash", "zsh", "fish", "kubectl"}) {
    EXPECT_EQ(Run({"completion", shell}), kExitOk);
    EXPECT_THAT(out(), HasSubstr("uninstall"));
  }
  EXPECT_THAT(err(), IsEmpty());
}

}  // namespace
}  // namespace espalier::kubectl
