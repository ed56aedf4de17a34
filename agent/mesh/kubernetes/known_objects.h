// What the API server last said of namespaces, or of this node's pods: what
// their modes are made of. Sans-IO; one thread.
#ifndef ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_OBJECTS_H_
#define ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_OBJECTS_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "agent/kube/informer.h"
#include "agent/kube/objects.h"

namespace espalier::mesh {

// The annotations of `known`, strengthened by what an older word of the same
// object asks for: `required`, and `deny`.
std::map<std::string, std::string> Strengthened(
    const std::map<std::string, std::string>& known,
    const std::map<std::string, std::string>& older);

// An object is known by its latest version. A server that was set back to an
// older state (etcd was restored) speaks of earlier versions, and of changes
// made since then by numbers that were seen before: until it has passed what
// is known nothing is weakened or removed by its word, and what it asks for
// more is taken.
template <typename T>
class KnownObjects {
 public:
  using Objects = std::map<std::string, std::shared_ptr<const T>>;

  const Objects& objects() const { return objects_; }
  // What an earlier process knew.
  void Restore(Objects objects) {
    objects_ = std::move(objects);
    for (const auto& [key, object] : objects_) See(object);
  }

  // Whether the server's state is older than what was seen.
  bool set_back() const { return set_back_; }

  // True when something that modes are made of has changed.
  bool Handle(const kube::Update<T>& update) {
    if (const auto* relist = std::get_if<kube::Relist<T>>(&update)) {
      return HandleRelist(*relist);
    }
    if (const auto* put = std::get_if<kube::Put<T>>(&update)) {
      return Take(put->object);
    }
    const auto& meta = std::get<kube::Deleted<T>>(update).object->meta;
    const auto known = objects_.find(meta.Key());
    if (known == objects_.end() || known->second->meta.uid != meta.uid) {
      return false;
    }
    objects_.erase(known);
    return true;
  }

 private:
  bool HandleRelist(const kube::Relist<T>& relist) {
    bool news = false;
    set_back_ =
        relist.older_than_seen ||
        kube::CompareVersions(relist.resource_version, highest_).value_or(0) <
            0;
    std::set<std::string> listed;
    for (const kube::Object<T>& object : relist.objects) {
      listed.insert(object->meta.Key());
      if (Take(object)) news = true;
    }
    if (set_back_ || relist.lost_more_than_quarter) return news;
    const size_t gone = std::erase_if(objects_, [&](const auto& entry) {
      return !listed.contains(entry.first);
    });
    return news || gone > 0;
  }

  void See(const kube::Object<T>& object) {
    const std::string& version = object->meta.resource_version;
    const std::optional<int> order = kube::CompareVersions(version, highest_);
    if (order.value_or(highest_.empty() ? 1 : 0) <= 0) return;
    highest_ = version;
    set_back_ = false;
  }

  bool Take(const kube::Object<T>& object) {
    See(object);
    auto& known = objects_[object->meta.Key()];
    if (known == nullptr || known->meta.uid != object->meta.uid) {
      known = object;
      return true;
    }
    const bool older = kube::CompareVersions(object->meta.resource_version,
                                             known->meta.resource_version)
                           .value_or(0) < 0;
    if (older) {
      auto stronger =
          Strengthened(known->meta.annotations, object->meta.annotations);
      if (stronger == known->meta.annotations) return false;
      auto merged = std::make_shared<T>(*known);
      merged->meta.annotations = std::move(stronger);
      known = std::move(merged);
      return true;
    }
    const bool news = known->meta.annotations != object->meta.annotations;
    known = object;
    return news;
  }

  Objects objects_;
  // The highest version of any object that was seen; empty: none.
  std::string highest_;
  bool set_back_ = false;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_OBJECTS_H_
