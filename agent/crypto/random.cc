#include "agent/crypto/random.h"

#include <openssl/rand.h>

#include <algorithm>
#include <climits>

#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {

void SystemRandom::Fill(base::MutableByteSpan out) {
  while (!out.empty()) {
    const size_t take = std::min<size_t>(out.size(), INT_MAX);
    if (RAND_bytes(out.data(), static_cast<int>(take)) != 1) {
      OpenSslFatal("drawing random octets");
    }
    out = out.subspan(take);
  }
}

}  // namespace espalier::crypto
