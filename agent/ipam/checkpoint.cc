#include "agent/ipam/checkpoint.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::ipam {
namespace {

using base::IpAddress;
using base::IpPrefix;
using nlohmann::json;

constexpr int64_t kVersion = 1;
// 250 pods take some 100 kB.
constexpr size_t kMaxFile = 64 << 20;

absl::Status Malformed(absl::string_view where) {
  return absl::InvalidArgumentError(
      absl::StrCat("checkpoint: ", where, " is missing or malformed"));
}

json AddressesJson(const std::vector<IpAddress>& addresses) {
  json out = json::array();
  for (const IpAddress& address : addresses) out.push_back(address.ToString());
  return out;
}

absl::StatusOr<std::vector<IpAddress>> ParseAddresses(const json& object,
                                                      const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_array()) return Malformed(key);
  std::vector<IpAddress> out;
  for (const json& entry : *it) {
    if (!entry.is_string()) return Malformed(key);
    ESPALIER_ASSIGN_OR_RETURN(IpAddress address,
                              IpAddress::Parse(entry.get<std::string>()));
    out.push_back(address);
  }
  return out;
}

absl::StatusOr<State::Pool> ParsePool(const json& object) {
  if (!object.is_object()) return Malformed("pools");
  const auto cidr = object.find("cidr");
  if (cidr == object.end() || !cidr->is_string()) return Malformed("cidr");
  State::Pool pool;
  ESPALIER_ASSIGN_OR_RETURN(pool.prefix,
                            IpPrefix::Parse(cidr->get<std::string>()));
  const auto fresh = object.find("fresh");
  if (fresh == object.end()) return Malformed("fresh");
  if (!fresh->is_null()) {
    if (!fresh->is_string()) return Malformed("fresh");
    ESPALIER_ASSIGN_OR_RETURN(pool.fresh,
                              IpAddress::Parse(fresh->get<std::string>()));
  }
  ESPALIER_ASSIGN_OR_RETURN(pool.freed, ParseAddresses(object, "freed"));
  return pool;
}

absl::StatusOr<IpAddress> ParseAddress(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return Malformed(key);
  return IpAddress::Parse(it->get<std::string>());
}

absl::StatusOr<State::Block> ParseBlock(const json& object) {
  if (!object.is_object()) return Malformed("plaintextBlocks");
  const auto cidr = object.find("cidr");
  if (cidr == object.end() || !cidr->is_string()) return Malformed("cidr");
  State::Block block;
  ESPALIER_ASSIGN_OR_RETURN(block.prefix,
                            IpPrefix::Parse(cidr->get<std::string>()));
  ESPALIER_ASSIGN_OR_RETURN(block.next, ParseAddress(object, "next"));
  const auto withdrawn = object.find("withdrawn");
  if (withdrawn == object.end()) return Malformed("withdrawn");
  if (!withdrawn->is_null()) {
    if (!withdrawn->is_number_integer()) return Malformed("withdrawn");
    block.withdrawn = withdrawn->get<int64_t>();
  }
  return block;
}

absl::StatusOr<Lease> ParseLease(const json& object) {
  if (!object.is_object()) return Malformed("leases");
  const auto owner = object.find("owner");
  if (owner == object.end() || !owner->is_string()) return Malformed("owner");
  Lease lease;
  lease.owner = owner->get<std::string>();
  ESPALIER_ASSIGN_OR_RETURN(lease.addresses,
                            ParseAddresses(object, "addresses"));
  const auto labels = object.find("labels");
  if (labels == object.end() || !labels->is_object()) {
    return Malformed("labels");
  }
  for (const auto& [key, value] : labels->items()) {
    if (!value.is_string()) return Malformed("labels");
    lease.labels[key] = value.get<std::string>();
  }
  return lease;
}

}  // namespace

