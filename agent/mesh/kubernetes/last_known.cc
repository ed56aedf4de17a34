#include "agent/mesh/kubernetes/last_known.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace espalier::mesh {
namespace {

constexpr absl::string_view kFirst =
    "espalier cluster, last known to this node, version 1";
constexpr absl::string_view kLast = "end";

template <typename T>
void Append(const char* kind, const T& object, std::string* out) {
  absl::StrAppend(out, kind, " ", kube::Encode(object), "\n");
}

template <typename T, typename Map>
absl::Status Read(absl::string_view json, Map* map) {
  absl::StatusOr<T> object = kube::Decode<T>(json);
  if (!object.ok()) {
    return absl::DataLossError(absl::StrCat(
        "the last known cluster is damaged: ", object.status().message()));
  }
  const std::string key = object->meta.Key();
  (*map)[key] = std::make_shared<const T>(*std::move(object));
  return absl::OkStatus();
}

}  // namespace

std::string FormatLastKnown(const LastKnown& known) {
  std::string text = absl::StrCat(kFirst, "\n");
  for (const auto& [name, node] : known.nodes) Append("node", *node, &text);
  for (const auto& [name, object] : known.namespaces) {
    Append("namespace", *object, &text);
  }
  for (const auto& [key, pod] : known.pods) Append("pod", *pod, &text);
  absl::StrAppend(&text, kLast, "\n");
  return text;
}

absl::StatusOr<LastKnown> ParseLastKnown(absl::string_view text) {
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  if (lines.size() < 3 || lines.front() != kFirst || !lines.back().empty() ||
      lines[lines.size() - 2] != kLast) {
    return absl::DataLossError(
        "the last known cluster is of another version, or cut short");
  }
  LastKnown known;
  for (size_t i = 1; i + 2 < lines.size(); ++i) {
    absl::string_view json = lines[i];
    absl::Status status;
    if (absl::ConsumePrefix(&json, "node ")) {
      status = Read<kube::EspalierNode>(json, &known.nodes);
    } else if (absl::ConsumePrefix(&json, "namespace ")) {
      status = Read<kube::NamespaceMeta>(json, &known.namespaces);
    } else if (absl::ConsumePrefix(&json, "pod ")) {
      status = Read<kube::Pod>(json, &known.pods);
    } else {
      status = absl::DataLossError(
          absl::StrCat("the last known cluster is damaged in line ", i + 1));
    }
    if (!status.ok()) return status;
  }
  return known;
}

}  // namespace espalier::mesh
