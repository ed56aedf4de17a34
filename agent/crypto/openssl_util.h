// What every file over OpenSSL needs: owners of its objects, its error queue
// as a Status. Not for other folders.
#ifndef ESPALIER_AGENT_CRYPTO_OPENSSL_UTIL_H_
#define ESPALIER_AGENT_CRYPTO_OPENSSL_UTIL_H_

#include <openssl/bio.h>
#include <openssl/evp.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace espalier::crypto {

template <auto kFree>
struct OpenSslDeleter {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using PkeyPtr = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY_free>>;
using PkeyContextPtr =
    std::unique_ptr<EVP_PKEY_CTX, OpenSslDeleter<EVP_PKEY_CTX_free>>;
using DigestContextPtr =
    std::unique_ptr<EVP_MD_CTX, OpenSslDeleter<EVP_MD_CTX_free>>;
using CipherContextPtr =
    std::unique_ptr<EVP_CIPHER_CTX, OpenSslDeleter<EVP_CIPHER_CTX_free>>;
using BioPtr = std::unique_ptr<BIO, OpenSslDeleter<BIO_free_all>>;

// "what: reason; reason" out of this thread's error queue, which is emptied.
absl::Status OpenSslError(absl::StatusCode code, absl::string_view what);
// For failures that are an expected answer (a wrong signature).
void ClearOpenSslErrors();

// Ends the process with a log line: for what cannot fail while OpenSSL is
// whole and memory is left (a digest, the random generator), and whose
// failure must never be taken for a result.
[[noreturn]] void OpenSslFatal(const char* what);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_OPENSSL_UTIL_H_
