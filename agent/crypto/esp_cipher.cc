#include "agent/crypto/esp_cipher.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "agent/base/secret_bytes.h"

namespace espalier::crypto {
namespace {

constexpr size_t kHeader = 8;  // SPI and low sequence number
constexpr size_t kSalt = 4;
constexpr size_t kAeadIv = 8;
constexpr size_t kAeadIcv = 16;
constexpr size_t kCbcBlock = 16;

struct ContextDeleter {
  void operator()(EVP_CIPHER_CTX* context) { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, ContextDeleter>;

// Implicit fetching would look the algorithm up again for every packet.
struct CipherDeleter {
  void operator()(EVP_CIPHER* cipher) { EVP_CIPHER_free(cipher); }
};
using Cipher = std::unique_ptr<EVP_CIPHER, CipherDeleter>;

void WriteBigEndian32(uint32_t value, uint8_t* out) {
  for (int i = 0; i < 4; ++i)
    out[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}

// RFC 4106 5 and RFC 7634 2: with ESN the AAD is SPI, high and low sequence
// number; without, it is the packet's first 8 octets.
size_t MakeAad(bool esn, uint64_t sequence, const uint8_t* packet,
               uint8_t* aad) {
  if (!esn) {
    std::memcpy(aad, packet, kHeader);
    return kHeader;
  }
  std::memcpy(aad, packet, 4);
  WriteBigEndian32(static_cast<uint32_t>(sequence >> 32), aad + 4);
  std::memcpy(aad + 8, packet + 4, 4);
  return 12;
}

class AeadCipher : public EspCipher {
 public:
  AeadCipher(Context context, bool esn, base::ByteSpan salt)
      : context_(std::move(context)), esn_(esn) {
    std::memcpy(salt_.data(), salt.data(), kSalt);
  }
  ~AeadCipher() override { base::Wipe(salt_); }

  bool Seal(uint64_t sequence, const uint8_t* plain, size_t size,
            uint8_t* packet) override {
    WriteBigEndian32(static_cast<uint32_t>(sequence >> 32), packet + kHeader);
    WriteBigEndian32(static_cast<uint32_t>(sequence), packet + kHeader + 4);
    uint8_t* out = packet + kHeader + kAeadIv;
    int written = 0;
    return Begin(sequence, packet, /*encrypt=*/1) &&
           EVP_EncryptUpdate(context_.get(), out, &written, plain,
                             static_cast<int>(size)) == 1 &&
           EVP_EncryptFinal_ex(context_.get(), out + written, &written) == 1 &&
           EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, kAeadIcv,
                               out + size) == 1;
  }

  bool Open(uint64_t sequence, uint8_t* packet, size_t size) override {
    if (size < kHeader + kAeadIv + kAeadIcv) return false;
    uint8_t* payload = packet + kHeader + kAeadIv;
    const size_t length = size - kHeader - kAeadIv - kAeadIcv;
    int written = 0;
    return Begin(sequence, packet, /*encrypt=*/0) &&
           EVP_DecryptUpdate(context_.get(), payload, &written, payload,
                             static_cast<int>(length)) == 1 &&
           EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, kAeadIcv,
                               payload + length) == 1 &&
           EVP_DecryptFinal_ex(context_.get(), payload + written, &written) ==
               1;
  }

 private:
  bool Begin(uint64_t sequence, const uint8_t* packet, int encrypt) {
    std::array<uint8_t, kSalt + kAeadIv> nonce;
    std::memcpy(nonce.data(), salt_.data(), kSalt);
    std::memcpy(nonce.data() + kSalt, packet + kHeader, kAeadIv);
    std::array<uint8_t, 12> aad;
    const size_t aad_size = MakeAad(esn_, sequence, packet, aad.data());
    int written = 0;
    return EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr,
                             nonce.data(), encrypt) == 1 &&
           EVP_CipherUpdate(context_.get(), nullptr, &written, aad.data(),
                            static_cast<int>(aad_size)) == 1;
  }

