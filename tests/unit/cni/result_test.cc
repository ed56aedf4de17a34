#include "cni/result.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace espalier::cni {
namespace {

using nlohmann::json;

v1::Attachment DualStack() {
  v1::Attachment out;
  out.mutable_host_interface()->set_name("esp0123456789a");
  out.mutable_host_interface()->set_mac("02:00:5e:00:53:01");
  out.mutable_host_interface()->set_mtu(1420);
  out.mutable_pod_interface()->set_name("eth0");
  out.mutable_pod_interface()->set_mac("02:00:5e:00:53:02");
  out.mutable_pod_interface()->set_mtu(1420);
  for (const auto& [address, gateway, destination] :
       {std::tuple("10.1.0.2/32", "169.254.1.1", "0.0.0.0/0"),
        std::tuple("fd00::2/128", "fe80::1", "::/0")}) {
    v1::AddressConfig* config = out.add_addresses();
    config->set_address(address);
    config->set_gateway(gateway);
    v1::Route* route = out.add_routes();
    route->set_destination(destination);
    route->set_gateway(gateway);
  }
  return out;
}

json Success(Version version) {
  return json::parse(FormatSuccess(version, DualStack(), "/run/netns/x",
                                   {{"nameservers", {"10.0.0.10"}}}));
}

// The specification's own examples, with these addresses.
TEST(ResultTest, Version031And040) {
  for (const char* version : {"0.3.1", "0.4.0"}) {
    const json expected = json::parse(R"({
      "interfaces": [
        {"name": "esp0123456789a", "mac": "02:00:5e:00:53:01"},
        {"name": "eth0", "mac": "02:00:5e:00:53:02",
         "sandbox": "/run/netns/x"}],
      "ips": [
        {"version": "4", "interface": 1, "address": "10.1.0.2/32",
         "gateway": "169.254.1.1"},
        {"version": "6", "interface": 1, "address": "fd00::2/128",
         "gateway": "fe80::1"}],
      "routes": [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "::/0", "gw": "fe80::1"}],
      "dns": {"nameservers": ["10.0.0.10"]}})");
    json actual = Success(*ParseVersion(version));
    EXPECT_EQ(actual["cniVersion"], version);
    actual.erase("cniVersion");
    EXPECT_EQ(actual, expected);
  }
}

TEST(ResultTest, Version100DropsTheFamily) {
  const json result = Success(Version::k100);
  EXPECT_EQ(result["cniVersion"], "1.0.0");
  EXPECT_EQ(result["ips"][0], json::parse(R"({"interface": 1,
      "address": "10.1.0.2/32", "gateway": "169.254.1.1"})"));
  EXPECT_FALSE(result["interfaces"][0].contains("mtu"));
}

TEST(ResultTest, Version110AddsTheMtu) {
  const json result = Success(Version::k110);
  EXPECT_EQ(result["cniVersion"], "1.1.0");
  EXPECT_EQ(result["interfaces"][1], json::parse(R"({"name": "eth0",
      "mac": "02:00:5e:00:53:02", "mtu": 1420, "sandbox": "/run/netns/x"})"));
  EXPECT_FALSE(result["ips"][0].contains("version"));
}

TEST(ResultTest, Errors) {
  EXPECT_EQ(json::parse(FormatError(
                Version::k040, Error(ErrorCode::kTryAgainLater, "m", "d"))),
            json::parse(R"({"cniVersion":"0.4.0","code":11,"msg":"m",
                            "details":"d"})"));
  EXPECT_EQ(json::parse(FormatError(Version::k110, Error(ErrorCode::kIo, "m"))),
            json::parse(R"({"cniVersion":"1.1.0","code":5,"msg":"m"})"));
  // Octets of the environment need not be UTF-8; the answer must be.
  EXPECT_TRUE(json::accept(
      FormatError(Version::k110, Error(ErrorCode::kIo, "\xff\xfe"))));
}

TEST(ResultTest, Versions) {
  EXPECT_EQ(json::parse(FormatVersions("1.0.0")), json::parse(R"({
      "cniVersion": "1.0.0",
      "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})"));
}

}  // namespace
}  // namespace espalier::cni
