#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/udp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::netlink {
namespace {

uint16_t Number(base::Family family) {
  return family == base::Family::kIpv4 ? AF_INET : AF_INET6;
}

xfrm_address_t Raw(const base::IpAddress& address) {
  xfrm_address_t raw{};
  std::memcpy(&raw, address.bytes().data(), address.bytes().size());
  return raw;
}

// Names of the kernel's crypto API.
const char* AeadName(base::EspCipher cipher) {
  return cipher == base::EspCipher::kAesGcm16 ? "rfc4106(gcm(aes))"
                                              : "rfc7539esp(chacha20,poly1305)";
}

const char* HmacName(base::EspIntegrity integrity) {
  switch (integrity) {
    case base::EspIntegrity::kHmacSha2_384_192:
      return "hmac(sha384)";
    case base::EspIntegrity::kHmacSha2_512_256:
      return "hmac(sha512)";
    case base::EspIntegrity::kNone:
    case base::EspIntegrity::kHmacSha2_256_128:
      break;
  }
  return "hmac(sha256)";
}

// An xfrm_algo* structure followed by its key.
template <typename Header>
void PutAlgorithm(Request* request, uint16_t attribute, Header header,
                  const char* name, const base::SecretBytes& key) {
  std::strncpy(header.alg_name, name, sizeof(header.alg_name) - 1);
  header.alg_key_len = static_cast<uint32_t>(key.size() * 8);
  base::SecretBytes whole(sizeof(Header) + key.size());
  std::memcpy(whole.mutable_span().data(), &header, sizeof(Header));
  std::ranges::copy(key.span(), whole.mutable_span().begin() + sizeof(Header));
  request->PutBytes(attribute, whole.span());
}

uint8_t Number(base::IpsecProtocol protocol) {
  return protocol == base::IpsecProtocol::kAh ? IPPROTO_AH : IPPROTO_ESP;
}

uint8_t Number(base::SaMode mode) {
  return mode == base::SaMode::kTransport ? XFRM_MODE_TRANSPORT
                                          : XFRM_MODE_TUNNEL;
}

void PutIntegrity(const base::EspSa& sa, Request* request) {
  PutAlgorithm(request, XFRMA_ALG_AUTH_TRUNC,
               xfrm_algo_auth{.alg_trunc_len = static_cast<uint32_t>(
                                  sa.suite.icv_size() * 8)},
               HmacName(sa.suite.integrity), sa.integrity_key);
}

void PutAlgorithms(const base::EspSa& sa, Request* request) {
  if (sa.suite.ah()) {
    PutIntegrity(sa, request);
    return;
  }
  if (sa.suite.aead()) {
    PutAlgorithm(request, XFRMA_ALG_AEAD,
                 xfrm_algo_aead{.alg_icv_len = static_cast<uint32_t>(
                                    sa.suite.icv_size() * 8)},
                 AeadName(sa.suite.cipher), sa.encryption_key);
    return;
  }
  PutAlgorithm(request, XFRMA_ALG_CRYPT, xfrm_algo{}, "cbc(aes)",
               sa.encryption_key);
  PutIntegrity(sa, request);
}

// The window's bitmap, always as XFRMA_REPLAY_ESN_VAL: the older attribute
// holds 32 packets only. Outbound only ESN needs the attribute (it holds the
// counter's high half); the kernel then wants no bitmap where it knows the
// direction, and a window of one packet where it doesn't.
void PutReplay(const base::EspSa& sa, bool with_direction, Request* request) {
  xfrm_replay_state_esn replay{};
  if (sa.direction == base::Direction::kInbound) {
    replay.replay_window = std::max(sa.replay_window, 1u);
  } else if (!sa.suite.esn) {
    return;
  } else {
    replay.replay_window = with_direction ? 0 : 1;
  }
  replay.bmp_len = (replay.replay_window + 31) / 32;
  base::Bytes whole(sizeof(replay) + replay.bmp_len * size_t{4});
  std::memcpy(whole.data(), &replay, sizeof(replay));
  request->PutBytes(XFRMA_REPLAY_ESN_VAL, whole);
}

uint64_t Limit(uint64_t value) { return value == 0 ? XFRM_INF : value; }

uint64_t Seconds(absl::Duration duration) {
  return duration <= absl::ZeroDuration()
             ? 0
             : static_cast<uint64_t>(
                   std::max<int64_t>(1, absl::ToInt64Seconds(duration)));
}

xfrm_usersa_id Id(const base::SaKey& key, base::IpsecProtocol protocol) {
  xfrm_usersa_id id{};
  id.daddr = Raw(key.outer_destination);
  id.spi = htonl(key.spi.value());
  id.family = Number(key.outer_destination.family());
  id.proto = Number(protocol);
  return id;
}

// The prefix side of a selector.
void PutSelector(const base::IpPrefix& source,
                 const base::IpPrefix& destination, xfrm_selector* selector) {
  selector->saddr = Raw(source.address());
  selector->daddr = Raw(destination.address());
  selector->prefixlen_s = static_cast<uint8_t>(source.length());
  selector->prefixlen_d = static_cast<uint8_t>(destination.length());
  selector->family = Number(source.family());
}

}  // namespace

