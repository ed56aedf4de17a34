#include "agent/service/secure_metrics.h"

#include <curl/curl.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_kube_server.h"
#include "tests/support/tls_server.h"

namespace espalier::service {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Got {
  CURLcode code = CURLE_OK;
  long status = 0;
  std::string text;  // head and body
};

size_t Append(char* data, size_t, size_t size, void* text) {
  static_cast<std::string*>(text)->append(data, size);
  return size;
}

// It stands still: no answer grows old, no unknown token more is asked about.
class StoppedClock : public base::Clock {
 public:
  base::Instant Now() override { return absl::FromUnixSeconds(1000); }
};

class SecureMetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-metrics-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    server_.SetToken("reads", "prometheus", /*reads=*/true);
    server_.SetToken("other", "eve", /*reads=*/false);
  }
  void TearDown() override {
    metrics_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Write(const kube::Certificate& certificate) {
    std::ofstream(folder_ / "tls.crt") << certificate.certificate;
    std::ofstream(folder_ / "tls.key") << certificate.key;
  }
  void Start() {
    auto metrics = SecureMetrics::Start(
        {.listen = {base::IpAddress::V4({127, 0, 0, 1}), 0},
         .certificate_file = folder_ / "tls.crt",
         .key_file = folder_ / "tls.key"},
        &server_, &clock_, [this] {
          ++scrapes_;
          return HttpAnswer{.body = "a_metric 1\n"};
        });
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    metrics_ = *std::move(metrics);
  }
  Got Get(const std::string& authorization,
          const std::string& path = "/metrics",
          const std::string& scheme = "https") {
    CURL* curl = curl_easy_init();
    Got got;
    const std::string url =
        absl::StrCat(scheme, "://127.0.0.1:", metrics_->port(), path);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(curl, CURLOPT_HEADER, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Append);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &got.text);
    curl_blob ca{authority_.certificate.data(), authority_.certificate.size(),
                 CURL_BLOB_COPY};
    curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &ca);
    curl_slist* headers = nullptr;
    if (!authorization.empty()) {
      headers = curl_slist_append(
          nullptr, absl::StrCat("Authorization: ", authorization).c_str());
      curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    }
    got.code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &got.status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return got;
  }
  // The files are read on a thread of their own.
  bool Served() {
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (absl::Now() < end) {
      if (Get("Bearer reads").status == 200) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }

  kube::FakeKubeServer server_;
  StoppedClock clock_;
  std::filesystem::path folder_;
  kube::Certificate authority_ = kube::MakeAuthority("metrics");
  std::atomic<int> scrapes_ = 0;  // on the server's thread
  std::unique_ptr<SecureMetrics> metrics_;
};

TEST_F(SecureMetricsTest, OnlyWhoMayReadThemGetsThem) {
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  Start();
  ASSERT_TRUE(Served());
  EXPECT_THAT(Get("Bearer reads").text, HasSubstr("\r\n\r\na_metric 1\n"));
  EXPECT_EQ(Get("bearer  reads").status, 200);
  const int before = scrapes_.load();
  const Got none = Get("");
  EXPECT_EQ(none.status, 401);
  EXPECT_THAT(none.text, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_EQ(Get("Bearer guessed").status, 401);
  EXPECT_EQ(Get("Bearer ").status, 401);
  EXPECT_EQ(Get("Basic reads").status, 401);
  const Got other = Get("Bearer other");
  EXPECT_EQ(other.status, 403);
  EXPECT_THAT(other.text, HasSubstr("espalier-metrics-reader"));
  EXPECT_EQ(scrapes_.load(), before);
}

TEST_F(SecureMetricsTest, NothingElseIsServedHere) {
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  Start();
  ASSERT_TRUE(Served());
  EXPECT_EQ(Get("", "/healthz").status, 401);
  EXPECT_EQ(Get("Bearer reads", "/healthz").status, 404);
  EXPECT_THAT(Get("Bearer reads", "/metrics", "http").text, IsEmpty());
}

TEST_F(SecureMetricsTest, AnApiServerThatIsAwayLetsNobodyIn) {
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  Start();
  server_.Answer(-1);
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (Get("Bearer reads").code != CURLE_OK && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(Get("Bearer reads").status, 503);
  EXPECT_EQ(scrapes_.load(), 0);
  server_.Answer(0);
  EXPECT_EQ(Get("Bearer reads").status, 200);
}

TEST_F(SecureMetricsTest, GuessersAreToldToWait) {
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  Start();
  ASSERT_TRUE(Served());
  std::vector<long> answers;
  for (int i = 0; i < 25; ++i) {
    answers.push_back(Get(absl::StrCat("Bearer guess-", i)).status);
  }
  EXPECT_EQ(answers.front(), 401);
  EXPECT_EQ(answers.back(), 429);
  EXPECT_EQ(Get("Bearer reads").status, 200);
}

TEST_F(SecureMetricsTest, ACertificateThatComesLateOrChangesIsTaken) {
  Start();
  metrics_->Reload();
  EXPECT_EQ(Get("Bearer reads").code, CURLE_COULDNT_CONNECT);
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  metrics_->Reload();
  ASSERT_TRUE(Served());
  // One that does not fit its key changes nothing.
  const kube::Certificate next = kube::MakeAuthority("next");
  std::ofstream(folder_ / "tls.crt")
      << kube::Issue(next, "IP:127.0.0.1").certificate;
  metrics_->Reload();
  EXPECT_TRUE(Served());
  const kube::Certificate before = authority_;
  Write(kube::Issue(next, "IP:127.0.0.1"));
  authority_ = next;
  metrics_->Reload();
  ASSERT_TRUE(Served());
  authority_ = before;
  EXPECT_EQ(Get("Bearer reads").code, CURLE_PEER_FAILED_VERIFICATION);
}

TEST_F(SecureMetricsTest, APortInUseSaysSo) {
  Write(kube::Issue(authority_, "IP:127.0.0.1"));
  Start();
  ASSERT_TRUE(Served());
  const auto second = SecureMetrics::Start(
      {.listen = {base::IpAddress::V4({127, 0, 0, 1}), metrics_->port()},
       .certificate_file = "",
       .key_file = ""},
      &server_, &clock_, [] { return HttpAnswer{.body = ""}; });
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("cannot serve HTTP on 127.0.0.1"));
}

}  // namespace
}  // namespace espalier::service
