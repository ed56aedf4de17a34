#include "cni/network_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace espalier::cni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

NetworkConfig Parse(const std::string& text, Command command = Command::kAdd) {
  const auto outcome = ParseNetworkConfig(text, command);
  if (const Error* error = ErrorOf(outcome)) {
    ADD_FAILURE() << error->message << ": " << error->details;
    return {};
  }
  return std::get<NetworkConfig>(outcome);
}

void ExpectError(const std::string& text, uint32_t code,
                 const std::string& part, Command command = Command::kAdd) {
  const auto outcome = ParseNetworkConfig(text, command);
  const Error* error = ErrorOf(outcome);
  ASSERT_NE(error, nullptr) << text;
  EXPECT_EQ(error->code, code) << text << ": " << error->message;
  EXPECT_THAT(error->message + ": " + error->details, HasSubstr(part)) << text;
}

TEST(NetworkConfigTest, ReadsWhatItNeedsAndIgnoresOthers) {
  const NetworkConfig config = Parse(R"({
    "cniVersion": "1.0.0", "name": "espalier", "type": "espalier-cni",
    "runDirectory": "/run/other", "dns": {"nameservers": ["10.0.0.10"]},
    "capabilities": {"x": true}, "runtimeConfig": {}, "args": {"a": 1},
    "disableCheck": true, "ipam": {}, "ipMasq": false, "somethingNew": []})");
  EXPECT_EQ(config.version, Version::k100);
  EXPECT_EQ(config.name, "espalier");
  EXPECT_EQ(config.run_directory, "/run/other");
  EXPECT_EQ(config.dns["nameservers"][0], "10.0.0.10");
  EXPECT_TRUE(config.previous_result.is_null());
}

TEST(NetworkConfigTest, HasDefaults) {
  const NetworkConfig config = Parse(R"({"cniVersion":"1.1.0","name":"n"})");
  EXPECT_EQ(config.run_directory, "/run/espalier");
  EXPECT_EQ(config.dns, nlohmann::json::object());
  EXPECT_FALSE(config.valid.has_value());
}

TEST(NetworkConfigTest, SaysWhatIsNoJson) {
  ExpectError("", 6, "JSON");
  ExpectError("{\"name\": ", 6, "parse error");
  ExpectError("[]", 6, "array");
  ExpectError("\"text\"", 6, "string");
  ExpectError("{\"a\": 1e999}", 6, "number overflow");
  ExpectError("{\"\xff\": 1}", 6, "UTF-8");
  // Deeper than any configuration, shallow enough for the parser.
  ExpectError(
      R"({"a":)" + std::string(1000, '[') + std::string(1000, ']') + "}", 6,
      "levels");
  ExpectError(std::string(kMaxConfigBytes + 1, ' '), 6, "too large");
}

TEST(NetworkConfigTest, RefusesVersionsItDoesNotSpeak) {
  for (const char* version :
       {"0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "x"}) {
    const std::string text =
        std::string(R"({"name":"n","cniVersion":")") + version + "\"}";
    ExpectError(text, 1, version);
  }
  ExpectError(R"({"name":"n"})", 1, "cniVersion");
  ExpectError(R"({"name":"n","cniVersion":1})", 7, "cniVersion");
}

TEST(NetworkConfigTest, CommandsCameWithVersions) {
  const auto config = [](const char* version) {
    return std::string(R"({"name":"n","cniVersion":")") + version + "\"}";
  };
  ExpectError(config("0.3.1"), 1, "CHECK", Command::kCheck);
  Parse(config("0.4.0"), Command::kCheck);
  ExpectError(config("1.0.0"), 1, "GC", Command::kCollectGarbage);
  ExpectError(config("1.0.0"), 1, "STATUS", Command::kStatus);
  Parse(config("1.1.0"), Command::kCollectGarbage);
  Parse(config("1.1.0"), Command::kStatus);
  Parse(config("0.3.1"), Command::kDelete);
}

TEST(NetworkConfigTest, ChecksTheName) {
  ExpectError(R"({"cniVersion":"1.0.0"})", 7, "name");
  ExpectError(R"({"cniVersion":"1.0.0","name":""})", 7, "name");
  ExpectError(R"({"cniVersion":"1.0.0","name":"../x"})", 7, "../x");
  ExpectError(R"({"cniVersion":"1.0.0","name":"a b"})", 7, "a b");
  ExpectError(R"({"cniVersion":"1.0.0","name":7})", 7, "number");
  ExpectError(R"({"cniVersion":"1.0.0","name":")" +
                  std::string(kMaxNetworkName + 1, 'a') + "\"}",
              7, "at most");
}

TEST(NetworkConfigTest, RefusesFieldsItCannotHonour) {
  ExpectError(
      R"({"cniVersion":"1.0.0","name":"n","ipam":{"type":"host-local"}})", 2,
      R"("ipam": {"type":"host-local"})");
  ExpectError(R"({"cniVersion":"1.0.0","name":"n","ipMasq":true})", 2,
              R"("ipMasq": true)");
  ExpectError(R"({"cniVersion":"1.0.0","name":"n","runDirectory":"x"})", 7,
              "runDirectory");
  ExpectError(R"({"cniVersion":"1.0.0","name":"n","dns":[]})", 7, "dns");
  // Which must not keep a pod from being taken down.
  Parse(R"({"cniVersion":"1.0.0","name":"n","ipMasq":true,"dns":[]})",
        Command::kDelete);
}