absl::StatusOr<Request> AddStateRequest(const base::EspSa& sa,
                                        const XfrmStateOptions& options) {
  const std::string what = absl::StrCat(
      "install SA ",
      base::SaKey{sa.direction, sa.outer_destination, sa.spi}.ToString());
  if (sa.encryption_key.size() != sa.suite.encryption_key_size() ||
      sa.integrity_key.size() != sa.suite.integrity_key_size() ||
      sa.outer_source.family() != sa.outer_destination.family()) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": keys of ", sa.encryption_key.size(), " and ",
        sa.integrity_key.size(), " octets do not suit ", sa.suite.ToString(),
        ", or the outer addresses are of two families"));
  }
  xfrm_usersa_info info{};
  info.id.daddr = Raw(sa.outer_destination);
  info.id.spi = htonl(sa.spi.value());
  info.id.proto = Number(sa.suite.protocol);
  info.saddr = Raw(sa.outer_source);
  info.family = Number(sa.outer_destination.family());
  info.reqid = sa.reqid.value();
  info.mode = Number(sa.mode);
  // Inner packets of either family; which ones is the policies' business.
  if (sa.mode == base::SaMode::kTunnel) info.flags = XFRM_STATE_AF_UNSPEC;
  if (sa.suite.esn) info.flags |= XFRM_STATE_ESN;
  info.lft.soft_byte_limit = Limit(sa.limits.soft_bytes);
  info.lft.hard_byte_limit = Limit(sa.limits.hard_bytes);
  info.lft.soft_packet_limit = Limit(sa.limits.soft_packets);
  info.lft.hard_packet_limit = Limit(sa.limits.hard_packets);
  info.lft.soft_add_expires_seconds = Seconds(sa.limits.soft_time);
  info.lft.hard_add_expires_seconds = Seconds(sa.limits.hard_time);

  Request request(XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL, what);
  request.MarkSecret();
  request.PutStruct(info);
  PutAlgorithms(sa, &request);
  PutReplay(sa, options.direction, &request);
  if (sa.encapsulation) {
    xfrm_encap_tmpl encapsulation{};
    encapsulation.encap_type = UDP_ENCAP_ESPINUDP;
    encapsulation.encap_sport = htons(sa.encapsulation->source_port);
    encapsulation.encap_dport = htons(sa.encapsulation->destination_port);
    request.PutStructAttribute(XFRMA_ENCAP, encapsulation);
  }
  const bool outbound = sa.direction == base::Direction::kOutbound;
  if (options.if_id != 0) request.PutU32(XFRMA_IF_ID, options.if_id);
  if (options.direction) {
    request.PutU8(kXfrmaSaDir, outbound ? 2 : 1);  // XFRM_SA_DIR_OUT, _IN
  }
  if (options.nat_keepalive != 0 && outbound && sa.encapsulation) {
    request.PutU32(kXfrmaNatKeepaliveInterval, options.nat_keepalive);
  }
  // RFC 9611 pins what is sent; what comes in is found by its SPI.
  if (sa.cpu && outbound) request.PutU32(kXfrmaSaPcpu, *sa.cpu);
  if (options.set_mark_mask != 0) {
    request.PutU32(XFRMA_SET_MARK, options.set_mark);
    request.PutU32(XFRMA_SET_MARK_MASK, options.set_mark_mask);
  }
  return request;
}

