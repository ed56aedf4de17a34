// Splits a stream into lines of bounded length.
#ifndef ESPALIER_AGENT_KUBE_LINE_DECODER_H_
#define ESPALIER_AGENT_KUBE_LINE_DECODER_H_

#include <cstddef>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace espalier::kube {

class LineDecoder {
 public:
  enum class Result {
    kMore,     // all was taken
    kStopped,  // the consumer said so
    kTooLong,  // a line of more than max_octets; the stream is of no more use
  };

  explicit LineDecoder(size_t max_octets) : max_octets_(max_octets) {}

  // Hands each complete, non-empty line without its end ("\n" or "\r\n") to
  // `consume`, which ends the decoding by false. What follows the last line
  // end is kept for the next call.
  Result Feed(absl::string_view octets,
              const std::function<bool(absl::string_view)>& consume);
  // Forgets an unfinished line, and the memory of a long one.
  void Reset();
  size_t pending() const { return pending_.size(); }

 private:
  const size_t max_octets_;
  std::string pending_;
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_LINE_DECODER_H_
