// The cluster views against a kubectl that answers from recorded texts.
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "tests/unit/kubectl/cluster_fixture.h"

namespace espalier::kubectl {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Json Workload(const char* kind, const char* component, int wanted, int ready) {
  Json json = {{"kind", kind},
               {"metadata",
                {{"name", absl::StrCat("espalier-", component)},
                 {"namespace", "espalier-system"},
                 {"labels", {{"app.kubernetes.io/component", component}}}}},
               {"spec", {{"replicas", wanted}}},
               {"status", {{"readyReplicas", ready}}}};
  if (std::string(kind) == "DaemonSet") {
    json["status"] = {{"desiredNumberScheduled", wanted},
                      {"numberReady", ready}};
  }
  return json;
}

Json EspalierNodeJson(const std::string& name, const std::string& verified,
                      const std::string& message = "") {
  return {{"kind", "EspalierNode"},
          {"metadata", {{"name", name}}},
          {"spec", {{"datapath", "user"}}},
          {"status",
           {{"conditions",
             L(Json{{"type", "Verified"},
                    {"status", verified},
                    {"reason", verified == "True" ? "Verified" : "Conflict"},
                    {"message", message}})}}}};
}

Json ReportJson(const std::string& name, int up, int wanted,
                absl::Duration ago = absl::Seconds(20)) {
  return {
      {"kind", "EspalierNodeReport"},
      {"metadata", {{"name", name}}},
      {"status",
       {{"tunnels", {{"wanted", wanted}, {"up", up}, {"fallback", 0}}},
        {"pods", {{"required", 3}, {"preferred", 2}, {"disabled", 0}}},
        {"drops", {{"required", 7}}},
        {"lastReport", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now() - ago,
                                        absl::UTCTimeZone())}}}};
}

class ClusterTest : public KubectlTest {
 protected:
  void HealthyCluster() {
    Answer(
        "^get espaliernodes,espaliernodereports -o json",
        ListOf(L(EspalierNodeJson("a", "True"), EspalierNodeJson("b", "True"),
                 ReportJson("a", 1, 1), ReportJson("b", 1, 1))));
    Answer("^get daemonsets,deployments,pods",
           ListOf(L(Workload("DaemonSet", "agent", 2, 2),
                    Workload("DaemonSet", "espd", 2, 2),
                    Workload("Deployment", "controller", 2, 2),
                    AgentPodJson("a"), AgentPodJson("b"))));
  }
};

TEST_F(ClusterTest, StatusOfAHealthyCluster) {
  HealthyCluster();
  EXPECT_EQ(Run({"status"}), kExitOk) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("controller: 2 of 2 ready"),
                           HasSubstr("tunnel ends: 2 of 2 up"),
                           HasSubstr("pods: 6 required, 4 preferred"),
                           ContainsRegex("a +ready +yes +1/1 +3 +7")));
  EXPECT_EQ(Run({"status", "-o", "json"}), kExitOk);
  const Json json = Json::parse(out());
  EXPECT_TRUE(json["healthy"]);
  EXPECT_EQ(json["nodes"][1]["tunnels"]["up"], 1);
}

TEST_F(ClusterTest, StatusTellsEachThingThatIsWrong) {
  Answer("^get espaliernodes,",
         ListOf(L(EspalierNodeJson("a", "False", "pod CIDR held by node z"),
                  EspalierNodeJson("b", "True"), EspalierNodeJson("c", "True"),
                  ReportJson("a", 1, 1), ReportJson("b", 0, 2),
                  ReportJson("c", 2, 2, absl::Hours(2)))));
  Json waiting = AgentPodJson("d", "Pending", "False");
  waiting["status"]["containerStatuses"] =
      L(Json{{"state", {{"waiting", {{"reason", "ImagePullBackOff"}}}}}});
  Answer("^get daemonsets,",
         ListOf(L(Workload("DaemonSet", "agent", 4, 3),
                  Workload("DaemonSet", "espd", 4, 4), AgentPodJson("a"),
                  AgentPodJson("b"), AgentPodJson("c"), waiting)));
  EXPECT_EQ(Run({"status"}), kExitDegraded);
  EXPECT_THAT(out(), AllOf(HasSubstr("pod CIDR held by node z"),
                           HasSubstr("2 of its tunnels are not up"),
                           HasSubstr("has not reported for 2h"),
                           HasSubstr("ImagePullBackOff"),
                           HasSubstr("agent: 3 of 4 are ready"),
                           HasSubstr("the chart's controller is missing")));
}

