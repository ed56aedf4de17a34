#include "agent/controller/weakening.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::controller {
namespace {

// Longer than any change of leader; a candidate that never leads forgets.
constexpr absl::Duration kRemembered = absl::Minutes(2);
constexpr size_t kMostRemembered = 1000;

std::string WordOf(const kube::ObjectMeta& meta, const char* key) {
  const auto found = meta.annotations.find(key);
  return found == meta.annotations.end() ? "" : found->second;
}

base::Mode ModeOf(const kube::ObjectMeta& meta, base::Mode default_mode) {
  const auto found = meta.annotations.find(kEncryption);
  if (found == meta.annotations.end()) return default_mode;
  return base::ParseMode(found->second).value_or(base::Mode::kRequired);
}

// Nothing said is `allow`; a word that nobody knows is `deny`.
bool OutsideAllowed(const kube::ObjectMeta& meta) {
  const std::string word = WordOf(meta, kOutside);
  return !meta.annotations.contains(kOutside) || word == "allow";
}

bool OutsideInAllowed(const kube::ObjectMeta& meta) {
  return WordOf(meta, kOutsideIn) == "allow";
}

}  // namespace

std::string WeakenedBy(const kube::ObjectMeta& before,
                       const kube::ObjectMeta& after, base::Mode default_mode) {
  std::string text;
  const base::Mode was = ModeOf(before, default_mode);
  const base::Mode is = ModeOf(after, default_mode);
  // The enumerators are in this order, strongest first.
  if (is > was) {
    absl::StrAppend(&text, "encryption was ", base::ModeName(was), " and is ",
                    base::ModeName(is));
    if (!after.annotations.contains(kEncryption)) {
      absl::StrAppend(&text, " (the cluster's default: the annotation ",
                      kEncryption, " was removed)");
    }
  }
  const auto add = [&](const char* what) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", what);
  };
  if (OutsideAllowed(after) && !OutsideAllowed(before)) {
    add("its pods may send to outside the cluster now");
  }
  if (OutsideInAllowed(after) && !OutsideInAllowed(before)) {
    add("connections from outside the cluster to its pods are let in now");
  }
  return text;
}

void WeakeningWatch::Compare(base::Instant now,
                             const kube::Object<kube::NamespaceMeta>& to) {
  const kube::ObjectMeta& meta = to->meta;
  const auto known = known_.find(meta.name);
  // Another uid is another namespace: it was not weakened, it is new.
  if (known == known_.end() || known->second->meta.uid != meta.uid) return;
  const std::string text = WeakenedBy(known->second->meta, meta, default_mode_);
  if (text.empty() || seen_.size() >= kMostRemembered) return;
  kube::Event event;
  event.meta.name =
      absl::StrCat(meta.name, ".espalier-weakened.", meta.resource_version);
  event.meta.name_space = meta.name;
  event.about = {.api_version = "v1",
                 .kind = kube::NamespaceMeta::kKind,
                 .name_space = meta.name,
                 .name = meta.name,
                 .uid = meta.uid};
  event.type = "Warning";
  event.reason = "EncryptionWeakened";
  event.message = text;
  event.component = "espalier-controller";
  seen_.push_back({now, std::move(event)});
}

void WeakeningWatch::Handle(base::Instant now,
                            const kube::Update<kube::NamespaceMeta>& update) {
  using kube::NamespaceMeta;
  if (const auto* relist = std::get_if<kube::Relist<NamespaceMeta>>(&update)) {
    // A server that was set back to an older state weakened nothing.
    if (in_sync_ && !relist->older_than_seen) {
      for (const auto& object : relist->objects) Compare(now, object);
    }
    known_.clear();
    for (const auto& object : relist->objects) {
      known_[object->meta.name] = object;
    }
    in_sync_ = true;
  } else if (const auto* put = std::get_if<kube::Put<NamespaceMeta>>(&update)) {
    Compare(now, put->object);
    known_[put->object->meta.name] = put->object;
  } else {
    known_.erase(
        std::get<kube::Deleted<NamespaceMeta>>(update).object->meta.name);
  }
}

std::optional<kube::Event> WeakeningWatch::Take(base::Instant now,
                                                absl::Time wall) {
  while (!seen_.empty() && seen_.front().at + kRemembered < now) {
    seen_.pop_front();
  }
  if (seen_.empty()) return std::nullopt;
  Seen seen = std::move(seen_.front());
  seen_.pop_front();
  seen.event.first = seen.event.last = wall - (now - seen.at);
  return std::move(seen.event);
}

}  // namespace espalier::controller
