#include "agent/base/secret_bytes.h"

#include <string.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace espalier::base {

SecretBytes::SecretBytes(size_t size)
    : data_(size == 0 ? nullptr : std::make_unique<uint8_t[]>(size)),
      size_(size) {}

SecretBytes::SecretBytes(ByteSpan bytes) : SecretBytes(bytes.size()) {
  std::copy(bytes.begin(), bytes.end(), data_.get());
}

SecretBytes::SecretBytes(SecretBytes&& other) noexcept
    : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
  if (this != &other) {
    Clear();
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

SecretBytes::~SecretBytes() { Clear(); }

SecretBytes SecretBytes::Slice(size_t offset, size_t length) const {
  assert(offset <= size_ && length <= size_ - offset);
  return SecretBytes(span().subspan(offset, length));
}

void SecretBytes::Clear() {
  if (data_ != nullptr) Wipe(mutable_span());
  data_.reset();
  size_ = 0;
}

void Wipe(MutableByteSpan bytes) {
  if (!bytes.empty()) explicit_bzero(bytes.data(), bytes.size());
}

bool ConstantTimeEqual(ByteSpan a, ByteSpan b) {
  if (a.size() != b.size()) return false;
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | (a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace espalier::base
