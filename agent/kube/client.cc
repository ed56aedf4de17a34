#include "agent/kube/client.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/kube/json.h"

namespace espalier::kube {
namespace {

constexpr char kRetryAfterPayload[] = "espalier.dev/retry-after-seconds";
constexpr size_t kMostMessage = 1024;

std::string Escape(absl::string_view text) {
  std::string escaped;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' ||
        c == '~') {
      escaped.push_back(static_cast<char>(c));
    } else {
      absl::StrAppend(&escaped, "%", absl::Hex(c, absl::kZeroPad2));
    }
  }
  return escaped;
}

absl::StatusCode CodeOf(int status, absl::string_view reason) {
  switch (status) {
    case 400:
    case 422:
      return absl::StatusCode::kInvalidArgument;
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 405:
    case 406:
    case 415:
      return absl::StatusCode::kUnimplemented;
    case 408:
    case 429:
      return absl::StatusCode::kUnavailable;
    case 409:
      return reason == "AlreadyExists" ? absl::StatusCode::kAlreadyExists
                                       : absl::StatusCode::kAborted;
    case 410:
      return absl::StatusCode::kOutOfRange;
    default:
      return status >= 500 ? absl::StatusCode::kUnavailable
                           : absl::StatusCode::kUnknown;
  }
}

absl::string_view Advice(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnauthenticated:
      return "check the service account's token or the kubeconfig's user";
    case absl::StatusCode::kPermissionDenied:
      return "check the RBAC role and the admission policies of the chart";
    case absl::StatusCode::kNotFound:
      return "check that the object exists and the chart's CRDs are installed";
    case absl::StatusCode::kAborted:
      return "read the object again, then repeat the change";
    case absl::StatusCode::kUnimplemented:
      return "check that the API server is Kubernetes 1.30 or newer";
    default:
      return "";
  }
}

}  // namespace

std::string ObjectPath(absl::string_view collection, absl::string_view name) {
  return absl::StrCat(collection, "/", Escape(name));
}

std::string StatusPath(absl::string_view collection, absl::string_view name) {
  return absl::StrCat(ObjectPath(collection, name), "/status");
}

std::string PodsPath(absl::string_view name_space) {
  return absl::StrCat("/api/v1/namespaces/", Escape(name_space), "/pods");
}

std::string EventsPath(absl::string_view name_space) {
  return absl::StrCat("/api/v1/namespaces/", Escape(name_space), "/events");
}

std::string LeasesPath(absl::string_view name_space) {
  return absl::StrCat("/apis/coordination.k8s.io/v1/namespaces/",
                      Escape(name_space), "/leases");
}

Target& Target::Add(absl::string_view key, absl::string_view value) {
  if (value.empty()) return *this;
  absl::StrAppend(&text_, first_ ? "?" : "&", key, "=", Escape(value));
  first_ = false;
  return *this;
}

std::string AcceptHeader(bool metadata_only, bool list) {
  if (!metadata_only) return "application/json";
  return absl::StrCat("application/json;as=PartialObjectMetadata",
                      list ? "List" : "", ";g=meta.k8s.io;v=v1");
}

absl::Status StatusFromResponse(absl::string_view what,
                                const HttpResponse& response) {
  if (response.status >= 200 && response.status < 300) return absl::OkStatus();
  const Json parsed = ParseJson(response.body);
  const std::string reason = ReadString(parsed, "reason");
  const absl::StatusCode code = CodeOf(response.status, reason);
  std::string message = ReadString(parsed, "message");
  if (message.empty()) message = response.body;
  if (message.size() > kMostMessage) message.resize(kMostMessage);
  std::string text = absl::StrCat(what, ": HTTP ", response.status);
  if (!reason.empty()) absl::StrAppend(&text, " ", reason);
  if (!message.empty())
    absl::StrAppend(&text, ": ", absl::Utf8SafeCEscape(message));
  if (const absl::string_view advice = Advice(code); !advice.empty()) {
    absl::StrAppend(&text, " (", advice, ")");
  }
  absl::Status status(code, text);
  absl::Duration wait = response.retry_after;
  if (const Json* details = Find(parsed, "details")) {
    const int64_t seconds = ReadInt(*details, "retryAfterSeconds");
    if (wait <= absl::ZeroDuration() && seconds > 0) {
      wait = absl::Seconds(seconds);
    }
  }
  if (wait > absl::ZeroDuration()) {
    status.SetPayload(kRetryAfterPayload,
                      absl::Cord(absl::string_view(
                          absl::StrCat(absl::ToInt64Seconds(wait)))));
  }
  return status;
}

