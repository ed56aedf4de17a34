// The kernel's SAD and SPD in memory, behind a channel whose n-th call fails.
#ifndef ESPALIER_TESTS_SUPPORT_FAKE_XFRM_H_
#define ESPALIER_TESTS_SUPPORT_FAKE_XFRM_H_

#include <linux/xfrm.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/netlink/async_channel.h"
#include "agent/netlink/xfrm_types.h"
#include "tests/support/manual_loop.h"

namespace espalier::testing {

// Keeps what is installed as the octets of the request, which are those of the
// kernel's answer. Effects are at once, answers when the loop moves.
class FakeXfrm : public netlink::AsyncChannel {
 public:
  enum class Failure : uint8_t {
    kBefore,  // the call has no effect, and fails
    kAfter,   // the call has its effect, and its answer is lost
  };

  explicit FakeXfrm(ManualLoop* loop) : loop_(loop) {}

  // 1 is the next call; so many in a row.
  void FailCall(uint64_t n, Failure how, uint64_t count = 1,
                absl::Status error = absl::ResourceExhaustedError(
                    "netlink lost replies (a test does so)")) {
    fail_first_ = calls_ + n;
    fail_last_ = fail_first_ + count - 1;
    failure_ = how;
    error_ = std::move(error);
  }
  uint64_t calls() const { return calls_; }
  // Whether the failure asked for last has happened.
  bool has_failed() const { return fail_last_ != 0 && calls_ >= fail_last_; }
  // Runs after each call's effect.
  std::function<void()> after_call;

  // By destination, protocol and SPI.
  const std::map<std::string, base::Bytes>& states() const { return states_; }
  // By direction, selector and if_id.
  const std::map<std::string, base::Bytes>& policies() const {
    return policies_;
  }
  // How often an AEAD key came a second time.
  int repeated_keys() const { return repeated_keys_; }
  // A packet goes through every SA.
  void Pass() {
    for (auto& [name, octets] : states_) {
      auto info = Head<xfrm_usersa_info>(octets);
      ++info.curlft.packets;
      std::memcpy(octets.data(), &info, sizeof(info));
    }
  }

  void Start(netlink::Request request, Completion done) override {
    ++calls_;
    const bool fails = calls_ >= fail_first_ && calls_ <= fail_last_;
    absl::Status status = fails ? error_ : absl::OkStatus();
    std::vector<netlink::Reply> replies;
    if (!fails || failure_ == Failure::kAfter) {
      const absl::Status result = Execute(request, &replies);
      if (!fails) status = result;
    }
    // What a dump had got by then is handed over with its error.
    if (after_call) after_call();
    loop_->RunAfter(absl::ZeroDuration(),
                    [status, replies = std::move(replies),
                     done = std::move(done)] { done(status, replies); });
  }

 private:
  template <typename T>
  static T Head(base::ByteSpan octets) {
    T head{};
    std::memcpy(&head, octets.data(), std::min(sizeof(head), octets.size()));
    return head;
  }
  template <typename T>
  static std::string Octets(const T& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static std::string Name(const xfrm_id& id) {
    return absl::StrCat(Octets(id.daddr), id.proto, "/", id.spi);
  }
  static std::string Name(const xfrm_usersa_id& id) {
    return absl::StrCat(Octets(id.daddr), id.proto, "/", id.spi);
  }
  static std::string Name(const xfrm_selector& selector, uint8_t direction,
                          base::ByteSpan attributes) {
    uint32_t if_id = 0;
    netlink::AttributeReader reader(attributes);
    netlink::Attribute attribute;
    while (reader.Next(&attribute)) {
      if (attribute.type == XFRMA_IF_ID) if_id = attribute.AsU32().value_or(0);
    }
    return absl::StrCat(Octets(selector), direction, "/", if_id);
  }

  absl::Status Execute(const netlink::Request& request,
                       std::vector<netlink::Reply>* replies) {
    const base::ByteSpan payload = request.payload();
    const bool dump = (request.flags() & NLM_F_DUMP) == NLM_F_DUMP;
    switch (request.type()) {
      case XFRM_MSG_NEWSA:
        return Add(payload);
      case XFRM_MSG_DELSA:
        return Removed(states_.erase(Name(Head<xfrm_usersa_id>(payload))));
      case XFRM_MSG_GETSA: {
        if (dump) return List(states_, XFRM_MSG_NEWSA, replies);
        const auto found = states_.find(Name(Head<xfrm_usersa_id>(payload)));
        if (found == states_.end()) return Removed(0);
        replies->push_back({.type = XFRM_MSG_NEWSA, .payload = found->second});
        return absl::OkStatus();
      }
      case XFRM_MSG_UPDPOLICY: {
        const auto info = Head<xfrm_userpolicy_info>(payload);
        policies_[Name(info.sel, info.dir, payload.subspan(sizeof(info)))] =
            base::Bytes(payload.begin(), payload.end());
        return absl::OkStatus();
      }
      case XFRM_MSG_DELPOLICY: {
        const auto id = Head<xfrm_userpolicy_id>(payload);
        return Removed(
            policies_.erase(Name(id.sel, id.dir, payload.subspan(sizeof(id)))));
      }
      case XFRM_MSG_GETPOLICY:
        return List(policies_, XFRM_MSG_NEWPOLICY, replies);
      default:
        return absl::UnimplementedError(request.what());
    }
  }
  absl::Status Add(base::ByteSpan payload) {
    const auto info = Head<xfrm_usersa_info>(payload);
    netlink::AttributeReader reader(payload.subspan(sizeof(info)));
    netlink::Attribute attribute;
    while (reader.Next(&attribute)) {
      if (attribute.type == XFRMA_ALG_AEAD &&
          !keys_ever_.emplace(attribute.value.begin(), attribute.value.end())
               .second) {
        ++repeated_keys_;
      }
    }
    return states_.try_emplace(Name(info.id),
                               base::Bytes(payload.begin(), payload.end()))
                   .second
               ? absl::OkStatus()
               : absl::AlreadyExistsError("SA");
  }
  static absl::Status Removed(size_t count) {
    return count == 0 ? absl::NotFoundError("no such entry") : absl::OkStatus();
  }
  static absl::Status List(const std::map<std::string, base::Bytes>& all,
                           uint16_t type,
                           std::vector<netlink::Reply>* replies) {
    for (const auto& [name, octets] : all) {
      replies->push_back({.type = type, .payload = octets});
    }
    return absl::OkStatus();
  }

  ManualLoop* loop_;
  uint64_t calls_ = 0;
  uint64_t fail_first_ = 0, fail_last_ = 0;
  Failure failure_ = Failure::kBefore;
  absl::Status error_;
  std::map<std::string, base::Bytes> states_, policies_;
  std::set<base::Bytes> keys_ever_;
  int repeated_keys_ = 0;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_FAKE_XFRM_H_
