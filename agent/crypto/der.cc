#include "agent/crypto/der.h"

namespace espalier::crypto {

bool ReadDer(base::ByteReader* reader, uint8_t tag, base::ByteSpan* contents) {
  base::ByteReader cursor = *reader;
  uint8_t found = 0;
  uint8_t first = 0;
  if (!cursor.ReadU8(&found) || found != tag || !cursor.ReadU8(&first)) {
    return false;
  }
  size_t length = first;
  if (first == 0x81) {
    uint8_t value = 0;
    if (!cursor.ReadU8(&value) || value < 0x80) return false;
    length = value;
  } else if (first == 0x82) {
    uint16_t value = 0;
    if (!cursor.ReadU16(&value) || value < 0x100) return false;
    length = value;
  } else if (first >= 0x80) {
    return false;
  }
  if (!cursor.ReadSpan(length, contents)) return false;
  *reader = cursor;
  return true;
}

bool NextDerIs(const base::ByteReader& reader, uint8_t tag) {
  return !reader.empty() && reader.rest()[0] == tag;
}

bool ReadDerSmallInteger(base::ByteReader* reader, uint8_t* value) {
  base::ByteReader cursor = *reader;
  base::ByteSpan contents;
  if (!ReadDer(&cursor, kDerInteger, &contents) || contents.size() != 1 ||
      contents[0] >= 0x80) {
    return false;
  }
  *value = contents[0];
  *reader = cursor;
  return true;
}

}  // namespace espalier::crypto
