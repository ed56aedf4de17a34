// XFRM messages: what is encoded is what is decoded. The kernel's own answers
// are tested in tests/guest.

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "agent/netlink/xfrm_types.h"

namespace espalier::netlink {
namespace {

base::IpAddress A(const char* text) { return *base::IpAddress::Parse(text); }
base::IpPrefix P(const char* text) { return *base::IpPrefix::Parse(text); }

base::EspSa Sa(base::EspSuite suite) {
  base::EspSa sa;
  sa.direction = base::Direction::kInbound;
  sa.spi = base::Spi(0xc0ffee01);
  sa.outer_source = A("2001:db8::1");
  sa.outer_destination = A("2001:db8::2");
  sa.encapsulation = base::EspSa::Encapsulation{};
  sa.suite = suite;
  sa.encryption_key =
      base::SecretBytes(base::Bytes(suite.encryption_key_size(), 0xaa));
  sa.integrity_key =
      base::SecretBytes(base::Bytes(suite.integrity_key_size(), 0xbb));
  sa.reqid = base::Reqid(base::kOwnedReqidFirst + 3);
  return sa;
}

XfrmPolicy SomePolicy() {
  XfrmPolicy policy;
  policy.way = XfrmPolicy::Way::kForward;
  policy.source = P("10.1.0.0/16");
  policy.destination = P("10.2.0.0/16");
  policy.priority = 77;
  policy.reqid = base::Reqid(base::kOwnedReqidFirst + 3);
  policy.outer_source = A("192.0.2.1");
  policy.outer_destination = A("192.0.2.2");
  policy.if_id = 5;
  return policy;
}

// What a test writes for the fuzz corpus, when asked to.
void Keep(const char* name, uint8_t decoder, base::ByteSpan payload) {
  const char* folder = std::getenv("ESPALIER_WRITE_CORPUS");
  if (folder == nullptr) return;
  std::ofstream out(std::string(folder) + "/" + name, std::ios::binary);
  out.put(static_cast<char>(decoder));
  out.write(reinterpret_cast<const char*>(payload.data()),
            static_cast<std::streamsize>(payload.size()));
}

TEST(XfrmStateTest, DecodesWhatItEncodes) {
  const base::EspSuite suites[] = {
      {.cipher = base::EspCipher::kAesGcm16, .key_bits = 128, .esn = false},
      {.cipher = base::EspCipher::kAesGcm16},
      {.cipher = base::EspCipher::kChaCha20Poly1305},
      {.cipher = base::EspCipher::kAesCbc,
       .integrity = base::EspIntegrity::kHmacSha2_384_192}};
  for (const base::EspSuite& suite : suites) {
    const auto request =
        AddStateRequest(Sa(suite), {.if_id = 9, .direction = true});
    ASSERT_TRUE(request.ok()) << request.status();
    Keep(suite.ToString().c_str(), 0, request->payload());
    const auto state = DecodeState(request->payload());
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->suite, suite);
    EXPECT_EQ(state->spi, base::Spi(0xc0ffee01));
    EXPECT_EQ(state->source, A("2001:db8::1"));
    EXPECT_EQ(state->destination, A("2001:db8::2"));
    EXPECT_EQ(state->protocol, IPPROTO_ESP);
    EXPECT_EQ(state->reqid, base::Reqid(base::kOwnedReqidFirst + 3));
    EXPECT_TRUE(state->encapsulated);
    EXPECT_EQ(state->if_id, 9u);
    EXPECT_EQ(state->replay_window, 4096u);
    EXPECT_EQ(state->direction, base::Direction::kInbound);
  }
}

TEST(XfrmStateTest, RefusesKeysOfTheWrongSize) {
  base::EspSa sa = Sa({});
  sa.encryption_key = base::SecretBytes(32);  // without the salt
  EXPECT_TRUE(absl::IsInvalidArgument(AddStateRequest(sa, {}).status()));
  sa = Sa({});
  sa.outer_source = A("192.0.2.1");
  EXPECT_TRUE(absl::IsInvalidArgument(AddStateRequest(sa, {}).status()));
}

TEST(XfrmPolicyTest, DecodesWhatItEncodes) {
  const XfrmPolicy policy = SomePolicy();
  const Request request = SetPolicyRequest(policy);
  Keep("policy", 1, request.payload());
  const auto decoded = DecodePolicy(request.payload());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, policy);
}

TEST(XfrmPolicyTest, OfAhAndOfTransportMode) {
  XfrmPolicy policy = SomePolicy();
  policy.protocol = base::IpsecProtocol::kAh;
  policy.mode = base::SaMode::kTransport;
  const auto decoded = DecodePolicy(SetPolicyRequest(policy).payload());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, policy);
  EXPECT_NE(*decoded, SomePolicy());
}

// Every truncation gives a value or an error, and flips of the family or of a
// prefix's length never pass.
TEST(XfrmDecodeTest, IsTotalOverTruncations) {
  const auto state = AddStateRequest(Sa({}), {});
  const Request policy = SetPolicyRequest(SomePolicy());
  for (base::ByteSpan whole : {state->payload(), policy.payload()}) {
    for (size_t size = 0; size < whole.size(); ++size) {
      const base::Bytes cut(whole.begin(),
                            whole.begin() + static_cast<ptrdiff_t>(size));
      for (const bool ok : {DecodeState(cut).ok(), DecodeExpire(cut).ok(),
                            DecodePolicy(cut).ok(), DecodeAcquire(cut).ok()}) {
        if (size < 64) {
          EXPECT_FALSE(ok) << size;
        }
      }
    }
  }
}

TEST(XfrmDecodeTest, RefusesAddressesOfNoFamily) {
  const auto request = AddStateRequest(Sa({}), {});
  base::Bytes payload(request->payload().begin(), request->payload().end());
  xfrm_usersa_info info;
  std::memcpy(&info, payload.data(), sizeof(info));
  info.family = 99;
  std::memcpy(payload.data(), &info, sizeof(info));
  EXPECT_TRUE(absl::IsInvalidArgument(DecodeState(payload).status()));
}

}  // namespace
}  // namespace espalier::netlink
