#include "tests/support/fake_kube_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace espalier::kube {
namespace {

std::string Unescape(absl::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t code = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        absl::SimpleHexAtoi(text.substr(i + 1, 2), &code)) {
      plain.push_back(static_cast<char>(code));
      i += 2;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

std::pair<std::string, std::string> SplitLast(const std::string& path) {
  const size_t slash = path.rfind('/');
  return {path.substr(0, slash), path.substr(slash + 1)};
}

std::string TextAt(const nlohmann::json& object, const char* pointer) {
  const nlohmann::json::json_pointer at(pointer);
  return object.contains(at) && object[at].is_string()
             ? object[at].get<std::string>()
             : "";
}

// What the API server keeps of its own when a body replaces an object.
void KeepServersOwn(const nlohmann::json& before, nlohmann::json* object) {
  for (const char* key : {"uid", "creationTimestamp"}) {
    if (before["metadata"].contains(key)) {
      (*object)["metadata"][key] = before["metadata"][key];
    }
  }
}

std::string EventLine(const std::string& type, const nlohmann::json& object) {
  return nlohmann::json{{"type", type}, {"object", object}}.dump() + "\n";
}

}  // namespace

std::string FakeKubeServer::Parsed::Get(const std::string& key) const {
  const auto found = query.find(key);
  return found == query.end() ? "" : found->second;
}

FakeKubeServer::Parsed FakeKubeServer::Parse(const std::string& target) {
  Parsed parsed;
  const std::pair<std::string, std::string> halves =
      absl::StrSplit(target, absl::MaxSplits('?', 1));
  parsed.path = Unescape(halves.first);
  for (absl::string_view pair : absl::StrSplit(halves.second, '&')) {
    const std::pair<std::string, std::string> both =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    parsed.query[both.first] = Unescape(both.second);
  }
  return parsed;
}

HttpResponse FakeKubeServer::Error(int status, const std::string& reason,
                                   const std::string& message) {
  return {.status = status,
          .body = Json{{"kind", "Status"},
                       {"apiVersion", "v1"},
                       {"status", "Failure"},
                       {"message", message},
                       {"reason", reason},
                       {"code", status}}
                      .dump()};
}

bool FakeKubeServer::In(const std::string& collection,
                        const std::string& path) {
  const std::string parent = SplitLast(path).first;
  if (parent == collection) return true;
  // /api/v1/pods holds /api/v1/namespaces/NS/pods.
  const auto [root, plural] = SplitLast(collection);
  return absl::StartsWith(parent, root + "/namespaces/") &&
         absl::EndsWith(parent, "/" + plural) &&
         std::count(parent.begin(), parent.end(), '/') ==
             std::count(root.begin(), root.end(), '/') + 3;
}

bool FakeKubeServer::Matches(const Parsed& parsed, const Json& object) {
  if (object.is_null()) return false;
  const std::string fields = parsed.Get("fieldSelector");
  if (fields.empty()) return true;
  for (absl::string_view one : absl::StrSplit(fields, ',')) {
    const std::pair<std::string, std::string> both =
        absl::StrSplit(one, absl::MaxSplits('=', 1));
    const std::string pointer =
        "/" + absl::StrJoin(absl::StrSplit(both.first, '.'), "/");
    if (TextAt(object, pointer.c_str()) != both.second) return false;
  }
  return true;
}

FakeKubeServer::Json& FakeKubeServer::Store(const std::string& path,
                                            Json object) {
  Json before;
  if (const auto found = objects_.find(path); found != objects_.end()) {
    before = found->second;
    KeepServersOwn(before, &object);
    // A write that changes nothing makes no event.
    object["metadata"]["resourceVersion"] =
        before["metadata"]["resourceVersion"];
    if (object == before) return found->second;
  } else {
    object["metadata"]["uid"] = absl::StrCat("uid-", ++uids_);
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z";
  }
  const auto [parent, name] = SplitLast(path);
  object["metadata"]["name"] = name;
  const std::vector<std::string> parts = absl::StrSplit(parent, '/');
  if (parts.size() > 2 && parts[parts.size() - 3] == "namespaces") {
    object["metadata"]["namespace"] = parts[parts.size() - 2];
  }
  object["metadata"]["resourceVersion"] = absl::StrCat(++version_);
  Json& stored = objects_[path] = std::move(object);
  log_.push_back({.version = version_,
                  .type = before.is_null() ? "ADDED" : "MODIFIED",
                  .path = path,
                  .object = stored,
                  .before = before});
  changed_.notify_all();
  return stored;
}

void FakeKubeServer::Erase(const std::string& path) {
  const auto found = objects_.find(path);
  if (found == objects_.end()) return;
  Json object = std::move(found->second);
  objects_.erase(found);
  Json before = object;
  object["metadata"]["resourceVersion"] = absl::StrCat(++version_);
  log_.push_back({.version = version_,
                  .type = "DELETED",
                  .path = path,
                  .object = std::move(object),
                  .before = std::move(before)});
  changed_.notify_all();
}

HttpResponse FakeKubeServer::List(const Parsed& parsed) {
  size_t limit = 0;
  (void)absl::SimpleAtoi(parsed.Get("limit"), &limit);
  // A page's token is its version and the last path of the page before.
  std::string version = absl::StrCat(version_);
  std::string after;
  if (const std::string token = parsed.Get("continue"); !token.empty()) {
    const std::pair<std::string, std::string> both =
        absl::StrSplit(token, absl::MaxSplits(' ', 1));
    version = both.first;
    after = both.second;
    uint64_t at = 0;
    if (!absl::SimpleAtoi(version, &at) || at < oldest_) {
      return Error(410, "Expired",
                   "The provided continue parameter is too old");
    }
  }
  Json items = Json::array();
  std::string last;
  bool more = false;
  for (const auto& [path, object] : objects_) {
    if (path <= after || !In(parsed.path, path) || !Matches(parsed, object)) {
      continue;
    }
    if (limit != 0 && items.size() >= limit) {
      more = true;
      break;
    }
    items.push_back(object);
    last = path;
  }
  Json meta = {{"resourceVersion", version}};
  if (more) meta["continue"] = absl::StrCat(version, " ", last);
  return {.status = 200,
          .body = Json{{"kind", "List"},
                       {"apiVersion", "v1"},
                       {"metadata", std::move(meta)},
                       {"items", std::move(items)}}
                      .dump()};
}

void FakeKubeServer::SetToken(const std::string& token, const std::string& user,
                              bool reads) {
  const std::lock_guard lock(mutex_);
  tokens_[token] = user;
  if (reads) {
    readers_.insert(user);
  } else {
    readers_.erase(user);
  }
}

void FakeKubeServer::RevokeToken(const std::string& token) {
  const std::lock_guard lock(mutex_);
  tokens_.erase(token);
}

HttpResponse FakeKubeServer::Review(const HttpRequest& request,
                                    const Parsed& parsed) {
  Json review = Json::parse(request.body, nullptr, false);
  if (review.is_discarded()) return Error(400, "BadRequest", "no JSON");
  if (absl::EndsWith(parsed.path, "/tokenreviews")) {
    const auto known = tokens_.find(TextAt(review, "/spec/token"));
    review["status"] = Json::object();
    if (known != tokens_.end()) {
      review["status"] = {{"authenticated", true},
                          {"user",
                           {{"username", known->second},
                            {"uid", "uid-of-" + known->second},
                            {"groups", {"system:authenticated"}},
                            {"extra", {{"example.org/scope", {"metrics"}}}}}}};
    }
  } else {
    // All that the TokenReview said of the user has to be here.
    const bool whole =
        TextAt(review, "/spec/uid") ==
            "uid-of-" + TextAt(review, "/spec/user") &&
        TextAt(review, "/spec/groups/0") == "system:authenticated" &&
        TextAt(review, "/spec/extra/example.org~1scope/0") == "metrics" &&
        TextAt(review, "/spec/nonResourceAttributes/verb") == "get";
    review["status"] = {
        {"allowed", whole && readers_.contains(TextAt(review, "/spec/user"))}};
  }
  return {.status = 201, .body = review.dump()};
}

HttpResponse FakeKubeServer::Write(const HttpRequest& request,
                                   const Parsed& parsed) {
  Json body = Json::parse(request.body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object()) return Error(400, "BadRequest", "no JSON object");
  std::string path = parsed.path;
  const bool apply =
      absl::StartsWith(request.content_type, "application/apply-patch");
  if (request.method == "POST") {
    const std::string name = TextAt(body, "/metadata/name");
    if (name.empty()) return Error(422, "Invalid", "metadata.name: Required");
    absl::StrAppend(&path, "/", name);
    if (objects_.contains(path)) {
      return Error(409, "AlreadyExists", absl::StrCat(path, " already exists"));
    }
    return {.status = 201, .body = Store(path, std::move(body)).dump()};
  }
  std::string part;
  if (absl::EndsWith(path, "/status")) {
    path.resize(path.size() - 7);
    part = "status";
  }
  const auto found = objects_.find(path);
  if (found == objects_.end() && (!apply || !part.empty())) {
    return Error(404, "NotFound", absl::StrCat(path, " not found"));
  }
  Json object = found == objects_.end() ? Json::object() : found->second;
  const std::string expected = TextAt(body, "/metadata/resourceVersion");
  if (!expected.empty() &&
      expected != TextAt(object, "/metadata/resourceVersion")) {
    return Error(409, "Conflict", "the object has been modified");
  }
  if (request.method == "PUT") {
    object = std::move(body);
  } else if (apply && part.empty()) {
    // Status belongs to its subresource.
    body.erase("status");
    object.merge_patch(body);
  } else if (apply) {
    object.merge_patch({{"status", body["status"]}});
  } else {
    object.merge_patch(body);
  }
  return {.status = found == objects_.end() ? 201 : 200,
          .body = Store(path, std::move(object)).dump()};
}

HttpResponse FakeKubeServer::Serve(const HttpRequest& request,
                                   const Parsed& parsed) {
  if (absl::EndsWith(parsed.path, "reviews")) return Review(request, parsed);
  if (request.method == "POST" || request.method == "PUT" ||
      request.method == "PATCH") {
    return Write(request, parsed);
  }
  const auto found = objects_.find(parsed.path);
  if (request.method == "DELETE") {
    if (found == objects_.end()) {
      return Error(404, "NotFound", absl::StrCat(parsed.path, " not found"));
    }
    const Json body = Json::parse(request.body, nullptr, false);
    const std::string uid =
        body.is_object() ? TextAt(body, "/preconditions/uid") : "";
    if (!uid.empty() && uid != TextAt(found->second, "/metadata/uid")) {
      return Error(409, "Conflict", "the UID in the precondition differs");
    }
    Erase(parsed.path);
    return {.status = 200, .body = "{}"};
  }
  if (found != objects_.end()) {
    return {.status = 200, .body = found->second.dump()};
  }
  // A collection's last part is a plural in lower case; an object's path that
  // leads nowhere has one part more.
  static const std::vector<std::string>& collections =
      *new std::vector<std::string>{"espaliernodes", "espaliernodereports",
                                    "namespaces",    "pods",
                                    "nodes",         "leases",
                                    "events"};
  if (std::count(collections.begin(), collections.end(),
                 SplitLast(parsed.path).second) == 0) {
    return Error(404, "NotFound", absl::StrCat(parsed.path, " not found"));
  }
  return List(parsed);
}

absl::StatusOr<HttpResponse> FakeKubeServer::Do(const HttpRequest& request,
                                                const Sink& sink) {
  const Parsed parsed = Parse(request.target);
  if (request.cancellation != nullptr && request.cancellation->cancelled()) {
    return absl::CancelledError("the request was given up");
  }
  std::function<int(const HttpRequest&)> filter;
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(absl::StrCat(request.method, " ", request.target));
    if (answer_ < 0) return absl::UnavailableError("connection refused");
    if (answer_ > 0) {
      HttpResponse response = Error(answer_, "", "as the test has it");
      response.retry_after = retry_after_;
      return response;
    }
    filter = filter_;
  }
  if (filter) {
    if (const int status = filter(request); status != 0) {
      return Error(status, "", "refused by the test's filter");
    }
  }
  if (parsed.Get("watch") == "true") return Watch(request, parsed, sink);
  const std::lock_guard lock(mutex_);
  return Serve(request, parsed);
}

