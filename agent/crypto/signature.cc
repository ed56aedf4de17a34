#include "agent/crypto/signature.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/der.h"
#include "agent/crypto/keys_impl.h"
#include "agent/crypto/openssl_util.h"
#include "agent/crypto/signature_ops.h"

namespace espalier::crypto {
namespace {

// RFC 8420 appendix A.
constexpr uint8_t kEd25519Id[] = {0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70};
// RFC 7427 A.3.2 to A.3.4: ecdsa-with-SHA256, -SHA384, -SHA512.
constexpr uint8_t kEcdsaSha256Id[] = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86,
                                      0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};
constexpr uint8_t kEcdsaSha384Id[] = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86,
                                      0x48, 0xce, 0x3d, 0x04, 0x03, 0x03};
constexpr uint8_t kEcdsaSha512Id[] = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86,
                                      0x48, 0xce, 0x3d, 0x04, 0x03, 0x04};
// RFC 7427 A.4.3 and its likes: hash, MGF1 with the same hash, a salt as long
// as the hash, trailer field 1. `hash` is the last octet of id-sha2xx.
constexpr std::array<uint8_t, 72> RsaPssId(uint8_t hash, uint8_t salt) {
  return {0x30, 0x46, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
          0x01, 0x0a, 0x30, 0x39, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60,
          0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash, 0x05, 0x00, 0xa1,
          0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d,
          0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
          0x65, 0x03, 0x04, 0x02, hash, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01,
          salt, 0xa3, 0x03, 0x02, 0x01, 0x01};
}
constexpr auto kRsaPssSha256Id = RsaPssId(0x01, 32);
constexpr auto kRsaPssSha384Id = RsaPssId(0x02, 48);
constexpr auto kRsaPssSha512Id = RsaPssId(0x03, 64);

// Contents of OBJECT IDENTIFIERs.
constexpr uint8_t kRsaPssOid[] = {0x2a, 0x86, 0x48, 0x86, 0xf7,
                                  0x0d, 0x01, 0x01, 0x0a};
constexpr uint8_t kMgf1Oid[] = {0x2a, 0x86, 0x48, 0x86, 0xf7,
                                0x0d, 0x01, 0x01, 0x08};
constexpr uint8_t kSha2OidPrefix[] = {0x60, 0x86, 0x48, 0x01,
                                      0x65, 0x03, 0x04, 0x02};

