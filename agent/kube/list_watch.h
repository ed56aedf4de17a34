// List and watch of one collection, without IO: says which request comes next,
// takes its answer, and tells what has changed. One owner, one thread.
//
// The rules are those of the API's "efficient detection of changes": list in
// pages, watch from the list's resourceVersion, follow bookmarks, list again
// after 410. On top of them:
//   - an event that is not newer than the position reached is ignored, and so
//     is one whose uid and resourceVersion are those already known;
//   - after a break that was not the server's own end of the watch, the
//     server's resourceVersion is asked for first: of a server that was set
//     back to an older state a watch would silently say nothing for hours;
//   - a list that is older than what was seen, or that lacks more than a
//     quarter of what was there, is reported as such. It is for the owner to
//     believe it or not; nothing is invented or withheld here.
#ifndef ESPALIER_AGENT_KUBE_LIST_WATCH_H_
#define ESPALIER_AGENT_KUBE_LIST_WATCH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/random.h"
#include "agent/kube/client.h"
#include "agent/kube/line_decoder.h"
#include "agent/kube/objects.h"
#include "agent/kube/transport.h"

namespace espalier::kube {

struct Resource {
  std::string collection;  // kEspalierNodes, PodsPath(...), ...
  Selector selector;
};

struct ListWatchOptions {
  int page_size = 500;
  // A page longer than this is asked for again with half as many objects.
  size_t max_page_octets = size_t{32} << 20;
  size_t max_line_octets = size_t{4} << 20;
  // A list of more than this is refused, and what was known stays.
  size_t max_objects = 100000;
  absl::Duration request_timeout = absl::Seconds(60);
  // The server ends a watch after a time drawn from here, so that agents
  // spread over API servers anew and not all at once.
  absl::Duration watch_shortest = absl::Minutes(5);
  absl::Duration watch_longest = absl::Minutes(10);
  // A watch without one octet for so long is taken for dead. The server sends
  // a bookmark about once a minute.
  absl::Duration watch_idle = absl::Seconds(150);
  absl::Duration backoff_first = absl::Milliseconds(800);
  absl::Duration backoff_most = absl::Seconds(30);
  // What Retry-After may ask for at most.
  absl::Duration retry_after_most = absl::Minutes(5);
};

// What is told to the owner, untyped; Informer<T> gives it types.
using ObjectPointer = std::shared_ptr<const void>;
struct RawRelist {
  std::vector<ObjectPointer> objects;
  std::vector<ObjectPointer> missing;
  std::string resource_version;
  bool first = false;
  bool older_than_seen = false;
  bool lost_more_than_quarter = false;
};
struct RawPut {
  ObjectPointer object;
};
struct RawDeleted {
  ObjectPointer object;
};
using RawUpdate = std::variant<RawRelist, RawPut, RawDeleted>;

struct ListWatchStats {
  bool in_sync = false;  // a complete list has been seen
  size_t objects = 0;
  uint64_t lists = 0;
  uint64_t watches = 0;
  uint64_t events = 0;  // taken
  uint64_t bookmarks = 0;
  uint64_t ignored = 0;      // duplicate, out of order
  uint64_t undecodable = 0;  // lines and objects
  uint64_t octets = 0;       // of answers, uncompressed
  int failures = 0;          // in a row; 0: all is well
  absl::Status last_failure;
  // When the server last said something that was taken.
  base::Instant last_contact = absl::InfinitePast();
};

// Compares two resourceVersions: -1, 0, 1; nullopt when either is no number.
std::optional<int> CompareVersions(absl::string_view a, absl::string_view b);

class ListWatch {
 public:
  enum class RequestKind { kList, kCheck, kWatch };
  struct Request {
    RequestKind kind;
    HttpRequest http;
  };
  struct Wait {
    base::Instant until;
  };

  // `random` outlives this.
  ListWatch(const ObjectType& type, Resource resource, ListWatchOptions options,
            base::RandomSource* random);

  // What to do now. Asking again changes nothing that matters.
  std::variant<Request, Wait> Next(base::Instant now);

  // Octets of a running watch's answer; false: end it (OnAnswer follows).
  bool OnWatchOctets(base::Instant now, absl::string_view octets);
  // The request's end, whichever kind it was.
  void OnAnswer(base::Instant now, const absl::StatusOr<HttpResponse>& answer);

  // What has changed since the last call, in order.
  std::vector<RawUpdate> TakeUpdates();
  bool has_updates() const { return !updates_.empty(); }
  const ListWatchStats& stats() const { return stats_; }
  const Resource& resource() const { return resource_; }

 private:
  enum class State { kList, kCheck, kWatch };
  struct Known {
    std::string uid;
    std::string resource_version;
    ObjectPointer value;
  };
  using Store = std::map<std::string, Known>;

  void OnListPage(base::Instant now, const HttpResponse& response);
  absl::Status TakePage(const std::string& body, std::string* continue_token);
  void FinishList(base::Instant now);
  void OnCheck(base::Instant now, const HttpResponse& response);
  void OnWatchEnd(base::Instant now,
                  const absl::StatusOr<HttpResponse>& answer);
  bool OnLine(base::Instant now, absl::string_view line);
  bool OnErrorEvent(const nlohmann::json& object);
  void OnObjectEvent(absl::string_view type, const nlohmann::json& object);
  // Whether `version` is past the position, which it then becomes.
  bool Advance(const std::string& version);
  void StartList();
  void Failed(base::Instant now, const absl::Status& status,
              absl::Duration retry_after);
  void Succeeded(base::Instant now);
  absl::Duration Between(absl::Duration from, absl::Duration to);
  HttpRequest WatchRequest();

  const ObjectType& type_;
  const Resource resource_;
  const ListWatchOptions options_;
  base::RandomSource* const random_;

  State state_ = State::kList;
  base::Instant not_before_ = absl::InfinitePast();
  Store store_;
  std::string position_;  // resourceVersion to watch from
  std::string highest_;   // highest ever seen
  std::vector<RawUpdate> updates_;
  ListWatchStats stats_;

  // A list being read.
  Store listed_;
  std::string list_version_;
  std::string continue_token_;
  int page_size_;

  // A watch being read.
  LineDecoder lines_;
  base::Instant watch_began_ = absl::InfinitePast();
  bool watch_progressed_ = false;
  bool relist_ = false;
  absl::Status watch_failure_;
  absl::Duration watch_retry_after_ = absl::ZeroDuration();
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_LIST_WATCH_H_
