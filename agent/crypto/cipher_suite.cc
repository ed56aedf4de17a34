#include "agent/crypto/cipher_suite.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "agent/base/secret_bytes.h"
#include "agent/crypto/digest.h"
#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {
namespace {

constexpr size_t kSaltSize = 4;
constexpr size_t kAeadIvSize = 8;
constexpr size_t kAeadNonceSize = kSaltSize + kAeadIvSize;
constexpr size_t kAeadIcvSize = 16;
constexpr size_t kAesBlockSize = 16;
constexpr size_t kMaxKeySize = 32;

// Indices into the tables below.
enum Algorithm : size_t {
  kAlgorithmAes128Gcm,
  kAlgorithmAes256Gcm,
  kAlgorithmChaCha20Poly1305,
  kAlgorithmAes128Cbc,
  kAlgorithmAes256Cbc,
  kAlgorithmCount,
};

Algorithm AlgorithmOf(const CipherSuite& suite) {
  switch (suite.cipher) {
    case Cipher::kAesGcm16:
      return suite.key_bits == 128 ? kAlgorithmAes128Gcm : kAlgorithmAes256Gcm;
    case Cipher::kChaCha20Poly1305:
      return kAlgorithmChaCha20Poly1305;
    case Cipher::kAesCbc:
      break;
  }
  return suite.key_bits == 128 ? kAlgorithmAes128Cbc : kAlgorithmAes256Cbc;
}

EVP_CIPHER* Fetched(Algorithm algorithm) {
  static const std::array<EVP_CIPHER*, kAlgorithmCount> kFetched = [] {
    constexpr const char* kNames[] = {"AES-128-GCM", "AES-256-GCM",
                                      "ChaCha20-Poly1305", "AES-128-CBC",
                                      "AES-256-CBC"};
    std::array<EVP_CIPHER*, kAlgorithmCount> fetched;
    for (size_t i = 0; i < kAlgorithmCount; ++i) {
      fetched[i] = EVP_CIPHER_fetch(nullptr, kNames[i], nullptr);
      if (fetched[i] == nullptr) OpenSslFatal(kNames[i]);
    }
    return fetched;
  }();
  return kFetched[algorithm];
}

enum class Operation : int { kDecrypt = 0, kEncrypt = 1 };

// The thread's context of one algorithm, keyed for one message. The key leaves
// the context with this object.
class KeyedCipher {
 public:
  KeyedCipher(Algorithm algorithm, Operation operation, base::ByteSpan key,
              const uint8_t* iv)
      : context_(Context(algorithm)) {
    Init(key.data(), iv, static_cast<int>(operation));
    EVP_CIPHER_CTX_set_padding(context_, 0);
  }
  ~KeyedCipher() {
    constexpr std::array<uint8_t, kMaxKeySize> kNoKey{};
    Init(kNoKey.data(), nullptr, -1);
  }
  KeyedCipher(const KeyedCipher&) = delete;
  KeyedCipher& operator=(const KeyedCipher&) = delete;

  void SetIv(const uint8_t* iv) { Init(nullptr, iv, -1); }
  void AddAssociatedData(base::ByteSpan data) {
    int written = 0;
    if (EVP_CipherUpdate(context_, nullptr, &written, data.data(),
                         static_cast<int>(data.size())) != 1) {
      OpenSslFatal("feeding associated data");
    }
  }
  // Everything there is, in place.
  void Transform(base::MutableByteSpan data) {
    int written = 0;
    if (EVP_CipherUpdate(context_, data.data(), &written, data.data(),
                         static_cast<int>(data.size())) != 1 ||
        static_cast<size_t>(written) != data.size()) {
      OpenSslFatal("running a cipher");
    }
  }
  // For ciphers with a tag; false when it does not verify.
  bool Finish() {
    std::array<uint8_t, kAesBlockSize> none;
    int written = 0;
    return EVP_CipherFinal_ex(context_, none.data(), &written) == 1;
  }
  void GetTag(base::MutableByteSpan tag) {
    if (EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_GET_TAG,
                            static_cast<int>(tag.size()), tag.data()) != 1) {
      OpenSslFatal("reading a tag");
    }
  }
  void SetTag(base::MutableByteSpan tag) {
    if (EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_SET_TAG,
                            static_cast<int>(tag.size()), tag.data()) != 1) {
      OpenSslFatal("setting a tag");
    }
  }

 private:
  static EVP_CIPHER_CTX* Context(Algorithm algorithm) {
    thread_local std::array<CipherContextPtr, kAlgorithmCount> contexts;
    CipherContextPtr& context = contexts[algorithm];
    if (context == nullptr) {
      context.reset(EVP_CIPHER_CTX_new());
      if (context == nullptr ||
          EVP_CipherInit_ex2(context.get(), Fetched(algorithm), nullptr,
                             nullptr, 1, nullptr) != 1) {
        OpenSslFatal("making a cipher context");
      }
    }
    return context.get();
  }
  void Init(const uint8_t* key, const uint8_t* iv, int operation) {
    if (EVP_CipherInit_ex2(context_, nullptr, key, iv, operation, nullptr) !=
        1) {
      OpenSslFatal("keying a cipher");
    }
  }

  EVP_CIPHER_CTX* context_;
};

