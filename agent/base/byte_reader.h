// Bounds-checked reading of network byte order. The only way that bytes from
// the wire, the kernel or a file become values.
#ifndef ESPALIER_AGENT_BASE_BYTE_READER_H_
#define ESPALIER_AGENT_BASE_BYTE_READER_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "agent/base/bytes.h"

namespace espalier::base {

// A cursor over borrowed bytes. Every Read* returns false, and moves nothing,
// when the bytes that are left do not suffice; spans it hands out borrow from
// the buffer it was made over.
class ByteReader {
 public:
  explicit ByteReader(ByteSpan bytes) : bytes_(bytes) {}

  size_t remaining() const { return bytes_.size() - position_; }
  bool empty() const { return remaining() == 0; }
  size_t position() const { return position_; }
  // All that has not been read; the cursor stays.
  ByteSpan rest() const { return bytes_.subspan(position_); }

  [[nodiscard]] bool ReadU8(uint8_t* value) { return ReadUnsigned(value); }
  [[nodiscard]] bool ReadU16(uint16_t* value) { return ReadUnsigned(value); }
  [[nodiscard]] bool ReadU32(uint32_t* value) { return ReadUnsigned(value); }
  [[nodiscard]] bool ReadU64(uint64_t* value) { return ReadUnsigned(value); }

  [[nodiscard]] bool ReadSpan(size_t length, ByteSpan* span) {
    if (length > remaining()) return false;
    *span = bytes_.subspan(position_, length);
    position_ += length;
    return true;
  }
  [[nodiscard]] bool ReadBytes(size_t length, Bytes* out) {
    ByteSpan span;
    if (!ReadSpan(length, &span)) return false;
    out->assign(span.begin(), span.end());
    return true;
  }
  template <size_t N>
  [[nodiscard]] bool ReadArray(std::array<uint8_t, N>* out) {
    ByteSpan span;
    if (!ReadSpan(N, &span)) return false;
    std::copy(span.begin(), span.end(), out->begin());
    return true;
  }
  // A reader over the next `length` bytes, which this one steps over.
  [[nodiscard]] bool ReadSub(size_t length, ByteReader* sub) {
    ByteSpan span;
    if (!ReadSpan(length, &span)) return false;
    *sub = ByteReader(span);
    return true;
  }
  [[nodiscard]] bool Skip(size_t length) {
    if (length > remaining()) return false;
    position_ += length;
    return true;
  }

 private:
  template <typename T>
  bool ReadUnsigned(T* value) {
    if (remaining() < sizeof(T)) return false;
    T result = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      result = static_cast<T>((static_cast<uint64_t>(result) << 8) |
                              bytes_[position_ + i]);
    }
    position_ += sizeof(T);
    *value = result;
    return true;
  }

  ByteSpan bytes_;
  size_t position_ = 0;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_BYTE_READER_H_
