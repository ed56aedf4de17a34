#include "absl/strings/str_cat.h"
#include "agent/mesh/config/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

absl::StatusOr<Config> Parse(const std::string& cluster,
                             const std::string& more) {
  return ParseConfig(absl::StrCat("node:\n  name: a\n  addresses: "
                                  "[192.0.2.1]\n  podCIDRs: [10.1.0.0/24]\n"
                                  "cluster: {podCIDRs: [10.0.0.0/8]",
                                  cluster, "}\n", more),
                     "f.yaml");
}

TEST(ParseModes, AreRead) {
  absl::StatusOr<Config> config = Parse(
      ", nodeCIDRs: [192.0.2.0/24, \"2001:db8::/64\"], plaintextPath: direct",
      "modes:\n"
      "  default: required\n"
      "  namespaces:\n"
      "    shop: {encryption: required, outside: deny, outsideIn: allow}\n"
      "    old: {encryption: disabled}\n"
      "  pods:\n"
      "    old/billing-0: {encryption: preferred}\n"
      "guard: {bpf: off, nftables: on}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->node_cidrs, SizeIs(2));
  EXPECT_EQ(config->plaintext_path, PlaintextPath::kDirect);
  const base::PodModes& modes = config->modes;
  EXPECT_EQ(modes.default_mode, base::Mode::kRequired);
  EXPECT_EQ(modes.Resolve("other", "x").encryption, base::Mode::kRequired);
  EXPECT_TRUE(modes.Resolve("shop", "x").outside_denied);
  EXPECT_TRUE(modes.Resolve("shop", "x").outside_in_allowed);
  EXPECT_EQ(modes.Resolve("old", "x").encryption, base::Mode::kDisabled);
  EXPECT_EQ(modes.Resolve("old", "billing-0").encryption,
            base::Mode::kPreferred);
  EXPECT_EQ(config->guard.bpf, GuardBpf::kOff);
  EXPECT_TRUE(config->guard.nftables);
  EXPECT_THAT(config->warnings, IsEmpty());
}

TEST(ParseModes, DefaultsAreTheDesigns) {
  absl::StatusOr<Config> config = Parse("", "");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->modes, base::PodModes{});
  EXPECT_EQ(config->modes.default_mode, base::Mode::kPreferred);
  EXPECT_EQ(config->guard, GuardSettings{});
  EXPECT_EQ(config->plaintext_path, PlaintextPath::kNone);
}

TEST(ParseModes, TheVxlanIsTheSettingsOfOnePath) {
  absl::StatusOr<Config> config =
      Parse(", plaintextPath: vxlan, vxlanId: 16777215, vxlanPort: 4789", "");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->plaintext_path, PlaintextPath::kVxlan);
  EXPECT_EQ(config->vxlan, (VxlanSettings{.id = 0xffffff, .port = 4789}));
  for (const char* wrong : {", vxlanId: 0", ", vxlanId: 16777216",
                            ", vxlanPort: 65536", ", plaintextPath: ipip"}) {
    EXPECT_FALSE(Parse(wrong, "").ok()) << wrong;
  }
}

// A file that is refused would leave the weaker value running.
TEST(ParseModes, AnUnknownWordIsTheStrongestAndIsTold) {
  absl::StatusOr<Config> config = Parse(
      ", plaintextPath: direct",
      "modes:\n"
      "  default: disabled\n"
      "  namespaces:\n"
      "    shop: {encryption: requird, outside: never, outsideIn: yes}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  const base::PodPolicy policy = config->modes.Resolve("shop", "x");
  EXPECT_EQ(policy.encryption, base::Mode::kRequired);
  EXPECT_TRUE(policy.outside_denied);
  EXPECT_FALSE(policy.outside_in_allowed);
  EXPECT_THAT(policy.problem, HasSubstr("'requird'"));
  ASSERT_THAT(config->warnings, SizeIs(3));
  EXPECT_EQ(config->warnings[0],
            "f.yaml:9:24: modes.namespaces.NAMESPACE.encryption is 'requird': "
            "expected required, preferred or disabled; taken as required");
}

TEST(ParseModes, DisabledNeedsAPlaintextPath) {
  for (const char* text : {"modes: {default: disabled}\n",
                           "modes: {namespaces: {n: {encryption: disabled}}}\n",
                           "modes: {pods: {n/p: {encryption: disabled}}}\n"}) {
    EXPECT_THAT(Parse("", text).status().message(),
                HasSubstr("is 'disabled': expected required or preferred, "
                          "because cluster.plaintextPath is none"))
        << text;
    EXPECT_TRUE(Parse(", plaintextPath: direct", text).ok()) << text;
  }
}

TEST(ParseModes, WrongShapesAreErrors) {
  EXPECT_THAT(Parse("", "modes: {pods: {web: {}}}\n").status().message(),
              HasSubstr("expected NAMESPACE/NAME"));
  EXPECT_THAT(Parse("", "modes: {namespaces: {a/b: {}}}\n").status().message(),
              HasSubstr("expected a namespace"));
  EXPECT_THAT(Parse("", "modes: {namespaces: [a]}\n").status().message(),
              HasSubstr("a map of namespaces"));
  EXPECT_THAT(
      Parse("", "modes: {namespaces: {a: {mode: x}}}\n").status().message(),
      HasSubstr("unknown field 'mode'"));
  EXPECT_THAT(
      Parse("", "modes: {namespaces: {a: {}, a: {}}}\n").status().message(),
      HasSubstr("twice"));
  EXPECT_THAT(Parse("", "guard: {bpf: maybe}\n").status().message(),
              HasSubstr("guard.bpf"));
}

TEST(ParseModes, PlaintextBlocksAreThePeersOwn) {
  const std::string peer =
      "auth: {pskFile: x}\npeers: [{name: b, addresses: [192.0.2.2], "
      "podCIDRs: [10.2.0.0/24], plaintextBlocks: [";
  absl::StatusOr<Config> config = Parse("", peer + "10.2.0.240/28]}]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->peers[0].plaintext_blocks,
              ElementsAre(*base::IpPrefix::Parse("10.2.0.240/28")));
  EXPECT_THAT(Parse("", peer + "10.3.0.240/28]}]\n").status().message(),
              HasSubstr("10.3.0.240/28: expected a part of its podCIDRs"));
}

}  // namespace
}  // namespace espalier::mesh
