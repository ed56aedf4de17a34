// Single calls to the API server, for worker threads: each blocks until it is
// answered or its time is over.
#ifndef ESPALIER_AGENT_KUBE_CLIENT_H_
#define ESPALIER_AGENT_KUBE_CLIENT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/kube/objects.h"
#include "agent/kube/transport.h"

namespace espalier::kube {

// A label selector and a field selector, as kubectl takes them; empty: all.
struct Selector {
  std::string labels;
  std::string fields;  // "spec.nodeName=node-a"
};

// Failures are absl codes by the HTTP status, with the server's own message
// and what to do about it:
//   400, 422 InvalidArgument     401 Unauthenticated   403 PermissionDenied
//   404 NotFound                 409 AlreadyExists (a Create) or Aborted (the
//   410 OutOfRange                   object or its owner changed meanwhile)
//   405, 406, 415 Unimplemented  408, 429, 5xx Unavailable
// and those of Transport for the way there.
// Thread-safe as far as the transport is.
class Client {
 public:
  // `transport` outlives the client.
  explicit Client(Transport* transport) : transport_(transport) {}

  // The answer is the object's JSON, for Decode<T>.
  absl::StatusOr<std::string> Get(const std::string& path,
                                  absl::Duration timeout,
                                  Cancellation* cancellation = nullptr);
  // Creates the object or takes over the fields that `body` names (PATCH,
  // application/apply-patch). With `force`, also those of other managers.
  absl::StatusOr<std::string> ServerSideApply(
      const std::string& path, const std::string& body,
      const std::string& field_manager, bool force, absl::Duration timeout,
      Cancellation* cancellation = nullptr);
  // `collection` is the path without the object's name.
  absl::StatusOr<std::string> Create(const std::string& collection,
                                     const std::string& body,
                                     absl::Duration timeout,
                                     Cancellation* cancellation = nullptr);
  // Replaces the object; a resourceVersion in `body` makes it conditional
  // (Aborted when the object has another by now).
  absl::StatusOr<std::string> Update(const std::string& path,
                                     const std::string& body,
                                     absl::Duration timeout,
                                     Cancellation* cancellation = nullptr);
  // A JSON merge patch (RFC 7386).
  absl::StatusOr<std::string> Patch(const std::string& path,
                                    const std::string& body,
                                    absl::Duration timeout,
                                    Cancellation* cancellation = nullptr);
  // With a uid, only that incarnation (else Aborted).
  absl::Status Delete(const std::string& path, const std::string& uid,
                      absl::Duration timeout,
                      Cancellation* cancellation = nullptr);

  // One page of a list; `continue_token` is empty for the first.
  absl::StatusOr<std::string> ListPage(const std::string& collection,
                                       const Selector& selector,
                                       bool metadata_only, int limit,
                                       const std::string& continue_token,
                                       absl::Duration timeout,
                                       Cancellation* cancellation = nullptr);

  template <typename T>
  absl::StatusOr<T> GetObject(const std::string& path, absl::Duration timeout,
                              Cancellation* cancellation = nullptr) {
    absl::StatusOr<std::string> json = Get(path, timeout, cancellation);
    if (!json.ok()) return json.status();
    return Decode<T>(*json);
  }
  // All pages; `timeout` is for each of them. More than kMostObjects is
  // ResourceExhausted.
  static constexpr size_t kMostObjects = 200000;
  static constexpr int kPageSize = 500;
  template <typename T>
  absl::StatusOr<std::vector<T>> List(const std::string& collection,
                                      const Selector& selector,
                                      absl::Duration timeout,
                                      Cancellation* cancellation = nullptr) {
    std::vector<T> all;
    std::string token;
    do {
      absl::StatusOr<std::string> json =
          ListPage(collection, selector, TypeOf<T>().metadata_only, kPageSize,
                   token, timeout, cancellation);
      if (!json.ok()) return json.status();
      absl::StatusOr<Page<T>> page = DecodePage<T>(*json);
      if (!page.ok()) return page.status();
      if (all.size() + page->items.size() > kMostObjects) {
        return absl::ResourceExhaustedError("list " + collection +
                                            ": too many objects");
      }
      for (T& item : page->items) all.push_back(std::move(item));
      // A server that repeats its token would be asked forever.
      if (page->items.empty() || page->continue_token == token) break;
      token = std::move(page->continue_token);
    } while (!token.empty());
    return all;
  }

 private:
  absl::StatusOr<std::string> Call(const std::string& what,
                                   const HttpRequest& request);

  Transport* const transport_;
};

// The status that an answer stands for; OK for 2xx. `what` begins the message
// ("get /api/v1/nodes/a").
absl::Status StatusFromResponse(absl::string_view what,
                                const HttpResponse& response);
// What the server asked to wait before the next try; zero when it did not.
absl::Duration RetryAfter(const absl::Status& status);

// Path with selectors and other parameters, escaped.
class Target {
 public:
  explicit Target(std::string path) : text_(std::move(path)) {}
  // Empty values are left out.
  Target& Add(absl::string_view key, absl::string_view value);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  bool first_ = true;
};
// The Accept header of a list or watch.
std::string AcceptHeader(bool metadata_only, bool list);

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_CLIENT_H_
