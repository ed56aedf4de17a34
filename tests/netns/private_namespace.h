// A network namespace of the test's own, without a name: it goes with the test
// program.
#ifndef ESPALIER_TESTS_NETNS_PRIVATE_NAMESPACE_H_
#define ESPALIER_TESTS_NETNS_PRIVATE_NAMESPACE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

namespace espalier::testing {

// Moves the calling thread, and so all that the test does, into a new empty
// namespace. Where that is not allowed the test is skipped, and fails in CI.
class PrivateNamespaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (unshare(CLONE_NEWNET) == 0) return;
    const char* ci = std::getenv("CI");
    if (ci != nullptr && std::string(ci) == "true") {
      FAIL() << "cannot make a network namespace; run the tests as root";
    }
    GTEST_SKIP() << "SKIPPED: needs root to make a network namespace";
  }
};

// A second namespace, held by a descriptor.
class OtherNamespace {
 public:
  OtherNamespace() {
    std::thread([this] {
      if (unshare(CLONE_NEWNET) != 0) return;
      fd_ = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    }).join();
  }
  ~OtherNamespace() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_ = -1;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_NETNS_PRIVATE_NAMESPACE_H_
