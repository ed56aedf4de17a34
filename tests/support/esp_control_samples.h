// A frame of every kind of espd's control protocol.
#ifndef ESPALIER_TESTS_SUPPORT_ESP_CONTROL_SAMPLES_H_
#define ESPALIER_TESTS_SUPPORT_ESP_CONTROL_SAMPLES_H_

#include <vector>

#include "agent/esp/control/messages.h"
#include "tests/support/esp_end.h"

namespace espalier::esp::control::testing {

inline std::vector<Frame> SampleFrames() {
  using esp::testing::Address;
  using esp::testing::MakeSa;
  using esp::testing::Prefix;
  const base::SaKey key{base::Direction::kOutbound, Address("192.0.2.2"),
                        base::Spi(0xc0ffee01)};
  const base::Endpoint local{Address("192.0.2.1"), 4500};
  const base::Endpoint remote{Address("2001:db8::1"), 4501};
  base::TunnelPolicy policy;
  policy.reqid = base::Reqid(base::kOwnedReqidFirst + 3);
  policy.local = {Prefix("10.1.0.0/16"), Prefix("fd00:1::/64")};
  policy.remote = {Prefix("0.0.0.0/0"), Prefix("10.2.3.4/32")};
  policy.outer_source = local.address;
  policy.outer_destination = remote.address;
  base::InstalledSa installed;
  installed.key = key;
  installed.counters = {1, 2, 3, 4, 5, 6};
  installed.age = absl::Seconds(77);
  installed.expired = true;
  base::EspSa gcm = MakeSa(base::Direction::kInbound, 0x1000, {});
  gcm.limits = {absl::Hours(1), absl::Hours(2), 1, 2, 3, 4};
  base::EspSa cbc = MakeSa(base::Direction::kOutbound, 0x1001,
                           {base::EspCipher::kAesCbc, 128,
                            base::EspIntegrity::kHmacSha2_512_256, false});
  cbc.encapsulation.reset();

  HandOverBegin begin;
  begin.instance = 7;
  begin.tunnel_interface = "espalier0";
  begin.port = 4500;
  begin.outer_sockets = 5;
  begin.fingerprint_key = base::SecretBytes(kFingerprintKey);
  AdoptSa adopt;
  adopt.counters = {6, 5, 4, 3, 2, 1};
  adopt.last_sequence = 0x123456789a;
  adopt.replay_top = 77;
  adopt.replay_words = {1, 2, 3};
  adopt.age = absl::Minutes(3);
  adopt.watched = true;
  adopt.sa = MakeSa(base::Direction::kOutbound, 0x1002, {});

  std::vector<Frame> frames;
  frames.push_back({1, Hello{true}});
  frames.push_back({2, InstallSa{std::move(gcm)}});
  frames.push_back({3, InstallSa{std::move(cbc)}});
  frames.push_back({4, RemoveSa{key}});
  frames.push_back({5, WatchInbound{key}});
  frames.push_back({6, SetPolicy{policy}});
  frames.push_back({7, RemovePolicy{policy.reqid}});
  frames.push_back({8, ListSas{}});
  frames.push_back({9, ListPolicies{}});
  frames.push_back({10, GetStatistics{}});
  frames.push_back({0, SendIke{local, remote, base::Bytes(300, 9)}});
  frames.push_back({0, SendKeepalive{local, remote}});
  frames.push_back({11, HelloReply{0x0123456789abcdef, "espalier0"}});
  frames.push_back({12, Reply{absl::OkStatus()}});
  frames.push_back({13, Reply{absl::AlreadyExistsError("the key")}});
  frames.push_back({14, SaList{true, {installed, installed}}});
  frames.push_back({15, PolicyList{false, {policy}}});
  frames.push_back({16, Statistics{{{"esp_sent", 5}, {"drop_replay", 6}}}});
  frames.push_back({0, SaExpired{key, true}});
  frames.push_back({0, InboundSeen{key}});
  frames.push_back({0, Acquire{policy.reqid}});
  frames.push_back({0, IkeDatagram{remote, local, base::Bytes(28, 1)}});
  frames.push_back({17, HandOver{}});
  frames.push_back({0, std::move(begin)});
  frames.push_back({0, UsedKeys{{1, 0xffffffffffffffff}}});
  frames.push_back({0, PathMtu{key.outer_destination, 1400, absl::Minutes(9)}});
  frames.push_back({0, std::move(adopt)});
  frames.push_back({0, HandOverEnd{}});
  frames.push_back({0, HandedOver{}});
  return frames;
}

}  // namespace espalier::esp::control::testing

#endif  // ESPALIER_TESTS_SUPPORT_ESP_CONTROL_SAMPLES_H_
