#include "agent/kube/list_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/kube/json.h"

namespace espalier::kube {
namespace {

// A watch that ends sooner without a word counts as failed: else a server that
// closes each at once would be asked in a tight loop.
constexpr absl::Duration kShortWatch = absl::Seconds(1);
// Beyond the server's own end of the watch, which a stuck server forgets.
constexpr absl::Duration kWatchGrace = absl::Seconds(30);

bool IsNumber(absl::string_view text) {
  return !text.empty() && text.size() <= 64 &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::optional<int> CompareVersions(absl::string_view a, absl::string_view b) {
  if (!IsNumber(a) || !IsNumber(b)) return std::nullopt;
  while (a.size() > 1 && a.front() == '0') a.remove_prefix(1);
  while (b.size() > 1 && b.front() == '0') b.remove_prefix(1);
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  const int order = a.compare(b);
  return order < 0 ? -1 : order > 0 ? 1 : 0;
}

ListWatch::ListWatch(const ObjectType& type, Resource resource,
                     ListWatchOptions options, base::RandomSource* random)
    : type_(type),
      resource_(std::move(resource)),
      options_(options),
      random_(random),
      page_size_(options.page_size),
      lines_(options.max_line_octets) {}

std::variant<ListWatch::Request, ListWatch::Wait> ListWatch::Next(
    base::Instant now) {
  if (now < not_before_) return Wait{not_before_};
  switch (state_) {
    case State::kWatch:
      lines_.Reset();
      watch_began_ = now;
      watch_progressed_ = false;
      relist_ = false;
      watch_failure_ = absl::OkStatus();
      watch_retry_after_ = absl::ZeroDuration();
      return Request{RequestKind::kWatch, WatchRequest()};
    case State::kList:
    case State::kCheck:
      break;
  }
  const bool check = state_ == State::kCheck;
  Target target(resource_.collection);
  target.Add("labelSelector", resource_.selector.labels)
      .Add("fieldSelector", resource_.selector.fields)
      .Add("limit", absl::StrCat(check ? 1 : page_size_))
      .Add("continue", check ? "" : continue_token_);
  return Request{check ? RequestKind::kCheck : RequestKind::kList,
                 {.target = target.text(),
                  .accept = AcceptHeader(type_.metadata_only, /*list=*/true),
                  .timeout = options_.request_timeout,
                  .max_answer = options_.max_page_octets}};
}

HttpRequest ListWatch::WatchRequest() {
  const int64_t seconds = std::max<int64_t>(
      1, absl::ToInt64Seconds(
             Between(options_.watch_shortest, options_.watch_longest)));
  Target target(resource_.collection);
  target.Add("labelSelector", resource_.selector.labels)
      .Add("fieldSelector", resource_.selector.fields)
      .Add("watch", "true")
      .Add("allowWatchBookmarks", "true")
      .Add("resourceVersion", position_)
      .Add("timeoutSeconds", absl::StrCat(seconds));
  return {.target = target.text(),
          .accept = AcceptHeader(type_.metadata_only, /*list=*/false),
          .timeout = absl::Seconds(seconds) + kWatchGrace,
          .idle_timeout = options_.watch_idle};
}

void ListWatch::OnAnswer(base::Instant now,
                         const absl::StatusOr<HttpResponse>& answer) {
  if (answer.ok()) stats_.octets += answer->body.size();
  if (state_ == State::kWatch) return OnWatchEnd(now, answer);
  const bool check = state_ == State::kCheck;
  if (!answer.ok()) {
    if (!check && absl::IsResourceExhausted(answer.status()) &&
        page_size_ > 1) {
      // The continue token goes with it: the page behind it is the too long.
      page_size_ = std::max(1, page_size_ / 2);
      return StartList();
    }
    // A list goes on from the same page: the token stays good for minutes.
    return Failed(now, answer.status(), absl::ZeroDuration());
  }
  const absl::Status status =
      StatusFromResponse(absl::StrCat("list ", resource_.collection), *answer);
  if (!status.ok()) {
    // 410: the token has expired while the pages were read.
    if (!check && absl::IsOutOfRange(status)) StartList();
    return Failed(now, status, RetryAfter(status));
  }
  return check ? OnCheck(now, *answer) : OnListPage(now, *answer);
}

void ListWatch::OnListPage(base::Instant now, const HttpResponse& response) {
  std::string token;
  const absl::Status taken = TakePage(response.body, &token);
  if (!taken.ok()) {
    StartList();
    return Failed(
        now, base::Annotate(taken, absl::StrCat("list ", resource_.collection)),
        absl::ZeroDuration());
  }
  stats_.last_contact = now;
  continue_token_ = std::move(token);
  if (continue_token_.empty()) FinishList(now);
}

absl::Status ListWatch::TakePage(const std::string& body,
                                 std::string* continue_token) {
  const Json page = ParseJson(body);
  const Json* meta = Find(page, "metadata");
  const Json* items = Find(page, "items");
  if (meta == nullptr ||
      (items != nullptr && !items->is_array() && !items->is_null())) {
    ++stats_.undecodable;
    return absl::InvalidArgumentError("the answer is not a list");
  }
  const std::string version = ReadString(*meta, "resourceVersion");
  *continue_token = ReadString(*meta, "continue");
  // All pages are of one moment; else there would be a gap between them that
  // no watch fills.
  if (version.empty() ||
      (!continue_token_.empty() && version != list_version_)) {
    return absl::AbortedError("the list's pages are not of one version");
  }
  const Json& objects = ReadArray(page, "items");
  if (!continue_token->empty() &&
      (objects.empty() || *continue_token == continue_token_)) {
    return absl::AbortedError("the list's pages do not end");
  }
  if (listed_.size() + objects.size() > options_.max_objects) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "more than ", options_.max_objects, " objects; none was taken"));
  }
  list_version_ = version;
  for (const Json& json : objects) {
    absl::StatusOr<DecodedObject> object = type_.decode(json);
    if (!object.ok()) {
      ++stats_.undecodable;
      continue;
    }
    Known known{std::move(object->uid), std::move(object->resource_version),
                std::move(object->value)};
    const auto before = store_.find(object->key);
    if (before != store_.end() && before->second.uid == known.uid &&
        before->second.resource_version == known.resource_version &&
        !known.resource_version.empty()) {
      known.value = before->second.value;
    }
    listed_.insert_or_assign(std::move(object->key), std::move(known));
  }
  return absl::OkStatus();
}

