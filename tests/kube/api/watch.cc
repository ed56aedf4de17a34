// kube-api-watch KUBECONFIG COLLECTION...: informers as an agent has them, and
// on stdout a JSON line for each update and, at each line on stdin, for the
// figures so far. Ends with stdin.
#include <sys/resource.h>

#include <condition_variable>
#include <deque>
#include <fstream>
#include <future>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/kube/cluster_access.h"
#include "agent/kube/curl_transport.h"
#include "agent/kube/informer.h"

namespace espalier::kube {
namespace {

using Json = nlohmann::json;

class SomeRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) octet = next_ += 57;
  }

 private:
  uint8_t next_ = 0;
};

// A thread that does one thing after the other.
class Worker : public base::Executor {
 public:
  Worker() : thread_([this] { Run(); }) {}
  ~Worker() override {
    Post(nullptr);
    thread_.join();
  }
  void Post(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_one();
  }

 private:
  void Run() {
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        posted_.wait(lock, [this] { return !tasks_.empty(); });
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      if (!task) return;
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> tasks_;
  std::thread thread_;
};

void Say(const Json& line) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::cout << line.dump() << std::endl;
}

// KiB.
int64_t Resident() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4;
}

double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return time.tv_sec + time.tv_usec / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Json Figures(const std::string& collection, const ListWatchStats& stats) {
  return {{"what", "figures"},
          {"collection", collection},
          {"inSync", stats.in_sync},
          {"objects", stats.objects},
          {"lists", stats.lists},
          {"watches", stats.watches},
          {"events", stats.events},
          {"bookmarks", stats.bookmarks},
          {"ignored", stats.ignored},
          {"undecodable", stats.undecodable},
          {"octets", stats.octets},
          {"failures", stats.failures},
          {"lastFailure", stats.last_failure.ToString()},
          {"resident", Resident()},
          {"processorSeconds", ProcessorSeconds()}};
}

// Keeps what it is told, as an agent does.
template <typename T>
class Watched {
 public:
  Watched(std::string collection, Transport* transport, Worker* worker)
      : collection_(std::move(collection)),
        informer_(transport, {collection_, {}}, worker, &random_,
                  [this](std::vector<Update<T>> updates) {
                    for (const Update<T>& update : updates) Take(update);
                  }) {
    informer_.Start();
  }
  void Tell() { Say(Figures(collection_, informer_.Stats())); }
  void Stop() { informer_.Stop(); }

 private:
  void Take(const Update<T>& update) {
    Json line = {{"collection", collection_}};
    if (const auto* relist = std::get_if<Relist<T>>(&update)) {
      kept_.clear();
      for (const auto& object : relist->objects) {
        kept_[object->meta.Key()] = object;
      }
      line["what"] = "list";
      line["objects"] = relist->objects.size();
      line["missing"] = relist->missing.size();
      line["first"] = relist->first;
      line["older"] = relist->older_than_seen;
      line["lost"] = relist->lost_more_than_quarter;
    } else if (const auto* put = std::get_if<Put<T>>(&update)) {
      kept_[put->object->meta.Key()] = put->object;
      line["what"] = "put";
      line["key"] = put->object->meta.Key();
      const auto& annotations = put->object->meta.annotations;
      if (const auto mode = annotations.find("espalier.dev/encryption");
          mode != annotations.end()) {
        line["annotation"] = mode->second;
      }
    } else {
      const auto& object = std::get<Deleted<T>>(update).object;
      kept_.erase(object->meta.Key());
      line["what"] = "deleted";
      line["key"] = object->meta.Key();
    }
    Say(line);
  }

  const std::string collection_;
  SomeRandom random_;
  std::map<std::string, Object<T>> kept_;
  Informer<T> informer_;
};

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0]
              << " KUBECONFIG espaliernodes|namespaces|pods...\n";
    return 2;
  }
  absl::StatusOr<ClusterAccess::Parts> parts =
      ClusterAccess::Kubeconfig(argv[1]);
  if (!parts.ok()) {
    std::cerr << parts.status() << "\n";
    return 1;
  }
  ClusterAccess access(*std::move(parts));
  CurlTransport transport(&access);
  Worker worker;
  std::unique_ptr<Watched<EspalierNode>> nodes;
  std::unique_ptr<Watched<NamespaceMeta>> namespaces;
  std::unique_ptr<Watched<Pod>> pods;
  for (int i = 2; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "espaliernodes") {
      nodes = std::make_unique<Watched<EspalierNode>>(kEspalierNodes,
                                                      &transport, &worker);
    } else if (name == "namespaces") {
      namespaces = std::make_unique<Watched<NamespaceMeta>>(
          kNamespaces, &transport, &worker);
    } else if (name == "pods") {
      pods = std::make_unique<Watched<Pod>>(kPods, &transport, &worker);
    } else {
      std::cerr << "no collection " << name << "\n";
      return 2;
    }
  }
  for (std::string line; std::getline(std::cin, line);) {
    if (nodes) nodes->Tell();
    if (namespaces) namespaces->Tell();
    if (pods) pods->Tell();
  }
  // On the worker, as Stop() wants it.
  std::promise<void> stopped;
  worker.Post([&] {
    if (nodes) nodes->Stop();
    if (namespaces) namespaces->Stop();
    if (pods) pods->Stop();
    stopped.set_value();
  });
  stopped.get_future().wait();
  return 0;
}

}  // namespace
}  // namespace espalier::kube

int main(int argc, char** argv) { return espalier::kube::Main(argc, argv); }
