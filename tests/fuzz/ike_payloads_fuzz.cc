// A decrypted chain of payloads. The first octet is the type of the first
// payload, the second says by its low bit whether the message is a response.
#include <cstdio>
#include <cstdlib>

#include "tests/property/wire_decode_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string why = espalier::wire::CheckChainDecoding(
      static_cast<espalier::wire::PayloadType>(data[0]), {data + 2, size - 2},
      (data[1] & 1) != 0);
  if (!why.empty()) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::abort();
  }
  return 0;
}
