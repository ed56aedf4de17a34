#include "agent/mesh/config/config.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/mesh/config/files.h"
#include "agent/mesh/config/proposals.h"
#include "agent/mesh/config/reader.h"
#include "agent/mesh/config/yaml_tree.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/source_dir.h"

namespace espalier::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::string Minimal(const std::string& more = "") {
  return absl::StrCat(R"(node:
  name: a
  addresses: [192.0.2.1]
  podCIDRs: [10.1.0.0/24]
cluster:
  podCIDRs: [10.0.0.0/8]
)",
                      more);
}

std::string ErrorOf(const std::string& text) {
  absl::StatusOr<Config> config = ParseConfig(text, "f.yaml");
  EXPECT_FALSE(config.ok());
  return std::string(config.status().message());
}

TEST(ParseConfig, ExampleIsRight) {
  const std::string text =
      ReadText(testing::InSource("docs/examples/node.yaml"));
  absl::StatusOr<Config> config = ParseConfig(text, "node.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->node.name, "node-a");
  EXPECT_EQ(config->node.identity.type, ike::Identity::Type::kFqdn);
  EXPECT_THAT(config->node.addresses, SizeIs(2));
  ASSERT_THAT(config->peers, SizeIs(3));
  EXPECT_TRUE(
      std::holds_alternative<PskCredential>(config->peers[0].credential));
  const auto& keys = std::get<PublicKeyCredential>(config->peers[1].credential);
  ASSERT_THAT(keys.keys, SizeIs(1));
  EXPECT_EQ(keys.keys[0].size(), 44u);  // Ed25519, RFC 8410 10.1
  const Peer& gateway = config->peers[2];
  EXPECT_EQ(gateway.identity.type, ike::Identity::Type::kIpv4);
  EXPECT_EQ(gateway.initiate, Initiate::kAlways);
  EXPECT_EQ(gateway.force_encapsulation, false);
  ASSERT_THAT(gateway.ike_proposals, SizeIs(1));
  EXPECT_EQ(gateway.ike_proposals[0].cipher, crypto::Cipher::kAesCbc);
  EXPECT_THAT(gateway.ike_proposals[0].prfs,
              ElementsAre(crypto::Prf::kHmacSha2_256));
  EXPECT_FALSE(gateway.child_proposals[0].esn);
  EXPECT_EQ(config->peers[0].ike_proposals.size(), 2u);
  EXPECT_EQ(config->lifetimes.child.soft_bytes, uint64_t{256} << 30);
  EXPECT_EQ(config->metrics_listen->ToString(), "127.0.0.1:9469");
}

TEST(ParseConfig, DefaultsAreTheDesigns) {
  absl::StatusOr<Config> config =
      ParseConfig(Minimal("auth: {pskFile: x}\n"
                          "peers: [{name: b, addresses: [192.0.2.2], "
                          "podCIDRs: [10.2.0.0/24]}]\n"),
                  "f");
  ASSERT_TRUE(config.ok()) << config.status();
  const Peer& peer = config->peers[0];
  EXPECT_EQ(peer.ike_proposals[0].cipher, crypto::Cipher::kAesGcm16);
  EXPECT_EQ(peer.ike_proposals[0].key_bits, 256);
  EXPECT_THAT(peer.ike_proposals[0].prfs,
              ElementsAre(crypto::Prf::kHmacSha2_384));
  EXPECT_THAT(peer.ike_proposals[0].groups,
              ElementsAre(crypto::Group::kX25519));
  EXPECT_TRUE(peer.child_proposals[0].esn);
  EXPECT_EQ(peer.initiate, Initiate::kAuto);
  EXPECT_EQ(peer.force_encapsulation, std::nullopt);
  EXPECT_EQ(config->datapath_driver, DatapathDriver::kUser);
  EXPECT_TRUE(config->key_log_directory.empty());
  EXPECT_EQ(std::get<PskCredential>(peer.credential).file.line, 7);
}

TEST(ParseConfig, ALifetimeBringsItsHardLimit) {
  absl::StatusOr<Config> config = ParseConfig(
      Minimal("lifetimes: {child: {rekeyAfter: 10s}, ike: {rekeyAfter: 8h}}\n"),
      "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->lifetimes.child.soft_time, absl::Seconds(10));
  EXPECT_EQ(config->lifetimes.child.hard_time,
            absl::Seconds(10) + absl::Minutes(20));
  EXPECT_EQ(config->lifetimes.ike_hard, absl::Hours(10));
}

// tests/unit/mesh/config/errors/NAME.yaml with NAME.errors: the whole message,
// word for word.
TEST(ParseConfig, GoldenErrors) {
  const std::filesystem::path folder =
      testing::InSource("tests/unit/mesh/config/errors");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const std::string name = entry.path().filename();
    absl::StatusOr<Config> config = ParseConfig(ReadText(entry.path()), name);
    ASSERT_FALSE(config.ok()) << name << " is accepted";
    const std::string message = absl::StrCat(config.status().message(), "\n");
    std::filesystem::path golden = entry.path();
    golden.replace_extension(".errors");
    if (std::getenv("ESPALIER_WRITE_GOLDEN") != nullptr) {
      std::ofstream(golden) << message;
    }
    EXPECT_EQ(message, ReadText(golden)) << name;
  }
  EXPECT_GE(files, 5);
}

TEST(ParseConfig, EveryErrorNamesItsPlace) {
  for (absl::string_view line : absl::StrSplit(
           ErrorOf("node: 3\nclustre: {}\nlogLevel: loud\n"), '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, ':');
    ASSERT_GE(parts.size(), 4u) << line;
    EXPECT_EQ(parts[0], "f.yaml");
  }
}

TEST(ParseConfig, EmptyAndOtherKindsOfFile) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("expected a map"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("expected a map"));
  EXPECT_THAT(ErrorOf("word"), HasSubstr("expected a map"));
  EXPECT_THAT(ErrorOf("a: b: c"), HasSubstr("not YAML"));
  EXPECT_THAT(ErrorOf(std::string("node:\0", 6)), HasSubstr("zero octet"));
  EXPECT_THAT(ErrorOf(Minimal() + "---\na: 1\n"),
              HasSubstr("f.yaml:8:1: a second YAML document"));
}

TEST(ParseConfig, BombsAreRefused) {
  EXPECT_THAT(ErrorOf("a: &a [x]\nb: [*a, *a]\n"), HasSubstr("aliases"));
  EXPECT_THAT(ErrorOf(std::string(100, '[')), HasSubstr("nested"));
  EXPECT_THAT(ErrorOf(std::string(500'000, '[')), HasSubstr("nested"));
  EXPECT_THAT(ErrorOf("a: " + std::string(kMaxConfigSize, 'x')),
              HasSubstr("expected at most"));
  std::string many = "a: [";
  for (size_t i = 0; i < kMaxYamlNodes; ++i) many += "1,";
  EXPECT_THAT(ErrorOf(many + "]"), HasSubstr("more than"));
  EXPECT_THAT(ErrorOf("a: !!binary x"), HasSubstr("tag"));
  // Ten thousand errors are shown as a few.
  std::string wrong;
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&wrong, "x", i, ": 1\n");
  const std::vector<std::string> lines = absl::StrSplit(ErrorOf(wrong), '\n');
  EXPECT_THAT(lines, SizeIs(51));
  EXPECT_THAT(lines.back(), EndsWith("more"));
}

TEST(ParseConfig, ATunnelsHardLimitLeavesRoomForAnUpgrade) {
  EXPECT_THAT(ErrorOf(Minimal(
                  "lifetimes: {child: {rekeyAfter: 1h, expireAfter: 61m}}\n")),
              HasSubstr("f.yaml:7:50: lifetimes.child.expireAfter is '61m'"));
}

TEST(ParseConfig, AddressesHaveOneHolder) {
  const std::string peer_b =
      "  - {name: b, addresses: [192.0.2.2], podCIDRs: [10.2.0.0/16]}\n";
  const auto with = [&](const std::string& peer) {
    return ErrorOf(
        Minimal(absl::StrCat("auth: {pskFile: x}\npeers:\n", peer_b, peer)));
  };
  EXPECT_THAT(
      with("  - {name: c, addresses: [192.0.2.3], podCIDRs: [10.2.3.0/24]}\n"),
      HasSubstr("f.yaml:10:5: peer 'c' has 10.2.3.0/24, which overlaps "
                "10.2.0.0/16 of peer 'b'"));
  EXPECT_THAT(
      with("  - {name: c, addresses: [192.0.2.2], podCIDRs: [10.3.0.0/24]}\n"),
      HasSubstr("has the address 192.0.2.2 of peer 'b'"));
  EXPECT_THAT(
      with("  - {name: b, addresses: [192.0.2.3], podCIDRs: [10.3.0.0/24]}\n"),
      HasSubstr("has the name of peer 'b'"));
  EXPECT_THAT(
      with("  - {name: a, addresses: [192.0.2.3], podCIDRs: [10.3.0.0/24]}\n"),
      HasSubstr("has the name of this node"));
  EXPECT_THAT(with("  - {name: c, identity: b, addresses: [192.0.2.3], "
                   "podCIDRs: [10.3.0.0/24]}\n"),
              HasSubstr("has the identity of peer 'b'"));
  EXPECT_THAT(
      with("  - {name: c, addresses: [192.0.2.3], podCIDRs: [10.1.0.0/20]}\n"),
      HasSubstr("overlaps 10.1.0.0/24 of this node"));
  EXPECT_THAT(
      with("  - {name: c, addresses: [192.0.2.3], podCIDRs: [11.1.0.0/20]}\n"),
      HasSubstr("inside cluster.podCIDRs"));
  EXPECT_THAT(with("  - {name: c, addresses: [\"2001:db8::3\"], podCIDRs: "
                   "[10.3.0.0/20]}\n"),
              HasSubstr("no address of a family"));
}

TEST(ParsePublicKey, RefusesWhatIsNoKey) {
  EXPECT_FALSE(ParsePublicKey("").ok());
  EXPECT_FALSE(ParsePublicKey("AAAA").ok());
  EXPECT_FALSE(
      ParsePublicKey("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA").ok());
  const std::string good =
      "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
  EXPECT_TRUE(ParsePublicKey(good).ok());
  EXPECT_FALSE(ParsePublicKey(good.substr(0, 56)).ok());
}

TEST(ParseIkeProposal, WordsAndOrder) {
  absl::StatusOr<ike::IkeProposal> proposal =
      ParseIkeProposal("aes128gcm16-prfsha512-prfsha256-ecp384-x25519");
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_EQ(proposal->key_bits, 128);
  EXPECT_THAT(proposal->prfs, ElementsAre(crypto::Prf::kHmacSha2_512,
                                          crypto::Prf::kHmacSha2_256));
  EXPECT_THAT(proposal->groups,
              ElementsAre(crypto::Group::kEcp384, crypto::Group::kX25519));
  const auto error = [](const std::string& text) {
    return std::string(ParseIkeProposal(text).status().message());
  };
  EXPECT_THAT(error("aes256gcm16-prfsha384"), HasSubstr("no key exchange"));
  EXPECT_THAT(error("aes256gcm16-x25519"), HasSubstr("no PRF"));
  EXPECT_THAT(error("aes256gcm16-sha256-x25519"),
              HasSubstr("authenticates by itself"));
  EXPECT_THAT(error("aes256-x25519"), HasSubstr("no integrity"));
  EXPECT_THAT(error("3des-sha256-modp2048"), HasSubstr("too weak"));
  EXPECT_THAT(error("aes256-sha1-modp2048"), HasSubstr("too weak"));
  EXPECT_THAT(error("aes256-sha256-modp1024"), HasSubstr("too weak"));
  EXPECT_THAT(error("aes256gcm16-prfsha385-x25519"),
              HasSubstr("did you mean 'prfsha384'?"));
  EXPECT_THAT(error("aes256gcm16-prfsha384-x25519-x25519"), HasSubstr("twice"));
  EXPECT_THAT(error("aes256gcm16-prfsha384-x25519-esn"), HasSubstr("unknown"));
  EXPECT_THAT(error(""), HasSubstr("unknown"));
}

TEST(ParseChildProposal, EsnAndPfs) {
  absl::StatusOr<ike::ChildProposal> proposal =
      ParseChildProposal("chacha20poly1305");
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_EQ(proposal->cipher, base::EspCipher::kChaCha20Poly1305);
  EXPECT_TRUE(proposal->groups.empty());
  EXPECT_TRUE(proposal->esn);
  proposal = ParseChildProposal("aes128-sha512-modp3072-noesn");
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_EQ(proposal->integrity, base::EspIntegrity::kHmacSha2_512_256);
  EXPECT_FALSE(proposal->esn);
  EXPECT_FALSE(ParseChildProposal("aes256gcm16-prfsha384").ok());
  EXPECT_FALSE(ParseChildProposal("aes256gcm16-esn-noesn").ok());
}

TEST(ParseChildProposal, AhHasAnIntegrityAlgorithmAndNoCipher) {
  const absl::StatusOr<ike::ChildProposal> proposal =
      ParseChildProposal("ah-sha256-x25519");
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_EQ(proposal->protocol, base::IpsecProtocol::kAh);
  EXPECT_EQ(proposal->integrity, base::EspIntegrity::kHmacSha2_256_128);
  EXPECT_THAT(proposal->groups, ElementsAre(crypto::Group::kX25519));
  EXPECT_EQ(ParseChildProposal("aes256gcm16")->protocol,
            base::IpsecProtocol::kEsp);
  EXPECT_THAT(ParseChildProposal("ah-x25519").status().message(),
              HasSubstr("no integrity algorithm"));
  EXPECT_FALSE(ParseChildProposal("ah").ok());
  EXPECT_FALSE(ParseIkeProposal("ah-sha256-x25519").ok());
}

std::string WithPeer(const std::string& peer, const std::string& more) {
  return Minimal(
      absl::StrCat("auth: {pskFile: x}\npeers: [{name: b, addresses: "
                   "[192.0.2.2], ",
                   peer, "}]\n", more));
}
constexpr char kKernel[] = "datapath: {driver: kernel}\n";
constexpr char kPolicyBased[] =
    "datapath: {driver: kernel, kernel: {routing: policy-based}}\n";

TEST(ParseConfig, TransportModeAndAhAreForTheKernelDatapath) {
  const std::string transport = "mode: transport";
  const std::string ah =
      "podCIDRs: [10.2.0.0/24], proposals: {child: [ah-sha256]}";
  absl::StatusOr<Config> config =
      ParseConfig(WithPeer(transport, kKernel), "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->peers[0].transport_mode);
  EXPECT_TRUE(NeedsKernelDatapath(config->peers[0]));
  config = ParseConfig(WithPeer(ah, kKernel), "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(NeedsKernelDatapath(config->peers[0]));
  config = ParseConfig(WithPeer("podCIDRs: [10.2.0.0/24]", kKernel), "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(NeedsKernelDatapath(config->peers[0]));

  EXPECT_THAT(ErrorOf(WithPeer(transport, "")),
              HasSubstr("expected datapath.driver 'kernel'"));
  EXPECT_THAT(ErrorOf(WithPeer(ah, "datapath: {driver: user}\n")),
              HasSubstr("expected datapath.driver 'kernel'"));
  EXPECT_THAT(
      ErrorOf(WithPeer("mode: transport, podCIDRs: [10.2.0.0/24]", kKernel)),
      HasSubstr("expected none, transport mode is between"));
  EXPECT_THAT(ErrorOf(WithPeer("podCIDRs: [10.2.0.0/24], proposals: {child: "
                               "[ah-sha256, aes256gcm16]}",
                               kKernel)),
              HasSubstr("expected one protocol"));
  EXPECT_THAT(ErrorOf(WithPeer(ah + ", forceEncapsulation: true", kKernel)),
              HasSubstr("AH cannot go in UDP"));
  EXPECT_THAT(ErrorOf(WithPeer(ah, kPolicyBased)),
              HasSubstr("expected datapath.kernel.routing 'route-based'"));
  EXPECT_THAT(ErrorOf(WithPeer("mode: tunnel", kKernel)),
              HasSubstr("podCIDRs is missing"));
  // Never what a whole mesh gets.
  EXPECT_THAT(ErrorOf(Minimal("proposals: {child: [ah-sha256]}\n")),
              HasSubstr("is for single peers"));
}

TEST(ParseConfig, NodeTrafficNeedsRoutesOfItsOwn) {
  EXPECT_THAT(ErrorOf(Minimal(
                  absl::StrCat("encryptNodeTraffic: send\n", kPolicyBased))),
              HasSubstr("expected 'route-based' with it"));
  EXPECT_TRUE(
      ParseConfig(
          Minimal(absl::StrCat("encryptNodeTraffic: off\n", kPolicyBased)), "f")
          .ok());
}

TEST(ParseConfig, RequiredNodeTrafficNeedsTheGuardThatDropsForgedPlaintext) {
  for (const char* stage : {"confirm", "require"}) {
    const std::string text = absl::StrCat("encryptNodeTraffic: ", stage, "\n");
    EXPECT_TRUE(ParseConfig(Minimal(text), "f").ok()) << stage;
    EXPECT_THAT(
        ErrorOf(Minimal(absl::StrCat(text, "guard: {nftables: off}\n"))),
        HasSubstr("expected guard.nftables 'on' with it"));
  }
}

TEST(ParseConfig, SasPerCpu) {
  absl::StatusOr<Config> config = ParseConfig(
      Minimal("datapath: {driver: auto, kernel: {perCpuSas: 4}}\n"), "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->per_cpu_sas, 4u);
  EXPECT_THAT(ErrorOf(Minimal(
                  "datapath: {driver: kernel, kernel: {perCpuSas: 257}}\n")),
              HasSubstr("from 0 to 256"));
}

TEST(NearestWord, FindsMisspellings) {
  const std::vector<std::string> words = {"podCIDRs", "addresses", "name"};
  EXPECT_EQ(NearestWord("podCidr", words), "podCIDRs");
  EXPECT_EQ(NearestWord("adresses", words), "addresses");
  EXPECT_EQ(NearestWord("completely", words), "");
  EXPECT_EQ(NearestWord("", words), "");
}

class LoadConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "espalier-config-XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text,
                    mode_t mode = 0600) {
    const std::string path = folder_ / name;
    std::ofstream(path) << text;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  std::string ErrorOfFile(const std::string& path) {
    return std::string(LoadConfig(path).status().message());
  }
  const std::string with_psk_ = Minimal(
      "auth: {pskFile: mesh.psk}\n"
      "peers: [{name: b, addresses: [192.0.2.2], podCIDRs: [10.2.0.0/24]}]\n");

  std::filesystem::path folder_;
};

TEST_F(LoadConfigTest, ReadsASecretWithoutItsNewline) {
  Write("mesh.psk", "0123456789abcdef0123\n");
  absl::StatusOr<Config> config = LoadConfig(Write("n.yaml", with_psk_));
  ASSERT_TRUE(config.ok()) << config.status();
  const auto& psk = std::get<PskCredential>(config->peers[0].credential);
  ASSERT_NE(psk.secret, nullptr);
  EXPECT_EQ(psk.secret->size(), 20u);
}

TEST_F(LoadConfigTest, RefusesASecretThatOthersRead) {
  Write("mesh.psk", "0123456789abcdef0123\n", 0640);
  const std::string error = ErrorOfFile(Write("n.yaml", with_psk_));
  EXPECT_THAT(error, HasSubstr("n.yaml:7:17: "));
  EXPECT_THAT(error, HasSubstr("(mode 640): expected mode 600"));
  EXPECT_THAT(error, Not(HasSubstr("0123456789abcdef")));
}

TEST_F(LoadConfigTest, RefusesAShortOrAbsentSecretOrOneThatIsNoFile) {
  const std::string path = Write("n.yaml", with_psk_);
  EXPECT_THAT(ErrorOfFile(path), HasSubstr("cannot open"));
  Write("mesh.psk", "short\n");
  EXPECT_THAT(ErrorOfFile(path), HasSubstr("at least 16"));
  std::filesystem::remove(folder_ / "mesh.psk");
  std::filesystem::create_directory(folder_ / "mesh.psk");
  EXPECT_THAT(ErrorOfFile(path), HasSubstr("no regular file"));
  std::filesystem::remove(folder_ / "mesh.psk");
  ASSERT_EQ(mkfifo((folder_ / "mesh.psk").c_str(), 0600), 0);
  EXPECT_THAT(ErrorOfFile(path), HasSubstr("no regular file"));
}

TEST_F(LoadConfigTest, PublicKeyFilesAndPrivateKeyByMistake) {
  Write("own.key",
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
        "-----END PRIVATE KEY-----\n");
  const std::string path = Write(
      "n.yaml", Minimal("auth: {privateKeyFile: own.key}\n"
                        "peers: [{name: b, addresses: [192.0.2.2], podCIDRs: "
                        "[10.2.0.0/24], auth: {publicKeyFiles: [b.pub]}}]\n"));
  Write("b.pub",
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
        "-----END PUBLIC KEY-----\n",
        0644);
  absl::StatusOr<Config> config = LoadConfig(path);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(std::get<PublicKeyCredential>(config->peers[0].credential).keys,
              SizeIs(1));
  EXPECT_NE(config->private_key->key, nullptr);
  // All three are watched, from how they were when they were read.
  std::map<std::string, base::FileStamp> read;
  for (const char* file : {"n.yaml", "own.key", "b.pub"}) {
    read[folder_ / file] = base::StampOf(folder_ / file);
  }
  EXPECT_EQ(config->files, read);
  Write("b.pub",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1h\n"
        "-----END PRIVATE KEY-----\n",
        0644);
  const std::string error = ErrorOfFile(path);
  EXPECT_THAT(error, HasSubstr("n.yaml:8:"));
  EXPECT_THAT(error, HasSubstr("private key"));
  EXPECT_THAT(error, Not(HasSubstr("MC4CAQ")));
}

TEST_F(LoadConfigTest, AKeyThatIsStillToBeMadeIsWatched) {
  absl::StatusOr<Config> config = LoadConfig(
      Write("n.yaml", Minimal("auth: {privateKeyFile: own.key, "
                              "generatePrivateKey: true}\npeers: []\n")));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->private_key->key, nullptr);
  EXPECT_EQ(config->files.at(folder_ / "own.key"), base::FileStamp());
}

TEST_F(LoadConfigTest, AnAbsentFileSaysSo) {
  EXPECT_THAT(ErrorOfFile(folder_ / "none.yaml"), HasSubstr("cannot open"));
}

}  // namespace
}  // namespace espalier::mesh
