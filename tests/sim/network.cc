#include "tests/sim/network.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/wire/header.h"

namespace espalier::sim {
namespace {

std::string Describe(const ike::Path& path, const base::Bytes& bytes) {
  std::string text = absl::StrCat(path.local.ToString(), " > ",
                                  path.remote.ToString(), " ", bytes.size());
  const auto header = wire::DecodeHeader(bytes);
  if (!header.ok()) return text;
  absl::StrAppend(&text, " ", wire::ToString(header->header.exchange),
                  header->header.response ? " response " : " request ",
                  header->header.message_id, " ",
                  absl::Hex(header->header.initiator_spi >> 48), "/",
                  absl::Hex(header->header.responder_spi >> 48));
  return text;
}

}  // namespace

void Network::Attach(const base::IpAddress& address, Receiver receiver) {
  receivers_[address] = std::move(receiver);
}

void Network::Cut(const base::IpAddress& a, const base::IpAddress& b,
                  bool cut) {
  const std::pair<base::IpAddress, base::IpAddress> pair = std::minmax(a, b);
  record_->Trace(absl::StrCat(cut ? "cut " : "joined ", a.ToString(), " and ",
                              b.ToString()));
  if (cut) {
    cuts_.insert(pair);
  } else {
    cuts_.erase(pair);
  }
}

bool Network::IsCut(const base::IpAddress& a, const base::IpAddress& b) const {
  const auto inside = [this](const base::IpAddress& address) {
    const auto found = inside_of_.find(address);
    return found == inside_of_.end() ? address : found->second;
  };
  const base::IpAddress first = inside(a), second = inside(b);
  return cuts_.contains(std::minmax(first, second));
}

void Network::PlaceBehindNat(const base::IpAddress& inside,
                             const base::IpAddress& outside) {
  outside_of_[inside] = outside;
  inside_of_[outside] = inside;
}

void Network::Rebind(const base::IpAddress& inside) {
  record_->Trace(absl::StrCat("NAT of ", inside.ToString(), " rebinds"));
  std::erase_if(nat_ports_, [&inside](const auto& entry) {
    return entry.first.inside.address == inside;
  });
}

base::Endpoint Network::Translate(const ike::Path& path) {
  const auto outside = outside_of_.find(path.local.address);
  if (outside == outside_of_.end()) return path.local;
  auto [port, made] =
      nat_ports_.try_emplace(Mapping{path.local, path.remote}, next_nat_port_);
  if (made) ++next_nat_port_;
  return {outside->second, port->second};
}

void Network::CountForStorm(const ike::Path& path) {
  const int64_t second = absl::ToUnixSeconds(scheduler_->now());
  if (second != second_) {
    second_ = second;
    in_second_.clear();
  }
  const int count = ++in_second_[{path.local.address, path.remote.address}];
  // A handshake has 2, with a fragmented IKE_AUTH about 6; commands of a test
  // that come in one second add up.
  if (count == max_per_second_ + 1) {
    record_->Broken(Invariant::kNoStorm,
                    absl::StrCat(path.local.address.ToString(), " sent ",
                                 path.remote.address.ToString(), " ", count,
                                 " datagrams in a second"));
  }
}

void Network::Send(const ike::Path& path, const base::Bytes& bytes) {
  ++sent_;
  CountForStorm(path);
  if (record_->tracing()) record_->Trace(Describe(path, bytes));
  if (IsCut(path.local.address, path.remote.address)) return;
  const base::Endpoint source = Translate(path);
  int copies = chance_->Happens(faults_.loss) ? 0 : 1;
  if (chance_->Happens(faults_.duplicate)) ++copies;
  if (copies == 0) record_->Trace("  lost");
  for (int i = 0; i < copies; ++i) {
    scheduler_->After(chance_->Between(faults_.min_delay, faults_.max_delay),
                      [this, source, target = path.remote, bytes] {
                        Deliver(source, target, bytes);
                      });
  }
}

void Network::Deliver(const base::Endpoint& source,
                      const base::Endpoint& target, const base::Bytes& bytes) {
  base::Endpoint local = target;
  if (const auto inside = inside_of_.find(target.address);
      inside != inside_of_.end()) {
    // Only what answers a mapping comes in.
    const auto mapping = std::find_if(
        nat_ports_.begin(), nat_ports_.end(), [&](const auto& entry) {
          return entry.second == target.port && entry.first.remote == source &&
                 entry.first.inside.address == inside->second;
        });
    if (mapping == nat_ports_.end()) return;
    local = mapping->first.inside;
  }
  if (local.port != 500 && local.port != 4500) return;
  const auto receiver = receivers_.find(local.address);
  if (receiver == receivers_.end()) return;
  receiver->second({.local = local, .remote = source}, bytes);
}

std::optional<absl::Duration> Network::EspDelay(const base::IpAddress& from,
                                                const base::IpAddress& to) {
  if (IsCut(from, to)) return std::nullopt;
  return chance_->Between(faults_.min_delay, faults_.max_delay);
}

}  // namespace espalier::sim
