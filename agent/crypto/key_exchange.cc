#include "agent/crypto/key_exchange.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/dh.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/key_exchange_key.h"

namespace espalier::crypto {
namespace {

using BignumPtr = std::unique_ptr<BIGNUM, OpenSslDeleter<BN_clear_free>>;
using ParamBuilderPtr =
    std::unique_ptr<OSSL_PARAM_BLD, OpenSslDeleter<OSSL_PARAM_BLD_free>>;
using ParamsPtr = std::unique_ptr<OSSL_PARAM, OpenSslDeleter<OSSL_PARAM_free>>;

enum class Kind : uint8_t { kModp, kEcp, kX25519 };

struct GroupFacts {
  Group group;
  Kind kind;
  const char* openssl_type;
  const char* openssl_name;
  size_t public_size;
  size_t secret_size;
  const char* name;
};

constexpr std::array<GroupFacts, 6> kGroups = {{
    {Group::kModp2048, Kind::kModp, "DH", "modp_2048", 256, 256, "modp2048"},
    {Group::kModp3072, Kind::kModp, "DH", "modp_3072", 384, 384, "modp3072"},
    {Group::kModp4096, Kind::kModp, "DH", "modp_4096", 512, 512, "modp4096"},
    {Group::kEcp256, Kind::kEcp, "EC", "P-256", 64, 32, "ecp256"},
    {Group::kEcp384, Kind::kEcp, "EC", "P-384", 96, 48, "ecp384"},
    {Group::kX25519, Kind::kX25519, "X25519", nullptr, 32, 32, "x25519"},
}};

// Null when the number is none of the enum's.
const GroupFacts* Find(Group group) {
  const auto* found = std::ranges::find(kGroups, group, &GroupFacts::group);
  return found == kGroups.end() ? nullptr : found;
}

absl::Status UnknownGroup(Group group) {
  return absl::InvalidArgumentError(absl::StrCat(
      "key exchange group ", static_cast<int>(group), " is not supported"));
}

// A generator with the group's parameters; kept by the thread, because making
// one costs as much as an X25519 key.
EVP_PKEY_CTX* Generator(const GroupFacts& facts) {
  thread_local std::array<PkeyContextPtr, kGroups.size()> contexts;
  PkeyContextPtr& context =
      contexts[static_cast<size_t>(&facts - kGroups.data())];
  if (context == nullptr) {
    PkeyContextPtr made(
        EVP_PKEY_CTX_new_from_name(nullptr, facts.openssl_type, nullptr));
    if (made == nullptr || EVP_PKEY_keygen_init(made.get()) != 1) {
      return nullptr;
    }
    if (facts.openssl_name != nullptr &&
        EVP_PKEY_CTX_set_group_name(made.get(), facts.openssl_name) != 1) {
      return nullptr;
    }
    context = std::move(made);
  }
  return context.get();
}

// RFC 6989 2.1: 1 < y < p - 1. In these safe-prime groups that leaves no
// small subgroup.
absl::Status CheckModp(const GroupFacts& facts, EVP_PKEY* own,
                       base::ByteSpan peer_public) {
  BIGNUM* prime = nullptr;
  if (EVP_PKEY_get_bn_param(own, OSSL_PKEY_PARAM_FFC_P, &prime) != 1) {
    return OpenSslError(absl::StatusCode::kInternal, "reading a prime");
  }
  const BignumPtr limit(prime);
  const BignumPtr value(BN_bin2bn(
      peer_public.data(), static_cast<int>(peer_public.size()), nullptr));
  if (value == nullptr || BN_sub_word(limit.get(), 1) != 1) {
    return OpenSslError(absl::StatusCode::kInternal, "comparing big numbers");
  }
  if (BN_cmp(value.get(), BN_value_one()) <= 0 ||
      BN_cmp(value.get(), limit.get()) >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer's public value of group ", facts.name,
                     " is not between 1 and p - 1 (RFC 6989 2.1)"));
  }
  return absl::OkStatus();
}

