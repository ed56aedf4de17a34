// The TUN device through which pods' packets come and go.
#ifndef ESPALIER_AGENT_ESP_TUN_H_
#define ESPALIER_AGENT_ESP_TUN_H_

#include <sys/uio.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/esp/coalescer.h"
#include "agent/esp/offload.h"
#include "agent/esp/statistics.h"

namespace espalier::esp {

struct TunOptions {
  std::string name;
  size_t mtu = 1400;
  // The device stays, without carrier, when this process ends: so its routes
  // stay, and what they hold back does not take another way in plaintext.
  bool persistent = true;
};

class Tun : public TunSink {
 public:
  // Creates the device, or takes over one that nobody has open, and sets its
  // MTU, offloads and link state. Needs CAP_NET_ADMIN.
  static absl::StatusOr<std::unique_ptr<Tun>> Open(const TunOptions& options,
                                                   Statistics* statistics);
  // Takes over `fd` of the process before, with its offloads; sets the MTU.
  static absl::StatusOr<std::unique_ptr<Tun>> Adopt(int fd, bool udp_offload,
                                                    const TunOptions& options,
                                                    Statistics* statistics);
  ~Tun() override;
  Tun(const Tun&) = delete;
  Tun& operator=(const Tun&) = delete;

  int fd() const { return fd_; }
  const std::string& name() const { return name_; }
  bool udp_offload() const { return udp_offload_; }

  // The next packet with its virtio header; 0 when there is none. `buffer`
  // takes 65,535 octets and the header.
  size_t Read(base::MutableByteSpan buffer);

  void Write(const VirtioNetHeader& offload, iovec* parts,
             size_t count) override;

 private:
  Tun(int fd, std::string name, bool udp_offload, Statistics* statistics)
      : fd_(fd),
        name_(std::move(name)),
        udp_offload_(udp_offload),
        statistics_(statistics) {}

  int fd_;
  std::string name_;
  bool udp_offload_;
  Statistics* statistics_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_TUN_H_
