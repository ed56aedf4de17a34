#include "agent/ike/fragmentation.h"

#include <utility>

namespace espalier::ike {

Reassembly::Outcome Reassembly::Add(const wire::FragmentPlace& place,
                                    wire::PayloadType first_inner,
                                    base::Bytes chain) {
  if (place.number == 0 || place.number > place.total ||
      place.total > kMaxFragments || place.total < pieces_.size()) {
    return Outcome::kRefused;
  }
  if (place.total > pieces_.size()) {
    // The peer cut the message anew into smaller pieces (2.5.2).
    pieces_.clear();
    pieces_.resize(place.total);
    size_ = 0;
    received_ = 0;
  }
  Piece& piece = pieces_[place.number - 1u];
  if (piece.present || size_ + chain.size() > max_size_) {
    return Outcome::kRefused;
  }
  if (place.number == 1) first_inner_ = first_inner;
  size_ += chain.size();
  piece.present = true;
  piece.chain = std::move(chain);
  ++received_;
  return received_ == pieces_.size() ? Outcome::kComplete
                                     : Outcome::kIncomplete;
}

base::Bytes Reassembly::Take() {
  base::Bytes whole;
  whole.reserve(size_);
  for (Piece& piece : pieces_) {
    whole.insert(whole.end(), piece.chain.begin(), piece.chain.end());
  }
  pieces_.clear();
  return whole;
}

}  // namespace espalier::ike
