// What reaches agent/crypto from a peer or a file: the first octet says as
// which. AUTH's AlgorithmIdentifier with a signature, public values, an
// Encrypted payload, keys in DER and PEM.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "agent/crypto/cipher_suite.h"
#include "agent/crypto/job.h"
#include "agent/crypto/keys.h"

namespace crypto = espalier::crypto;
namespace base = espalier::base;

namespace {

std::shared_ptr<const crypto::PublicKey> KeyOf(crypto::KeyType type) {
  static const auto* const kKeys = [] {
    auto* keys = new std::array<std::shared_ptr<const crypto::PublicKey>, 4>;
    for (size_t i = 0; i < keys->size(); ++i) {
      const auto key =
          crypto::PrivateKey::Generate(static_cast<crypto::KeyType>(i));
      if (!key.ok()) std::abort();
      (*keys)[i] = (*key)->public_key();
    }
    return keys;
  }();
  return (*kKeys)[static_cast<size_t>(type)];
}

void Verify(base::ByteSpan input) {
  const base::ByteSpan id = input.first(std::min<size_t>(input.size(), 80));
  for (const crypto::KeyType type :
       {crypto::KeyType::kEd25519, crypto::KeyType::kEcdsaP256,
        crypto::KeyType::kEcdsaP384, crypto::KeyType::kRsa}) {
    // Nobody signed this: whatever the octets, it must not verify.
    const crypto::Result result = crypto::Run(crypto::VerifySignature{
        KeyOf(type), base::Bytes(id.begin(), id.end()), base::Bytes{1, 2, 3},
        base::Bytes(input.begin(), input.end())});
    if (result.ok()) std::abort();
  }
}

void Exchange(base::ByteSpan input) {
  for (const crypto::Group group :
       {crypto::Group::kX25519, crypto::Group::kEcp256}) {
    static const auto* const kOwn = [] {
      auto* own = new std::array<std::shared_ptr<crypto::KeyExchangeKey>, 2>;
      for (size_t i = 0; i < own->size(); ++i) {
        auto result = crypto::Run(crypto::GenerateKeyExchange{
            i == 0 ? crypto::Group::kX25519 : crypto::Group::kEcp256});
        if (!result.ok()) std::abort();
        (*own)[i] = std::get<crypto::KeyExchangeGenerated>(*result).key;
      }
      return own;
    }();
    (void)crypto::Run(crypto::ComputeSharedSecret{
        (*kOwn)[group == crypto::Group::kX25519 ? 0 : 1],
        base::Bytes(input.begin(), input.end())});
  }
}

void Open(base::ByteSpan input) {
  if (input.empty()) return;
  const size_t body = input[0];
  for (const crypto::CipherSuite& suite :
       {crypto::CipherSuite{crypto::Cipher::kAesGcm16, 256,
                            crypto::Integrity::kNone},
        crypto::CipherSuite{crypto::Cipher::kChaCha20Poly1305, 256,
                            crypto::Integrity::kNone},
        crypto::CipherSuite{crypto::Cipher::kAesCbc, 128,
                            crypto::Integrity::kHmacSha2_512_256}}) {
    base::Bytes message(input.begin() + 1, input.end());
    base::MutableByteSpan plaintext;
    (void)crypto::Open(suite, base::Bytes(suite.encryption_key_size(), 1),
                       base::Bytes(suite.integrity_key_size(), 2), message,
                       body, &plaintext);
  }
}

void ReadKeys(base::ByteSpan input) {
  if (const auto key = crypto::PublicKey::FromDer(input); key.ok()) {
    if (!std::equal(input.begin(), input.end(), (*key)->der().begin(),
                    (*key)->der().end())) {
      std::abort();
    }
    (void)(*key)->Fingerprint();
  }
  (void)crypto::PublicKey::FromPem(std::string(input.begin(), input.end()));
  (void)crypto::PrivateKey::FromPem(base::SecretBytes(input));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const base::ByteSpan input(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      Verify(input);
      break;
    case 1:
      Exchange(input);
      break;
    case 2:
      Open(input);
      break;
    case 3:
      ReadKeys(input);
      break;
  }
  return 0;
}
