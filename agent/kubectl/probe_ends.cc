#include "agent/kubectl/probe_ends.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {
namespace {

constexpr size_t kOctets = 512;  // of a datagram
constexpr char kQuestion = 'q';
constexpr char kAnswer = 'a';
constexpr absl::Duration kAgain = absl::Milliseconds(300);
constexpr absl::Duration kLimit = absl::Seconds(10);

using Datagram = std::array<char, kOctets>;

// The kind, then the number in text.
Datagram Question(int number) {
  Datagram datagram{};
  const std::string text = absl::StrCat(std::string(1, kQuestion), " ", number);
  std::copy(text.begin(), text.end(), datagram.begin());
  return datagram;
}

// A connected socket, or -1 and errno.
int Connect(const std::string& address, uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), absl::StrCat(port).c_str(), &hints,
                  &found) != 0) {
    errno = EINVAL;
    return -1;
  }
  const absl::Cleanup free = [found] { freeaddrinfo(found); };
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (connect(fd, found->ai_addr, found->ai_addrlen) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// Whether the answer to `question` came within `wait`. Answers to earlier ones,
// which were sent twice, are passed over; an ICMP error is as good as silence,
// for the other end may still be starting.
bool Answered(int fd, Datagram expected, absl::Duration wait) {
  expected[0] = kAnswer;
  const absl::Time end = absl::Now() + wait;
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(end - absl::Now());
    if (left <= 0) return false;
    pollfd one{fd, POLLIN, 0};
    if (poll(&one, 1, static_cast<int>(left)) <= 0) continue;
    Datagram got{};
    const ssize_t n = recv(fd, got.data(), got.size(), 0);
    if (n == static_cast<ssize_t>(kOctets) && got == expected) return true;
    if (n < 0) absl::SleepFor(std::min(kAgain, end - absl::Now()));
  }
}

}  // namespace

ProbeCount AskProbe(const std::string& address, uint16_t port, int count,
                    absl::Duration limit) {
  ProbeCount result{.address = address};
  const int fd = Connect(address, port);
  if (fd < 0) {
    result.error = strerror(errno);
    return result;
  }
  const absl::Cleanup close_it = [fd] { close(fd); };
  const absl::Time end = absl::Now() + limit;
  while (result.answered < count && absl::Now() < end) {
    const Datagram question = Question(result.answered);
    if (send(fd, question.data(), question.size(), 0) < 0) {
      // No route yet, or the ICMP error of the one before.
      result.error = strerror(errno);
      absl::SleepFor(kAgain);
      continue;
    }
    ++result.sent;
    if (Answered(fd, question, kAgain)) ++result.answered;
  }
  if (result.answered == count) result.error.clear();
  return result;
}

int BindProbe(uint16_t port) {
  const int six = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (six >= 0) {
    const int off = 0;
    setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(port);
    if (bind(six, reinterpret_cast<const sockaddr*>(&any), sizeof(any)) == 0) {
      return six;
    }
    close(six);
  }
  const int four = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (four < 0) return -1;
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(port);
  if (bind(four, reinterpret_cast<const sockaddr*>(&any), sizeof(any)) == 0) {
    return four;
  }
  const int error = errno;
  close(four);
  errno = error;
  return -1;
}

void AnswerProbes(int fd) {
  for (;;) {
    Datagram datagram{};
    sockaddr_storage from{};
    socklen_t length = sizeof(from);
    const ssize_t n = recvfrom(fd, datagram.data(), datagram.size(), 0,
                               reinterpret_cast<sockaddr*>(&from), &length);
    if (n < 0) {
      if (errno == EINTR) continue;
      return;
    }
    // An answer is never answered: two of these cannot keep each other busy.
    if (n == 0 || datagram[0] != kQuestion) continue;
    datagram[0] = kAnswer;
    (void)sendto(fd, datagram.data(), static_cast<size_t>(n), 0,
                 reinterpret_cast<const sockaddr*>(&from), length);
  }
}

int RunProbeEnd(const std::vector<std::string>& arguments, std::ostream& out,
                std::ostream& err) {
  CLI::App app("The ends of `kubectl espalier verify --probe`, in its pods.",
               "kubectl-espalier probe");
  app.require_subcommand(1);
  app.add_subcommand("serve", "Answers, until it is ended");
  CLI::App* ask = app.add_subcommand("ask", "Asks, and prints how often");
  std::vector<std::string> addresses;
  int count = 1;
  ask->add_option("ADDRESS", addresses, "Whom to ask")->required();
  ask->add_option("--count", count, "How often each")
      ->check(CLI::Range(1, 10000));
  try {
    // CLI11 wants them in reverse.
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, out, err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  if (!*ask) {
    const int fd = BindProbe(kProbePort);
    if (fd >= 0) AnswerProbes(fd);
    err << "UDP port " << kProbePort << ": " << strerror(errno) << "\n";
    return kExitRefused;
  }
  std::vector<ProbeCount> counts(addresses.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < addresses.size(); ++i) {
    threads.emplace_back([&counts, &addresses, count, i] {
      counts[i] = AskProbe(addresses[i], kProbePort, count, kLimit);
    });
  }
  for (std::thread& thread : threads) thread.join();
  nlohmann::json results = nlohmann::json::array();
  for (const ProbeCount& one : counts) {
    results.push_back({{"address", one.address},
                       {"sent", one.sent},
                       {"answered", one.answered},
                       {"error", one.error}});
  }
  out << nlohmann::json{{"asked", results}}.dump() << "\n";
  return kExitOk;
}

}  // namespace espalier::kubectl
