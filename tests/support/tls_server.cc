#include "tests/support/tls_server.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free_all)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using X509Ptr = std::unique_ptr<X509, decltype(&X509_free)>;

std::string Contents(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, size);
}

BioPtr Memory(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), text.size()), &BIO_free_all);
}

X509Ptr ReadX509(const std::string& pem) {
  return X509Ptr(
      PEM_read_bio_X509(Memory(pem).get(), nullptr, nullptr, nullptr),
      &X509_free);
}

KeyPtr ReadKey(const std::string& pem) {
  return KeyPtr(
      PEM_read_bio_PrivateKey(Memory(pem).get(), nullptr, nullptr, nullptr),
      &EVP_PKEY_free);
}

void AddExtension(X509* x509, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, x509, nullptr, nullptr, 0);
  X509_EXTENSION* extension =
      X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(x509, extension, -1);
  X509_EXTENSION_free(extension);
}

Certificate Make(const std::string& name, const Certificate* authority,
                 const std::string& subject, absl::Duration lifetime) {
  static std::atomic<int> serial = 1;
  KeyPtr key(EVP_EC_gen("P-256"), &EVP_PKEY_free);
  X509Ptr x509(X509_new(), &X509_free);
  X509_set_version(x509.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x509.get()), serial++);
  const long seconds = absl::ToInt64Seconds(lifetime);
  X509_gmtime_adj(X509_getm_notBefore(x509.get()), seconds - 7200);
  X509_gmtime_adj(X509_getm_notAfter(x509.get()), seconds);
  X509_NAME_add_entry_by_txt(
      X509_get_subject_name(x509.get()), "CN", MBSTRING_ASC,
      reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(x509.get(), key.get());
  X509Ptr issuer(nullptr, &X509_free);
  KeyPtr signer(nullptr, &EVP_PKEY_free);
  if (authority != nullptr) {
    issuer = ReadX509(authority->certificate);
    signer = ReadKey(authority->key);
  }
  X509* by = issuer != nullptr ? issuer.get() : x509.get();
  X509_set_issuer_name(x509.get(), X509_get_subject_name(by));
  if (authority == nullptr) {
    AddExtension(x509.get(), by, NID_basic_constraints, "critical,CA:TRUE");
  } else {
    AddExtension(x509.get(), by, NID_subject_alt_name, subject);
  }
  X509_sign(x509.get(), signer != nullptr ? signer.get() : key.get(),
            EVP_sha256());
  const BioPtr certificate(BIO_new(BIO_s_mem()), &BIO_free_all);
  const BioPtr secret(BIO_new(BIO_s_mem()), &BIO_free_all);
  PEM_write_bio_X509(certificate.get(), x509.get());
  PEM_write_bio_PrivateKey(secret.get(), key.get(), nullptr, nullptr, 0,
                           nullptr, nullptr);
  return {Contents(certificate.get()), Contents(secret.get())};
}

size_t BodySize(const std::string& head) {
  const size_t at = head.find("Content-Length: ");
  size_t size = 0;
  if (at == std::string::npos) return 0;
  const size_t end = head.find('\r', at);
  (void)absl::SimpleAtoi(head.substr(at + 16, end - at - 16), &size);
  return size;
}

}  // namespace

Certificate MakeAuthority(const std::string& name) {
  return Make(name, nullptr, "", absl::Hours(1));
}

Certificate Issue(const Certificate& authority, const std::string& subject,
                  absl::Duration lifetime) {
  return Make("server", &authority, subject, lifetime);
}

std::string HttpAnswer(int status, const std::string& body,
                       const std::string& headers) {
  return absl::StrCat("HTTP/1.1 ", status,
                      " X\r\nContent-Length: ", body.size(), "\r\n", headers,
                      "\r\n", body);
}

class TlsServer::TlsConnection : public Connection {
 public:
  explicit TlsConnection(SSL* ssl) : ssl_(ssl) {}
  bool Write(const std::string& octets) override {
    return SSL_write(ssl_, octets.data(), static_cast<int>(octets.size())) > 0;
  }
  void AwaitClose() override {
    char octet;
    while (SSL_read(ssl_, &octet, 1) > 0) {
    }
  }

 private:
  SSL* const ssl_;
};

TlsServer::TlsServer(const std::string& address, const Certificate& certificate,
                     Handler handler, const std::string& client_authority)
    : address_(address),
      handler_(std::move(handler)),
      client_authority_(client_authority),
      certificate_(certificate) {
  signal(SIGPIPE, SIG_IGN);
  const bool v6 = address.find(':') != std::string::npos;
  sockaddr_storage any = {};
  socklen_t size = v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  any.ss_family = v6 ? AF_INET6 : AF_INET;
  void* octets =
      v6 ? static_cast<void*>(&reinterpret_cast<sockaddr_in6*>(&any)->sin6_addr)
         : &reinterpret_cast<sockaddr_in*>(&any)->sin_addr;
  inet_pton(any.ss_family, address.c_str(), octets);
  listener_ = socket(any.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&any), size), 0);
  EXPECT_EQ(listen(listener_, 16), 0);
  getsockname(listener_, reinterpret_cast<sockaddr*>(&any), &size);
  port_ = ntohs(v6 ? reinterpret_cast<sockaddr_in6*>(&any)->sin6_port
                   : reinterpret_cast<sockaddr_in*>(&any)->sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

TlsServer::~TlsServer() {
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void TlsServer::SetCertificate(const Certificate& certificate) {
  const std::lock_guard lock(mutex_);
  certificate_ = certificate;
}

std::string TlsServer::url() const {
  const bool v6 = address_.find(':') != std::string::npos;
  return absl::StrCat("https://", v6 ? "[" : "", address_, v6 ? "]" : "", ":",
                      port_);
}

void TlsServer::Accept() {
  while (true) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    ++connections_;
    const std::lock_guard lock(mutex_);
    open_.insert(fd);
    threads_.emplace_back(
        [this, fd, certificate = certificate_] { Serve(fd, certificate); });
  }
}

void TlsServer::Serve(int fd, const Certificate& certificate) {
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_use_certificate(context, ReadX509(certificate.certificate).get());
  SSL_CTX_use_PrivateKey(context, ReadKey(certificate.key).get());
  if (!client_authority_.empty()) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context),
                        ReadX509(client_authority_).get());
    SSL_CTX_set_verify(
        context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, fd);
  if (SSL_accept(ssl) == 1) {
    TlsConnection connection(ssl);
    std::string text;
    bool go_on = true;
    while (go_on) {
      size_t head = 0;
      while ((head = text.find("\r\n\r\n")) == std::string::npos ||
             text.size() < head + 4 + BodySize(text)) {
        char buffer[4096];
        const int n = SSL_read(ssl, buffer, sizeof(buffer));
        if (n <= 0) break;
        text.append(buffer, n);
      }
      if (head == std::string::npos) break;
      ++requests_;
      go_on = handler_(text, connection);
      text.clear();
    }
    SSL_shutdown(ssl);
  }
  ERR_clear_error();
  SSL_free(ssl);
  SSL_CTX_free(context);
  const std::lock_guard lock(mutex_);
  open_.erase(fd);
  close(fd);
}

}  // namespace espalier::kube
