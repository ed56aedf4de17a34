#include "agent/kube/line_decoder.h"

namespace espalier::kube {

LineDecoder::Result LineDecoder::Feed(
    absl::string_view octets,
    const std::function<bool(absl::string_view)>& consume) {
  while (!octets.empty()) {
    const size_t end = octets.find('\n');
    const bool complete = end != absl::string_view::npos;
    const absl::string_view part = octets.substr(0, end);
    if (pending_.size() + part.size() > max_octets_) {
      Reset();
      return Result::kTooLong;
    }
    if (!complete) {
      pending_.append(part.data(), part.size());
      return Result::kMore;
    }
    octets.remove_prefix(end + 1);
    absl::string_view line = part;
    std::string joined;
    if (!pending_.empty()) {
      pending_.append(part.data(), part.size());
      joined.swap(pending_);
      line = joined;
    }
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (!line.empty() && !consume(line)) return Result::kStopped;
  }
  return Result::kMore;
}

void LineDecoder::Reset() { std::string().swap(pending_); }

}  // namespace espalier::kube