std::string FakeKubeServer::NextEvent(const Parsed& parsed,
                                      uint64_t* position) {
  for (const Logged& logged : log_) {
    if (logged.version <= *position) continue;
    *position = logged.version;
    if (!In(parsed.path, logged.path)) continue;
    const bool now = logged.type != "DELETED" && Matches(parsed, logged.object);
    const bool before = Matches(parsed, logged.before);
    if (!now && !before) continue;
    return EventLine(now ? before ? "MODIFIED" : "ADDED" : "DELETED",
                     logged.object);
  }
  return "";
}

absl::StatusOr<HttpResponse> FakeKubeServer::Watch(const HttpRequest& request,
                                                   const Parsed& parsed,
                                                   const Sink& sink) {
  uint64_t position = 0;
  uint64_t breaks = 0;
  uint64_t bookmarks = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!absl::SimpleAtoi(parsed.Get("resourceVersion"), &position)) {
      return Error(400, "BadRequest", "resourceVersion");
    }
    if (position < oldest_) {
      sink(EventLine("ERROR",
                     Json::parse(Error(410, "Expired", "too old").body)));
      return HttpResponse{.status = 200};
    }
    breaks = breaks_;
    bookmarks = bookmarks_;
    ++watching_;
  }
  bool cancelled = false;
  if (request.cancellation != nullptr) {
    request.cancellation->SetWaker([this, &cancelled] {
      const std::lock_guard lock(mutex_);
      cancelled = true;
      changed_.notify_all();
    });
  }
  absl::StatusOr<HttpResponse> result = HttpResponse{.status = 200};
  bool on = true;
  while (on) {
    std::string line;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        return breaks != breaks_ || bookmarks != bookmarks_ ||
               version_ > position || cancelled;
      });
      if (cancelled) {
        result = absl::CancelledError("the request was given up");
        break;
      }
      if (breaks != breaks_) {
        if (!clean_break_) result = absl::UnavailableError("connection reset");
        break;
      }
      line = NextEvent(parsed, &position);
      if (line.empty()) {
        position = std::max(position, version_);
        if (bookmarks != bookmarks_) {
          bookmarks = bookmarks_;
          line = EventLine(
              "BOOKMARK",
              {{"metadata", {{"resourceVersion", absl::StrCat(position)}}}});
        }
      }
    }
    if (!line.empty() && !sink(line)) {
      result = absl::CancelledError("the answer was of no more use");
      on = false;
    }
  }
  if (request.cancellation != nullptr) {
    request.cancellation->SetWaker(nullptr);
  }
  const std::lock_guard lock(mutex_);
  --watching_;
  return result;
}

