// Whether whoever shows a bearer token may read a path of ours: the API server
// says who that is (TokenReview) and what they may (SubjectAccessReview).
#ifndef ESPALIER_AGENT_KUBE_ACCESS_REVIEW_H_
#define ESPALIER_AGENT_KUBE_ACCESS_REVIEW_H_

#include <cstddef>
#include <deque>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/secret_bytes.h"
#include "agent/kube/client.h"
#include "agent/kube/transport.h"

namespace espalier::kube {

// On one thread.
class AccessReview {
 public:
  enum class Verdict { kAllowed, kUnknownToken, kForbidden };
  // For how long an answer holds: what is revoked works on for that time.
  static constexpr absl::Duration kAllowedFor = absl::Seconds(60);
  static constexpr absl::Duration kRefusedFor = absl::Seconds(10);
  // What is remembered, of each kind of answer.
  static constexpr size_t kMostAllowed = 64;
  static constexpr size_t kMostRefused = 256;
  static constexpr size_t kLongestToken = 12 << 10;
  // So many tokens a second are asked about, after a first burst: guessing
  // must not become the API server's load.
  static constexpr double kReviewsASecond = 5;
  static constexpr double kReviewsAtOnce = 20;
  static constexpr absl::Duration kCallTime = absl::Seconds(5);

  // `path` is the nonResourceURL that is to be read ("/metrics"). All pointers
  // outlive this object.
  AccessReview(Transport* transport, base::Clock* clock, std::string path,
               Cancellation* cancellation = nullptr);

  // Blocks until the API server has answered, unless the answer is known.
  // ResourceExhausted: too many tokens that are not known. An error of the API
  // server is no answer: nobody is let in on it.
  absl::StatusOr<Verdict> Check(absl::string_view token);

 private:
  struct Known {
    base::SecretBytes token;
    Verdict verdict;
    base::Instant until;
  };
  const Known* Find(const std::deque<Known>& known, absl::string_view token);
  void Remember(absl::string_view token, Verdict verdict);
  bool MayAsk();
  absl::StatusOr<Verdict> Ask(absl::string_view token);

  Client client_;
  base::Clock* const clock_;
  const std::string path_;
  Cancellation* const cancellation_;
  std::deque<Known> allowed_;  // the oldest first
  std::deque<Known> refused_;
  double reviews_left_ = kReviewsAtOnce;
  base::Instant refilled_ = absl::InfinitePast();
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_ACCESS_REVIEW_H_
