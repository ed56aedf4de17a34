// Anti-replay (RFC 4303 3.4.3) with extended sequence numbers (appendix A2).
#ifndef ESPALIER_AGENT_ESP_REPLAY_WINDOW_H_
#define ESPALIER_AGENT_ESP_REPLAY_WINDOW_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace espalier::esp {

inline constexpr uint32_t kMinReplayWindow = 1024;
inline constexpr uint32_t kMaxReplayWindow = 65536;

class ReplayWindow {
 public:
  // `size` in packets, brought into [kMinReplayWindow, kMaxReplayWindow] and
  // up to a multiple of 64.
  ReplayWindow(uint32_t size, bool esn);

  // The 64-bit number that a packet with this low half must have to be
  // authentic; nullopt when there is none. Changes nothing.
  std::optional<uint64_t> Estimate(uint32_t low) const;

  // Whether `sequence` is new; marks it as seen. Only for packets that were
  // authenticated with it: anything else would let an attacker move the window.
  bool Accept(uint64_t sequence);

  // The highest number accepted, 0 before the first.
  uint64_t top() const { return top_; }
  uint32_t size() const { return size_; }

  // The bits as they lie, for a window of the same size in another process.
  const std::vector<uint64_t>& words() const { return words_; }
  // False, and changes nothing, when `words` belong to another size.
  bool Restore(uint64_t top, const std::vector<uint64_t>& words);

 private:
  uint64_t& Word(uint64_t sequence) {
    return words_[(sequence >> 6) & word_mask_];
  }

  uint32_t size_;
  bool esn_;
  uint64_t top_ = 0;
  // A ring of bits by number, with at least one word more than the window: so
  // the word that is being entered never holds bits that still count.
  std::vector<uint64_t> words_;
  uint64_t word_mask_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_REPLAY_WINDOW_H_