// The peer's value as a key of the same group as `own`. OpenSSL refuses EC
// points off the curve here (RFC 6989 2.3; the cofactor of both curves is 1).
absl::StatusOr<PkeyPtr> ImportPeer(const GroupFacts& facts, EVP_PKEY* own,
                                   base::ByteSpan peer_public) {
  PkeyPtr peer;
  if (facts.kind == Kind::kX25519) {
    peer.reset(EVP_PKEY_new_raw_public_key_ex(nullptr, facts.openssl_type,
                                              nullptr, peer_public.data(),
                                              peer_public.size()));
  } else {
    // SEC 1 2.3.3: 0x04 says that x and y follow, which is all IKE sends.
    base::Bytes encoded;
    if (facts.kind == Kind::kEcp)
      encoded.push_back(POINT_CONVERSION_UNCOMPRESSED);
    encoded.insert(encoded.end(), peer_public.begin(), peer_public.end());
    peer.reset(EVP_PKEY_new());
    if (peer != nullptr &&
        (EVP_PKEY_copy_parameters(peer.get(), own) != 1 ||
         EVP_PKEY_set1_encoded_public_key(peer.get(), encoded.data(),
                                          encoded.size()) != 1)) {
      peer = nullptr;
    }
  }
  if (peer == nullptr) {
    return OpenSslError(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("the peer's public value is not of group ", facts.name));
  }
  return peer;
}

}  // namespace

size_t PublicValueSize(Group group) {
  const GroupFacts* facts = Find(group);
  return facts == nullptr ? 0 : facts->public_size;
}

size_t SharedSecretSize(Group group) {
  const GroupFacts* facts = Find(group);
  return facts == nullptr ? 0 : facts->secret_size;
}

std::string ToString(Group group) {
  const GroupFacts* facts = Find(group);
  return facts == nullptr ? absl::StrCat("group", static_cast<int>(group))
                          : facts->name;
}

KeyExchangeKey::KeyExchangeKey(Group group, PkeyPtr pkey)
    : group_(group), pkey_(std::move(pkey)) {}

absl::StatusOr<std::shared_ptr<KeyExchangeKey>> KeyExchangeKey::Generate(
    Group group) {
  const GroupFacts* facts = Find(group);
  if (facts == nullptr) return UnknownGroup(group);
  EVP_PKEY_CTX* generator = Generator(*facts);
  EVP_PKEY* pkey = nullptr;
  if (generator == nullptr || EVP_PKEY_generate(generator, &pkey) != 1) {
    return OpenSslError(
        absl::StatusCode::kInternal,
        absl::StrCat("generating a key of group ", facts->name));
  }
  return std::make_shared<KeyExchangeKey>(group, PkeyPtr(pkey));
}

