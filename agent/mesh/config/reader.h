// Takes typed, checked values out of a YamlNode and collects every error.
#ifndef ESPALIER_AGENT_MESH_CONFIG_READER_H_
#define ESPALIER_AGENT_MESH_CONFIG_READER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/mesh/config/yaml_tree.h"

namespace espalier::mesh {

// The errors of one file, in the order of their places.
class ErrorList {
 public:
  explicit ErrorList(std::string name) : name_(std::move(name)) {}

  void Add(int line, int column, const std::string& message);
  void Add(const YamlNode& at, const std::string& message) {
    Add(at.line, at.column, message);
  }
  bool empty() const { return errors_.empty(); }
  // Beyond what ToStatus shows: costly advice is no longer worth its time.
  bool full() const { return errors_.size() > 200; }
  // OK, or InvalidArgument with a line for each error (at most 50).
  absl::Status ToStatus() const;

 private:
  struct Error {
    int line;
    int column;
    size_t order;
    std::string message;
  };
  std::string name_;
  std::vector<Error> errors_;
};

// One map of the file. `path` names it in ConfigFields() ("" is the file
// itself); a key that is not a field there, or comes twice, is an error.
//
// The getters leave *out alone and return false when the key is absent (no
// error) or its value is wrong (an error is added).
class MapReader {
 public:
  MapReader(const std::string& path, const YamlNode& node, ErrorList* errors);

  // nullptr when absent or without a value (which is an error).
  const YamlNode* Get(const std::string& key) const;
  bool Has(const std::string& key) const;
  const YamlNode& node() const { return node_; }
  ErrorList* errors() const { return errors_; }

  // An error "path.key is missing: expected ..." at the map's place.
  void Missing(const std::string& key, const std::string& expected) const;

  bool Text(const std::string& key, const std::string& expected,
            std::string* out) const;
  bool Bool(const std::string& key, bool* out) const;
  bool Number(const std::string& key, uint64_t low, uint64_t high,
              uint64_t* out) const;
  // "90s", "4h"; between low and high.
  bool Duration(const std::string& key, absl::Duration low, absl::Duration high,
                absl::Duration* out) const;
  // "256GiB" or a plain number of octets.
  bool ByteCount(const std::string& key, uint64_t* out) const;
  // A list of texts; `each` answers what is wrong with one, or OK.
  bool List(const std::string& key, const std::string& expected,
            size_t max_size,
            const std::function<absl::Status(const std::string&)>& each) const;
  bool OneOf(const std::string& key, const std::vector<std::string>& words,
             std::string* out) const;

  // "peers[].name"
  std::string PathOf(const std::string& key) const;
  // "node.name is 'x': expected y", at the value.
  void Wrong(const std::string& key, const YamlNode& value,
             const std::string& expected) const;

 private:
  std::string path_;
  const YamlNode& node_;
  ErrorList* errors_;
};

// The word of `words` that is nearest to `word`; "" when none is near.
std::string NearestWord(const std::string& word,
                        const std::vector<std::string>& words);

// A value as an error quotes it: at most 60 characters, no control characters.
std::string Quoted(const YamlNode& node);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_READER_H_
