#include "agent/crypto/prf.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "agent/crypto/digest.h"

namespace espalier::crypto {
namespace {

Digest DigestOf(Prf prf) {
  switch (prf) {
    case Prf::kHmacSha2_256:
      return Digest::kSha256;
    case Prf::kHmacSha2_384:
      return Digest::kSha384;
    case Prf::kHmacSha2_512:
      break;
  }
  return Digest::kSha512;
}

}  // namespace

size_t PrfSize(Prf prf) { return DigestSize(DigestOf(prf)); }

void ComputePrf(Prf prf, base::ByteSpan key, Parts parts,
                base::MutableByteSpan out) {
  ComputeHmac(DigestOf(prf), key, parts, out);
}

base::SecretBytes ComputePrf(Prf prf, base::ByteSpan key, Parts parts) {
  base::SecretBytes out(PrfSize(prf));
  ComputePrf(prf, key, parts, out.mutable_span());
  return out;
}

base::SecretBytes PrfPlus(Prf prf, base::ByteSpan key, Parts parts,
                          size_t length) {
  const size_t block = PrfSize(prf);
  assert(length <= 255 * block);
  // One part of its own: T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n).
  base::SecretBytes seed([&] {
    size_t size = 0;
    for (base::ByteSpan part : parts) size += part.size();
    return size;
  }());
  auto place = seed.mutable_span().begin();
  for (base::ByteSpan part : parts) place = std::ranges::copy(part, place).out;

  base::SecretBytes out(length);
  std::array<uint8_t, kMaxDigestSize> buffer;
  const base::MutableByteSpan current(buffer.data(), block);
  uint8_t counter = 1;
  for (size_t done = 0; done < length; ++counter) {
    const base::ByteSpan previous =
        counter == 1 ? base::ByteSpan() : base::ByteSpan(current);
    ComputePrf(prf, key, {previous, seed.span(), {&counter, 1}}, current);
    const size_t take = std::min(block, length - done);
    std::copy_n(current.begin(), take, out.mutable_span().begin() + done);
    done += take;
  }
  base::Wipe(buffer);
  return out;
}

}  // namespace espalier::crypto