// The bandwidth plugin's ingress qdisc collides with the guard.
TEST(NetworkConfigTest, RefusesBandwidth) {
  const auto config = [](const std::string& field) {
    return R"({"cniVersion":"1.1.0","name":"n",)" + field + "}";
  };
  const std::string shaped =
      R"("runtimeConfig":{"bandwidth":{"ingressRate":1000,"ingressBurst":1}})";
  ExpectError(config(R"("capabilities":{"bandwidth":true})"), 2,
              R"("capabilities.bandwidth": true)");
  ExpectError(config(shaped), 2, "collides with the guard");
  ExpectError(config(shaped), 2, "ingressRate");
  ExpectError(config(shaped), 2, "bandwidth", Command::kStatus);
  // A word that is not `true` is no "no" either.
  ExpectError(config(R"("capabilities":{"bandwidth":"yes"})"), 2, "yes");
  ExpectError(config(R"("runtimeConfig":{"bandwidth":{}})"), 2, "bandwidth");

  Parse(config(R"("capabilities":{"bandwidth":false,"portMappings":true})"));
  Parse(config(R"("runtimeConfig":{"bandwidth":null,"portMappings":[]})"));
  Parse(config(R"("capabilities":["bandwidth"],"runtimeConfig":7)"));
  // What was attached before is taken down all the same.
  Parse(config(shaped), Command::kDelete);
  Parse(config(shaped), Command::kCollectGarbage);
}

TEST(NetworkConfigTest, ReadsValidAttachments) {
  const char* head = R"({"cniVersion":"1.1.0","name":"n",)";
  const auto gc = [head](const std::string& field) {
    return Parse(head + field + "}", Command::kCollectGarbage);
  };
  EXPECT_THAT(*gc(R"("cni.dev/valid-attachments":[
              {"containerID":"a","ifname":"eth0"},
              {"containerID":"b","ifname":"net1","other":1}])")
                   .valid,
              ElementsAre(Pair("a", "eth0"), Pair("b", "net1")));
  EXPECT_THAT(
      *gc(R"("cni.dev/attachments":[{"containerID":"a","ifname":"e"}])").valid,
      ElementsAre(Pair("a", "e")));
  EXPECT_THAT(*gc(R"("cni.dev/valid-attachments":[])").valid, ElementsAre());
  EXPECT_THAT(*gc(R"("cni.dev/valid-attachments":null)").valid, ElementsAre());
  EXPECT_FALSE(gc(R"("x":1)").valid.has_value());
  for (const char* bad : {"{}", "[1]", R"([{"containerID":"a"}])",
                          R"([{"containerID":1,"ifname":"e"}])"}) {
    ExpectError(
        std::string(head) + R"("cni.dev/valid-attachments":)" + bad + "}", 7,
        "valid-attachments", Command::kCollectGarbage);
  }
}

NetworkConfig WithResult(const std::string& result) {
  return Parse(
      R"({"cniVersion":"1.0.0","name":"n","prevResult":)" + result + "}",
      Command::kCheck);
}

TEST(PreviousAttachmentTest, FindsItsOwnAmongOthers) {
  const auto outcome = FindPreviousAttachment(WithResult(R"({"interfaces":[
        {"name":"esp1"},
        {"name":"eth0","mac":"02:00:5e:00:53:02","sandbox":"/other"},
        {"name":"eth0","mac":"02:00:5e:00:53:01","sandbox":"/ns"}],
        "ips":[{"interface":2,"address":"10.0.0.2/32"},
               {"interface":1,"address":"10.0.0.3/32"},
               {"interface":2,"address":"fd00::2/128"},
               {"address":"10.0.0.4/32"}, 7, {"interface":2,"address":8}]})"),
                                              "eth0", "/ns");
  ASSERT_EQ(ErrorOf(outcome), nullptr);
  const auto& found = std::get<PreviousAttachment>(outcome);
  EXPECT_EQ(found.mac, "02:00:5e:00:53:01");
  EXPECT_THAT(found.addresses, ElementsAre("10.0.0.2/32", "fd00::2/128"));
}

TEST(PreviousAttachmentTest, SaysWhatIsMissing) {
  const std::pair<const char*, const char*> bad[] = {
      {"null", "missing"},
      {"7", "missing"},
      {"{}", "interfaces"},
      {R"({"interfaces":{}})", "interfaces"},
      {R"({"interfaces":[7,{"name":"eth0"}]})", "eth0"},
      {R"({"interfaces":[{"name":"eth0","sandbox":"/other"}]})", "/ns"},
      {R"({"interfaces":[{"name":"eth0","sandbox":"/ns"}]})", "no address"},
  };
  for (const auto& [text, part] : bad) {
    const auto outcome =
        FindPreviousAttachment(WithResult(text), "eth0", "/ns");
    const Error* error = ErrorOf(outcome);
    ASSERT_NE(error, nullptr) << text;
    EXPECT_EQ(error->code, 7u);
    EXPECT_THAT(error->message, HasSubstr(part)) << text;
  }
}

TEST(FindVersionTest, LooksIntoAnythingThatParses) {
  EXPECT_EQ(FindVersion(R"({"cniVersion":"0.2.0"})"), "0.2.0");
  EXPECT_EQ(FindVersion(R"({"cniVersion":2})"), std::nullopt);
  EXPECT_EQ(FindVersion("{}"), std::nullopt);
  EXPECT_EQ(FindVersion("["), std::nullopt);
}

}  // namespace
}  // namespace espalier::cni