void ListWatch::FinishList(base::Instant now) {
  RawRelist relist;
  relist.first = !stats_.in_sync;
  relist.resource_version = list_version_;
  relist.older_than_seen = CompareVersions(list_version_, highest_) == -1;
  relist.objects.reserve(listed_.size());
  for (const auto& [key, known] : listed_)
    relist.objects.push_back(known.value);
  for (const auto& [key, known] : store_) {
    if (!listed_.contains(key)) relist.missing.push_back(known.value);
  }
  relist.lost_more_than_quarter = relist.missing.size() * 4 > store_.size();
  updates_.push_back(std::move(relist));

  store_ = std::exchange(listed_, {});
  position_ = list_version_;
  if (CompareVersions(position_, highest_) != -1) highest_ = position_;
  stats_.in_sync = true;
  stats_.objects = store_.size();
  ++stats_.lists;
  page_size_ = options_.page_size;
  state_ = State::kWatch;
  Succeeded(now);
}

void ListWatch::OnCheck(base::Instant now, const HttpResponse& response) {
  const Json page = ParseJson(response.body);
  const Json* meta = Find(page, "metadata");
  const std::string version =
      meta == nullptr ? "" : ReadString(*meta, "resourceVersion");
  if (version.empty()) {
    ++stats_.undecodable;
    return Failed(
        now,
        absl::InvalidArgumentError(absl::StrCat("list ", resource_.collection,
                                                ": the answer is not a list")),
        absl::ZeroDuration());
  }
  stats_.last_contact = now;
  if (CompareVersions(version, position_) == -1) return StartList();
  state_ = State::kWatch;
}

bool ListWatch::OnWatchOctets(base::Instant now, absl::string_view octets) {
  stats_.octets += octets.size();
  const LineDecoder::Result result = lines_.Feed(
      octets,
      [this, now](absl::string_view line) { return OnLine(now, line); });
  if (result == LineDecoder::Result::kTooLong) {
    // The event cannot be skipped: what it says has to come by a list.
    ++stats_.undecodable;
    relist_ = true;
    watch_failure_ = absl::ResourceExhaustedError(
        absl::StrCat("watch ", resource_.collection, ": an event longer than ",
                     options_.max_line_octets, " octets"));
  }
  return result == LineDecoder::Result::kMore;
}

bool ListWatch::OnLine(base::Instant now, absl::string_view line) {
  const Json event = ParseJson(line);
  const Json* object = Find(event, "object");
  const std::string type = ReadString(event, "type");
  if (object == nullptr || !object->is_object() || type.empty()) {
    // Whatever it was, it was not taken, so the position stays and the next
    // watch brings it again.
    ++stats_.undecodable;
    watch_failure_ = absl::InvalidArgumentError(absl::StrCat(
        "watch ", resource_.collection, ": a line that is no event"));
    return false;
  }
  if (type == "ERROR") return OnErrorEvent(*object);
  stats_.last_contact = now;
  if (type == "BOOKMARK") {
    const Json* version = Find(*object, "metadata", "resourceVersion");
    if (version != nullptr && version->is_string()) {
      Advance(version->get_ref<const std::string&>());
      ++stats_.bookmarks;
    }
  } else if (type == "ADDED" || type == "MODIFIED" || type == "DELETED") {
    OnObjectEvent(type, *object);
  } else {
    ++stats_.ignored;
  }
  Succeeded(now);
  watch_progressed_ = true;
  return true;
}