Digest DigestOf(Integrity integrity) {
  switch (integrity) {
    case Integrity::kHmacSha2_384_192:
      return Digest::kSha384;
    case Integrity::kHmacSha2_512_256:
      return Digest::kSha512;
    case Integrity::kNone:
    case Integrity::kHmacSha2_256_128:
      break;
  }
  return Digest::kSha256;
}

// RFC 7296 3.14: the ICV is over the whole message up to itself.
void ComputeIcv(Integrity integrity, base::ByteSpan key, base::ByteSpan data,
                base::MutableByteSpan icv) {
  std::array<uint8_t, kMaxDigestSize> full;
  const Digest digest = DigestOf(integrity);
  ComputeHmac(digest, key, {data}, {full.data(), DigestSize(digest)});
  std::copy_n(full.begin(), icv.size(), icv.begin());
}

void WriteCounter(uint64_t counter, uint8_t* last_octet) {
  for (int i = 0; i < 8; ++i) {
    *last_octet-- = static_cast<uint8_t>(counter);
    counter >>= 8;
  }
}

// Salt, then the IV off the wire (RFC 5282 4, RFC 7634 2).
std::array<uint8_t, kAeadNonceSize> MakeNonce(base::ByteSpan encryption_key,
                                              base::ByteSpan iv) {
  std::array<uint8_t, kAeadNonceSize> nonce;
  const base::ByteSpan salt = encryption_key.last(kSaltSize);
  std::ranges::copy(iv, std::ranges::copy(salt, nonce.begin()).out);
  return nonce;
}

// The parts of a message, once its size is known to hold them.
struct Layout {
  Layout(const CipherSuite& suite, base::MutableByteSpan message, size_t body)
      : header(message.first(body)),
        iv(message.subspan(body, suite.iv_size())),
        text(message.subspan(
            body + suite.iv_size(),
            message.size() - body - suite.iv_size() - suite.icv_size())),
        icv(message.last(suite.icv_size())) {}

  base::MutableByteSpan header, iv, text, icv;
};

bool Fits(const CipherSuite& suite, base::ByteSpan encryption_key,
          base::ByteSpan integrity_key, base::ByteSpan message, size_t body) {
  // At least the Pad Length octet; UDP bounds the message to 65535 octets.
  if (!suite.IsSupported() ||
      encryption_key.size() != suite.encryption_key_size() ||
      integrity_key.size() != suite.integrity_key_size() ||
      message.size() > 0xffff || body > message.size() ||
      message.size() - body < suite.BodySize(0)) {
    return false;
  }
  const size_t text =
      message.size() - body - suite.iv_size() - suite.icv_size();
  return text % suite.block_size() == 0;
}

}  // namespace

bool CipherSuite::IsSupported() const {
  switch (cipher) {
    case Cipher::kAesGcm16:
      return (key_bits == 128 || key_bits == 256) &&
             integrity == Integrity::kNone;
    case Cipher::kChaCha20Poly1305:
      return key_bits == 256 && integrity == Integrity::kNone;
    case Cipher::kAesCbc:
      return (key_bits == 128 || key_bits == 256) &&
             (integrity == Integrity::kHmacSha2_256_128 ||
              integrity == Integrity::kHmacSha2_384_192 ||
              integrity == Integrity::kHmacSha2_512_256);
  }
  return false;
}

size_t CipherSuite::encryption_key_size() const {
  return key_bits / 8u + (aead() ? kSaltSize : 0);
}

size_t CipherSuite::integrity_key_size() const {
  return aead() ? 0 : DigestSize(DigestOf(integrity));  // RFC 4868 2.1.1
}

