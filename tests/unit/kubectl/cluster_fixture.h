// A kubectl that answers from recorded texts.
#ifndef ESPALIER_TESTS_UNIT_KUBECTL_CLUSTER_FIXTURE_H_
#define ESPALIER_TESTS_UNIT_KUBECTL_CLUSTER_FIXTURE_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "gtest/gtest.h"
#include "tests/support/source_dir.h"

namespace espalier::kubectl {

// A list of one is not that one: nlohmann's braces do not say which is meant.
template <typename... T>
Json L(const T&... elements) {
  Json list = Json::array();
  (list.push_back(elements), ...);
  return list;
}

inline Json AgentPodJson(const std::string& node,
                         const std::string& phase = "Running",
                         const std::string& ready = "True") {
  return {{"kind", "Pod"},
          {"metadata",
           {{"name", "espalier-agent-" + node},
            {"namespace", "espalier-system"},
            {"labels", {{"app.kubernetes.io/component", "agent"}}}}},
          {"spec", {{"nodeName", node}}},
          {"status",
           {{"phase", phase},
            {"conditions", L(Json{{"type", "Ready"}, {"status", ready}})}}}};
}

inline Json ListOf(Json items) { return {{"kind", "List"}, {"items", items}}; }

class KubectlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-kubectl-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    setenv("FAKE_KUBECTL", folder_.c_str(), 1);
    setenv("KUBECTL",
           testing::InSource("tests/unit/kubectl/fake_kubectl.py").c_str(), 1);
    // A host of its own must not decide.
    setenv("KUBECONFIG", "/nonexistent", 1);
    unsetenv("ESPALIER_SOCKET");
  }
  void TearDown() override {
    std::filesystem::remove_all(folder_);
    for (const char* name : {"FAKE_KUBECTL", "KUBECTL", "KUBECONFIG"}) {
      unsetenv(name);
    }
  }

  void Answer(const std::string& args, const Json& out,
              const std::string& err = "", int code = 0, bool once = false) {
    Json answer = {{"args", args}, {"out", out}, {"err", err}, {"code", code}};
    if (once) answer["once"] = true;
    answers_.push_back(answer);
  }
  void Agents(const Json& pods) {
    Answer("^get pods --all-namespaces -l .*component=agent", ListOf(pods));
  }
  void Exec(const std::string& node, const std::string& command,
            const Json& out, const std::string& err = "", int code = 0) {
    Answer(absl::StrCat("^exec -n espalier-system espalier-agent-", node,
                        " -c agent -- /usr/bin/kubectl-espalier --socket "
                        "/run/espalier/agent.sock -o json ",
                        command, "$"),
           out, err, code);
  }
  int Run(std::vector<std::string> arguments) {
    std::ofstream(folder_ / "answers.json") << answers_.dump();
    out_.str("");
    err_.str("");
    return RunCommand(arguments, out_, err_);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  std::string Calls() const {
    std::ifstream file(folder_ / "calls.log");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // What every `verify` looks at besides.
  void NoDns() {
    Answer("^get pods -n kube-system", ListOf(Json::array()));
    Answer("^get namespace kube-system", Json::object());
    Answer("^get daemonsets,deployments --all", ListOf(Json::array()));
  }

  std::filesystem::path folder_;
  Json answers_ = Json::array();
  std::ostringstream out_;
  std::ostringstream err_;
};

}  // namespace espalier::kubectl

#endif  // ESPALIER_TESTS_UNIT_KUBECTL_CLUSTER_FIXTURE_H_
