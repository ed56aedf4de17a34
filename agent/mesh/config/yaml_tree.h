// A YAML document as a tree of values with their places in the file.
//
// YAML's own expressive power is cut to what a configuration needs: one
// document, no aliases (they are how a small file becomes a huge tree), no
// tags, and bounds on depth, on the number of nodes and on the input's size.
#ifndef ESPALIER_AGENT_MESH_CONFIG_YAML_TREE_H_
#define ESPALIER_AGENT_MESH_CONFIG_YAML_TREE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::mesh {

inline constexpr size_t kMaxConfigSize = 1 << 20;  // octets
inline constexpr int kMaxYamlDepth = 16;
inline constexpr size_t kMaxYamlNodes = 200'000;

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Kind kind = Kind::kNull;
  int line = 0;  // from 1
  int column = 0;
  std::string scalar;
  bool quoted = false;  // a scalar that is text whatever it looks like
  std::vector<YamlNode> elements;  // of a sequence
  // Of a map, in the file's order; keys are scalars, twice the same is
  // possible.
  std::vector<YamlEntry> entries;
};

struct YamlEntry {
  YamlNode key;
  YamlNode value;
};

// InvalidArgument: "name:line:column: ..." for the first thing that is no YAML
// or goes beyond the bounds. An empty document is a kNull node.
absl::StatusOr<YamlNode> ParseYaml(const std::string& text,
                                   const std::string& name);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_YAML_TREE_H_