size_t CipherSuite::iv_size() const {
  return aead() ? kAeadIvSize : kAesBlockSize;
}

size_t CipherSuite::icv_size() const {
  // RFC 4868 2.1.2 truncates to half.
  return aead() ? kAeadIcvSize : DigestSize(DigestOf(integrity)) / 2;
}

size_t CipherSuite::block_size() const { return aead() ? 1 : kAesBlockSize; }

size_t CipherSuite::PadLength(size_t plaintext) const {
  const size_t over = (plaintext + 1) % block_size();
  return over == 0 ? 0 : block_size() - over;
}

size_t CipherSuite::BodySize(size_t plaintext) const {
  return iv_size() + plaintext + PadLength(plaintext) + 1 + icv_size();
}

std::string CipherSuite::ToString() const {
  switch (cipher) {
    case Cipher::kAesGcm16:
      return absl::StrCat("aes", key_bits, "gcm16");
    case Cipher::kChaCha20Poly1305:
      return "chacha20poly1305";
    case Cipher::kAesCbc:
      break;
  }
  const size_t bits = 8 * integrity_key_size();
  return absl::StrCat("aes", key_bits, "-sha", bits, "_", bits / 2);
}

absl::Status Seal(const CipherSuite& suite, base::ByteSpan encryption_key,
                  base::ByteSpan integrity_key, uint64_t counter,
                  base::MutableByteSpan message, size_t body) {
  if (!Fits(suite, encryption_key, integrity_key, message, body)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot seal with ", suite.ToString(), ": keys of ",
        encryption_key.size(), " and ", integrity_key.size(),
        " octets, a message of ", message.size(), " with its body at ", body));
  }
  Layout layout(suite, message, body);
  const base::ByteSpan key = encryption_key.first(suite.key_bits / 8u);
  if (suite.aead()) {
    WriteCounter(counter, &layout.iv.back());
    const auto nonce = MakeNonce(encryption_key, layout.iv);
    KeyedCipher cipher(AlgorithmOf(suite), Operation::kEncrypt, key,
                       nonce.data());
    cipher.AddAssociatedData(layout.header);
    cipher.Transform(layout.text);
    if (!cipher.Finish()) OpenSslFatal("finishing a cipher");
    cipher.GetTag(layout.icv);
    return absl::OkStatus();
  }
  // CBC needs an IV nobody can predict: the counter, enciphered under the
  // same key (NIST SP 800-38A appendix C, first method).
  std::ranges::fill(layout.iv, 0);
  WriteCounter(counter, &layout.iv.back());
  constexpr std::array<uint8_t, kAesBlockSize> kZeroIv{};
  KeyedCipher cipher(AlgorithmOf(suite), Operation::kEncrypt, key,
                     kZeroIv.data());
  cipher.Transform(layout.iv);
  cipher.SetIv(layout.iv.data());
  cipher.Transform(layout.text);
  ComputeIcv(suite.integrity, integrity_key,
             message.first(message.size() - suite.icv_size()), layout.icv);
  return absl::OkStatus();
}

bool Open(const CipherSuite& suite, base::ByteSpan encryption_key,
          base::ByteSpan integrity_key, base::MutableByteSpan message,
          size_t body, base::MutableByteSpan* plaintext) {
  if (!Fits(suite, encryption_key, integrity_key, message, body)) return false;
  Layout layout(suite, message, body);
  const base::ByteSpan key = encryption_key.first(suite.key_bits / 8u);
  if (suite.aead()) {
    const auto nonce = MakeNonce(encryption_key, layout.iv);
    KeyedCipher cipher(AlgorithmOf(suite), Operation::kDecrypt, key,
                       nonce.data());
    cipher.SetTag(layout.icv);
    cipher.AddAssociatedData(layout.header);
    cipher.Transform(layout.text);
    if (!cipher.Finish()) {
      ClearOpenSslErrors();
      return false;
    }
  } else {
    std::array<uint8_t, kMaxDigestSize> expected;
    const base::MutableByteSpan icv(expected.data(), suite.icv_size());
    ComputeIcv(suite.integrity, integrity_key,
               message.first(message.size() - suite.icv_size()), icv);
    if (!base::ConstantTimeEqual(icv, layout.icv)) return false;
    KeyedCipher cipher(AlgorithmOf(suite), Operation::kDecrypt, key,
                       layout.iv.data());
    cipher.Transform(layout.text);
  }
  *plaintext = layout.text;
  return true;
}

}  // namespace espalier::crypto
