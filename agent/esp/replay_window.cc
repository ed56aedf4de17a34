#include "agent/esp/replay_window.h"

#include <algorithm>
#include <bit>

namespace espalier::esp {

ReplayWindow::ReplayWindow(uint32_t size, bool esn)
    : size_((std::clamp(size, kMinReplayWindow, kMaxReplayWindow) + 63) / 64 *
            64),
      esn_(esn),
      words_(std::bit_ceil(size_ / 64 + 1)),
      word_mask_(words_.size() - 1) {}

std::optional<uint64_t> ReplayWindow::Estimate(uint32_t low) const {
  if (!esn_) return low == 0 ? std::nullopt : std::optional<uint64_t>(low);
  const uint32_t top_low = static_cast<uint32_t>(top_);
  uint64_t high = top_ >> 32;
  // RFC 4303 A2.1; `bottom` is the lowest number of the window, modulo 2^32.
  const uint32_t bottom = top_low - size_ + 1;
  if (top_low >= size_ - 1) {  // case A: the window is in one subspace
    if (low < bottom) ++high;
  } else if (low >= bottom) {  // case B: it reaches back into the last one
    if (high == 0) return std::nullopt;
    --high;
  }
  if (high > 0xffffffff) return std::nullopt;
  const uint64_t sequence = high << 32 | low;
  return sequence == 0 ? std::nullopt : std::optional<uint64_t>(sequence);
}

bool ReplayWindow::Accept(uint64_t sequence) {
  const uint64_t bit = uint64_t{1} << (sequence & 63);
  if (sequence > top_) {
    const uint64_t first = (top_ >> 6) + 1;
    const uint64_t last = sequence >> 6;
    if (last >= first + words_.size()) {
      std::fill(words_.begin(), words_.end(), 0);
    } else {
      for (uint64_t word = first; word <= last; ++word) {
        words_[word & word_mask_] = 0;
      }
    }
    top_ = sequence;
    Word(sequence) |= bit;
    return true;
  }
  if (sequence == 0 || top_ - sequence >= size_) return false;
  if ((Word(sequence) & bit) != 0) return false;
  Word(sequence) |= bit;
  return true;
}

bool ReplayWindow::Restore(uint64_t top, const std::vector<uint64_t>& words) {
  if (words.size() != words_.size()) return false;
  top_ = top;
  words_ = words;
  return true;
}

}  // namespace espalier::esp