TEST_F(ClusterTest, StatusHasTheWordsOfConditionsThatAreNotMet) {
  Json report = ReportJson("a", 1, 1);
  report["status"]["pods"]["unprotected"] = 2;
  report["status"]["conditions"] =
      L(Json{{"type", "Ready"}, {"status", "True"}, {"message", "fine"}},
        Json{{"type", "PodsProtected"},
             {"status", "False"},
             {"message", "2 pods were attached by another CNI plugin"}},
        Json{{"type", "KubeProxySupported"},
             {"status", "Unknown"},
             {"message", "no kube-proxy is seen"}});
  Answer("^get espaliernodes,",
         ListOf(L(EspalierNodeJson("a", "True"), report)));
  Answer(
      "^get daemonsets,",
      ListOf(L(Workload("DaemonSet", "agent", 1, 1),
               Workload("DaemonSet", "espd", 1, 1),
               Workload("Deployment", "controller", 2, 2), AgentPodJson("a"))));
  EXPECT_EQ(Run({"status"}), kExitDegraded);
  EXPECT_THAT(out(),
              AllOf(HasSubstr("2 pods were attached by another CNI plugin"),
                    HasSubstr("2 of another CNI plugin, unprotected"),
                    Not(HasSubstr("fine")), Not(HasSubstr("no kube-proxy"))));
  EXPECT_EQ(Run({"status", "-o", "json"}), kExitDegraded);
  EXPECT_EQ(Json::parse(out())["nodes"][0]["pods"]["unprotected"], 2);
}

TEST_F(ClusterTest, StatusWaits) {
  Answer("^get espaliernodes,", Json(""),
         "The connection to the server was "
         "refused - did you specify the right host or port?\n",
         1, true);
  Answer("^get espaliernodes,",
         ListOf(L(EspalierNodeJson("a", "True"), ReportJson("a", 0, 1))), "", 0,
         true);
  HealthyCluster();
  EXPECT_EQ(Run({"status", "--wait", "--timeout", "60s"}), kExitOk) << err();
  EXPECT_THAT(err(), IsEmpty());
}

TEST_F(ClusterTest, StatusWaitsNoLongerThanAsked) {
  Answer("^get espaliernodes,",
         ListOf(L(EspalierNodeJson("a", "True"), ReportJson("a", 0, 1))));
  Answer("^get daemonsets,", ListOf(L(AgentPodJson("a"))));
  EXPECT_EQ(Run({"status", "--wait", "--timeout", "0s"}), kExitDegraded);
  EXPECT_THAT(err(), HasSubstr("not healthy after"));
}

TEST_F(ClusterTest, WithoutTheChart) {
  Answer("^get ", Json(""),
         "error: the server doesn't have a resource type \"espaliernodes\"\n",
         1);
  EXPECT_EQ(Run({"status"}), kExitNoAgent);
  EXPECT_THAT(err(),
              AllOf(HasSubstr("not installed"), HasSubstr("helm install"),
                    HasSubstr("clusterPodCIDRs")));
}

TEST_F(ClusterTest, WithoutTheChartThatKubectlRemembers) {
  Answer("^get ", Json(""),
         "Error from server (NotFound): Unable to list "
         "\"espalier.dev/v1alpha1, Resource=espaliernodes\": the server could "
         "not find the requested resource (get espaliernodes.espalier.dev)\n",
         1);
  EXPECT_EQ(Run({"status"}), kExitNoAgent);
  EXPECT_THAT(err(), HasSubstr("helm install"));
}

TEST_F(ClusterTest, WithoutAnAgent) {
  Agents(Json::array());
  EXPECT_EQ(Run({"tunnels"}), kExitNoAgent);
  EXPECT_THAT(err(), HasSubstr("no agent runs in this cluster"));
}

TEST_F(ClusterTest, WithoutTheRight) {
  Answer("^get ", Json(""),
         "Error from server (Forbidden): espaliernodes.espalier.dev is "
         "forbidden: User \"eve\" cannot list resource\n",
         1);
  EXPECT_EQ(Run({"status"}), kExitRefused);
  EXPECT_THAT(err(), AllOf(HasSubstr("you lack a right"), HasSubstr("eve"),
                           HasSubstr("espalier-view")));
}

