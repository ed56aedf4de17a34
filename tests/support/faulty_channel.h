// A netlink channel whose n-th call fails.
#ifndef ESPALIER_TESTS_SUPPORT_FAULTY_CHANNEL_H_
#define ESPALIER_TESTS_SUPPORT_FAULTY_CHANNEL_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "agent/netlink/channel.h"

namespace espalier::testing {

// Hands everything to another channel, which outlives it. Each request of a
// batch is a call of its own.
class FaultyChannel : public netlink::Channel {
 public:
  enum class Failure : uint8_t {
    kBefore,  // the call has no effect, and fails
    kAfter,   // the call has its effect, and its answer is lost
  };

  explicit FaultyChannel(netlink::Channel* channel) : channel_(channel) {}

  // 1 is the next call.
  void FailCall(uint64_t n, Failure how) {
    fail_at_ = calls_ + n;
    failure_ = how;
  }
  uint64_t calls() const { return calls_; }
  // Whether the failure asked for last has happened.
  bool has_failed() const { return fail_at_ != 0 && calls_ >= fail_at_; }

  absl::Status Execute(netlink::Request request) override {
    if (!Fails()) return channel_->Execute(std::move(request));
    if (failure_ == Failure::kAfter) {
      channel_->Execute(std::move(request)).IgnoreError();
    }
    return Error();
  }
  std::vector<absl::Status> ExecuteBatch(
      std::vector<netlink::Request> requests) override {
    std::vector<absl::Status> results;
    for (netlink::Request& request : requests) {
      results.push_back(Execute(std::move(request)));
    }
    return results;
  }
  absl::StatusOr<std::vector<netlink::Reply>> Query(
      netlink::Request request) override {
    if (Fails()) return Error();
    return channel_->Query(std::move(request));
  }
  absl::StatusOr<std::vector<netlink::Reply>> Dump(
      netlink::Request request) override {
    if (Fails()) return Error();
    return channel_->Dump(std::move(request));
  }

 private:
  bool Fails() { return ++calls_ == fail_at_; }
  static absl::Status Error() {
    return absl::ResourceExhaustedError(
        "netlink lost replies (a test does so)");
  }

  netlink::Channel* channel_;
  uint64_t calls_ = 0;
  uint64_t fail_at_ = 0;
  Failure failure_ = Failure::kBefore;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_FAULTY_CHANNEL_H_