std::string FormatState(const State& state, const std::string& boot_id) {
  json pools = json::array();
  for (const State::Pool& pool : state.pools) {
    json entry = {{"cidr", pool.prefix.ToString()},
                  {"fresh", nullptr},
                  {"freed", AddressesJson(pool.freed)}};
    if (pool.fresh.has_value()) entry["fresh"] = pool.fresh->ToString();
    pools.push_back(std::move(entry));
  }
  json blocks = json::array();
  for (const State::Block& block : state.blocks) {
    json entry = {{"cidr", block.prefix.ToString()},
                  {"next", block.next.ToString()},
                  {"withdrawn", nullptr}};
    if (block.withdrawn) entry["withdrawn"] = *block.withdrawn;
    blocks.push_back(std::move(entry));
  }
  json leases = json::array();
  for (const Lease& lease : state.leases) {
    leases.push_back({{"owner", lease.owner},
                      {"addresses", AddressesJson(lease.addresses)},
                      {"labels", lease.labels}});
  }
  const json document = {{"version", kVersion},
                         {"bootId", boot_id},
                         {"pools", std::move(pools)},
                         {"plaintextBlocks", std::move(blocks)},
                         {"leases", std::move(leases)}};
  return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<ParsedState> ParseState(absl::string_view text) {
  // The library throws; nothing of it leaves this function. The format has
  // four levels.
  constexpr int kMaxDepth = 8;
  json document;
  try {
    document = json::parse(text.begin(), text.end(),
                           [](int depth, json::parse_event_t, json&) {
                             return depth <= kMaxDepth;
                           });
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", e.what()));
  }
  if (!document.is_object()) return Malformed("the document");
  const auto version = document.find("version");
  if (version == document.end() || !version->is_number_integer()) {
    return Malformed("version");
  }
  if (*version != json(kVersion)) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint: version ", version->get<int64_t>(),
                     "; this agent knows ", kVersion));
  }
  const auto boot_id = document.find("bootId");
  if (boot_id == document.end() || !boot_id->is_string()) {
    return Malformed("bootId");
  }
  ParsedState out;
  out.boot_id = boot_id->get<std::string>();
  const auto pools = document.find("pools");
  if (pools == document.end() || !pools->is_array()) return Malformed("pools");
  for (const json& entry : *pools) {
    ESPALIER_ASSIGN_OR_RETURN(State::Pool pool, ParsePool(entry));
    out.state.pools.push_back(std::move(pool));
  }
  // A file from before there were any has none.
  const auto blocks = document.find("plaintextBlocks");
  if (blocks != document.end()) {
    if (!blocks->is_array()) return Malformed("plaintextBlocks");
    for (const json& entry : *blocks) {
      ESPALIER_ASSIGN_OR_RETURN(State::Block block, ParseBlock(entry));
      out.state.blocks.push_back(block);
    }
  }
  const auto leases = document.find("leases");
  if (leases == document.end() || !leases->is_array()) {
    return Malformed("leases");
  }
  for (const json& entry : *leases) {
    ESPALIER_ASSIGN_OR_RETURN(Lease lease, ParseLease(entry));
    out.state.leases.push_back(std::move(lease));
  }
  // Two leases of one address are found here rather than in use.
  ESPALIER_RETURN_IF_ERROR(Allocator::Restore({}, out.state).status());
  return out;
}

absl::StatusOr<Checkpoint::Loaded> Checkpoint::Load() {
  Loaded out;
  absl::StatusOr<std::string> text = files_->Read(path_, kMaxFile);
  if (absl::IsNotFound(text.status())) return out;
  absl::Status reason = text.status();
  if (text.ok()) {
    absl::StatusOr<ParsedState> parsed = ParseState(*text);
    if (parsed.ok()) {
      out.state = std::move(parsed->state);
      out.boot_id = std::move(parsed->boot_id);
      return out;
    }
    reason = parsed.status();
  } else if (!absl::IsResourceExhausted(text.status())) {
    return base::Annotate(text.status(), "load checkpoint");
  }
  out.kept_aside = path_ + ".unusable";
  out.reason = std::string(reason.message());
  ESPALIER_RETURN_IF_ERROR(base::Annotate(files_->Rename(path_, out.kept_aside),
                                          "put unusable checkpoint aside"));
  return out;
}

absl::Status Checkpoint::Save(const State& state, const std::string& boot_id) {
  return base::Annotate(
      files_->Replace(path_, FormatState(state, boot_id), /*durable=*/true),
      "save checkpoint");
}

}  // namespace espalier::ipam
