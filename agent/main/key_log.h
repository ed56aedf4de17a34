// Writes negotiated keys for Wireshark. Whoever reads these files reads the
// traffic: only when the configuration asks for it, and said in the log.
#ifndef ESPALIER_AGENT_MAIN_KEY_LOG_H_
#define ESPALIER_AGENT_MAIN_KEY_LOG_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/security_association.h"
#include "agent/ike/action.h"

namespace espalier::agent {

// Appends to the files ikev2_decryption_table and esp_sa of the folder, in the
// format of Wireshark's tables of those names (its configuration folder may
// simply be this one). What Wireshark 4.0 cannot decrypt, ChaCha20-Poly1305,
// is left out. It knows no ESN: of an SA with ESN it decrypts the packets but
// finds their ICVs wrong.
class KeyLog {
 public:
  // Makes the folder (0700) and the files (0600) when absent.
  static absl::StatusOr<std::unique_ptr<KeyLog>> Open(
      const std::string& folder);
  ~KeyLog();
  KeyLog(const KeyLog&) = delete;
  KeyLog& operator=(const KeyLog&) = delete;

  void Write(const ike::LogIkeKeys& keys);
  void Write(const base::EspSa& sa);

 private:
  KeyLog(int ike_fd, int esp_fd) : ike_fd_(ike_fd), esp_fd_(esp_fd) {}
  const int ike_fd_;
  const int esp_fd_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_KEY_LOG_H_