void FakeKubeServer::Set(const std::string& path, const std::string& json) {
  const std::lock_guard lock(mutex_);
  Store(path, Json::parse(json));
}

void FakeKubeServer::Remove(const std::string& path) {
  const std::lock_guard lock(mutex_);
  Erase(path);
}

FakeKubeServer::Json FakeKubeServer::Object(const std::string& path) const {
  const std::lock_guard lock(mutex_);
  const auto found = objects_.find(path);
  return found == objects_.end() ? Json() : found->second;
}

void FakeKubeServer::Answer(int status, absl::Duration retry_after) {
  const std::lock_guard lock(mutex_);
  answer_ = status;
  retry_after_ = retry_after;
}

void FakeKubeServer::SetFilter(std::function<int(const HttpRequest&)> filter) {
  const std::lock_guard lock(mutex_);
  filter_ = std::move(filter);
}

void FakeKubeServer::BreakWatches(bool cleanly) {
  const std::lock_guard lock(mutex_);
  clean_break_ = cleanly;
  ++breaks_;
  changed_.notify_all();
}

void FakeKubeServer::Compact() {
  const std::lock_guard lock(mutex_);
  oldest_ = version_ + 1;
  ++version_;
  log_.clear();
  changed_.notify_all();
}

void FakeKubeServer::Bookmark() {
  const std::lock_guard lock(mutex_);
  ++bookmarks_;
  changed_.notify_all();
}

FakeKubeServer::Snapshot FakeKubeServer::Save() const {
  const std::lock_guard lock(mutex_);
  return {objects_, version_};
}

void FakeKubeServer::Restore(const Snapshot& snapshot) {
  const std::lock_guard lock(mutex_);
  objects_ = snapshot.objects;
  version_ = snapshot.version;
  oldest_ = std::min(oldest_, version_);
  log_.clear();
  clean_break_ = false;
  ++breaks_;
  changed_.notify_all();
}

std::vector<std::string> FakeKubeServer::Requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

int FakeKubeServer::watching() const {
  const std::lock_guard lock(mutex_);
  return watching_;
}

uint64_t FakeKubeServer::version() const {
  const std::lock_guard lock(mutex_);
  return version_;
}

}  // namespace espalier::kube
