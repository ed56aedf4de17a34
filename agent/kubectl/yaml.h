// JSON values as YAML.
#ifndef ESPALIER_AGENT_KUBECTL_YAML_H_
#define ESPALIER_AGENT_KUBECTL_YAML_H_

#include <nlohmann/json.hpp>
#include <string>

namespace espalier::kubectl {

// In block style, keys in their order.
std::string YamlOf(const nlohmann::ordered_json& value);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_YAML_H_