TEST_F(ClusterTest, WithoutTheApiServer) {
  Answer("^get ", Json(""),
         "Unable to connect to the server: dial tcp 192.0.2.1:6443: i/o "
         "timeout\n",
         1);
  EXPECT_EQ(Run({"pods"}), kExitNoAgent);
  EXPECT_THAT(err(), HasSubstr("cannot reach the API server"));
}

TEST_F(ClusterTest, WithoutKubectl) {
  setenv("KUBECTL", "/nonexistent/kubectl", 1);
  EXPECT_EQ(Run({"status"}), kExitNoAgent);
  EXPECT_THAT(err(), AllOf(HasSubstr("cannot run /nonexistent/kubectl"),
                           HasSubstr("$KUBECTL")));
}

TEST_F(ClusterTest, WhatIsNoJson) {
  Answer("^get ", Json("<html>"));
  EXPECT_EQ(Run({"status"}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("no JSON"));
}

TEST_F(ClusterTest, TheUsersContextGoesToKubectl) {
  HealthyCluster();
  answers_ = Json::array();
  Answer("^--kubeconfig=/k --context=staging --as=eve get", Json(""), "x", 1);
  EXPECT_EQ(Run({"status", "--context", "staging", "--kubeconfig", "/k", "--as",
                 "eve"}),
            kExitRefused);
  EXPECT_EQ(err(), "x\n");
}

TEST_F(ClusterTest, TunnelsOfAllNodes) {
  Agents(L(AgentPodJson("b"), AgentPodJson("a")));
  Exec("a", "tunnels",
       {{"tunnels", L(Json{{"peer", "b"}, {"state", "up"}, {"future", 1}})}});
  Exec("b", "tunnels",
       {{"tunnels",
         L(Json{{"peer", "a"}, {"state", "down"}, {"problem", "AUTH"}})}});
  EXPECT_EQ(Run({"tunnels"}), kExitOk) << err();
  EXPECT_THAT(out(), AllOf(ContainsRegex("NODE +PEER +STATE"),
                           ContainsRegex("a +b +up"),
                           ContainsRegex("b +a +down .*AUTH")));
  EXPECT_EQ(Run({"tunnels", "a", "-o", "yaml"}), kExitOk);
  EXPECT_THAT(out(), AllOf(HasSubstr("node: \"a\""), HasSubstr("peer: \"b\""),
                           Not(HasSubstr("AUTH"))));
}

TEST_F(ClusterTest, AnAgentThatIsDownIsNamedAndTheOthersAreShown) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b"), AgentPodJson("c", "Pending")));
  Exec("a", "tunnels", {{"tunnels", L(Json{{"peer", "b"}, {"state", "up"}})}});
  Exec("b", "tunnels", Json(""),
       "there is no socket /run/espalier/agent.sock\ncommand terminated with "
       "exit code 3\n",
       3);
  EXPECT_EQ(Run({"tunnels"}), kExitNoAgent);
  EXPECT_THAT(out(), ContainsRegex("a +b +up"));
  EXPECT_THAT(err(), AllOf(HasSubstr("b: there is no socket"),
                           HasSubstr("c: its agent does not run (Pending)")));
  EXPECT_THAT(Calls(), Not(HasSubstr("exec -n espalier-system "
                                     "espalier-agent-c")));
}

TEST_F(ClusterTest, WhoMayOnlyReadIsRefusedLiveDetails) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b", "Pending")));
  Exec("a", "(tunnels|pods|drops)", Json(""),
       "Error from server (Forbidden): pods \"espalier-agent-a\" is forbidden: "
       "User \"eve\" cannot create resource \"pods/exec\"\n",
       1);
  for (const char* command : {"tunnels", "pods", "drops"}) {
    EXPECT_EQ(Run({command}), kExitRefused) << command;
    EXPECT_THAT(err(),
                AllOf(HasSubstr("a: you lack a right"), HasSubstr("pods/exec"),
                      HasSubstr("b: its agent does not run")));
  }
}

TEST_F(ClusterTest, AnUnknownNodeIsToldWhichThereAre) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  EXPECT_EQ(Run({"tunnels", "x"}), kExitNoAgent);
  EXPECT_THAT(err(), HasSubstr("no agent runs on a node 'x'; there are: a, b"));
}

TEST_F(ClusterTest, ShowAsksBothEnds) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "show b", {{"peer", "b"}, {"state", "up"}});
  Exec("b", "show a", {{"peer", "a"}, {"state", "no-packets"}});
  EXPECT_EQ(Run({"show", "a", "b"}), kExitOk) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("As a sees it"), HasSubstr("As b sees it"),
                           HasSubstr("no-packets")));
  EXPECT_EQ(Run({"show", "a", "a"}), kExitUsage);
}

