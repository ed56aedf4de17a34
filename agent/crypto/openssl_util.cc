#include "agent/crypto/openssl_util.h"

#include <openssl/err.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"

namespace espalier::crypto {

absl::Status OpenSslError(absl::StatusCode code, absl::string_view what) {
  std::string text(what);
  const char* separator = ": ";
  while (const unsigned long error =
             ERR_get_error()) {  // NOLINT(google-runtime-int)
    char reason[160];
    ERR_error_string_n(error, reason, sizeof(reason));
    absl::StrAppend(&text, separator, reason);
    separator = "; ";
  }
  return absl::Status(code, text);
}

void ClearOpenSslErrors() { ERR_clear_error(); }

void OpenSslFatal(const char* what) {
  base::Log(base::LogLevel::kError, "OpenSSL cannot work; ending",
            {{"error", OpenSslError(absl::StatusCode::kInternal, what)}});
  std::abort();
}

}  // namespace espalier::crypto