  Context context_;
  bool esn_;
  std::array<uint8_t, kSalt> salt_;
};

struct MacDeleter {
  void operator()(EVP_MAC_CTX* context) { EVP_MAC_CTX_free(context); }
};
using MacContext = std::unique_ptr<EVP_MAC_CTX, MacDeleter>;

class CbcCipher : public EspCipher {
 public:
  CbcCipher(Context context, MacContext mac, bool esn, size_t icv)
      : context_(std::move(context)),
        mac_(std::move(mac)),
        esn_(esn),
        icv_(icv) {}

  bool Seal(uint64_t sequence, const uint8_t* plain, size_t size,
            uint8_t* packet) override {
    uint8_t* iv = packet + kHeader;
    if (size % kCbcBlock != 0 || !NextIv(iv)) return false;
    uint8_t* out = iv + kCbcBlock;
    std::array<uint8_t, EVP_MAX_MD_SIZE> mac;
    int written = 0;
    if (EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr, iv, 1) !=
            1 ||
        EVP_CipherUpdate(context_.get(), out, &written, plain,
                         static_cast<int>(size)) != 1 ||
        !Mac(sequence, packet, kHeader + kCbcBlock + size, mac.data())) {
      return false;
    }
    std::memcpy(out + size, mac.data(), icv_);
    return true;
  }

  bool Open(uint64_t sequence, uint8_t* packet, size_t size) override {
    if (size < kHeader + kCbcBlock + kCbcBlock + icv_) return false;
    const size_t length = size - kHeader - kCbcBlock - icv_;
    std::array<uint8_t, EVP_MAX_MD_SIZE> mac;
    if (length % kCbcBlock != 0 ||
        !Mac(sequence, packet, size - icv_, mac.data()) ||
        !base::ConstantTimeEqual({mac.data(), icv_},
                                 {packet + size - icv_, icv_})) {
      return false;
    }
    uint8_t* iv = packet + kHeader;
    uint8_t* payload = iv + kCbcBlock;
    int written = 0;
    return EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr, iv,
                             0) == 1 &&
           EVP_CipherUpdate(context_.get(), payload, &written, payload,
                            static_cast<int>(length)) == 1;
  }

 private:
  // RFC 3602 3: unpredictable, so never the counter itself.
  bool NextIv(uint8_t* iv) {
    if (next_iv_ == ivs_.size()) {
      if (RAND_bytes(ivs_.data(), static_cast<int>(ivs_.size())) != 1) {
        return false;
      }
      next_iv_ = 0;
    }
    std::memcpy(iv, ivs_.data() + next_iv_, kCbcBlock);
    next_iv_ += kCbcBlock;
    return true;
  }

  bool Mac(uint64_t sequence, const uint8_t* octets, size_t size,
           uint8_t* out) {
    uint8_t high[4];
    WriteBigEndian32(static_cast<uint32_t>(sequence >> 32), high);
    size_t written = 0;
    return EVP_MAC_init(mac_.get(), nullptr, 0, nullptr) == 1 &&
           EVP_MAC_update(mac_.get(), octets, size) == 1 &&
           (!esn_ || EVP_MAC_update(mac_.get(), high, sizeof high) == 1) &&
           EVP_MAC_final(mac_.get(), out, &written, EVP_MAX_MD_SIZE) == 1;
  }

  Context context_;
  MacContext mac_;
  bool esn_;
  size_t icv_;
  std::array<uint8_t, 64 * kCbcBlock> ivs_;
  size_t next_iv_ = ivs_.size();
};

absl::Status Missing(absl::string_view algorithm) {
  return absl::UnavailableError(
      absl::StrCat("OpenSSL does not provide ", algorithm));
}

absl::StatusOr<Context> MakeContext(const std::string& name, int encrypt,
                                    base::ByteSpan key) {
  Cipher cipher(EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr));
  Context context(EVP_CIPHER_CTX_new());
  if (cipher == nullptr || context == nullptr ||
      EVP_CipherInit_ex(context.get(), cipher.get(), nullptr, key.data(),
                        nullptr, encrypt) != 1) {
    return Missing(name);
  }
  // ESP pads by itself (RFC 4303 2.4).
  EVP_CIPHER_CTX_set_padding(context.get(), 0);
  return context;
}