absl::StatusOr<std::shared_ptr<KeyExchangeKey>> KeyExchangeKey::FromPrivate(
    Group group, base::ByteSpan private_value) {
  const GroupFacts* facts = Find(group);
  if (facts == nullptr) return UnknownGroup(group);
  const absl::string_view what = "importing a private value";
  if (facts->kind == Kind::kX25519) {
    PkeyPtr pkey(EVP_PKEY_new_raw_private_key_ex(nullptr, facts->openssl_type,
                                                 nullptr, private_value.data(),
                                                 private_value.size()));
    if (pkey == nullptr) {
      return OpenSslError(absl::StatusCode::kInvalidArgument, what);
    }
    return std::make_shared<KeyExchangeKey>(group, std::move(pkey));
  }
  // OpenSSL does not compute the public half of an imported key.
  const BignumPtr secret(BN_secure_new());
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  if (secret == nullptr || builder == nullptr ||
      BN_bin2bn(private_value.data(), static_cast<int>(private_value.size()),
                secret.get()) == nullptr ||
      OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME,
                                      facts->openssl_name, 0) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_PRIV_KEY,
                             secret.get()) != 1) {
    return OpenSslError(absl::StatusCode::kInternal, what);
  }
  base::Bytes point;
  if (facts->kind == Kind::kEcp) {
    const int nid =
        group == Group::kEcp256 ? NID_X9_62_prime256v1 : NID_secp384r1;
    const std::unique_ptr<EC_GROUP, OpenSslDeleter<EC_GROUP_free>> curve(
        EC_GROUP_new_by_curve_name(nid));
    const std::unique_ptr<EC_POINT, OpenSslDeleter<EC_POINT_free>> product(
        curve == nullptr ? nullptr : EC_POINT_new(curve.get()));
    point.resize(1 + facts->public_size);
    if (product == nullptr ||
        EC_POINT_mul(curve.get(), product.get(), secret.get(), nullptr, nullptr,
                     nullptr) != 1 ||
        EC_POINT_point2oct(curve.get(), product.get(),
                           POINT_CONVERSION_UNCOMPRESSED, point.data(),
                           point.size(), nullptr) != point.size() ||
        OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY,
                                         point.data(), point.size()) != 1) {
      return OpenSslError(absl::StatusCode::kInternal, what);
    }
  }
  const ParamsPtr params(OSSL_PARAM_BLD_to_param(builder.get()));
  const PkeyContextPtr context(
      EVP_PKEY_CTX_new_from_name(nullptr, facts->openssl_type, nullptr));
  EVP_PKEY* pkey = nullptr;
  if (params == nullptr || context == nullptr ||
      EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &pkey, EVP_PKEY_KEYPAIR, params.get()) !=
          1) {
    return OpenSslError(absl::StatusCode::kInvalidArgument, what);
  }
  return std::make_shared<KeyExchangeKey>(group, PkeyPtr(pkey));
}

absl::StatusOr<base::Bytes> KeyExchangeKey::PublicValue() const {
  const GroupFacts& facts = *Find(group_);
  std::array<uint8_t, 513> encoded;
  size_t size = 0;
  if (EVP_PKEY_get_octet_string_param(
          pkey_.get(), OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, encoded.data(),
          encoded.size(), &size) != 1) {
    return OpenSslError(absl::StatusCode::kInternal, "reading a public value");
  }
  const size_t prefix = facts.kind == Kind::kEcp ? 1 : 0;
  if (size != prefix + facts.public_size) {
    return absl::InternalError(absl::StrCat("a public value of ", size,
                                            " octets in group ", facts.name));
  }
  return base::Bytes(encoded.begin() + prefix, encoded.begin() + size);
}

absl::StatusOr<base::SecretBytes> KeyExchangeKey::Derive(
    base::ByteSpan peer_public) const {
  const GroupFacts& facts = *Find(group_);
  if (peer_public.size() != facts.public_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer's public value of group ", facts.name, " has ",
                     peer_public.size(), " octets, not ", facts.public_size));
  }
  if (facts.kind == Kind::kModp) {
    ESPALIER_RETURN_IF_ERROR(CheckModp(facts, pkey_.get(), peer_public));
  }
  ESPALIER_ASSIGN_OR_RETURN(const PkeyPtr peer,
                            ImportPeer(facts, pkey_.get(), peer_public));
  const PkeyContextPtr context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, pkey_.get(), nullptr));
  // Validated above: OpenSSL's own check would multiply by the group's order.
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      (facts.kind == Kind::kModp &&
       EVP_PKEY_CTX_set_dh_pad(context.get(), 1) != 1) ||
      EVP_PKEY_derive_set_peer_ex(context.get(), peer.get(), 0) != 1) {
    return OpenSslError(absl::StatusCode::kInternal, "starting a key exchange");
  }
  base::SecretBytes secret(facts.secret_size);
  size_t size = secret.size();
  // X25519 fails here on an all-zero result (RFC 8031 2, RFC 7748 6.1).
  if (EVP_PKEY_derive(context.get(), secret.mutable_span().data(), &size) !=
          1 ||
      size != secret.size()) {
    return OpenSslError(absl::StatusCode::kInvalidArgument,
                        absl::StrCat("no shared secret of group ", facts.name,
                                     " comes out of the peer's public value"));
  }
  return secret;
}

}  // namespace espalier::crypto
