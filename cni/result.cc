#include "cni/result.h"

namespace espalier::cni {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Texts come from the environment and from files: not always UTF-8.
std::string Dump(const ordered_json& value) {
  return value.dump(2, ' ', false, ordered_json::error_handler_t::replace) +
         "\n";
}

ordered_json InterfaceJson(Version version, const v1::Interface& interface) {
  ordered_json out = {{"name", interface.name()}};
  if (!interface.mac().empty()) out["mac"] = interface.mac();
  if (version >= Version::k110 && interface.mtu() != 0) {
    out["mtu"] = interface.mtu();
  }
  return out;
}

bool IsIpv6(const std::string& address) {
  return address.find(':') != std::string::npos;
}

}  // namespace

std::string FormatSuccess(Version version, const v1::Attachment& attachment,
                          const std::string& sandbox, const json& dns) {
  ordered_json out = {{"cniVersion", VersionName(version)}};
  ordered_json pod = InterfaceJson(version, attachment.pod_interface());
  pod["sandbox"] = sandbox;
  out["interfaces"] = ordered_json::array(
      {InterfaceJson(version, attachment.host_interface()), pod});
  constexpr int kPodInterface = 1;  // its place in the list above

  out["ips"] = ordered_json::array();
  for (const v1::AddressConfig& config : attachment.addresses()) {
    ordered_json ip;
    // 1.0.0 took the field out.
    if (version < Version::k100) {
      ip["version"] = IsIpv6(config.address()) ? "6" : "4";
    }
    ip["interface"] = kPodInterface;
    ip["address"] = config.address();
    if (!config.gateway().empty()) ip["gateway"] = config.gateway();
    out["ips"].push_back(std::move(ip));
  }

  out["routes"] = ordered_json::array();
  for (const v1::Route& config : attachment.routes()) {
    ordered_json route = {{"dst", config.destination()}};
    if (!config.gateway().empty()) route["gw"] = config.gateway();
    if (version >= Version::k110 && config.mtu() != 0) {
      route["mtu"] = config.mtu();
    }
    out["routes"].push_back(std::move(route));
  }
  out["dns"] = dns;
  return Dump(out);
}

std::string FormatError(Version version, const Error& error) {
  ordered_json out = {{"cniVersion", VersionName(version)},
                      {"code", error.code},
                      {"msg", error.message}};
  if (!error.details.empty()) out["details"] = error.details;
  return Dump(out);
}

std::string FormatVersions(const std::string& version) {
  ordered_json out = {{"cniVersion", version},
                      {"supportedVersions", ordered_json::array()}};
  for (const Version supported : kVersions) {
    out["supportedVersions"].push_back(VersionName(supported));
  }
  return Dump(out);
}

}  // namespace espalier::cni
