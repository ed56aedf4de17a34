#include "agent/mesh/config/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace espalier::mesh {
namespace {

// How the handler leaves the parser at the first thing it refuses.
struct Refused {
  int line;
  int column;
  std::string message;
};

class TreeBuilder : public YAML::EventHandler {
 public:
  YamlNode Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    Add(NewNode(YamlNode::Kind::kNull, mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refused{mark.line, mark.column,
                  "an alias (*name) was found; aliases are not accepted, write "
                  "the value out"};
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    CheckTag(mark, tag);
    YamlNode node = NewNode(YamlNode::Kind::kScalar, mark);
    node.scalar = value;
    node.quoted = tag == "!";
    Add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag,
                       YAML::anchor_t, YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    Open(NewNode(YamlNode::Kind::kSequence, mark));
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag,
                  YAML::anchor_t, YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    Open(NewNode(YamlNode::Kind::kMap, mark));
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Frame {
    YamlNode node;
    bool has_key = false;
    YamlNode key;
  };

  static void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    // "?" is a plain value, "!" a quoted one, "" comes with block collections.
    if (tag.empty() || tag == "?" || tag == "!") return;
    throw Refused{
        mark.line, mark.column,
        absl::StrCat("the tag ", tag, " was found; tags are not accepted")};
  }

  YamlNode NewNode(YamlNode::Kind kind, const YAML::Mark& mark) {
    if (++nodes_ > kMaxYamlNodes) {
      throw Refused{mark.line, mark.column,
                    absl::StrCat("the file has more than ", kMaxYamlNodes,
                                 " values; split the mesh")};
    }
    YamlNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    node.column = mark.column + 1;
    return node;
  }

  void Open(YamlNode node) {
    if (stack_.size() >= kMaxYamlDepth) {
      throw Refused{
          node.line - 1, node.column - 1,
          absl::StrCat("values are nested more than ", kMaxYamlDepth, " deep")};
    }
    stack_.push_back(Frame{std::move(node), false, {}});
  }

  void Close() {
    YamlNode node = std::move(stack_.back().node);
    stack_.pop_back();
    Add(std::move(node));
  }

  void Add(YamlNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = stack_.back();
    if (frame.node.kind == YamlNode::Kind::kSequence) {
      frame.node.elements.push_back(std::move(node));
      return;
    }
    if (!frame.has_key) {
      if (node.kind != YamlNode::Kind::kScalar) {
        throw Refused{node.line - 1, node.column - 1,
                      "a key that is not a plain word was found"};
      }
      frame.key = std::move(node);
      frame.has_key = true;
      return;
    }
    frame.node.entries.push_back({std::move(frame.key), std::move(node)});
    frame.has_key = false;
  }

  YamlNode root_;
  std::vector<Frame> stack_;
  size_t nodes_ = 0;
};

absl::Status ErrorAt(const std::string& name, int line, int column,
                     const std::string& message) {
  // yaml-cpp counts from 0, and says -1 where it does not know.
  return absl::InvalidArgumentError(
      absl::StrCat(name, ":", line < 0 ? 1 : line + 1, ":",
                   column < 0 ? 1 : column + 1, ": ", message));
}

}  // namespace

absl::StatusOr<YamlNode> ParseYaml(const std::string& text,
                                   const std::string& name) {
  if (text.size() > kMaxConfigSize) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": the file has ", text.size(),
                     " octets; expected at most ", kMaxConfigSize));
  }
  // yaml-cpp takes a NUL for the end of the input, and would leave unread
  // whatever follows.
  if (absl::StrContains(text, absl::string_view("\0", 1))) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": the file holds a zero octet; expected text in UTF-8"));
  }
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder builder;
    if (!parser.HandleNextDocument(builder)) return YamlNode{};
    YamlNode root = builder.Take();
    TreeBuilder second;
    if (parser.HandleNextDocument(second)) {
      YamlNode other = second.Take();
      if (other.kind != YamlNode::Kind::kNull) {
        return ErrorAt(name, other.line - 1, other.column - 1,
                       "a second YAML document begins; expected one");
      }
    }
    return root;
  } catch (const Refused& refused) {
    return ErrorAt(name, refused.line, refused.column, refused.message);
  } catch (const YAML::Exception& error) {
    return ErrorAt(name, error.mark.line, error.mark.column,
                   absl::StrCat("this is not YAML: ", error.msg));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": this is not YAML: ", error.what()));
  }
}

}  // namespace espalier::mesh
