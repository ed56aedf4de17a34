#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::netlink {
namespace {

absl::Status Malformed(const char* what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the kernel sent a malformed ", what));
}

absl::StatusOr<base::IpAddress> Address(const xfrm_address_t& raw,
                                        uint16_t family, const char* what) {
  if (family != AF_INET && family != AF_INET6) return Malformed(what);
  base::Bytes octets(family == AF_INET ? 4 : 16);
  std::memcpy(octets.data(), &raw, octets.size());
  return base::IpAddress::FromBytes(octets);
}

std::string NameOf(const char (&name)[64]) {
  return std::string(name, strnlen(name, sizeof(name)));
}

// Of any xfrm_algo*, which all begin with name and key length; only these are
// looked at, never the key.
template <typename Header>
bool ReadAlgorithm(const Attribute& attribute, Header* header) {
  base::ByteReader reader(attribute.value);
  return ReadStruct(&reader, header);
}

void ApplyAead(const xfrm_algo_aead& algorithm, base::EspSuite* suite) {
  constexpr uint32_t kSaltBits = 32;
  suite->cipher = NameOf(algorithm.alg_name) == "rfc4106(gcm(aes))"
                      ? base::EspCipher::kAesGcm16
                      : base::EspCipher::kChaCha20Poly1305;
  suite->integrity = base::EspIntegrity::kNone;
  if (algorithm.alg_key_len > kSaltBits) {
    suite->key_bits = static_cast<uint16_t>(algorithm.alg_key_len - kSaltBits);
  }
}

void ApplyIntegrity(const std::string& name, base::EspSuite* suite) {
  if (name == "hmac(sha256)") {
    suite->integrity = base::EspIntegrity::kHmacSha2_256_128;
  } else if (name == "hmac(sha384)") {
    suite->integrity = base::EspIntegrity::kHmacSha2_384_192;
  } else if (name == "hmac(sha512)") {
    suite->integrity = base::EspIntegrity::kHmacSha2_512_256;
  }
}

bool ApplyStateAttribute(const Attribute& attribute, XfrmState* state) {
  switch (attribute.type) {
    case XFRMA_ALG_AEAD: {
      xfrm_algo_aead algorithm;
      if (!ReadAlgorithm(attribute, &algorithm)) return false;
      ApplyAead(algorithm, &state->suite);
      return true;
    }
    case XFRMA_ALG_CRYPT: {
      xfrm_algo algorithm;
      if (!ReadAlgorithm(attribute, &algorithm)) return false;
      state->suite.cipher = base::EspCipher::kAesCbc;
      state->suite.key_bits = static_cast<uint16_t>(algorithm.alg_key_len);
      return true;
    }
    case XFRMA_ALG_AUTH_TRUNC: {
      xfrm_algo_auth algorithm;
      if (!ReadAlgorithm(attribute, &algorithm)) return false;
      ApplyIntegrity(NameOf(algorithm.alg_name), &state->suite);
      return true;
    }
    case XFRMA_REPLAY_ESN_VAL: {
      xfrm_replay_state_esn replay;
      base::ByteReader reader(attribute.value);
      if (!ReadStruct(&reader, &replay)) return false;
      state->replay_window = replay.replay_window;
      return true;
    }
    case XFRMA_ENCAP:
      state->encapsulated = true;
      return true;
    case XFRMA_IF_ID:
      state->if_id = attribute.AsU32().value_or(0);
      return true;
    case kXfrmaSaDir: {
      const auto direction = attribute.AsU8();
      if (direction == 1) state->direction = base::Direction::kInbound;
      if (direction == 2) state->direction = base::Direction::kOutbound;
      return true;
    }
    case kXfrmaNatKeepaliveInterval:
      state->nat_keepalive = attribute.AsU32().value_or(0);
      return true;
    case kXfrmaSaPcpu:
      state->cpu = attribute.AsU32();
      return true;
    default:
      return true;
  }
}

absl::StatusOr<XfrmState> StateOf(const xfrm_usersa_info& info) {
  XfrmState state;
  state.spi = base::Spi(ntohl(info.id.spi));
  ESPALIER_ASSIGN_OR_RETURN(state.source,
                            Address(info.saddr, info.family, "SA"));
  ESPALIER_ASSIGN_OR_RETURN(state.destination,
                            Address(info.id.daddr, info.family, "SA"));
  state.reqid = base::Reqid(info.reqid);
  state.protocol = info.id.proto;
  state.suite.esn = (info.flags & XFRM_STATE_ESN) != 0;
  state.packets = info.curlft.packets;
  state.bytes = info.curlft.bytes;
  state.added = info.curlft.add_time;
  const auto limit = [](uint64_t value) {
    return value == XFRM_INF ? uint64_t{0} : value;
  };
  state.limits.soft_bytes = limit(info.lft.soft_byte_limit);
  state.limits.hard_bytes = limit(info.lft.hard_byte_limit);
  state.limits.soft_packets = limit(info.lft.soft_packet_limit);
  state.limits.hard_packets = limit(info.lft.hard_packet_limit);
  constexpr uint64_t kLongest = uint64_t{1} << 32;
  state.limits.soft_time = absl::Seconds(
      std::min(info.lft.soft_add_expires_seconds, __u64{kLongest}));
  state.limits.hard_time = absl::Seconds(
      std::min(info.lft.hard_add_expires_seconds, __u64{kLongest}));
  if (info.id.proto == IPPROTO_AH) {
    state.suite.protocol = base::IpsecProtocol::kAh;
  }
  state.replayed = info.stats.replay + info.stats.replay_window;
  state.bad_icv = info.stats.integrity_failed;
  state.replay_window = info.replay_window;
  return state;
}

absl::StatusOr<base::IpPrefix> Prefix(const xfrm_address_t& raw,
                                      uint16_t family, uint8_t length) {
  ESPALIER_ASSIGN_OR_RETURN(const base::IpAddress address,
                            Address(raw, family, "policy"));
  return base::IpPrefix::Make(address, length);
}

}  // namespace