bool Same(base::ByteSpan a, base::ByteSpan b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// One way of signing, of which a SignatureScheme is what we produce and this
// is what we verify: an ECDSA key may come with any SHA-2 at least as long as
// its curve.
struct Method {
  enum class Kind : uint8_t { kEd25519, kEcdsa, kRsaPss } kind;
  uint16_t hash;
};

const char* DigestName(uint16_t hash) {
  switch (hash) {
    case kHashSha2_256:
      return "SHA2-256";
    case kHashSha2_384:
      return "SHA2-384";
    case kHashSha2_512:
      return "SHA2-512";
    default:
      return nullptr;
  }
}

int DigestOctets(uint16_t hash) {
  return hash == kHashSha2_256 ? 32 : hash == kHashSha2_384 ? 48 : 64;
}

// HashAlgorithm ::= SEQUENCE { OBJECT IDENTIFIER, NULL OPTIONAL } (RFC 4055 2.1
// lets both forms of the parameters in).
bool ReadHash(base::ByteReader* reader, uint16_t* hash) {
  base::ByteSpan sequence, oid, null;
  if (!ReadDer(reader, kDerSequence, &sequence)) return false;
  base::ByteReader inner(sequence);
  if (!ReadDer(&inner, kDerObjectIdentifier, &oid)) return false;
  if (!inner.empty() &&
      (!ReadDer(&inner, kDerNull, &null) || !null.empty() || !inner.empty())) {
    return false;
  }
  constexpr size_t kPrefix = std::size(kSha2OidPrefix);
  if (oid.size() != kPrefix + 1 || !Same(oid.first(kPrefix), kSha2OidPrefix)) {
    return false;
  }
  switch (oid[kPrefix]) {
    case 1:
      *hash = kHashSha2_256;
      return true;
    case 2:
      *hash = kHashSha2_384;
      return true;
    case 3:
      *hash = kHashSha2_512;
      return true;
    default:
      return false;
  }
}

// RSASSA-PSS-params (RFC 4055 3.1). Every default is SHA-1 or its length, so
// only the trailer field may be left out.
bool ReadPssParameters(base::ByteSpan parameters, uint16_t* hash) {
  base::ByteReader reader(parameters);
  base::ByteSpan field;
  if (!ReadDer(&reader, DerContext(0), &field)) return false;
  base::ByteReader hash_reader(field);
  if (!ReadHash(&hash_reader, hash) || !hash_reader.empty()) return false;

  base::ByteSpan mask, mask_oid;
  uint16_t mask_hash = 0;
  if (!ReadDer(&reader, DerContext(1), &field)) return false;
  base::ByteReader mask_reader(field);
  if (!ReadDer(&mask_reader, kDerSequence, &mask) || !mask_reader.empty()) {
    return false;
  }
  mask_reader = base::ByteReader(mask);
  if (!ReadDer(&mask_reader, kDerObjectIdentifier, &mask_oid) ||
      !Same(mask_oid, kMgf1Oid) || !ReadHash(&mask_reader, &mask_hash) ||
      !mask_reader.empty() || mask_hash != *hash) {
    return false;
  }

  uint8_t salt = 0;
  if (!ReadDer(&reader, DerContext(2), &field)) return false;
  base::ByteReader salt_reader(field);
  if (!ReadDerSmallInteger(&salt_reader, &salt) || !salt_reader.empty() ||
      salt != DigestOctets(*hash)) {
    return false;
  }
  if (NextDerIs(reader, DerContext(3))) {
    uint8_t trailer = 0;
    if (!ReadDer(&reader, DerContext(3), &field)) return false;
    base::ByteReader trailer_reader(field);
    if (!ReadDerSmallInteger(&trailer_reader, &trailer) ||
        !trailer_reader.empty() || trailer != 1) {
      return false;
    }
  }
  return reader.empty();
}

absl::StatusOr<Method> ParseAlgorithmIdentifier(base::ByteSpan id) {
  if (Same(id, kEd25519Id))
    return Method{Method::Kind::kEd25519, kHashIdentity};
  if (Same(id, kEcdsaSha256Id)) {
    return Method{Method::Kind::kEcdsa, kHashSha2_256};
  }
  if (Same(id, kEcdsaSha384Id)) {
    return Method{Method::Kind::kEcdsa, kHashSha2_384};
  }
  if (Same(id, kEcdsaSha512Id)) {
    return Method{Method::Kind::kEcdsa, kHashSha2_512};
  }
  base::ByteReader outer(id);
  base::ByteSpan sequence, oid, parameters;
  uint16_t hash = 0;
  if (ReadDer(&outer, kDerSequence, &sequence) && outer.empty()) {
    base::ByteReader inner(sequence);
    if (ReadDer(&inner, kDerObjectIdentifier, &oid) && Same(oid, kRsaPssOid) &&
        ReadDer(&inner, kDerSequence, &parameters) && inner.empty() &&
        ReadPssParameters(parameters, &hash)) {
      return Method{Method::Kind::kRsaPss, hash};
    }
  }
  // A peer chose these octets: show only as many as a known one has.
  const bool cut = id.size() > kRsaPssSha256Id.size();
  return absl::InvalidArgumentError(absl::StrCat(
      "signature algorithm ",
      base::ToHex(cut ? id.first(kRsaPssSha256Id.size()) : id),
      cut ? "..." : "",
      " is refused; accepted are Ed25519, ECDSA and RSASSA-PSS with SHA-2"));
}

bool Suits(KeyType type, const Method& method) {
  switch (type) {
    case KeyType::kEd25519:
      return method.kind == Method::Kind::kEd25519;
    case KeyType::kEcdsaP256:
      return method.kind == Method::Kind::kEcdsa;
    case KeyType::kEcdsaP384:
      return method.kind == Method::Kind::kEcdsa &&
             method.hash != kHashSha2_256;
    case KeyType::kRsa:
      break;
  }
  return method.kind == Method::Kind::kRsaPss;
}

// For EVP_DigestSignInit_ex and EVP_DigestVerifyInit_ex.
std::array<OSSL_PARAM, 4> ParametersOf(const Method& method, int* salt) {
  static char padding[] = OSSL_PKEY_RSA_PAD_MODE_PSS;
  std::array<OSSL_PARAM, 4> parameters;
  parameters.fill(OSSL_PARAM_construct_end());
  if (method.kind == Method::Kind::kRsaPss) {
    *salt = DigestOctets(method.hash);
    parameters[0] = OSSL_PARAM_construct_utf8_string(
        OSSL_SIGNATURE_PARAM_PAD_MODE, padding, 0);
    parameters[1] =
        OSSL_PARAM_construct_int(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, salt);
    parameters[2] = OSSL_PARAM_construct_utf8_string(
        OSSL_SIGNATURE_PARAM_MGF1_DIGEST,
        const_cast<char*>(DigestName(method.hash)), 0);
  }
  return parameters;
}

Method MethodOf(SignatureScheme scheme) {
  switch (scheme) {
    case SignatureScheme::kEd25519:
      return {Method::Kind::kEd25519, kHashIdentity};
    case SignatureScheme::kEcdsaP256Sha256:
      return {Method::Kind::kEcdsa, kHashSha2_256};
    case SignatureScheme::kEcdsaP384Sha384:
      return {Method::Kind::kEcdsa, kHashSha2_384};
    case SignatureScheme::kRsaPssSha256:
      return {Method::Kind::kRsaPss, kHashSha2_256};
    case SignatureScheme::kRsaPssSha384:
      return {Method::Kind::kRsaPss, kHashSha2_384};
    case SignatureScheme::kRsaPssSha512:
      break;
  }
  return {Method::Kind::kRsaPss, kHashSha2_512};
}

}  // namespace

