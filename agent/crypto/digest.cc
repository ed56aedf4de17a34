#include "agent/crypto/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "agent/base/secret_bytes.h"
#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {
namespace {

constexpr size_t kDigestCount = 4;
constexpr size_t kMaxBlockSize = 128;

constexpr size_t BlockSize(Digest digest) {
  return digest == Digest::kSha384 || digest == Digest::kSha512 ? 128 : 64;
}

// Looked up once in the process: a fetch takes locks and costs more than the
// hash itself.
const EVP_MD* Fetched(Digest digest) {
  static const std::array<EVP_MD*, kDigestCount> kFetched = [] {
    constexpr const char* kNames[] = {"SHA1", "SHA2-256", "SHA2-384",
                                      "SHA2-512"};
    std::array<EVP_MD*, kDigestCount> fetched;
    for (size_t i = 0; i < kDigestCount; ++i) {
      fetched[i] = EVP_MD_fetch(nullptr, kNames[i], nullptr);
      if (fetched[i] == nullptr) OpenSslFatal(kNames[i]);
    }
    return fetched;
  }();
  return kFetched[static_cast<size_t>(digest)];
}

// One context per thread and digest: starting it anew allocates nothing.
EVP_MD_CTX* Started(Digest digest) {
  thread_local std::array<DigestContextPtr, kDigestCount> contexts;
  DigestContextPtr& context = contexts[static_cast<size_t>(digest)];
  const EVP_MD* type = nullptr;
  if (context == nullptr) {
    context.reset(EVP_MD_CTX_new());
    type = Fetched(digest);
  }
  if (context == nullptr ||
      EVP_DigestInit_ex2(context.get(), type, nullptr) != 1) {
    OpenSslFatal("starting a digest");
  }
  return context.get();
}

void Update(EVP_MD_CTX* context, base::ByteSpan part) {
  if (EVP_DigestUpdate(context, part.data(), part.size()) != 1) {
    OpenSslFatal("updating a digest");
  }
}

void Finish(EVP_MD_CTX* context, uint8_t* out) {
  if (EVP_DigestFinal_ex(context, out, nullptr) != 1) {
    OpenSslFatal("finishing a digest");
  }
}

}  // namespace

void ComputeDigest(Digest digest, Parts parts, base::MutableByteSpan out) {
  assert(out.size() == DigestSize(digest));
  EVP_MD_CTX* context = Started(digest);
  for (base::ByteSpan part : parts) Update(context, part);
  Finish(context, out.data());
}

// Over the bare digest, because EVP_MAC allocates two contexts for each key
// and every key of IKE is used for one or two calls.
void ComputeHmac(Digest digest, base::ByteSpan key, Parts parts,
                 base::MutableByteSpan out) {
  assert(out.size() == DigestSize(digest));
  const size_t block_size = BlockSize(digest);
  std::array<uint8_t, kMaxBlockSize> pad{};
  if (key.size() > block_size) {
    ComputeDigest(digest, {key},
                  base::MutableByteSpan(pad.data(), DigestSize(digest)));
  } else {
    std::copy(key.begin(), key.end(), pad.begin());
  }
  for (uint8_t& octet : pad) octet ^= 0x36;
  EVP_MD_CTX* context = Started(digest);
  Update(context, {pad.data(), block_size});
  for (base::ByteSpan part : parts) Update(context, part);
  std::array<uint8_t, kMaxDigestSize> inner;
  Finish(context, inner.data());

  for (uint8_t& octet : pad) octet ^= 0x36 ^ 0x5c;
  context = Started(digest);
  Update(context, {pad.data(), block_size});
  Update(context, {inner.data(), DigestSize(digest)});
  Finish(context, out.data());
  base::Wipe(pad);
  base::Wipe(inner);
}

}  // namespace espalier::crypto
