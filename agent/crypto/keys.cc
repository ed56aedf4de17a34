#include "agent/crypto/keys.h"

#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/hash.h"
#include "agent/crypto/keys_impl.h"
#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {
namespace {

constexpr int kMinRsaBits = 2048;
constexpr int kMaxRsaBits = 8192;  // a verification still takes microseconds
constexpr int kGeneratedRsaBits = 3072;

absl::StatusOr<KeyType> EcTypeOf(EVP_PKEY* pkey) {
  // RFC 5480 2.1.1: the curve is named, its parameters never spelled out.
  int spelled_out = 0;
  if (EVP_PKEY_get_int_param(pkey,
                             OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
                             &spelled_out) != 1 ||
      spelled_out != 0) {
    ClearOpenSslErrors();
    return absl::InvalidArgumentError(
        "an EC key that spells out its curve's parameters instead of naming "
        "the curve");
  }
  std::array<char, 80> group{};
  size_t length = 0;
  if (EVP_PKEY_get_group_name(pkey, group.data(), group.size(), &length) != 1) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        "an EC key without a named curve");
  }
  const absl::string_view name(group.data(), length);
  if (name == "prime256v1" || name == "P-256") return KeyType::kEcdsaP256;
  if (name == "secp384r1" || name == "P-384") return KeyType::kEcdsaP384;
  return absl::InvalidArgumentError(
      absl::StrCat("an EC key on ", name, "; supported are P-256 and P-384"));
}

absl::StatusOr<KeyType> TypeOf(EVP_PKEY* pkey) {
  if (EVP_PKEY_is_a(pkey, "ED25519")) return KeyType::kEd25519;
  if (EVP_PKEY_is_a(pkey, "EC")) return EcTypeOf(pkey);
  if (EVP_PKEY_is_a(pkey, "RSA")) {
    const int bits = EVP_PKEY_get_bits(pkey);
    if (bits < kMinRsaBits || bits > kMaxRsaBits) {
      return absl::InvalidArgumentError(
          absl::StrCat("an RSA key of ", bits, " bits; supported are ",
                       kMinRsaBits, " to ", kMaxRsaBits));
    }
    return KeyType::kRsa;
  }
  const char* name = EVP_PKEY_get0_type_name(pkey);
  return absl::InvalidArgumentError(
      absl::StrCat("a key of type ", name == nullptr ? "unknown" : name,
                   "; supported are Ed25519, ECDSA P-256 and P-384, RSA"));
}

absl::StatusOr<base::Bytes> EncodePublic(EVP_PKEY* pkey) {
  uint8_t* encoded = nullptr;
  const int size = i2d_PUBKEY(pkey, &encoded);
  if (size <= 0) {
    return OpenSslError(absl::StatusCode::kInternal, "encoding a public key");
  }
  base::Bytes der(encoded, encoded + size);
  OPENSSL_free(encoded);
  return der;
}

// Of one key there would be two encodings.
bool IsCompressed(const PublicKey& key) {
  constexpr size_t kP256Size = 91, kP384Size = 120;
  return (key.type() == KeyType::kEcdsaP256 && key.der().size() < kP256Size) ||
         (key.type() == KeyType::kEcdsaP384 && key.der().size() < kP384Size);
}

// The public half of `pkey` as an object that shares nothing with it.
absl::StatusOr<std::shared_ptr<const PublicKey>> WrapPublic(PkeyPtr pkey) {
  auto impl = std::make_unique<PublicKey::Impl>();
  ESPALIER_ASSIGN_OR_RETURN(impl->type, TypeOf(pkey.get()));
  const PkeyContextPtr context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
  if (context == nullptr || EVP_PKEY_public_check(context.get()) != 1) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        "a public key that is not valid");
  }
  ESPALIER_ASSIGN_OR_RETURN(impl->der, EncodePublic(pkey.get()));
  impl->pkey = std::move(pkey);
  return std::make_shared<const PublicKey>(std::move(impl));
}

absl::StatusOr<std::shared_ptr<const PrivateKey>> WrapPrivate(PkeyPtr pkey) {
  ESPALIER_ASSIGN_OR_RETURN(const base::Bytes der, EncodePublic(pkey.get()));
  auto impl = std::make_unique<PrivateKey::Impl>();
  ESPALIER_ASSIGN_OR_RETURN(impl->public_key, PublicKey::FromDer(der));
  const PkeyContextPtr context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
  if (context == nullptr || EVP_PKEY_pairwise_check(context.get()) != 1) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        "a private key that does not fit its public half");
  }
  impl->pkey = std::move(pkey);
  return std::make_shared<const PrivateKey>(std::move(impl));
}

// In place of OpenSSL's own, which would ask on the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

}  // namespace

