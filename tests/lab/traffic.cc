// lab-traffic: steady UDP flows between network namespaces, numbered packet by
// packet, with the receivers' count of each number. One process for all flows,
// so that thousands of packets a second cost little of the machine.
//
// Commands on stdin, each answered with one line of JSON on stdout:
//   flow NAME SOURCE-NETNS SOURCE TO TO-PORT RECEIVER-NETNS LISTEN LISTEN-PORT
//        RATE SIZE     SOURCE and LISTEN may be "-"; RATE in packets a second
//   rate NAME RATE     0 pauses
//   remove NAME
//   stats              of every flow
// Option: --tick MICROSECONDS between two rounds of sending.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/lab/lab_io.h"

namespace espalier::lab {
namespace {

constexpr size_t kMarkSize = sizeof kTrafficMark - 1;
constexpr size_t kHeaderSize = kMarkSize + 16;  // flow, number
constexpr size_t kMaxSize = 9000;
constexpr unsigned kBatch = 64;
constexpr size_t kMaxNumbers = 20'000'000;  // hours of the fastest flow
constexpr size_t kMaxGaps = 8;
constexpr int kSocketBuffer = 16 << 20;
// Of a sender that the machine kept from running: older packets are not sent
// late, and count as never sent.
constexpr double kMaxCatchUp = 0.2;

class Flow {
 public:
  Flow(uint64_t id, const std::vector<std::string>& words)
      : id_(id),
        rate_(std::atof(words[9].c_str())),
        size_(std::clamp<size_t>(
            static_cast<size_t>(std::atoi(words[10].c_str())), kHeaderSize,
            kMaxSize)),
        last_(Now()) {
    to_ = ParseAddress(words[4], Port(words[5]));
    const int family = to_.storage.ss_family;
    sender_ = Bound(words[2], ParseAddress(words[3], 0, family));
    Address listen = ParseAddress(words[7], Port(words[8]), family);
    receiver_ = Bound(words[6], listen);
  }
  ~Flow() {
    close(sender_);
    close(receiver_);
  }
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;

  void SetRate(double rate) {
    rate_ = rate;
    owed_ = 0;
    last_ = Now();
  }

  void Send() {
    const double now = Now();
    owed_ += rate_ * std::min(now - last_, kMaxCatchUp);
    last_ = now;
    while (owed_ >= 1) {
      auto count = static_cast<unsigned>(std::min<double>(owed_, kBatch));
      owed_ -= count;
      SendBatch(count);
    }
  }

  void Receive() {
    char data[kBatch][kHeaderSize];
    sockaddr_storage from[kBatch];
    iovec vectors[kBatch];
    mmsghdr messages[kBatch] = {};
    for (;;) {
      for (unsigned i = 0; i < kBatch; ++i) {
        vectors[i] = {data[i], kHeaderSize};
        messages[i].msg_hdr = {};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &from[i];
        messages[i].msg_hdr.msg_namelen = sizeof from[i];
      }
      int count = recvmmsg(receiver_, messages, kBatch, MSG_DONTWAIT, nullptr);
      if (count <= 0) return;
      for (int i = 0; i < count; ++i) {
        if (Take({data[i], messages[i].msg_len})) source_ = from[i];
      }
      if (static_cast<unsigned>(count) < kBatch) return;
    }
  }

  std::string Json() const {
    uint64_t missing = 0;
    std::string gaps;
    size_t gap_count = 0;
    for (size_t number = 0; number < sent_times_.size(); ++number) {
      if (seen_[number]) continue;
      size_t begin = number;
      while (number < sent_times_.size() && !seen_[number]) ++number;
      missing += number - begin;
      if (gap_count++ < kMaxGaps) {
        gaps += std::string(gaps.empty() ? "" : ",") + "[" +
                std::to_string(begin) + "," + std::to_string(number - begin) +
                "," + std::to_string(sent_times_[begin]) + "]";
      }
    }
    return "{\"sent\":" + std::to_string(sent_times_.size()) +
           ",\"received\":" + std::to_string(received_) +
           ",\"missing\":" + std::to_string(missing) +
           ",\"doubled\":" + std::to_string(doubled_) +
           ",\"foreign\":" + std::to_string(foreign_) +
           ",\"refused\":" + std::to_string(refused_) +
           ",\"source\":" + Quoted(AddressText(source_)) +
           ",\"gap_count\":" + std::to_string(gap_count) + ",\"gaps\":[" +
           gaps + "]}";
  }

 private:
  static uint16_t Port(const std::string& text) {
    return static_cast<uint16_t>(std::atoi(text.c_str()));
  }

  static int Bound(const std::string& netns, const Address& address) {
    int fd = SocketIn(netns, address.storage.ss_family, SOCK_DGRAM, 0,
                      kSocketBuffer);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, reinterpret_cast<const sockaddr*>(&address.storage),
             address.size) != 0) {
      Die("binding " + AddressText(address.storage) + " in " + netns + ": " +
          std::strerror(errno));
    }
    return fd;
  }