absl::StatusOr<XfrmState> DecodeState(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  xfrm_usersa_info info;
  if (!ReadStruct(&reader, &info)) return Malformed("SA");
  ESPALIER_ASSIGN_OR_RETURN(XfrmState state, StateOf(info));
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    if (!ApplyStateAttribute(attribute, &state)) return Malformed("SA");
  }
  if (attributes.malformed()) return Malformed("SA");
  return state;
}

absl::StatusOr<XfrmPolicy> DecodePolicy(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  xfrm_userpolicy_info info;
  if (!ReadStruct(&reader, &info) || info.dir > XFRM_POLICY_FWD) {
    return Malformed("policy");
  }
  XfrmPolicy policy;
  policy.way = static_cast<XfrmPolicy::Way>(info.dir);
  policy.priority = info.priority;
  policy.blocks = info.action == XFRM_POLICY_BLOCK;
  const xfrm_selector& selector = info.sel;
  ESPALIER_ASSIGN_OR_RETURN(
      policy.source,
      Prefix(selector.saddr, selector.family, selector.prefixlen_s));
  ESPALIER_ASSIGN_OR_RETURN(
      policy.destination,
      Prefix(selector.daddr, selector.family, selector.prefixlen_d));
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    if (attribute.type == XFRMA_IF_ID) {
      policy.if_id = attribute.AsU32().value_or(0);
    } else if (attribute.type == XFRMA_TMPL) {
      xfrm_user_tmpl tmpl;
      base::ByteReader inner(attribute.value);
      if (!ReadStruct(&inner, &tmpl)) return Malformed("policy");
      policy.reqid = base::Reqid(tmpl.reqid);
      if (tmpl.id.proto == IPPROTO_AH) {
        policy.protocol = base::IpsecProtocol::kAh;
      }
      if (tmpl.mode == XFRM_MODE_TRANSPORT) {
        policy.mode = base::SaMode::kTransport;
      }
      ESPALIER_ASSIGN_OR_RETURN(policy.outer_source,
                                Address(tmpl.saddr, tmpl.family, "policy"));
      ESPALIER_ASSIGN_OR_RETURN(policy.outer_destination,
                                Address(tmpl.id.daddr, tmpl.family, "policy"));
    }
  }
  if (attributes.malformed()) return Malformed("policy");
  return policy;
}

absl::StatusOr<XfrmExpire> DecodeExpire(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  xfrm_user_expire expire;
  if (!ReadStruct(&reader, &expire)) return Malformed("SA expiry");
  ESPALIER_ASSIGN_OR_RETURN(const XfrmState state, StateOf(expire.state));
  return XfrmExpire{.spi = state.spi,
                    .destination = state.destination,
                    .reqid = state.reqid,
                    .hard = expire.hard != 0};
}

absl::StatusOr<XfrmAcquire> DecodeAcquire(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  xfrm_user_acquire acquire;
  if (!ReadStruct(&reader, &acquire)) return Malformed("acquire");
  XfrmAcquire result;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  bool found = false;
  while (attributes.Next(&attribute)) {
    if (attribute.type != XFRMA_TMPL) continue;
    xfrm_user_tmpl tmpl;
    base::ByteReader inner(attribute.value);
    if (!ReadStruct(&inner, &tmpl)) return Malformed("acquire");
    result.reqid = base::Reqid(tmpl.reqid);
    ESPALIER_ASSIGN_OR_RETURN(result.outer_source,
                              Address(tmpl.saddr, tmpl.family, "acquire"));
    ESPALIER_ASSIGN_OR_RETURN(result.outer_destination,
                              Address(tmpl.id.daddr, tmpl.family, "acquire"));
    found = true;
  }
  if (attributes.malformed() || !found) return Malformed("acquire");
  return result;
}

}  // namespace espalier::netlink
