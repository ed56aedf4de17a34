// A little HTTPS server on the loopback, with certificates made for the
// occasion. What it answers is the test's.
#ifndef ESPALIER_TESTS_SUPPORT_TLS_SERVER_H_
#define ESPALIER_TESTS_SUPPORT_TLS_SERVER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace espalier::kube {

struct Certificate {
  std::string certificate;  // PEM
  std::string key;          // PEM
};

Certificate MakeAuthority(const std::string& name);
// `subject` as OpenSSL writes an alternative name: "IP:127.0.0.1", "DNS:api".
Certificate Issue(const Certificate& authority, const std::string& subject,
                  absl::Duration lifetime = absl::Hours(1));

class TlsServer {
 public:
  class Connection {
   public:
    virtual ~Connection() = default;
    // False when the other end is gone.
    virtual bool Write(const std::string& octets) = 0;
    // Until the client closes or the server ends.
    virtual void AwaitClose() = 0;
  };
  // Gets the request's head and body; the connection stays open for the next
  // request when it returns true.
  using Handler =
      std::function<bool(const std::string& request, Connection& connection)>;

  // With `client_authority`, only clients with a certificate of that.
  TlsServer(const std::string& address, const Certificate& certificate,
            Handler handler, const std::string& client_authority = "");
  ~TlsServer();

  // For connections from now on.
  void SetCertificate(const Certificate& certificate);
  std::string url() const;
  // How many were accepted, and how many requests came through them.
  int connections() const { return connections_; }
  int requests() const { return requests_; }

 private:
  class TlsConnection;
  void Accept();
  void Serve(int fd, const Certificate& certificate);

  const std::string address_;
  const Handler handler_;
  const std::string client_authority_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> connections_ = 0;
  std::atomic<int> requests_ = 0;
  std::mutex mutex_;  // of what follows
  Certificate certificate_;
  std::set<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// An answer with its length.
std::string HttpAnswer(int status, const std::string& body,
                       const std::string& headers = "");

}  // namespace espalier::kube

#endif  // ESPALIER_TESTS_SUPPORT_TLS_SERVER_H_
