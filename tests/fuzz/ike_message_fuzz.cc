// A datagram from anyone: header, payloads in the clear, the place of SK.
#include <cstdio>
#include <cstdlib>

#include "tests/property/wire_decode_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string why = espalier::wire::CheckMessageDecoding({data, size});
  if (!why.empty()) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::abort();
  }
  return 0;
}
