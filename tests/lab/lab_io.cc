#include "tests/lab/lab_io.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sstream>

namespace espalier::lab {

void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

int SocketIn(const std::string& netns, int domain, int type, int protocol,
             int buffer) {
  static const int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  int other = open(netns.c_str(), O_RDONLY | O_CLOEXEC);
  if (other < 0 || setns(other, CLONE_NEWNET) != 0) {
    Die("entering " + netns + ": " + std::strerror(errno));
  }
  int fd = socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0 || setns(own, CLONE_NEWNET) != 0) {
    Die("a socket in " + netns + ": " + std::strerror(errno));
  }
  close(other);
  for (int option : {SO_RCVBUFFORCE, SO_SNDBUFFORCE}) {
    if (setsockopt(fd, SOL_SOCKET, option, &buffer, sizeof buffer) != 0) {
      Die("the size of a socket's buffer: " +
          std::string(std::strerror(errno)));
    }
  }
  return fd;
}

Address ParseAddress(const std::string& text, uint16_t port, int family) {
  Address out;
  const bool any = text == "-";
  const bool ipv6 =
      any ? family == AF_INET6 : text.find(':') != std::string::npos;
  if (ipv6) {
    auto* address = reinterpret_cast<sockaddr_in6*>(&out.storage);
    address->sin6_family = AF_INET6;
    address->sin6_port = htons(port);
    out.size = sizeof *address;
    if (!any && inet_pton(AF_INET6, text.c_str(), &address->sin6_addr) != 1) {
      Die("not an address: " + text);
    }
  } else {
    auto* address = reinterpret_cast<sockaddr_in*>(&out.storage);
    address->sin_family = AF_INET;
    address->sin_port = htons(port);
    out.size = sizeof *address;
    if (!any && inet_pton(AF_INET, text.c_str(), &address->sin_addr) != 1) {
      Die("not an address: " + text);
    }
  }
  return out;
}

std::string AddressText(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET) {
    inet_ntop(AF_INET,
              &reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr, text,
              sizeof text);
  } else if (storage.ss_family == AF_INET6) {
    inet_ntop(AF_INET6,
              &reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr, text,
              sizeof text);
  }
  return text;
}

double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) +
         static_cast<double>(now.tv_nsec) * 1e-9;
}

std::vector<std::string> Words(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

void Run(long tick_nanoseconds, const std::function<void()>& tick,
         const std::function<void(const std::vector<std::string>&)>& command) {
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  const itimerspec every = {{0, tick_nanoseconds}, {0, tick_nanoseconds}};
  if (timer < 0 || timerfd_settime(timer, 0, &every, nullptr) != 0) {
    Die("a timer: " + std::string(std::strerror(errno)));
  }
  std::string pending;
  std::vector<char> buffer(65536);
  for (;;) {
    pollfd watched[2] = {{timer, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(watched, 2, -1) < 0 && errno != EINTR) Die("poll");
    if (watched[0].revents != 0) {
      uint64_t times;
      if (read(timer, &times, sizeof times) > 0) tick();
    }
    if (watched[1].revents == 0) continue;
    ssize_t size = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (size <= 0) return;
    pending.append(buffer.data(), static_cast<size_t>(size));
    for (size_t end; (end = pending.find('\n')) != std::string::npos;) {
      command(Words(pending.substr(0, end)));
      pending.erase(0, end + 1);
    }
    std::fflush(stdout);
  }
}

}  // namespace espalier::lab
