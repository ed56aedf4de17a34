// What the lab's two programs share: network namespaces, commands on stdin,
// answers as one line of JSON on stdout. It shares nothing with Espalier:
// these programs are its witnesses.
#ifndef ESPALIER_TESTS_LAB_LAB_IO_H_
#define ESPALIER_TESTS_LAB_LAB_IO_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace espalier::lab {

// At the start of every packet's payload that lab-traffic sends: where it is
// readable on a wire, a packet went out unencrypted, whatever its addresses.
inline constexpr char kTrafficMark[] = "espalier traffic";
// In packets that a test put on the wire itself (tests/lab/capture.py).
inline constexpr char kControlMark[] = "espalier negative control";

// Ends the program: nothing that a test asks for may fail quietly.
[[noreturn]] void Die(const std::string& what);

// A socket of that namespace (a path under /run/netns). Its sender and
// receiver buffers are as large as asked for, past the system's limits.
int SocketIn(const std::string& netns, int domain, int type, int protocol,
             int buffer);

struct Address {
  sockaddr_storage storage = {};
  socklen_t size = 0;
};
// "-" is the any address of `family`.
Address ParseAddress(const std::string& text, uint16_t port,
                     int family = AF_INET);
std::string AddressText(const sockaddr_storage& storage);

double Now();  // seconds, CLOCK_MONOTONIC

std::vector<std::string> Words(const std::string& line);
std::string Quoted(const std::string& text);

// Calls `command` with each line of stdin, and `tick` as often as asked for,
// until stdin ends.
void Run(long tick_nanoseconds, const std::function<void()>& tick,
         const std::function<void(const std::vector<std::string>&)>& command);

}  // namespace espalier::lab

#endif  // ESPALIER_TESTS_LAB_LAB_IO_H_