  void SendBatch(unsigned count) {
    // Room for the largest size is not worth the stack: what follows the
    // header is the same for every packet.
    static char padding[kMaxSize];
    char data[kBatch][kHeaderSize];
    iovec vectors[kBatch][2];
    mmsghdr messages[kBatch] = {};
    count = static_cast<unsigned>(
        std::min<size_t>(count, kMaxNumbers - sent_times_.size()));
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t number = sent_times_.size() + i;
      std::memcpy(data[i], kTrafficMark, kMarkSize);
      std::memcpy(data[i] + kMarkSize, &id_, sizeof id_);
      std::memcpy(data[i] + kMarkSize + 8, &number, sizeof number);
      vectors[i][0] = {data[i], kHeaderSize};
      vectors[i][1] = {padding, size_ - kHeaderSize};
      messages[i].msg_hdr.msg_iov = vectors[i];
      messages[i].msg_hdr.msg_iovlen = 2;
      messages[i].msg_hdr.msg_name = &to_.storage;
      messages[i].msg_hdr.msg_namelen = to_.size;
    }
    // What the sender's own host refuses was never sent, and its number goes
    // to the next packet.
    int sent = sendmmsg(sender_, messages, count, MSG_DONTWAIT);
    refused_ += count - static_cast<unsigned>(std::max(sent, 0));
    const double now = Now();
    for (int i = 0; i < sent; ++i) {
      sent_times_.push_back(now);
      seen_.push_back(false);
    }
  }

  // False for what is not of this flow.
  bool Take(std::string_view data) {
    uint64_t id = 0, number = 0;
    if (data.size() == kHeaderSize && data.starts_with(kTrafficMark)) {
      std::memcpy(&id, data.data() + kMarkSize, sizeof id);
      std::memcpy(&number, data.data() + kMarkSize + 8, sizeof number);
    }
    if (id != id_ || number >= sent_times_.size()) {
      ++foreign_;
      return false;
    }
    if (seen_[number]) {
      ++doubled_;
    } else {
      seen_[number] = true;
      ++received_;
    }
    return true;
  }

  const uint64_t id_;
  double rate_;
  const size_t size_;
  double last_;
  double owed_ = 0;
  Address to_;
  int sender_ = -1;
  int receiver_ = -1;
  std::vector<double> sent_times_;
  std::vector<bool> seen_;
  uint64_t received_ = 0, doubled_ = 0, foreign_ = 0, refused_ = 0;
  sockaddr_storage source_ = {};
};

class Traffic {
 public:
  void Tick() {
    for (auto& [name, flow] : flows_) flow->Send();
    // Receive buffers hold seconds of traffic: looking every few rounds will
    // do.
    if (++round_ % 8 == 0) Receive();
  }

  void Command(const std::vector<std::string>& words) {
    if (words.size() == 11 && words[0] == "flow") {
      // Another id after a remove: late packets of the old are not the new's.
      flows_[words[1]] = std::make_unique<Flow>(++last_id_, words);
      std::puts("{}");
    } else if (words.size() == 3 && words[0] == "rate") {
      Find(words[1])->SetRate(std::atof(words[2].c_str()));
      std::puts("{}");
    } else if (words.size() == 2 && words[0] == "remove") {
      Find(words[1]);
      flows_.erase(words[1]);
      std::puts("{}");
    } else if (words.size() == 1 && words[0] == "stats") {
      Receive();
      std::string out;
      for (auto& [name, flow] : flows_) {
        out += (out.empty() ? "" : ",") + Quoted(name) + ":" + flow->Json();
      }
      std::printf("{%s}\n", out.c_str());
    } else {
      Die("no such command: " + (words.empty() ? "" : words[0]));
    }
  }

 private:
  Flow* Find(const std::string& name) {
    auto found = flows_.find(name);
    if (found == flows_.end()) Die("no flow " + name);
    return found->second.get();
  }
  void Receive() {
    for (auto& [name, flow] : flows_) flow->Receive();
  }

  std::map<std::string, std::unique_ptr<Flow>> flows_;
  uint64_t last_id_ = 0;
  uint64_t round_ = 0;
};

}  // namespace
}  // namespace espalier::lab

int main(int argc, char** argv) {
  long tick = 1000;
  if (argc == 3 && std::strcmp(argv[1], "--tick") == 0) {
    tick = std::atol(argv[2]);
  }
  if (tick <= 0 || tick >= 1'000'000) espalier::lab::Die("--tick MICROSECONDS");
  espalier::lab::Traffic traffic;
  espalier::lab::Run(
      tick * 1000, [&] { traffic.Tick(); },
      [&](const auto& words) { traffic.Command(words); });
}