uint16_t HashOf(SignatureScheme scheme) { return MethodOf(scheme).hash; }

std::string ToString(SignatureScheme scheme) {
  switch (scheme) {
    case SignatureScheme::kEd25519:
      return "ed25519";
    case SignatureScheme::kEcdsaP256Sha256:
      return "ecdsa-p256-sha256";
    case SignatureScheme::kEcdsaP384Sha384:
      return "ecdsa-p384-sha384";
    case SignatureScheme::kRsaPssSha256:
      return "rsa-pss-sha256";
    case SignatureScheme::kRsaPssSha384:
      return "rsa-pss-sha384";
    case SignatureScheme::kRsaPssSha512:
      break;
  }
  return "rsa-pss-sha512";
}

std::vector<SignatureScheme> SchemesFor(KeyType type,
                                        std::span<const uint16_t> peer_hashes) {
  std::vector<SignatureScheme> schemes;
  switch (type) {
    case KeyType::kEd25519:
      schemes = {SignatureScheme::kEd25519};
      break;
    case KeyType::kEcdsaP256:
      schemes = {SignatureScheme::kEcdsaP256Sha256};
      break;
    case KeyType::kEcdsaP384:
      schemes = {SignatureScheme::kEcdsaP384Sha384};
      break;
    case KeyType::kRsa:
      schemes = {SignatureScheme::kRsaPssSha256, SignatureScheme::kRsaPssSha384,
                 SignatureScheme::kRsaPssSha512};
      break;
  }
  std::erase_if(schemes, [&](SignatureScheme scheme) {
    return std::ranges::find(peer_hashes, HashOf(scheme)) == peer_hashes.end();
  });
  return schemes;
}

