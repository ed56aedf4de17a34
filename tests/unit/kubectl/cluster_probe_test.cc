// verify --probe against a kubectl that answers from recorded texts.
#include <signal.h>

#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/unit/kubectl/cluster_fixture.h"

namespace espalier::kubectl {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSpace[] = "espalier-verify-[a-z0-9]{6}";

Json ProbePodJson(const std::string& name, const Json& addresses,
                  const std::string& ready = "True") {
  Json ips = Json::array();
  for (const Json& address : addresses) ips.push_back({{"ip", address}});
  return {{"metadata", {{"name", name}}},
          {"status",
           {{"phase", "Running"},
            {"podIPs", ips},
            {"conditions", L(Json{{"type", "Ready"}, {"status", ready}})}}}};
}

Json TunnelJson(int out, int in) {
  return {{"state", "up"},
          {"outbound", {{"packets", absl::StrCat(out)}}},
          {"inbound", {{"packets", absl::StrCat(in)}}}};
}

Json AskedJson(const Json& addresses, int answered) {
  Json asked = Json::array();
  for (const Json& address : addresses) {
    asked.push_back(
        {{"address", address}, {"sent", 100}, {"answered", answered}});
  }
  return {{"asked", asked}};
}

class ProbeTest : public KubectlTest {
 protected:
  // Everything up to the pods that run. What a test adds before goes first.
  void Pods() {
    Agents(L(AgentPodJson("a"), AgentPodJson("b"), AgentPodJson("c")));
    Answer("^get pod -n espalier-system espalier-agent-",
           {{"spec",
             {{"containers", L(Json{{"name", "agent"}, {"image", "x:1"}})}}}});
    Answer("^create -f -$", Json(""));
    Answer(absl::StrCat("^get serviceaccount default -n ", kSpace), Json(""));
    Answer(absl::StrCat("^get pods -n ", kSpace, " -o json$"),
           ListOf(L(ProbePodJson("a", of_a_), ProbePodJson("b", of_b_))));
    Answer(absl::StrCat("^delete namespace ", kSpace,
                        " --ignore-not-found --wait=false$"),
           Json(""));
  }
  void Asks(const std::string& pod, const Json& addresses, int answered) {
    Answer(absl::StrCat("^exec -n ", kSpace, " ", pod,
                        " -- /usr/bin/kubectl-espalier probe ask --count 100"),
           AskedJson(addresses, answered));
  }
  // How far the counters are behind what was exchanged: 400 each way.
  void Counters(int behind = 0) {
    for (const auto& [node, peer] : {std::pair{"a", "b"}, {"b", "a"}}) {
      Answer(absl::StrCat("espalier-agent-", node, " .*show ", peer, "$"),
             TunnelJson(1000, 2000), "", 0, /*once=*/true);
      Answer(absl::StrCat("espalier-agent-", node, " .*show ", peer, "$"),
             TunnelJson(1400, 2400 - behind));
    }
  }
  void Witness(int stopped = 0) {
    for (const char* node : {"a", "b"}) {
      Answer(absl::StrCat("espalier-agent-", node, " .*verify ", kSpace, "/",
                          node, "$"),
             {{"proven", true},
              {"pods", L(Json{{"name", node},
                              {"proven", true},
                              {"stopped", absl::StrCat(stopped)}})}});
    }
  }
  void AllIsWell() {
    Asks("a", of_b_, 100);
    Asks("b", of_a_, 100);
    Counters();
    Witness();
    Pods();
  }
  int RunProbe(absl::Duration timeout = absl::Milliseconds(300)) {
    std::ofstream(folder_ / "answers.json") << answers_.dump();
    out_.str("");
    err_.str("");
    const KubectlProgram kubectl(getenv("KUBECTL"), {});
    const Cluster cluster(&kubectl, Format::kTable, &out_, &err_);
    return ClusterProbe(
        cluster, {.timeout = timeout, .interval = absl::Milliseconds(10)});
  }

  const Json of_a_ = L("10.244.1.9", "fd00:244:1::9");
  const Json of_b_ = L("10.244.2.9", "fd00:244:2::9");
};

TEST_F(ProbeTest, ProvenByCountersAndWitness) {
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitOk) << err() << out();
  EXPECT_THAT(
      out(), AllOf(ContainsRegex("a +b +IPv4 +100 +100"),
                   ContainsRegex("b +a +IPv6 +100 +100"),
                   ContainsRegex("a +400 +400 +400 +0"), HasSubstr("Proven:")));
  EXPECT_THAT(Calls(), AllOf(HasSubstr("--count 100 10.244.2.9 fd00:244:2::9"),
                             HasSubstr("delete namespace espalier-verify-")));
}

TEST_F(ProbeTest, ForPrograms) {
  AllIsWell();
  EXPECT_EQ(Run({"verify", "--probe", "a", "b", "-o", "json"}), kExitOk)
      << err() << out();
  const Json json = Json::parse(out());
  EXPECT_TRUE(json["proven"]);
  EXPECT_EQ(json["traffic"].size(), 4u);
  EXPECT_EQ(json["nodes"][1]["exchanged"], 400);
}

TEST_F(ProbeTest, TheNamespaceIsRequiredAndThePodsAreConfined) {
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitOk) << err() << out();
  std::ifstream file(folder_ / "inputs.log");
  const std::string inputs{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(
      inputs,
      AllOf(HasSubstr(R"("espalier.dev/encryption":"required")"),
            HasSubstr(R"("nodeName":"a")"), HasSubstr(R"("nodeName":"b")"),
            HasSubstr(R"("image":"x:1")"), HasSubstr(R"("runAsNonRoot":true)"),
            HasSubstr(R"("automountServiceAccountToken":false)")));
}