std::string ToString(KeyType type) {
  switch (type) {
    case KeyType::kEd25519:
      return "Ed25519";
    case KeyType::kEcdsaP256:
      return "ECDSA P-256";
    case KeyType::kEcdsaP384:
      return "ECDSA P-384";
    case KeyType::kRsa:
      break;
  }
  return "RSA";
}

PublicKey::PublicKey(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PublicKey::~PublicKey() = default;

absl::StatusOr<std::shared_ptr<const PublicKey>> PublicKey::FromDer(
    base::ByteSpan subject_public_key_info) {
  const uint8_t* cursor = subject_public_key_info.data();
  const uint8_t* end = cursor + subject_public_key_info.size();
  PkeyPtr pkey(d2i_PUBKEY(nullptr, &cursor,
                          static_cast<long>(subject_public_key_info.size())));
  if (pkey == nullptr) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        "not a DER SubjectPublicKeyInfo");
  }
  if (cursor != end) {
    return absl::InvalidArgumentError(
        absl::StrCat("a SubjectPublicKeyInfo with ", end - cursor,
                     " octets behind its end"));
  }
  ESPALIER_ASSIGN_OR_RETURN(std::shared_ptr<const PublicKey> key,
                            WrapPublic(std::move(pkey)));
  if (IsCompressed(*key)) {
    return absl::InvalidArgumentError(
        "an EC public key as a compressed point; supported is the uncompressed "
        "form (RFC 5480 2.2)");
  }
  // RFC 5280 4.1 wants DER, which is one encoding a key.
  const base::Bytes& der = key->der();
  if (!std::equal(der.begin(), der.end(), subject_public_key_info.begin(),
                  subject_public_key_info.end())) {
    return absl::InvalidArgumentError(
        "a SubjectPublicKeyInfo that is not in its DER form");
  }
  return key;
}

absl::StatusOr<std::shared_ptr<const PublicKey>> PublicKey::FromPem(
    const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  PkeyPtr pkey;
  if (bio != nullptr) {
    pkey.reset(PEM_read_bio_PUBKEY(bio.get(), nullptr, NoPassphrase, nullptr));
  }
  if (pkey == nullptr) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        "not a public key in PEM (BEGIN PUBLIC KEY)");
  }
  ESPALIER_ASSIGN_OR_RETURN(const base::Bytes der, EncodePublic(pkey.get()));
  return FromDer(der);
}

KeyType PublicKey::type() const { return impl_->type; }
const base::Bytes& PublicKey::der() const { return impl_->der; }

std::string PublicKey::ToPem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  char* text = nullptr;
  if (bio == nullptr ||
      PEM_write_bio_PUBKEY(bio.get(), impl_->pkey.get()) != 1) {
    OpenSslFatal("writing a public key");
  }
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

std::string PublicKey::Fingerprint() const {
  return absl::StrCat("SHA256:", base::ToHex(Sha256({der()})));
}

PrivateKey::PrivateKey(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PrivateKey::~PrivateKey() = default;

absl::StatusOr<std::shared_ptr<const PrivateKey>> PrivateKey::FromPem(
    const base::SecretBytes& pem) {
  const BioPtr bio(
      BIO_new_mem_buf(pem.span().data(), static_cast<int>(pem.size())));
  PkeyPtr pkey;
  if (bio != nullptr) {
    pkey.reset(
        PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  }
  if (pkey == nullptr) {
    return OpenSslError(
        absl::StatusCode::kInvalidArgument,
        "not an unencrypted private key in PEM (BEGIN PRIVATE KEY)");
  }
  return WrapPrivate(std::move(pkey));
}

absl::StatusOr<std::shared_ptr<const PrivateKey>> PrivateKey::Generate(
    KeyType type) {
  PkeyPtr pkey;
  switch (type) {
    case KeyType::kEd25519:
      pkey.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
      break;
    case KeyType::kEcdsaP256:
      pkey.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
      break;
    case KeyType::kEcdsaP384:
      pkey.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-384"));
      break;
    case KeyType::kRsa:
      pkey.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA",
                                   static_cast<size_t>(kGeneratedRsaBits)));
      break;
  }
  if (pkey == nullptr) {
    return OpenSslError(absl::StatusCode::kInternal,
                        absl::StrCat("generating an ", ToString(type), " key"));
  }
  return WrapPrivate(std::move(pkey));
}

KeyType PrivateKey::type() const { return impl_->public_key->type(); }

const std::shared_ptr<const PublicKey>& PrivateKey::public_key() const {
  return impl_->public_key;
}

base::SecretBytes PrivateKey::ToPem() const {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (bio == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), impl_->pkey.get(), nullptr,
                                    nullptr, 0, nullptr, nullptr) != 1) {
    OpenSslFatal("writing a private key");
  }
  uint8_t* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return base::SecretBytes(base::ByteSpan(text, static_cast<size_t>(size)));
}

}  // namespace espalier::crypto