absl::StatusOr<MacContext> MakeMac(base::EspIntegrity integrity,
                                   base::ByteSpan key) {
  const char* digest =
      integrity == base::EspIntegrity::kHmacSha2_256_128   ? "SHA256"
      : integrity == base::EspIntegrity::kHmacSha2_384_192 ? "SHA384"
                                                           : "SHA512";
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  MacContext context(mac == nullptr ? nullptr : EVP_MAC_CTX_new(mac));
  EVP_MAC_free(mac);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string("digest", const_cast<char*>(digest), 0),
      OSSL_PARAM_construct_end()};
  if (context == nullptr ||
      EVP_MAC_init(context.get(), key.data(), key.size(), parameters) != 1) {
    return Missing(absl::StrCat("HMAC-", digest));
  }
  return context;
}

constexpr size_t kProcessKey = 32;

// Of KeyFingerprint.
base::SecretBytes& ProcessKey() {
  static base::SecretBytes* const process_key = [] {
    auto* key = new base::SecretBytes(kProcessKey);
    if (RAND_bytes(key->mutable_span().data(), kProcessKey) != 1) std::abort();
    return key;
  }();
  return *process_key;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EspCipher>> MakeEspCipher(
    const base::EspSuite& suite, base::Direction direction,
    base::ByteSpan encryption_key, base::ByteSpan integrity_key) {
  const uint16_t bits = suite.key_bits;
  const bool aes = bits == 128 || bits == 192 || bits == 256;
  std::string name;
  switch (suite.cipher) {
    case base::EspCipher::kAesGcm16:
      if (aes) name = absl::StrCat("AES-", bits, "-GCM");
      break;
    case base::EspCipher::kChaCha20Poly1305:
      if (bits == 256) name = "ChaCha20-Poly1305";
      break;
    case base::EspCipher::kAesCbc:
      if (aes) name = absl::StrCat("AES-", bits, "-CBC");
      break;
  }
  if (name.empty() ||
      suite.aead() != (suite.integrity == base::EspIntegrity::kNone) ||
      encryption_key.size() != suite.encryption_key_size() ||
      integrity_key.size() != suite.integrity_key_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ESP suite ", suite.ToString(), " with keys of ", encryption_key.size(),
        " and ", integrity_key.size(), " octets"));
  }
  const int encrypt = direction == base::Direction::kOutbound ? 1 : 0;
  absl::StatusOr<Context> context =
      MakeContext(name, encrypt, encryption_key.first(bits / 8u));
  if (!context.ok()) return std::move(context).status();
  if (suite.aead()) {
    return std::make_unique<AeadCipher>(*std::move(context), suite.esn,
                                        encryption_key.last(kSalt));
  }
  absl::StatusOr<MacContext> mac = MakeMac(suite.integrity, integrity_key);
  if (!mac.ok()) return std::move(mac).status();
  return std::make_unique<CbcCipher>(*std::move(context), *std::move(mac),
                                     suite.esn, suite.icv_size());
}

base::SecretBytes FingerprintKey() { return ProcessKey().Clone(); }

void SetFingerprintKey(base::SecretBytes key) { ProcessKey() = std::move(key); }

uint64_t KeyFingerprint(base::ByteSpan encryption_key,
                        base::ByteSpan integrity_key) {
  base::SecretBytes both(encryption_key.size() + integrity_key.size());
  std::memcpy(both.mutable_span().data(), encryption_key.data(),
              encryption_key.size());
  if (!integrity_key.empty()) {
    std::memcpy(both.mutable_span().data() + encryption_key.size(),
                integrity_key.data(), integrity_key.size());
  }
  std::array<uint8_t, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (HMAC(EVP_sha256(), ProcessKey().span().data(), kProcessKey,
           both.span().data(), both.size(), digest.data(), &size) == nullptr) {
    std::abort();
  }
  uint64_t fingerprint = 0;
  std::memcpy(&fingerprint, digest.data(), sizeof fingerprint);
  return fingerprint;
}

}  // namespace espalier::crypto