TEST_F(ClusterTest, PodsOfOneNamespace) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "pods",
       {{"pods",
         L(Json{{"namespace", "shop"}, {"name", "web"}, {"mode", "required"}},
           Json{{"namespace", "other"}, {"name", "x"}})}});
  Exec("b", "pods", {{"pods", Json::array()}});
  EXPECT_EQ(Run({"pods", "-n", "shop"}), kExitOk) << err();
  EXPECT_THAT(out(), AllOf(ContainsRegex("a +shop +web +.*required"),
                           Not(HasSubstr("other"))));
}

TEST_F(ClusterTest, DropsAndTheirCounters) {
  Agents(L(AgentPodJson("a")));
  Exec("a", "drops",
       {{"drops", L(Json{{"pod", "shop/web"}, {"reason", "plaintext"}},
                    Json{{"pod", "other/x"}, {"reason", "forged"}})},
        {"counters", L(Json{{"pod", "shop/web"},
                            {"drop", true},
                            {"packets", "12"},
                            {"text", "plaintext"}})}});
  EXPECT_EQ(Run({"drops", "-n", "shop"}), kExitOk) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("shop/web"), HasSubstr("12"),
                           Not(HasSubstr("forged"))));
}

TEST_F(ClusterTest, FollowedDropsAreShownOnce) {
  const Json first = {{"pod", "shop/web"}, {"reason", "first"}};
  const Json second = {{"pod", "shop/web"}, {"reason", "second"}};
  Agents(L(AgentPodJson("a")));
  Answer("drops$", {{"drops", L(first)}}, "", 0, /*once=*/true);
  Answer("drops$", {{"drops", L(first, second)}}, "", 0, true);
  Answer("drops$", {{"drops", L(first, second)}});
  std::ofstream(folder_ / "answers.json") << answers_.dump();
  const KubectlProgram kubectl(getenv("KUBECTL"), {});
  const Cluster cluster(&kubectl, Format::kTable, &out_, &err_);
  EXPECT_EQ(ClusterDrops(cluster, {.follow = true,
                                   .interval = absl::Milliseconds(1),
                                   .rounds = 4}),
            kExitOk);
  const auto count = [&](const char* word) {
    return std::vector<std::string>(absl::StrSplit(out(), word)).size() - 1;
  };
  EXPECT_EQ(count("first"), 1u);
  EXPECT_EQ(count("second"), 1u);
}

TEST_F(ClusterTest, RekeyAsksOneAgent) {
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "rekey b --ike", Json::object());
  EXPECT_EQ(Run({"rekey", "a", "b", "--ike"}), kExitOk) << err();
  Exec("b", "rekey z", Json(""), "the agent refused: there is no peer 'z'\n",
       1);
  EXPECT_EQ(Run({"rekey", "b", "z"}), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("there is no peer 'z'"));
}

TEST_F(ClusterTest, RotateAnnotates) {
  Answer(
      "^get espaliernodes -o json",
      ListOf(L(EspalierNodeJson("a", "True"), EspalierNodeJson("b", "True"))));
  Answer("^annotate --overwrite espaliernodes a b espalier.dev/rotate=2",
         Json(""));
  EXPECT_EQ(Run({"rotate", "--all"}), kExitOk) << err();
  EXPECT_THAT(out(), HasSubstr("Asked 2 agents"));
  EXPECT_EQ(Run({"rotate"}), kExitUsage);
  EXPECT_EQ(Run({"rotate", "a", "--all"}), kExitUsage);
}

TEST_F(ClusterTest, SysdumpWritesWhatThereIsAndNamesWhatIsNot) {
  Answer("component=agent", ListOf(L(AgentPodJson("a"))));
  Answer("^get pods --all-namespaces -l", ListOf(L(AgentPodJson("a"))));
  Answer("--previous", Json(""), "previous terminated container not found\n",
         1);
  Answer("^get leases", Json(""), "Error from server (Forbidden): no\n", 1);
  Answer("^(version|get|logs|exec)", Json("text\n"));
  const std::string to = folder_ / "dump";
  EXPECT_EQ(Run({"sysdump", to}), kExitDegraded);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "dump/espaliernodes.yaml"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "dump/node-a.tunnels.json"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "dump/espalier-agent-a.log"));
  EXPECT_FALSE(
      std::filesystem::exists(folder_ / "dump/espalier-agent-a.previous.log"));
  EXPECT_THAT(err(), HasSubstr("leases.yaml: you lack a right"));
  EXPECT_EQ(Run({"sysdump", to}), kExitUsage) << "an older dump is kept";
}

