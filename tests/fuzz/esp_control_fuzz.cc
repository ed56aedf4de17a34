// Any octets as a frame of espd's control protocol.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "agent/esp/control/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier::esp::control;
  const auto frame = Decode({data, size});
  if (!frame.ok()) return 0;
  // What decodes is written again octet by octet.
  const auto octets = Encode(*frame);
  if (octets.size() != size ||
      !std::equal(data, data + size, octets.span().begin())) {
    std::abort();
  }
  return 0;
}