absl::Duration RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfterPayload);
  int64_t seconds = 0;
  if (!payload.has_value() ||
      !absl::SimpleAtoi(std::string(*payload), &seconds)) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(seconds);
}

absl::StatusOr<std::string> Client::Call(const std::string& what,
                                         const HttpRequest& request) {
  absl::StatusOr<HttpResponse> response = transport_->Do(request);
  if (!response.ok()) return base::Annotate(response.status(), what);
  ESPALIER_RETURN_IF_ERROR(StatusFromResponse(what, *response));
  return std::move(response->body);
}

absl::StatusOr<std::string> Client::Get(const std::string& path,
                                        absl::Duration timeout,
                                        Cancellation* cancellation) {
  return Call(
      absl::StrCat("get ", path),
      {.target = path, .timeout = timeout, .cancellation = cancellation});
}

absl::StatusOr<std::string> Client::ServerSideApply(
    const std::string& path, const std::string& body,
    const std::string& field_manager, bool force, absl::Duration timeout,
    Cancellation* cancellation) {
  // JSON is YAML; a JSON media type for apply exists from 1.36 on only.
  return Call(absl::StrCat("apply ", path, " as ", field_manager),
              {.method = "PATCH",
               .target = Target(path)
                             .Add("fieldManager", field_manager)
                             .Add("force", force ? "true" : "false")
                             .text(),
               .content_type = "application/apply-patch+yaml",
               .body = body,
               .timeout = timeout,
               .cancellation = cancellation});
}

absl::StatusOr<std::string> Client::Create(const std::string& collection,
                                           const std::string& body,
                                           absl::Duration timeout,
                                           Cancellation* cancellation) {
  return Call(absl::StrCat("create in ", collection),
              {.method = "POST",
               .target = collection,
               .content_type = "application/json",
               .body = body,
               .timeout = timeout,
               .cancellation = cancellation});
}

absl::StatusOr<std::string> Client::Update(const std::string& path,
                                           const std::string& body,
                                           absl::Duration timeout,
                                           Cancellation* cancellation) {
  return Call(absl::StrCat("update ", path),
              {.method = "PUT",
               .target = path,
               .content_type = "application/json",
               .body = body,
               .timeout = timeout,
               .cancellation = cancellation});
}

absl::StatusOr<std::string> Client::Patch(const std::string& path,
                                          const std::string& body,
                                          absl::Duration timeout,
                                          Cancellation* cancellation) {
  return Call(absl::StrCat("patch ", path),
              {.method = "PATCH",
               .target = path,
               .content_type = "application/merge-patch+json",
               .body = body,
               .timeout = timeout,
               .cancellation = cancellation});
}

absl::Status Client::Delete(const std::string& path, const std::string& uid,
                            absl::Duration timeout,
                            Cancellation* cancellation) {
  HttpRequest request{.method = "DELETE",
                      .target = path,
                      .timeout = timeout,
                      .cancellation = cancellation};
  if (!uid.empty()) {
    request.content_type = "application/json";
    request.body = Dump({{"kind", "DeleteOptions"},
                         {"apiVersion", "v1"},
                         {"preconditions", {{"uid", uid}}}});
  }
  return Call(absl::StrCat("delete ", path), request).status();
}

absl::StatusOr<std::string> Client::ListPage(const std::string& collection,
                                             const Selector& selector,
                                             bool metadata_only, int limit,
                                             const std::string& continue_token,
                                             absl::Duration timeout,
                                             Cancellation* cancellation) {
  return Call(absl::StrCat("list ", collection),
              {.target = Target(collection)
                             .Add("labelSelector", selector.labels)
                             .Add("fieldSelector", selector.fields)
                             .Add("limit", absl::StrCat(limit))
                             .Add("continue", continue_token)
                             .text(),
               .accept = AcceptHeader(metadata_only, /*list=*/true),
               .timeout = timeout,
               .cancellation = cancellation});
}

}  // namespace espalier::kube
