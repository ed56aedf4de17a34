#include "agent/kube/access_review.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "agent/base/bytes.h"
#include "agent/base/status_macros.h"
#include "agent/kube/json.h"

namespace espalier::kube {
namespace {

constexpr char kTokenReviews[] = "/apis/authentication.k8s.io/v1/tokenreviews";
constexpr char kSubjectAccessReviews[] =
    "/apis/authorization.k8s.io/v1/subjectaccessreviews";

base::ByteSpan Octets(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::StatusOr<Json> Answer(const char* what, const std::string& body) {
  Json answer = ParseJson(body);
  if (Find(answer, "status") == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("the API server's ", what, " has no status"));
  }
  return answer;
}

// The user of a TokenReview as a SubjectAccessReview names it.
Json SubjectOf(const Json& user) {
  Json subject = {{"user", ReadString(user, "username")},
                  {"groups", ReadArray(user, "groups")}};
  if (const std::string uid = ReadString(user, "uid"); !uid.empty()) {
    subject["uid"] = uid;
  }
  if (const Json* extra = Find(user, "extra");
      extra != nullptr && extra->is_object()) {
    subject["extra"] = *extra;
  }
  return subject;
}

}  // namespace

AccessReview::AccessReview(Transport* transport, base::Clock* clock,
                           std::string path, Cancellation* cancellation)
    : client_(transport),
      clock_(clock),
      path_(std::move(path)),
      cancellation_(cancellation) {}

const AccessReview::Known* AccessReview::Find(const std::deque<Known>& known,
                                              absl::string_view token) {
  const auto found = std::ranges::find_if(known, [&](const Known& one) {
    return base::ConstantTimeEqual(one.token.span(), Octets(token));
  });
  return found == known.end() ? nullptr : &*found;
}

void AccessReview::Remember(absl::string_view token, Verdict verdict) {
  const auto forget = [&](std::deque<Known>* known) {
    std::erase_if(*known, [&](const Known& one) {
      return base::ConstantTimeEqual(one.token.span(), Octets(token));
    });
  };
  forget(&allowed_);
  forget(&refused_);
  const bool allowed = verdict == Verdict::kAllowed;
  std::deque<Known>& known = allowed ? allowed_ : refused_;
  if (known.size() >= (allowed ? kMostAllowed : kMostRefused)) {
    known.pop_front();
  }
  known.push_back({base::SecretBytes(Octets(token)), verdict,
                   clock_->Now() + (allowed ? kAllowedFor : kRefusedFor)});
}

bool AccessReview::MayAsk() {
  const base::Instant now = clock_->Now();
  if (refilled_ != absl::InfinitePast()) {
    reviews_left_ = std::min(
        kReviewsAtOnce, reviews_left_ + absl::ToDoubleSeconds(now - refilled_) *
                                            kReviewsASecond);
  }
  refilled_ = now;
  if (reviews_left_ < 1) return false;
  reviews_left_ -= 1;
  return true;
}

absl::StatusOr<AccessReview::Verdict> AccessReview::Check(
    absl::string_view token) {
  // Nothing that a token is made of.
  if (token.empty() || token.size() > kLongestToken ||
      !std::ranges::all_of(token, absl::ascii_isgraph)) {
    return Verdict::kUnknownToken;
  }
  const base::Instant now = clock_->Now();
  const Known* const allowed = Find(allowed_, token);
  if (allowed != nullptr && now < allowed->until) return allowed->verdict;
  if (const Known* refused = Find(refused_, token);
      refused != nullptr && now < refused->until) {
    return refused->verdict;
  }
  // A scraper that was let in before is not kept out by others who guess.
  if (allowed == nullptr && !MayAsk()) {
    return absl::ResourceExhaustedError("too many tokens that are not known");
  }
  ESPALIER_ASSIGN_OR_RETURN(const Verdict verdict, Ask(token));
  Remember(token, verdict);
  return verdict;
}

absl::StatusOr<AccessReview::Verdict> AccessReview::Ask(
    absl::string_view token) {
  ESPALIER_ASSIGN_OR_RETURN(
      const std::string reviewed,
      client_.Create(kTokenReviews,
                     Dump({{"apiVersion", "authentication.k8s.io/v1"},
                           {"kind", "TokenReview"},
                           {"spec", {{"token", std::string(token)}}}}),
                     kCallTime, cancellation_));
  ESPALIER_ASSIGN_OR_RETURN(const Json review, Answer("TokenReview", reviewed));
  const Json* const user = kube::Find(review, "status", "user");
  if (!ReadBool(*kube::Find(review, "status"), "authenticated") ||
      user == nullptr || ReadString(*user, "username").empty()) {
    return Verdict::kUnknownToken;
  }
  Json spec = SubjectOf(*user);
  spec["nonResourceAttributes"] = {{"path", path_}, {"verb", "get"}};
  ESPALIER_ASSIGN_OR_RETURN(
      const std::string judged,
      client_.Create(kSubjectAccessReviews,
                     Dump({{"apiVersion", "authorization.k8s.io/v1"},
                           {"kind", "SubjectAccessReview"},
                           {"spec", std::move(spec)}}),
                     kCallTime, cancellation_));
  ESPALIER_ASSIGN_OR_RETURN(const Json judgement,
                            Answer("SubjectAccessReview", judged));
  const Json& status = *kube::Find(judgement, "status");
  return ReadBool(status, "allowed") && !ReadBool(status, "denied")
             ? Verdict::kAllowed
             : Verdict::kForbidden;
}

}  // namespace espalier::kube
