// Writing of network byte order into a growing buffer, with lengths that are
// filled in once the thing they measure has been written.
#ifndef ESPALIER_AGENT_BASE_BYTE_WRITER_H_
#define ESPALIER_AGENT_BASE_BYTE_WRITER_H_

#include <cassert>
#include <cstdint>
#include <utility>

#include "agent/base/bytes.h"

namespace espalier::base {

class ByteWriter {
 public:
  void WriteU8(uint8_t value) { bytes_.push_back(value); }
  void WriteU16(uint16_t value) { WriteUnsigned(value); }
  void WriteU32(uint32_t value) { WriteUnsigned(value); }
  void WriteU64(uint64_t value) { WriteUnsigned(value); }
  void WriteSpan(ByteSpan span) {
    bytes_.insert(bytes_.end(), span.begin(), span.end());
  }
  void WriteZeros(size_t count) { bytes_.insert(bytes_.end(), count, 0); }

  // Appends a placeholder and returns its place for the Patch* below.
  size_t ReserveU8() { return Reserve(1); }
  size_t ReserveU16() { return Reserve(2); }
  size_t ReserveU32() { return Reserve(4); }
  // `place` comes from Reserve* or size(); the octets there already exist.
  void PatchU8(size_t place, uint8_t value) { Patch(place, value); }
  void PatchU16(size_t place, uint16_t value) { Patch(place, value); }
  void PatchU32(size_t place, uint32_t value) { Patch(place, value); }

  size_t size() const { return bytes_.size(); }
  ByteSpan span() const { return bytes_; }
  Bytes Take() { return std::exchange(bytes_, {}); }

 private:
  template <typename T>
  void WriteUnsigned(T value) {
    const size_t place = Reserve(sizeof(T));
    Patch(place, value);
  }
  size_t Reserve(size_t count) {
    const size_t place = bytes_.size();
    WriteZeros(count);
    return place;
  }
  template <typename T>
  void Patch(size_t place, T value) {
    assert(place + sizeof(T) <= bytes_.size());
    for (size_t i = 0; i < sizeof(T); ++i) {
      bytes_[place + i] =
          static_cast<uint8_t>(value >> (8 * (sizeof(T) - 1 - i)));
    }
  }

  Bytes bytes_;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_BYTE_WRITER_H_