bool ListWatch::OnErrorEvent(const nlohmann::json& object) {
  HttpResponse response;
  const int64_t code = ReadInt(object, "code", 500);
  response.status = code < 300 || code > 599 ? 500 : static_cast<int>(code);
  response.body = Dump(object);
  watch_failure_ = StatusFromResponse(
      absl::StrCat("watch ", resource_.collection), response);
  watch_retry_after_ = RetryAfter(watch_failure_);
  relist_ = absl::IsOutOfRange(watch_failure_);
  return false;
}

void ListWatch::OnObjectEvent(absl::string_view type,
                              const nlohmann::json& object) {
  absl::StatusOr<DecodedObject> decoded = type_.decode(object);
  if (!decoded.ok()) {
    ++stats_.undecodable;
    return;
  }
  if (!Advance(decoded->resource_version)) {
    ++stats_.ignored;
    return;
  }
  const auto known = store_.find(decoded->key);
  if (type == "DELETED") {
    // Of another uid: the end of one that came before the one we know.
    if (known == store_.end() || known->second.uid != decoded->uid) {
      ++stats_.ignored;
      return;
    }
    store_.erase(known);
    updates_.push_back(RawDeleted{std::move(decoded->value)});
  } else {
    if (known != store_.end() && known->second.uid == decoded->uid &&
        known->second.resource_version == decoded->resource_version) {
      ++stats_.ignored;
      return;
    }
    if (known == store_.end() && store_.size() >= options_.max_objects) {
      ++stats_.ignored;
      return;
    }
    updates_.push_back(RawPut{decoded->value});
    store_.insert_or_assign(
        std::move(decoded->key),
        Known{std::move(decoded->uid), std::move(decoded->resource_version),
              std::move(decoded->value)});
  }
  ++stats_.events;
  stats_.objects = store_.size();
}

bool ListWatch::Advance(const std::string& version) {
  const std::optional<int> order = CompareVersions(version, position_);
  if (version.empty() || version == position_ ||
      (order.has_value() && *order <= 0)) {
    return false;
  }
  position_ = version;
  if (CompareVersions(position_, highest_) != -1) highest_ = position_;
  return true;
}

void ListWatch::OnWatchEnd(base::Instant now,
                           const absl::StatusOr<HttpResponse>& answer) {
  ++stats_.watches;
  lines_.Reset();
  if (relist_) {
    StartList();
    // 410 is the way of things; an event too long is not.
    if (absl::IsOutOfRange(watch_failure_) && stats_.failures == 0) return;
    return Failed(now, watch_failure_, watch_retry_after_);
  }
  if (!watch_failure_.ok()) {
    return Failed(now, watch_failure_, watch_retry_after_);
  }
  if (!answer.ok()) {
    // The connection broke, or was silent for too long: which server answers
    // next, and with which state, is to be seen.
    state_ = State::kCheck;
    return Failed(now,
                  base::Annotate(answer.status(),
                                 absl::StrCat("watch ", resource_.collection)),
                  absl::ZeroDuration());
  }
  const absl::Status status =
      StatusFromResponse(absl::StrCat("watch ", resource_.collection), *answer);
  if (absl::IsOutOfRange(status)) {
    StartList();
    if (stats_.failures == 0) return;
  }
  if (!status.ok()) return Failed(now, status, RetryAfter(status));
  if (!watch_progressed_ && now - watch_began_ < kShortWatch) {
    state_ = State::kCheck;
    return Failed(now,
                  absl::UnavailableError(absl::StrCat(
                      "watch ", resource_.collection,
                      ": the server ended it at once, without a word")),
                  absl::ZeroDuration());
  }
  Succeeded(now);
}

void ListWatch::StartList() {
  state_ = State::kList;
  listed_.clear();
  list_version_.clear();
  continue_token_.clear();
}

void ListWatch::Failed(base::Instant now, const absl::Status& status,
                       absl::Duration retry_after) {
  stats_.last_failure = status;
  stats_.failures = std::min(stats_.failures + 1, 1000);
  absl::Duration ceiling = options_.backoff_first;
  for (int i = 1; i < stats_.failures && ceiling < options_.backoff_most; ++i) {
    ceiling *= 2;
  }
  ceiling = std::min(ceiling, options_.backoff_most);
  const absl::Duration own = Between(ceiling / 2, ceiling);
  // Spread out behind what the server asked for, never before it.
  const absl::Duration asked = std::min(retry_after, options_.retry_after_most);
  not_before_ = now + (asked > absl::ZeroDuration()
                           ? asked + Between(absl::ZeroDuration(), ceiling)
                           : own);
}

void ListWatch::Succeeded(base::Instant now) {
  stats_.failures = 0;
  stats_.last_failure = absl::OkStatus();
  stats_.last_contact = now;
}

absl::Duration ListWatch::Between(absl::Duration from, absl::Duration to) {
  if (to <= from) return from;
  return from +
         (to - from) * (static_cast<double>(random_->U32()) / 4294967296.0);
}

std::vector<RawUpdate> ListWatch::TakeUpdates() {
  return std::exchange(updates_, {});
}

}  // namespace espalier::kube
