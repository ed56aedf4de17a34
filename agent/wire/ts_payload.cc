#include "agent/wire/ts_payload.h"

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"

namespace espalier::wire {
namespace {

// Type, protocol and length.
constexpr size_t kSelectorHeaderSize = 4;
constexpr size_t kPortsSize = 4;

// nullopt: of a type that is no address range, or an empty range. A range of
// the wrong size was refused before.
std::optional<base::TrafficSelector> ToSelector(size_t address_size,
                                                uint8_t protocol,
                                                base::ByteSpan rest) {
  base::ByteReader reader(rest);
  base::TrafficSelector selector;
  selector.protocol = protocol;
  base::ByteSpan first, last;
  if (!reader.ReadU16(&selector.first_port) ||
      !reader.ReadU16(&selector.last_port) ||
      !reader.ReadSpan(address_size, &first) ||
      !reader.ReadSpan(address_size, &last)) {
    return std::nullopt;
  }
  absl::StatusOr<base::IpAddress> start = base::IpAddress::FromBytes(first);
  absl::StatusOr<base::IpAddress> end = base::IpAddress::FromBytes(last);
  if (!start.ok() || !end.ok()) return std::nullopt;
  selector.first = *start;
  selector.last = *end;
  const bool opaque = selector.first_port == 65535 && selector.last_port == 0;
  if (selector.last < selector.first ||
      (selector.last_port < selector.first_port && !opaque)) {
    return std::nullopt;
  }
  return selector;
}

size_t AddressSize(uint8_t type) {
  switch (static_cast<TsType>(type)) {
    case TsType::kIpv4AddrRange:
      return 4;
    case TsType::kIpv6AddrRange:
      return 16;
  }
  return 0;
}

bool DecodeSelector(base::ByteReader* reader, TsPayload* out,
                    std::string* why) {
  UnusableSelector raw;
  uint16_t length = 0;
  base::ByteSpan rest;
  if (!reader->ReadU8(&raw.type) || !reader->ReadU8(&raw.protocol) ||
      !reader->ReadU16(&length)) {
    *why = "selector cut short";
    return false;
  }
  if (length < kSelectorHeaderSize ||
      !reader->ReadSpan(length - kSelectorHeaderSize, &rest)) {
    *why = absl::StrCat("selector length ", length);
    return false;
  }
  const size_t address_size = AddressSize(raw.type);
  if (address_size != 0) {
    if (rest.size() != kPortsSize + 2 * address_size) {
      *why = absl::StrCat("selector length ", length, " for type ",
                          static_cast<int>(raw.type));
      return false;
    }
    if (auto selector = ToSelector(address_size, raw.protocol, rest)) {
      out->selectors.push_back(*selector);
      return true;
    }
  }
  raw.rest.assign(rest.begin(), rest.end());
  out->unusable.push_back(std::move(raw));
  return true;
}

}  // namespace

bool DecodeBody(base::ByteSpan body, TsPayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint8_t count = 0;
  if (!reader.ReadU8(&count) || !reader.Skip(3)) {
    *why = "cut short";
    return false;
  }
  if (count == 0) {
    *why = "no selector";
    return false;
  }
  for (int i = 0; i < count; ++i) {
    if (!DecodeSelector(&reader, out, why)) return false;
  }
  if (!reader.empty()) {
    *why = "octets behind the last selector";
    return false;
  }
  return true;
}

void EncodeBody(const TsPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(
      static_cast<uint8_t>(payload.selectors.size() + payload.unusable.size()));
  writer->WriteZeros(3);
  for (const base::TrafficSelector& selector : payload.selectors) {
    const base::ByteSpan first = selector.first.bytes();
    const base::ByteSpan last = selector.last.bytes();
    writer->WriteU8(static_cast<uint8_t>(selector.first.is_v4()
                                             ? TsType::kIpv4AddrRange
                                             : TsType::kIpv6AddrRange));
    writer->WriteU8(selector.protocol);
    writer->WriteU16(static_cast<uint16_t>(kSelectorHeaderSize + kPortsSize +
                                           first.size() + last.size()));
    writer->WriteU16(selector.first_port);
    writer->WriteU16(selector.last_port);
    writer->WriteSpan(first);
    writer->WriteSpan(last);
  }
  for (const UnusableSelector& selector : payload.unusable) {
    writer->WriteU8(selector.type);
    writer->WriteU8(selector.protocol);
    writer->WriteU16(
        static_cast<uint16_t>(kSelectorHeaderSize + selector.rest.size()));
    writer->WriteSpan(selector.rest);
  }
}

}  // namespace espalier::wire
