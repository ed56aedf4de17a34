#include "agent/esp/tun.h"

#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

#ifndef TUN_F_USO4  // Linux 6.2
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace espalier::esp {
namespace {

// Packets that wait in the device while this process is busy.
constexpr uint32_t kTransmitQueue = 1000;

absl::Status Failed(const std::string& name, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat("TUN ", name, ": ", what));
}

// One RTM_NEWLINK with its acknowledgement. gso_max_size stays at the kernel's
// 65,536: below that of a pod's interface it would have the kernel cut every
// super-packet itself. Pods' interfaces get a smaller one, so that a
// super-packet with ESP around its segments fits one UDP send.
absl::Status Configure(const std::string& name, size_t mtu) {
  alignas(nlmsghdr) char buffer[512] = {};
  nlmsghdr* header = mnl_nlmsg_put_header(buffer);
  header->nlmsg_type = RTM_NEWLINK;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  header->nlmsg_seq = 1;
  auto* link = static_cast<ifinfomsg*>(
      mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg)));
  link->ifi_family = AF_UNSPEC;
  link->ifi_flags = IFF_UP;
  link->ifi_change = IFF_UP;
  mnl_attr_put_strz(header, IFLA_IFNAME, name.c_str());
  mnl_attr_put_u32(header, IFLA_MTU, static_cast<uint32_t>(mtu));
  mnl_attr_put_u32(header, IFLA_TXQLEN, kTransmitQueue);
  mnl_socket* socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
  if (socket == nullptr) return Failed(name, "netlink socket");
  int result = -1;
  if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0 &&
      mnl_socket_sendto(socket, header, header->nlmsg_len) >= 0) {
    alignas(nlmsghdr) char answer[8192];
    const ssize_t size = mnl_socket_recvfrom(socket, answer, sizeof answer);
    if (size >= 0) {
      result = mnl_cb_run(answer, static_cast<size_t>(size), 1,
                          mnl_socket_get_portid(socket), nullptr, nullptr);
    }
  }
  const int error = errno;
  mnl_socket_close(socket);
  errno = error;
  if (result < 0) return Failed(name, "setting MTU and state by netlink");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tun>> Tun::Open(const TunOptions& options,
                                               Statistics* statistics) {
  const std::string& name = options.name;
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return absl::InvalidArgumentError(absl::StrCat(
        "TUN name '", name, "' must have 1 to ", IFNAMSIZ - 1, " characters"));
  }
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) {
    return absl::ErrnoToStatus(
        errno,
        "/dev/net/tun (is the tun module there, and the device in "
        "this container?)");
  }
  auto tun =
      std::unique_ptr<Tun>(new Tun(fd, name, /*udp_offload=*/true, statistics));
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(fd, TUNSETIFF, &request) != 0) {
    return Failed(name,
                  "TUNSETIFF (needs CAP_NET_ADMIN; is another espd "
                  "using it?)");
  }
  const int header = sizeof(VirtioNetHeader);
  if (ioctl(fd, TUNSETVNETHDRSZ, &header) != 0) {
    return Failed(name, "TUNSETVNETHDRSZ");
  }
  if (ioctl(fd, TUNSETPERSIST, options.persistent ? 1ul : 0ul) != 0) {
    return Failed(name, "TUNSETPERSIST");
  }
  const unsigned long tcp =
      TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (ioctl(fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) != 0) {
    tun->udp_offload_ = false;
    if (ioctl(fd, TUNSETOFFLOAD, tcp) != 0) {
      return Failed(name, "TUNSETOFFLOAD");
    }
  }
  ESPALIER_RETURN_IF_ERROR(Configure(name, options.mtu));
  return tun;
}

absl::StatusOr<std::unique_ptr<Tun>> Tun::Adopt(int fd, bool udp_offload,
                                                const TunOptions& options,
                                                Statistics* statistics) {
  auto tun =
      std::unique_ptr<Tun>(new Tun(fd, options.name, udp_offload, statistics));
  if (ioctl(fd, TUNSETPERSIST, options.persistent ? 1ul : 0ul) != 0) {
    return Failed(options.name, "TUNSETPERSIST");
  }
  ESPALIER_RETURN_IF_ERROR(Configure(options.name, options.mtu));
  return tun;
}

Tun::~Tun() { close(fd_); }

size_t Tun::Read(base::MutableByteSpan buffer) {
  const ssize_t size = read(fd_, buffer.data(), buffer.size());
  return size > 0 ? static_cast<size_t>(size) : 0;
}

void Tun::Write(const VirtioNetHeader& offload, iovec* parts, size_t count) {
  VirtioNetHeader header = offload;
  parts[0] = {&header, sizeof header};
  ++statistics_->tun_writes;
  if (writev(fd_, parts, static_cast<int>(count)) < 0) {
    ++statistics_->drop_tun_write;
  }
}

}  // namespace espalier::esp