Request DeleteStateRequest(const base::SaKey& key,
                           base::IpsecProtocol protocol) {
  Request request(XFRM_MSG_DELSA, 0,
                  absl::StrCat("remove SA ", key.ToString()));
  request.PutStruct(Id(key, protocol));
  return request;
}

Request GetStateRequest(const base::SaKey& key, base::IpsecProtocol protocol) {
  Request request(XFRM_MSG_GETSA, 0,
                  absl::StrCat("look up SA ", key.ToString()));
  request.PutStruct(Id(key, protocol));
  return request;
}

Request DumpStatesRequest() {
  return Request(XFRM_MSG_GETSA, NLM_F_DUMP, "list SAs");
}

std::string XfrmPolicy::ToString() const {
  const char* word = way == Way::kOut  ? "out "
                     : way == Way::kIn ? "in "
                                       : "fwd ";
  return absl::StrCat(word, source.ToString(), " to ", destination.ToString());
}

Request SetPolicyRequest(const XfrmPolicy& policy) {
  xfrm_userpolicy_info info{};
  PutSelector(policy.source, policy.destination, &info.sel);
  info.lft.soft_byte_limit = info.lft.hard_byte_limit = XFRM_INF;
  info.lft.soft_packet_limit = info.lft.hard_packet_limit = XFRM_INF;
  info.priority = policy.priority;
  info.dir = static_cast<uint8_t>(policy.way);
  info.action = policy.blocks ? XFRM_POLICY_BLOCK : XFRM_POLICY_ALLOW;
  info.share = XFRM_SHARE_ANY;
  Request request(XFRM_MSG_UPDPOLICY, NLM_F_CREATE | NLM_F_REPLACE,
                  absl::StrCat("set policy ", policy.ToString()));
  request.PutStruct(info);
  if (!policy.blocks) {
    xfrm_user_tmpl tmpl{};
    tmpl.id.daddr = Raw(policy.outer_destination);
    tmpl.id.proto = Number(policy.protocol);
    tmpl.saddr = Raw(policy.outer_source);
    tmpl.family = Number(policy.outer_destination.family());
    tmpl.reqid = policy.reqid.value();
    tmpl.mode = Number(policy.mode);
    tmpl.aalgos = tmpl.ealgos = tmpl.calgos = ~0u;
    request.PutStructAttribute(XFRMA_TMPL, tmpl);
  }
  if (policy.if_id != 0) request.PutU32(XFRMA_IF_ID, policy.if_id);
  return request;
}

Request DeletePolicyRequest(const XfrmPolicy& policy) {
  xfrm_userpolicy_id id{};
  PutSelector(policy.source, policy.destination, &id.sel);
  id.dir = static_cast<uint8_t>(policy.way);
  Request request(XFRM_MSG_DELPOLICY, 0,
                  absl::StrCat("remove policy ", policy.ToString()));
  request.PutStruct(id);
  if (policy.if_id != 0) request.PutU32(XFRMA_IF_ID, policy.if_id);
  return request;
}

Request DumpPoliciesRequest() {
  return Request(XFRM_MSG_GETPOLICY, NLM_F_DUMP, "list policies");
}

Request AddXfrmInterfaceRequest(const std::string& name, uint32_t if_id,
                                uint32_t mtu) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
                  absl::StrCat("add xfrm interface ", name));
  ifinfomsg header{};
  header.ifi_flags = header.ifi_change = IFF_UP;
  request.PutStruct(header);
  request.PutString(IFLA_IFNAME, name);
  if (mtu != 0) request.PutU32(IFLA_MTU, mtu);
  request.PutNest(IFLA_LINKINFO, [&] {
    request.PutString(IFLA_INFO_KIND, "xfrm");
    request.PutNest(IFLA_INFO_DATA,
                    [&] { request.PutU32(IFLA_XFRM_IF_ID, if_id); });
  });
  return request;
}

}  // namespace espalier::netlink
