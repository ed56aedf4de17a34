// AES-GCM (RFC 4106) by Intel's multi-buffer library, called directly a packet
// at a time: its single-call GCM already keeps the vector units busy.
#include <array>
#include <cstring>
#include <memory>

#include "agent/base/secret_bytes.h"
#include "agent/esp/cipher.h"
#include "agent/esp/octets.h"
#include "agent/esp/packet.h"

#if ESPALIER_HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

namespace espalier::esp {

#if ESPALIER_HAVE_IPSEC_MB
namespace {

constexpr size_t kSalt = 4;
constexpr size_t kIv = 8;
constexpr size_t kIcv = 16;

// Lives as long as the process; null where the processor lacks AES
// instructions, for which the library has an emulation slower than OpenSSL.
IMB_MGR* Manager() {
  static IMB_MGR* const manager = []() -> IMB_MGR* {
    IMB_MGR* made = alloc_mb_mgr(0);
    if (made == nullptr) return nullptr;
    IMB_ARCH arch = IMB_ARCH_NONE;
    init_mb_mgr_auto(made, &arch);
    if (imb_get_errno(made) != 0 || arch == IMB_ARCH_NONE ||
        arch == IMB_ARCH_NOAESNI) {
      free_mb_mgr(made);
      return nullptr;
    }
    return made;
  }();
  return manager;
}

class IpsecMbGcm : public crypto::EspCipher {
 public:
  IpsecMbGcm(IMB_MGR* manager, const base::EspSuite& suite, base::ByteSpan key)
      : esn_(suite.esn) {
    std::memcpy(salt_.data(), key.last(kSalt).data(), kSalt);
    switch (suite.key_bits) {
      case 128:
        IMB_AES128_GCM_PRE(manager, key.data(), &key_);
        seal_ = manager->gcm128_enc;
        open_ = manager->gcm128_dec;
        break;
      case 192:
        IMB_AES192_GCM_PRE(manager, key.data(), &key_);
        seal_ = manager->gcm192_enc;
        open_ = manager->gcm192_dec;
        break;
      default:
        IMB_AES256_GCM_PRE(manager, key.data(), &key_);
        seal_ = manager->gcm256_enc;
        open_ = manager->gcm256_dec;
        break;
    }
  }
  ~IpsecMbGcm() override {
    base::Wipe({reinterpret_cast<uint8_t*>(&key_), sizeof key_});
    base::Wipe(salt_);
  }

  bool Seal(uint64_t sequence, const uint8_t* plain, size_t size,
            uint8_t* packet) override {
    Store32(static_cast<uint32_t>(sequence >> 32), packet + kEspHeader);
    Store32(static_cast<uint32_t>(sequence), packet + kEspHeader + 4);
    uint8_t* out = packet + kEspHeader + kIv;
    const Inputs inputs(*this, sequence, packet);
    alignas(64) gcm_context_data context;
    seal_(&key_, &context, out, plain, size, inputs.nonce, inputs.aad,
          inputs.aad_size, out + size, kIcv);
    return true;
  }

  bool Open(uint64_t sequence, uint8_t* packet, size_t size) override {
    if (size < kEspHeader + kIv + kIcv) return false;
    uint8_t* payload = packet + kEspHeader + kIv;
    const size_t length = size - kEspHeader - kIv - kIcv;
    const Inputs inputs(*this, sequence, packet);
    alignas(64) gcm_context_data context;
    uint8_t icv[kIcv];
    open_(&key_, &context, payload, payload, length, inputs.nonce, inputs.aad,
          inputs.aad_size, icv, kIcv);
    return IcvEqual(icv, payload + length);
  }

 private:
  // Nonce and additional authenticated data (RFC 4106 4 and 5).
  struct Inputs {
    Inputs(const IpsecMbGcm& cipher, uint64_t sequence, const uint8_t* packet) {
      std::memcpy(nonce, cipher.salt_.data(), kSalt);
      std::memcpy(nonce + kSalt, packet + kEspHeader, kIv);
      std::memcpy(aad, packet, 4);
      if (cipher.esn_) {
        Store32(static_cast<uint32_t>(sequence >> 32), aad + 4);
        std::memcpy(aad + 8, packet + 4, 4);
        aad_size = 12;
      } else {
        std::memcpy(aad + 4, packet + 4, 4);
        aad_size = 8;
      }
    }
    uint8_t nonce[kSalt + kIv];
    uint8_t aad[12];
    uint64_t aad_size;
  };

  // Constant in time; two words, as this runs for every packet.
  static bool IcvEqual(const uint8_t* a, const uint8_t* b) {
    uint64_t x[2], y[2];
    std::memcpy(x, a, sizeof x);
    std::memcpy(y, b, sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
  }

  alignas(64) gcm_key_data key_;
  aes_gcm_enc_dec_t seal_;
  aes_gcm_enc_dec_t open_;
  bool esn_;
  std::array<uint8_t, kSalt> salt_;
};

}  // namespace

bool HaveIpsecMb() { return Manager() != nullptr; }

std::unique_ptr<crypto::EspCipher> MakeIpsecMbCipher(
    const base::EspSuite& suite, base::ByteSpan encryption_key) {
  IMB_MGR* manager = Manager();
  if (manager == nullptr || suite.cipher != base::EspCipher::kAesGcm16 ||
      encryption_key.size() != suite.encryption_key_size()) {
    return nullptr;
  }
  return std::make_unique<IpsecMbGcm>(manager, suite, encryption_key);
}

#else

bool HaveIpsecMb() { return false; }

std::unique_ptr<crypto::EspCipher> MakeIpsecMbCipher(const base::EspSuite&,
                                                     base::ByteSpan) {
  return nullptr;
}

#endif

}  // namespace espalier::esp
