#include "cni/invocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace espalier::cni {
namespace {

using ::testing::HasSubstr;

Outcome<Invocation> Read(const std::map<std::string, std::string>& variables) {
  return ReadInvocation([&variables](const char* name) {
    const auto it = variables.find(name);
    return it == variables.end() ? std::string() : it->second;
  });
}

std::map<std::string, std::string> AddVariables() {
  return {{"CNI_COMMAND", "ADD"},
          {"CNI_CONTAINERID", "c1"},
          {"CNI_NETNS", "/run/netns/x"},
          {"CNI_IFNAME", "eth0"},
          {"CNI_PATH", "/opt/cni/bin"}};
}

void ExpectEnvironmentError(const std::map<std::string, std::string>& variables,
                            const std::string& variable) {
  const auto outcome = Read(variables);
  const Error* error = ErrorOf(outcome);
  ASSERT_NE(error, nullptr) << variable;
  EXPECT_EQ(error->code, 4u);
  EXPECT_THAT(error->message, HasSubstr(variable));
}

TEST(InvocationTest, ReadsAdd) {
  auto variables = AddVariables();
  variables["CNI_ARGS"] =
      "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;"
      "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1";
  const auto outcome = Read(variables);
  ASSERT_EQ(ErrorOf(outcome), nullptr);
  const auto& invocation = std::get<Invocation>(outcome);
  EXPECT_EQ(invocation.command, Command::kAdd);
  EXPECT_EQ(invocation.container_id, "c1");
  EXPECT_EQ(invocation.network_namespace, "/run/netns/x");
  EXPECT_EQ(invocation.interface_name, "eth0");
  EXPECT_EQ(invocation.pod_namespace, "ns");
  EXPECT_EQ(invocation.pod_name, "web-0");
  EXPECT_EQ(invocation.pod_uid, "u-1");
}

TEST(InvocationTest, NamesEachMissingVariable) {
  ExpectEnvironmentError({}, "CNI_COMMAND");
  for (const char* name : {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}) {
    auto variables = AddVariables();
    variables.erase(name);
    ExpectEnvironmentError(variables, name);
    variables["CNI_COMMAND"] = "CHECK";
    ExpectEnvironmentError(variables, name);
  }
  ExpectEnvironmentError({{"CNI_COMMAND", "ADD"}},
                         "CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS");
}

TEST(InvocationTest, DelNeedsNoNamespace) {
  auto variables = AddVariables();
  variables["CNI_COMMAND"] = "DEL";
  variables.erase("CNI_NETNS");
  EXPECT_EQ(ErrorOf(Read(variables)), nullptr);
  variables.erase("CNI_IFNAME");
  ExpectEnvironmentError(variables, "CNI_IFNAME");
}

TEST(InvocationTest, CommandsWithoutContainerNeedNothingElse) {
  for (const char* command : {"VERSION", "STATUS", "GC"}) {
    EXPECT_EQ(ErrorOf(Read({{"CNI_COMMAND", command}})), nullptr) << command;
  }
}

TEST(InvocationTest, RefusesUnknownCommands) {
  ExpectEnvironmentError({{"CNI_COMMAND", "add"}}, "CNI_COMMAND");
  ExpectEnvironmentError({{"CNI_COMMAND", "REMOVE"}}, "REMOVE");
}

TEST(InvocationTest, RefusesNamesThatWouldBecomePaths) {
  const std::pair<const char*, std::string> bad[] = {
      {"CNI_CONTAINERID", "../../etc/passwd"},
      {"CNI_CONTAINERID", "-c1"},
      {"CNI_CONTAINERID", "a@b"},
      {"CNI_CONTAINERID", "a b"},
      {"CNI_CONTAINERID", std::string(kMaxContainerId + 1, 'a')},
      {"CNI_IFNAME", "."},
      {"CNI_IFNAME", ".."},
      {"CNI_IFNAME", "a/b"},
      {"CNI_IFNAME", "a:b"},
      {"CNI_IFNAME", "a b"},
      {"CNI_IFNAME", "sixteen-letters-"},
      {"CNI_NETNS", "run/netns/x"},
  };
  for (const auto& [name, value] : bad) {
    auto variables = AddVariables();
    variables[name] = value;
    ExpectEnvironmentError(variables, name);
  }
  auto variables = AddVariables();
  variables["CNI_CONTAINERID"] = std::string(kMaxContainerId, 'a');
  variables["CNI_IFNAME"] = "fifteen-letters";
  EXPECT_EQ(ErrorOf(Read(variables)), nullptr);
}

TEST(InvocationTest, RefusesArgumentsItWouldNotHonour) {
  for (const char* arguments :
       {"IP=10.0.0.9", "IgnoreUnknown=1;MAC=02:0:0:0:0:1", "novalue", "=x"}) {
    auto variables = AddVariables();
    variables["CNI_ARGS"] = arguments;
    ExpectEnvironmentError(variables, "CNI_ARGS");
    // What was refused at ADD must still be taken down.
    variables["CNI_COMMAND"] = "DEL";
    EXPECT_EQ(ErrorOf(Read(variables)), nullptr) << arguments;
  }
}

}  // namespace
}  // namespace espalier::cni