TEST_F(ProbeTest, CountersThatDoNotGrowAreNoProof) {
  Asks("a", of_b_, 100);
  Asks("b", of_a_, 100);
  Counters(/*behind=*/1);
  Witness();
  Pods();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), AllOf(HasSubstr("a counted 400 packets into ESP towards b "
                                     "and 399 out of it"),
                           Not(HasSubstr("Proven:"))));
  EXPECT_THAT(Calls(), HasSubstr("delete namespace espalier-verify-"));
}

TEST_F(ProbeTest, CountersOfAnAgentThatStartedAnewAreNoProof) {
  Asks("a", of_b_, 100);
  Asks("b", of_a_, 100);
  Answer("espalier-agent-a .*show b$", TunnelJson(5000, 5000), "", 0, true);
  Answer("espalier-agent-a .*show b$", TunnelJson(410, 410));
  Counters();
  Witness();
  Pods();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("a counted 0 packets into ESP"));
}

TEST_F(ProbeTest, WhatIsNotAnsweredIsNoProof) {
  Asks("a", of_b_, 99);
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("from a to b by IPv6 99 of 100"));
}

TEST_F(ProbeTest, PlaintextThatAGuardStoppedIsNoProof) {
  Asks("a", of_b_, 100);
  Asks("b", of_a_, 100);
  Counters();
  Witness(/*stopped=*/3);
  Pods();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("a guard of b stopped 3 plaintext packets"));
}

TEST_F(ProbeTest, AGuardThatDoesNotStandIsNoProof) {
  Answer("verify espalier-verify-.*/b$",
         {{"proven", false}, {"findings", L("the bpf guard does not stand")}},
         "", 5);
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("b: the bpf guard does not stand"));
}

TEST_F(ProbeTest, OneFamilyWhereThePodsHaveNoOther) {
  Answer(
      absl::StrCat("^get pods -n ", kSpace),
      ListOf(L(ProbePodJson("a", of_a_), ProbePodJson("b", L("10.244.2.9")))));
  Asks("a", L("10.244.2.9"), 100);
  Asks("b", L("10.244.1.9"), 100);
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitOk) << out();
  EXPECT_THAT(out(), HasSubstr("Warning: not tried: IPv6"));
  EXPECT_THAT(Calls(), Not(HasSubstr("fd00:")));
}

TEST_F(ProbeTest, PodsThatDoNotRunAreDeletedAndTheirEventIsTold) {
  Answer(
      absl::StrCat("^get pods -n ", kSpace),
      ListOf(L(ProbePodJson("a", of_a_), ProbePodJson("b", of_b_, "False"))));
  Answer(absl::StrCat("^get events -n ", kSpace),
         ListOf(L(Json{{"message", "the agent is not ready (code 11)"}})));
  Pods();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), AllOf(HasSubstr("the probe pod on b does not run"),
                           HasSubstr("code 11")));
  EXPECT_THAT(Calls(), HasSubstr("delete namespace espalier-verify-"));
}

TEST_F(ProbeTest, WithoutTheRightNothingIsLeft) {
  Answer("^create", Json(""),
         "Error from server (Forbidden): namespaces is forbidden: User "
         "\"eve\" cannot create resource\n",
         1);
  Pods();
  EXPECT_EQ(RunProbe(), kExitRefused);
  EXPECT_THAT(err(), HasSubstr("create and delete on namespaces"));
  EXPECT_THAT(Calls(), Not(HasSubstr("delete")));
}

TEST_F(ProbeTest, WhatCannotBeDeletedIsNamed) {
  Answer("^delete", Json(""), "Error from server (Forbidden): no\n", 1);
  AllIsWell();
  EXPECT_EQ(RunProbe(), kExitOk);
  EXPECT_THAT(err(), HasSubstr("kubectl delete namespace espalier-verify-"));
}

TEST_F(ProbeTest, OneNodeOrAnAgentThatIsAwayIsNoProof) {
  Agents(L(AgentPodJson("a")));
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("an agent runs on a alone"));
  answers_ = Json::array();
  Agents(L(AgentPodJson("a"), AgentPodJson("b", "Pending", "False")));
  Pods();
  EXPECT_EQ(RunProbe(), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("the agent of b does not run (Pending)"));
  EXPECT_THAT(Calls(), Not(HasSubstr("create")));
}

TEST_F(ProbeTest, InterruptedItCleansUp) {
  Answer(absl::StrCat("^get pods -n ", kSpace),
         ListOf(L(ProbePodJson("a", of_a_, "False"))));
  Pods();
  std::thread interrupter([this] {
    while (Calls().find("get pods -n espalier-verify-") == std::string::npos) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(RunProbe(absl::Minutes(5)), kExitNotProven);
  interrupter.join();
  EXPECT_THAT(out(), HasSubstr("Not proven: interrupted"));
  EXPECT_THAT(Calls(), HasSubstr("delete namespace espalier-verify-"));
}

TEST_F(ProbeTest, WrongUse) {
  EXPECT_EQ(Run({"verify", "--probe", "a"}), kExitUsage);
  EXPECT_EQ(Run({"verify", "--probe", "a", "a"}), kExitUsage);
  EXPECT_EQ(Run({"verify", "--probe", "--from", "shop/web"}), kExitUsage);
  EXPECT_EQ(Run({"verify", "a", "b"}), kExitUsage);
}

}  // namespace
}  // namespace espalier::kubectl
