// An API server in memory, in the place of the transport: objects of any kind,
// resource versions, pages, watches with bookmarks, apply, conflicts, and the
// ways in which a real one fails. Thread-safe; a watch blocks its caller.
#ifndef ESPALIER_TESTS_SUPPORT_FAKE_KUBE_SERVER_H_
#define ESPALIER_TESTS_SUPPORT_FAKE_KUBE_SERVER_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "agent/kube/transport.h"

namespace espalier::kube {

class FakeKubeServer : public Transport {
 public:
  using Json = nlohmann::json;

  // The state to come back to (Restore).
  struct Snapshot {
    std::map<std::string, Json> objects;
    uint64_t version = 0;
  };

  FakeKubeServer() = default;
  using Transport::Do;
  absl::StatusOr<HttpResponse> Do(const HttpRequest& request,
                                  const Sink& sink) override;

  // What a user's `kubectl apply` does: the whole object, created or replaced
  // (its status, too). `path` is that of the object; uid and resourceVersion
  // are the server's.
  void Set(const std::string& path, const std::string& json);
  void Remove(const std::string& path);
  // The object as it is; null when there is none.
  Json Object(const std::string& path) const;

  // Requests are answered so, and not otherwise, until Answer(0). A status
  // below zero is a broken connection.
  void Answer(int status, absl::Duration retry_after = absl::ZeroDuration());
  // Runs before each request is served; what it returns other than 0 is its
  // HTTP status (an admission policy's 422, RBAC's 403).
  void SetFilter(std::function<int(const HttpRequest&)> filter);
  // TokenReviews know the token from then on; with `reads`, its user may `get`
  // every nonResourceURL.
  void SetToken(const std::string& token, const std::string& user, bool reads);
  // Nobody knows it any more.
  void RevokeToken(const std::string& token);
  // All watches break; without `cleanly` as by a lost connection.
  void BreakWatches(bool cleanly);
  // Events up to now are forgotten: a watch from before gets 410.
  void Compact();
  // All watches get a bookmark.
  void Bookmark();
  Snapshot Save() const;
  // Breaks the watches, too; the history begins anew.
  void Restore(const Snapshot& snapshot);

  // "METHOD target" of every request so far.
  std::vector<std::string> Requests() const;
  // Watches that are waiting now.
  int watching() const;
  uint64_t version() const;

 private:
  struct Logged {
    uint64_t version;
    std::string type;
    std::string path;
    Json object;
    Json before;  // to tell what a selector no longer matches
  };
  struct Parsed {
    std::string path;
    std::map<std::string, std::string> query;
    std::string Get(const std::string& key) const;
  };

  static Parsed Parse(const std::string& target);
  static HttpResponse Error(int status, const std::string& reason,
                            const std::string& message);
  // Whether `path` is an object of `collection` (of any namespace).
  static bool In(const std::string& collection, const std::string& path);
  static bool Matches(const Parsed& parsed, const Json& object);
  HttpResponse Serve(const HttpRequest& request, const Parsed& parsed);
  HttpResponse List(const Parsed& parsed);
  HttpResponse Review(const HttpRequest& request, const Parsed& parsed);
  HttpResponse Write(const HttpRequest& request, const Parsed& parsed);
  absl::StatusOr<HttpResponse> Watch(const HttpRequest& request,
                                     const Parsed& parsed, const Sink& sink);
  // Under the mutex, as all that is below. Gives the object its metadata,
  // stores it and logs the event.
  Json& Store(const std::string& path, Json object);
  void Erase(const std::string& path);
  std::string NextEvent(const Parsed& parsed, uint64_t* position);

  std::condition_variable changed_;
  mutable std::mutex mutex_;  // of what follows
  std::map<std::string, Json> objects_;
  std::deque<Logged> log_;
  uint64_t version_ = 100;
  uint64_t oldest_ = 100;
  uint64_t uids_ = 0;
  int answer_ = 0;
  absl::Duration retry_after_;
  std::function<int(const HttpRequest&)> filter_;
  std::map<std::string, std::string> tokens_;  // their users
  std::set<std::string> readers_;
  std::vector<std::string> requests_;
  uint64_t breaks_ = 0;
  bool clean_break_ = false;
  uint64_t bookmarks_ = 0;
  int watching_ = 0;
};

}  // namespace espalier::kube

#endif  // ESPALIER_TESTS_SUPPORT_FAKE_KUBE_SERVER_H_
