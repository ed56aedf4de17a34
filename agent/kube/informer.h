// Keeps up with one collection on a thread of its own, and posts what changes
// to an executor, typed.
//
//   kube::Informer<kube::EspalierNode> nodes(
//       &transport, {kube::kEspalierNodes, {}}, loop, &random,
//       [this](std::vector<kube::Update<kube::EspalierNode>> updates) {...});
//   nodes.Start();
#ifndef ESPALIER_AGENT_KUBE_INFORMER_H_
#define ESPALIER_AGENT_KUBE_INFORMER_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "agent/base/executor.h"
#include "agent/base/random.h"
#include "agent/kube/list_watch.h"
#include "agent/kube/objects.h"
#include "agent/kube/transport.h"

namespace espalier::kube {

template <typename T>
using Object = std::shared_ptr<const T>;

// A complete list: the first is the signal that this is in sync; later ones
// follow a lost watch. It stands in place of all that was told before, unless
// the owner distrusts it: `older_than_seen` says that the server's state is
// one from before what was already told (etcd was restored), and
// `lost_more_than_quarter` that more than a quarter of what was known is not
// in it. Both compare with what the server said before, not with what the
// owner kept: after one relist that it distrusts, the owner compares for
// itself. An object that has not changed is the same pointer as before.
template <typename T>
struct Relist {
  std::vector<Object<T>> objects;
  std::vector<Object<T>> missing;  // were there before, as last known
  std::string resource_version;
  bool first = false;
  bool older_than_seen = false;
  bool lost_more_than_quarter = false;
};
// New, or changed. Another uid under a known name is another object.
template <typename T>
struct Put {
  Object<T> object;
};
// Seen to be deleted, or to match the selector no more; as it last was.
template <typename T>
struct Deleted {
  Object<T> object;
};
template <typename T>
using Update = std::variant<Relist<T>, Put<T>, Deleted<T>>;

// Runs a ListWatch over a transport.
class RawInformer {
 public:
  using Consumer = std::function<void(std::vector<RawUpdate>)>;

  RawInformer(const ObjectType& type, Transport* transport, Resource resource,
              base::Executor* executor, base::RandomSource* random,
              Consumer consumer, ListWatchOptions options);
  RawInformer(const RawInformer&) = delete;
  RawInformer& operator=(const RawInformer&) = delete;
  ~RawInformer();
  void Start();
  void Stop();
  ListWatchStats Stats() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

template <typename T>
class Informer {
 public:
  using Consumer = std::function<void(std::vector<Update<T>>)>;

  // All pointers outlive the informer; `random` is used on its thread.
  // `consumer` runs on the executor. When the executor falls far behind, the
  // informer stops reading, so that the wait is the server's and not memory.
  Informer(Transport* transport, Resource resource, base::Executor* executor,
           base::RandomSource* random, Consumer consumer,
           ListWatchOptions options = {})
      : raw_(
            TypeOf<T>(), transport, std::move(resource), executor, random,
            [consumer = std::move(consumer)](std::vector<RawUpdate> raw) {
              std::vector<Update<T>> typed;
              typed.reserve(raw.size());
              for (RawUpdate& update : raw) {
                typed.push_back(Typed(std::move(update)));
              }
              consumer(std::move(typed));
            },
            options) {}

  // Once.
  void Start() { raw_.Start(); }
  // On the executor's thread: the consumer is not called any more. Ends the
  // running request and joins the thread. The destructor does it too.
  void Stop() { raw_.Stop(); }
  // For metrics and health, from any thread.
  ListWatchStats Stats() const { return raw_.Stats(); }

 private:
  static Object<T> Cast(const ObjectPointer& object) {
    return std::static_pointer_cast<const T>(object);
  }
  static std::vector<Object<T>> Cast(const std::vector<ObjectPointer>& raw) {
    std::vector<Object<T>> typed;
    typed.reserve(raw.size());
    for (const ObjectPointer& object : raw) typed.push_back(Cast(object));
    return typed;
  }
  static Update<T> Typed(RawUpdate update) {
    if (auto* relist = std::get_if<RawRelist>(&update)) {
      return Relist<T>{
          .objects = Cast(relist->objects),
          .missing = Cast(relist->missing),
          .resource_version = std::move(relist->resource_version),
          .first = relist->first,
          .older_than_seen = relist->older_than_seen,
          .lost_more_than_quarter = relist->lost_more_than_quarter};
    }
    if (auto* put = std::get_if<RawPut>(&update)) {
      return Put<T>{Cast(put->object)};
    }
    return Deleted<T>{Cast(std::get<RawDeleted>(update).object)};
  }

  RawInformer raw_;
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_INFORMER_H_
