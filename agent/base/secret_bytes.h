// Key material. Never logged, never copied by accident, wiped when it goes.
#ifndef ESPALIER_AGENT_BASE_SECRET_BYTES_H_
#define ESPALIER_AGENT_BASE_SECRET_BYTES_H_

#include <cstddef>
#include <memory>

#include "agent/base/bytes.h"

namespace espalier::base {

// A fixed-size secret: move-only, overwritten on destruction, and the source
// of a move is left empty. A copy is an act with a name (Clone). Comparison
// is constant in time for equal sizes.
class SecretBytes {
 public:
  SecretBytes() = default;
  // `size` zero octets, to be filled through mutable_span().
  explicit SecretBytes(size_t size);
  // Copies; the caller wipes its own copy (see Wipe).
  explicit SecretBytes(ByteSpan bytes);
  SecretBytes(SecretBytes&& other) noexcept;
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes();

  SecretBytes Clone() const { return SecretBytes(span()); }
  // Octets [offset, offset + length) as a secret of its own; the range must
  // lie inside.
  SecretBytes Slice(size_t offset, size_t length) const;

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  ByteSpan span() const { return {data_.get(), size_}; }
  MutableByteSpan mutable_span() { return {data_.get(), size_}; }

 private:
  void Clear();

  std::unique_ptr<uint8_t[]> data_;
  size_t size_ = 0;
};

// Overwrites in a way that the compiler may not leave out.
void Wipe(MutableByteSpan bytes);

// Constant time in the contents; sizes are public.
bool ConstantTimeEqual(ByteSpan a, ByteSpan b);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_SECRET_BYTES_H_
