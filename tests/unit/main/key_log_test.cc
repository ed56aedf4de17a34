#include "agent/main/key_log.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

base::SecretBytes Key(size_t size, uint8_t value) {
  return base::SecretBytes(base::Bytes(size, value));
}

class KeyLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-keylog-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = std::filesystem::path(pattern) / "log";
  }
  void TearDown() override {
    std::filesystem::remove_all(folder_.parent_path());
  }
  std::string Read(const std::string& name) {
    std::ifstream stream(folder_ / name);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }
  mode_t Mode(const std::string& name) {
    struct stat info{};
    EXPECT_EQ(stat((folder_ / name).c_str(), &info), 0) << name;
    return info.st_mode & 0777;
  }
  std::filesystem::path folder_;
};

TEST_F(KeyLogTest, WritesWiresharksTables) {
  auto log = KeyLog::Open(folder_);
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->Write(ike::LogIkeKeys{.initiator_spi = 0x0102030405060708,
                                .responder_spi = 0xa,
                                .cipher = crypto::Cipher::kAesGcm16,
                                .key_bits = 128,
                                .integrity = crypto::Integrity::kNone,
                                .sk_ei = Key(20, 1),
                                .sk_er = Key(20, 2)});
  (*log)->Write(
      ike::LogIkeKeys{.initiator_spi = 1,
                      .responder_spi = 2,
                      .cipher = crypto::Cipher::kAesCbc,
                      .key_bits = 128,
                      .integrity = crypto::Integrity::kHmacSha2_256_128,
                      .sk_ei = Key(2, 3),
                      .sk_er = Key(2, 4),
                      .sk_ai = Key(2, 5),
                      .sk_ar = Key(2, 6)});
  EXPECT_EQ(Read("ikev2_decryption_table"),
            "0102030405060708,000000000000000a,"
            "0101010101010101010101010101010101010101,"
            "0202020202020202020202020202020202020202,"
            "\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE "
            "[RFC4306]\"\n"
            "0000000000000001,0000000000000002,0303,0404,\"AES-CBC-128 "
            "[RFC3602]\",0505,0606,\"HMAC_SHA2_256_128 [RFC4868]\"\n");
  base::EspSa sa;
  sa.spi = base::Spi(0xbeef);
  sa.outer_source = *base::IpAddress::Parse("2001:db8::1");
  sa.outer_destination = *base::IpAddress::Parse("2001:db8::2");
  sa.encryption_key = Key(3, 7);
  (*log)->Write(sa);
  sa.suite.cipher = base::EspCipher::kAesCbc;
  sa.suite.integrity = base::EspIntegrity::kHmacSha2_512_256;
  sa.integrity_key = Key(2, 8);
  (*log)->Write(sa);
  sa.suite.cipher = base::EspCipher::kChaCha20Poly1305;
  (*log)->Write(sa);
  EXPECT_EQ(Read("esp_sa"),
            "\"IPv6\",\"2001:db8::1\",\"2001:db8::2\",\"0x0000beef\",\"AES-GCM "
            "with 16 octet ICV [RFC4106]\",\"0x070707\",\"NULL\",\"\"\n"
            "\"IPv6\",\"2001:db8::1\",\"2001:db8::2\",\"0x0000beef\",\"AES-CBC "
            "[RFC3602]\",\"0x070707\",\"HMAC-SHA-512-256 "
            "[RFC4868]\",\"0x0808\"\n");
}

TEST_F(KeyLogTest, IsItsOwnersAloneWhateverWasThere) {
  std::filesystem::create_directory(folder_);
  std::ofstream(folder_ / "esp_sa") << "kept\n";
  ASSERT_EQ(chmod((folder_ / "esp_sa").c_str(), 0666), 0);
  ASSERT_TRUE(KeyLog::Open(folder_).ok());
  EXPECT_EQ(Mode("esp_sa"), 0600u);
  EXPECT_EQ(Mode("ikev2_decryption_table"), 0600u);
  EXPECT_EQ(Read("esp_sa"), "kept\n");
}

TEST_F(KeyLogTest, AFolderThatCannotBeMadeIsAnError) {
  EXPECT_FALSE(KeyLog::Open("/nonexistent-espalier/log").ok());
}

}  // namespace
}  // namespace espalier::agent
