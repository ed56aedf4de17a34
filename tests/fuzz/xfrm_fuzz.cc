// The first octet chooses the decoder, the rest is the payload behind nlmsghdr.
#include <cstddef>
#include <cstdint>

#include "agent/netlink/xfrm_types.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const espalier::base::ByteSpan payload(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      (void)espalier::netlink::DecodeState(payload);
      break;
    case 1:
      (void)espalier::netlink::DecodePolicy(payload);
      break;
    case 2:
      (void)espalier::netlink::DecodeExpire(payload);
      break;
    default:
      (void)espalier::netlink::DecodeAcquire(payload);
      break;
  }
  return 0;
}
