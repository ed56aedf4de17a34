// Published vectors are written in hexadecimal, with the blanks of their
// sources.
#ifndef ESPALIER_TESTS_UNIT_CRYPTO_TEST_VECTORS_H_
#define ESPALIER_TESTS_UNIT_CRYPTO_TEST_VECTORS_H_

#include <cstdlib>
#include <string>

#include "agent/base/bytes.h"

namespace espalier::crypto {

inline base::Bytes Hex(const std::string& text) {
  std::string digits;
  for (const char c : text) {
    if (c != ' ') digits.push_back(c);
  }
  base::Bytes bytes;
  if (!base::FromHex(digits, &bytes)) std::abort();
  return bytes;
}

inline base::Bytes ToBytes(base::ByteSpan span) {
  return base::Bytes(span.begin(), span.end());
}

}  // namespace espalier::crypto

#endif  // ESPALIER_TESTS_UNIT_CRYPTO_TEST_VECTORS_H_