base::ByteSpan AlgorithmIdentifier(SignatureScheme scheme) {
  switch (scheme) {
    case SignatureScheme::kEd25519:
      return kEd25519Id;
    case SignatureScheme::kEcdsaP256Sha256:
      return kEcdsaSha256Id;
    case SignatureScheme::kEcdsaP384Sha384:
      return kEcdsaSha384Id;
    case SignatureScheme::kRsaPssSha256:
      return kRsaPssSha256Id;
    case SignatureScheme::kRsaPssSha384:
      return kRsaPssSha384Id;
    case SignatureScheme::kRsaPssSha512:
      break;
  }
  return kRsaPssSha512Id;
}

absl::StatusOr<Signature> RunSign(const Sign& job) {
  if (job.key == nullptr) {
    return absl::InvalidArgumentError("signing without a key");
  }
  const Method method = MethodOf(job.scheme);
  const bool suits = Suits(job.key->type(), method) &&
                     (job.scheme != SignatureScheme::kEcdsaP384Sha384 ||
                      job.key->type() == KeyType::kEcdsaP384);
  if (!suits) {
    return absl::InvalidArgumentError(
        absl::StrCat("an ", ToString(job.key->type()), " key cannot sign ",
                     ToString(job.scheme)));
  }
  const DigestContextPtr context(EVP_MD_CTX_new());
  int salt = 0;
  const auto parameters = ParametersOf(method, &salt);
  size_t size = 0;
  if (context == nullptr ||
      EVP_DigestSignInit_ex(context.get(), nullptr, DigestName(method.hash),
                            nullptr, nullptr, job.key->impl().pkey.get(),
                            parameters.data()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, job.data.data(),
                     job.data.size()) != 1) {
    return OpenSslError(absl::StatusCode::kInternal,
                        absl::StrCat("starting ", ToString(job.scheme)));
  }
  Signature result;
  result.signature.resize(size);
  if (EVP_DigestSign(context.get(), result.signature.data(), &size,
                     job.data.data(), job.data.size()) != 1) {
    return OpenSslError(absl::StatusCode::kInternal,
                        absl::StrCat("signing ", ToString(job.scheme)));
  }
  result.signature.resize(size);  // of DER-coded ECDSA it was an upper bound
  const base::ByteSpan id = AlgorithmIdentifier(job.scheme);
  result.algorithm_identifier.assign(id.begin(), id.end());
  return result;
}

absl::Status RunVerify(const VerifySignature& job) {
  if (job.key == nullptr) {
    return absl::InvalidArgumentError("verifying without a key");
  }
  ESPALIER_ASSIGN_OR_RETURN(const Method method,
                            ParseAlgorithmIdentifier(job.algorithm_identifier));
  if (!Suits(job.key->type(), method)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a signature whose algorithm does not suit the peer's ",
                     ToString(job.key->type()), " key"));
  }
  const DigestContextPtr context(EVP_MD_CTX_new());
  int salt = 0;
  const auto parameters = ParametersOf(method, &salt);
  if (context == nullptr ||
      EVP_DigestVerifyInit_ex(context.get(), nullptr, DigestName(method.hash),
                              nullptr, nullptr, job.key->impl().pkey.get(),
                              parameters.data()) != 1) {
    return OpenSslError(absl::StatusCode::kInternal,
                        "starting to verify a signature");
  }
  if (EVP_DigestVerify(context.get(), job.signature.data(),
                       job.signature.size(), job.data.data(),
                       job.data.size()) != 1) {
    ClearOpenSslErrors();
    return absl::PermissionDeniedError(absl::StrCat(
        "the signature does not verify with the ", ToString(job.key->type()),
        " key ", job.key->Fingerprint()));
  }
  return absl::OkStatus();
}

}  // namespace espalier::crypto
