#include "agent/ike/key_derivation.h"

#include <array>
#include <utility>

namespace espalier::ike {
namespace {

std::array<uint8_t, 8> Octets(uint64_t value) {
  std::array<uint8_t, 8> octets{};
  for (size_t i = 0; i < octets.size(); ++i) {
    octets[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
  }
  return octets;
}

// Cuts keys off a prf+ stream in order (RFC 7296 2.13).
class Cutter {
 public:
  explicit Cutter(const base::SecretBytes& stream) : stream_(stream) {}
  base::SecretBytes Next(size_t length) {
    base::SecretBytes key = stream_.Slice(offset_, length);
    offset_ += length;
    return key;
  }

 private:
  const base::SecretBytes& stream_;
  size_t offset_ = 0;
};

}  // namespace

base::SecretBytes InitialSkeyseed(crypto::Prf prf, base::ByteSpan nonce_i,
                                  base::ByteSpan nonce_r,
                                  base::ByteSpan shared_secret) {
  base::Bytes key(nonce_i.begin(), nonce_i.end());
  key.insert(key.end(), nonce_r.begin(), nonce_r.end());
  return crypto::ComputePrf(prf, key, {shared_secret});
}

base::SecretBytes RekeySkeyseed(crypto::Prf old_prf, base::ByteSpan old_sk_d,
                                base::ByteSpan shared_secret,
                                base::ByteSpan nonce_i,
                                base::ByteSpan nonce_r) {
  return crypto::ComputePrf(old_prf, old_sk_d,
                            {shared_secret, nonce_i, nonce_r});
}

DerivedKeys DeriveIkeKeys(const IkeSuite& suite, base::ByteSpan skeyseed,
                          base::ByteSpan nonce_i, base::ByteSpan nonce_r,
                          const SpiPair& spis) {
  const size_t prf_size = crypto::PrfSize(suite.prf);
  const size_t encryption = suite.cipher.encryption_key_size();
  const size_t integrity = suite.cipher.integrity_key_size();
  const std::array<uint8_t, 8> spi_i = Octets(spis.initiator);
  const std::array<uint8_t, 8> spi_r = Octets(spis.responder);
  const base::SecretBytes stream =
      crypto::PrfPlus(suite.prf, skeyseed, {nonce_i, nonce_r, spi_i, spi_r},
                      3 * prf_size + 2 * integrity + 2 * encryption);
  Cutter cut(stream);
  DerivedKeys keys;
  keys.ike.sk_d = cut.Next(prf_size);
  keys.ike.sk_ai = cut.Next(integrity);
  keys.ike.sk_ar = cut.Next(integrity);
  keys.ike.sk_ei = cut.Next(encryption);
  keys.ike.sk_er = cut.Next(encryption);
  keys.auth.sk_pi = cut.Next(prf_size);
  keys.auth.sk_pr = cut.Next(prf_size);
  return keys;
}

ChildKeys DeriveChildKeys(crypto::Prf prf, base::ByteSpan sk_d,
                          base::ByteSpan shared_secret, base::ByteSpan nonce_i,
                          base::ByteSpan nonce_r, const base::EspSuite& suite) {
  const size_t encryption = suite.encryption_key_size();
  const size_t integrity = suite.integrity_key_size();
  const base::SecretBytes stream =
      crypto::PrfPlus(prf, sk_d, {shared_secret, nonce_i, nonce_r},
                      2 * (encryption + integrity));
  Cutter cut(stream);
  ChildKeys keys;
  keys.initiator_encryption = cut.Next(encryption);
  keys.initiator_integrity = cut.Next(integrity);
  keys.responder_encryption = cut.Next(encryption);
  keys.responder_integrity = cut.Next(integrity);
  return keys;
}

}  // namespace espalier::ike
