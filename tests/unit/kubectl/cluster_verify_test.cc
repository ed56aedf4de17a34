// verify against a kubectl that answers from recorded texts.
#include "gmock/gmock.h"
#include "tests/unit/kubectl/cluster_fixture.h"

namespace espalier::kubectl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class VerifyTest : public KubectlTest {
 protected:
  const Json kOnePod = {
      {"proven", true},
      {"pods",
       L(Json{{"namespace", "shop"}, {"name", "web"}, {"proven", true}})}};
};

TEST_F(VerifyTest, IsProvenOnlyByEveryNode) {
  NoDns();
  const Json proven = {
      {"proven", true},
      {"esp_out", "5"},
      {"pods",
       L(Json{{"namespace", "shop"}, {"name", "web"}, {"proven", true}})}};
  Json warned = proven;
  warned["warnings"] = L("10-plain.conflist lies beside");
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "verify", warned);
  Exec("b", "verify", proven);
  EXPECT_EQ(Run({"verify"}), kExitOk) << err() << out();
  EXPECT_THAT(out(),
              AllOf(HasSubstr("Proven:"),
                    HasSubstr("Warning: a: 10-plain.conflist lies beside")));
  // One node's guard fell.
  answers_.erase(answers_.end() - 1);
  Exec("b", "verify",
       {{"proven", false}, {"findings", L("the bpf guard does not stand")}},
       "command terminated with exit code 5\n", 5);
  EXPECT_EQ(Run({"verify"}), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("Not proven: b: the bpf guard does not stand"));
  // One node did not answer: nothing is proven of it.
  answers_.erase(answers_.end() - 1);
  Exec("b", "verify", Json(""), "error: timed out\n", 1);
  EXPECT_EQ(Run({"verify"}), kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("b was not asked"));
}

TEST_F(VerifyTest, WithoutARequiredPodNothingIsProven) {
  NoDns();
  Agents(L(AgentPodJson("a")));
  Exec("a", "verify", {{"proven", true}});
  EXPECT_EQ(Run({"verify"}), kExitNotProven);
  EXPECT_THAT(out(), AllOf(HasSubstr("Not proven: no pod is `required`"),
                           Not(HasSubstr("Proven:"))));
  EXPECT_EQ(Run({"verify", "-o", "json"}), kExitNotProven);
  EXPECT_FALSE(Json::parse(out())["proven"]);
}

TEST_F(VerifyTest, WarnsOfDnsThatIsNotRequired) {
  Answer("^get pods -n kube-system",
         ListOf(L(Json{{"metadata", {{"name", "d"}}}})));
  NoDns();
  Agents(L(AgentPodJson("a")));
  Exec("a", "verify", kOnePod);
  EXPECT_EQ(Run({"verify"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("DNS pods are not `required`"));
}

Json WorkloadJson(const std::string& name, const std::string& label,
                  bool host_network, int port) {
  return {{"metadata", {{"namespace", "kube-system"}, {"name", name}}},
          {"spec",
           {{"template",
             {{"metadata", {{"labels", {{"k8s-app", label}}}}},
              {"spec",
               {{"hostNetwork", host_network},
                {"containers",
                 L(Json{{"ports", L(Json{{"containerPort", port}})}})}}}}}}}};
}

TEST_F(VerifyTest, WarnsOfADnsCacheWithHostNetwork) {
  Answer("^get daemonsets,deployments --all-namespaces",
         ListOf(L(WorkloadJson("node-local-dns", "node-local-dns", true, 9253),
                  WorkloadJson("unbound", "resolver", true, 53),
                  WorkloadJson("coredns", "kube-dns", false, 53),
                  WorkloadJson("kube-proxy", "kube-proxy", true, 10249))));
  NoDns();
  Agents(L(AgentPodJson("a")));
  Exec("a", "verify", kOnePod);
  EXPECT_EQ(Run({"verify"}), kExitOk);
  EXPECT_THAT(out(),
              AllOf(HasSubstr("Warning: the DNS cache "
                              "kube-system/node-local-dns has hostNetwork"),
                    HasSubstr("the DNS cache kube-system/unbound"),
                    Not(HasSubstr("coredns")), Not(HasSubstr("kube-proxy"))));
}

TEST_F(VerifyTest, PodsOfHostNetworkAreNoProof) {
  NoDns();
  const auto pod = [](const char* node, bool host_network) {
    return Json{{"spec", {{"nodeName", node}, {"hostNetwork", host_network}}}};
  };
  Answer("^get pod -n kube-system x", pod("a", true));
  Answer("^get pod -n kube-system y", pod("b", true));
  Answer("^get pod -n shop web", pod("a", false));
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "verify shop/web", kOnePod);
  Exec("a", "show b", {{"state", "up"}});
  EXPECT_EQ(Run({"verify", "--from", "kube-system/x", "--to", "kube-system/y"}),
            kExitNotProven);
  EXPECT_THAT(out(), AllOf(HasSubstr("kube-system/x has hostNetwork"),
                           HasSubstr("kube-system/y has hostNetwork")));
  EXPECT_EQ(Run({"verify", "--from", "kube-system/x"}), kExitNotProven);
  EXPECT_EQ(Run({"verify", "--from", "shop/web", "--to", "kube-system/y"}),
            kExitOk)
      << "one end that is required decides: " << out();
}

TEST_F(VerifyTest, OfAPair) {
  const auto pod = [](const char* node) {
    return Json{{"spec", {{"nodeName", node}}}};
  };
  NoDns();
  Answer("^get pod -n shop web", pod("a"));
  Answer("^get pod -n shop db", pod("b"));
  Answer("^get pod -n shop gone", Json(""),
         "Error from server (NotFound): pods \"gone\" not found\n", 1);
  Agents(L(AgentPodJson("a"), AgentPodJson("b")));
  Exec("a", "verify shop/web",
       {{"proven", true}, {"pods", L(Json{{"proven", true}})}});
  Exec("b", "verify shop/db",
       {{"proven", true}, {"pods", L(Json{{"proven", true}})}});
  Exec("a", "show b", {{"state", "up"}});
  EXPECT_EQ(Run({"verify", "--from", "shop/web", "--to", "shop/db"}), kExitOk)
      << err() << out();
  answers_.erase(answers_.end() - 1);
  Exec("a", "show b", {{"state", "down"}});
  EXPECT_EQ(Run({"verify", "--from", "shop/web", "--to", "shop/db"}),
            kExitNotProven);
  EXPECT_THAT(out(), HasSubstr("the tunnel from a to b is down"));
  EXPECT_EQ(Run({"verify", "--from", "web"}), kExitUsage);
  EXPECT_EQ(Run({"verify", "--from", "shop/gone"}), kExitRefused);
}

}  // namespace
}  // namespace espalier::kubectl
