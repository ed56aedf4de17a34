// Putting fragmented messages together again (RFC 7383 2.6).
#ifndef ESPALIER_AGENT_IKE_FRAGMENTATION_H_
#define ESPALIER_AGENT_IKE_FRAGMENTATION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/wire/encrypted_payload.h"

namespace espalier::ike {

// What one message may take, so that a peer cannot make us hold more.
inline constexpr uint16_t kMaxFragments = 64;
inline constexpr size_t kMaxReassembled = 65535;
// Before the peer has proven who it is.
inline constexpr size_t kMaxReassembledUnauthenticated = 20000;

// The fragments of one message. Only decrypted, thus authenticated, fragments
// come here, all of one message id and one kind (request or response).
class Reassembly {
 public:
  explicit Reassembly(size_t max_size) : max_size_(max_size) {}

  enum class Outcome {
    kIncomplete,
    kComplete,
    kRefused,  // a repeat, a total smaller than before, or past a bound
  };
  Outcome Add(const wire::FragmentPlace& place, wire::PayloadType first_inner,
              base::Bytes chain);

  // After kComplete.
  wire::PayloadType first_inner() const { return first_inner_; }
  base::Bytes Take();

 private:
  size_t max_size_;
  size_t size_ = 0;
  uint16_t received_ = 0;
  wire::PayloadType first_inner_ = wire::PayloadType::kNone;
  struct Piece {
    bool present = false;
    base::Bytes chain;
  };
  std::vector<Piece> pieces_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_FRAGMENTATION_H_
