// Any octets as a frame of the TUN: virtio header and packet.
#include <cstdint>
#include <cstdlib>

#include "tests/support/esp_end.h"

namespace {

using espalier::base::Bytes;
using namespace espalier::esp;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static testing::End* const one = [] {
    auto* sender = new testing::End(1);
    testing::End receiver(2);
    testing::Connect(*sender, receiver, {});
    return sender;
  }();
  if (size > 70000) return 0;
  Bytes frame(data, data + size);
  frame.resize(size + kMaxTrailer);
  one->outbound.HandleFrame(frame.data(), size);
  one->outbound.Flush();
  // What comes out together is not more than what went in, but for headers of
  // segments; and each packet fits the path.
  if (one->wire.packets.size() > 70000) std::abort();
  for (const auto& packet : one->wire.packets) {
    if (!packet.fragment && packet.bytes.size() > 1500) std::abort();
  }
  one->wire.packets.clear();
  one->tun.packets.clear();
  return 0;
}