TEST_F(ClusterTest, SysdumpNamesAnAgentThatCouldNotBeAsked) {
  const Json away = AgentPodJson("b", "Pending", "False");
  Answer("component=agent", ListOf(L(AgentPodJson("a"), away)));
  Answer("^get pods --all-namespaces -l", ListOf(L(AgentPodJson("a"), away)));
  Answer("^(version|get|logs|exec)", Json("text\n"));
  EXPECT_EQ(Run({"sysdump", folder_ / "dump"}), kExitDegraded);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "dump/node-a.tunnels.json"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "dump/node-b.tunnels.json"));
  EXPECT_THAT(err(), HasSubstr("node-b.*.json: its agent does not run"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "dump/errors.txt"));
}

TEST_F(ClusterTest, ManyCommandsAtMostThirtyTwoAtOnceAnsweredInTheirOrder) {
  std::vector<Arguments> commands;
  for (int i = 0; i < 40; ++i) {
    const std::string name = absl::StrCat("x", i);
    commands.push_back({"get", name});
    answers_.push_back({{"args", absl::StrCat("^get ", name, "$")},
                        {"out", name},
                        {"seconds", 0.5}});
  }
  std::ofstream(folder_ / "answers.json") << answers_.dump();
  const KubectlProgram kubectl(getenv("KUBECTL"), {});
  const std::vector<Output> outputs = kubectl.RunAll(commands);
  ASSERT_EQ(outputs.size(), 40u);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(outputs[static_cast<size_t>(i)].out, absl::StrCat("x", i));
  }
  std::ifstream file(folder_ / "running.log");
  int most = 0;
  for (int running; file >> running;) most = std::max(most, running);
  EXPECT_LE(most, 32);
  EXPECT_GE(most, 2) << "one after another";
}

TEST_F(ClusterTest, ASilentKubectlIsEnded) {
  answers_.push_back({{"args", "^get x"}, {"seconds", 3600}});
  std::ofstream(folder_ / "answers.json") << answers_.dump();
  const KubectlProgram kubectl(getenv("KUBECTL"), {});
  const Output output = kubectl.Run({"get", "x"}, "", absl::Milliseconds(300));
  EXPECT_TRUE(output.timed_out);
  EXPECT_TRUE(IsUnreachable(output));
}

TEST_F(ClusterTest, CompletionForEachShell) {
  for (const char* shell : {"bash", "zsh", "fish", "kubectl"}) {
    EXPECT_EQ(Run({"completion", shell}), kExitOk);
    for (const char* command : {"status", "tunnels", "show", "pods", "drops",
                                "verify", "rekey", "rotate", "sysdump"}) {
      EXPECT_THAT(out(), HasSubstr(command));
    }
  }
  EXPECT_EQ(Run({"completion", "csh"}), kExitUsage);
}

TEST_F(ClusterTest, WrongUse) {
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_EQ(Run({"status", "--timeout", "soon"}), kExitUsage);
  EXPECT_EQ(Run({"show", "a"}), kExitUsage);
  EXPECT_EQ(Run({"pods", "-o", "xml"}), kExitUsage);
  EXPECT_EQ(Run({"--help"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("kubectl espalier status --wait"));
}

TEST(IsForSocketTest, TheSocketWhenItIsNamedElseTheCluster) {
  unsetenv("ESPALIER_SOCKET");
  setenv("KUBECONFIG", "/k", 1);
  EXPECT_TRUE(IsForSocket({"--socket", "/x", "tunnels"}));
  EXPECT_TRUE(IsForSocket({"tunnels", "--socket=/x"}));
  EXPECT_FALSE(IsForSocket({"tunnels"}));
  unsetenv("KUBECONFIG");
  EXPECT_FALSE(IsForSocket({"--context", "x", "tunnels"}));
  setenv("ESPALIER_SOCKET", "/x", 1);
  EXPECT_TRUE(IsForSocket({"tunnels"}));
  EXPECT_FALSE(IsForSocket({"--kubeconfig=/k", "tunnels"}));
  unsetenv("ESPALIER_SOCKET");
}

}  // namespace
}  // namespace espalier::kubectl
