#include "agent/netlink/message.h"

#include <libmnl/libmnl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::netlink {
namespace {

constexpr size_t kInitialCapacity = 256;

// What the kernel says beside errno (NETLINK_EXT_ACK).
std::string ExtendedAck(base::ByteSpan attributes) {
  std::string text;
  AttributeReader reader(attributes);
  Attribute attribute;
  while (reader.Next(&attribute)) {
    if (attribute.type == NLMSGERR_ATTR_MSG) {
      absl::StrAppend(&text, "; kernel: ", attribute.AsString());
    } else if (attribute.type == NLMSGERR_ATTR_OFFS) {
      if (const auto offset = attribute.AsU32()) {
        absl::StrAppend(&text, "; at octet ", *offset, " of the request");
      }
    } else if (attribute.type == NLMSGERR_ATTR_MISS_TYPE) {
      if (const auto type = attribute.AsU32()) {
        absl::StrAppend(&text, "; attribute ", *type, " is missing");
      }
    }
  }
  return text;
}

}  // namespace

Request::Request(uint16_t type, uint16_t flags, std::string what)
    : what_(std::move(what)) {
  Reserve(NLMSG_HDRLEN);
  nlmsghdr* header = mnl_nlmsg_put_header(buffer_.get());
  header->nlmsg_type = type;
  header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  size_ = header->nlmsg_len;
}

Request::Request(Request&& other) noexcept
    : buffer_(std::move(other.buffer_)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)),
      secret_(other.secret_),
      what_(std::move(other.what_)) {}

Request& Request::operator=(Request&& other) noexcept {
  if (this != &other) {
    Wipe();
    buffer_ = std::move(other.buffer_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    secret_ = other.secret_;
    what_ = std::move(other.what_);
  }
  return *this;
}

Request::~Request() { Wipe(); }

Request Request::Clone() const {
  Request copy(type(), flags(), what_);
  copy.secret_ = secret_;
  copy.Reserve(size_ - copy.size_);
  std::copy_n(buffer_.get(), size_, copy.buffer_.get());
  copy.size_ = size_;
  return copy;
}

void Request::Wipe() {
  if (secret_ && buffer_ != nullptr) base::Wipe({buffer_.get(), capacity_});
}

void Request::Reserve(size_t more) {
  // mnl_attr_put pads to 4 octets without asking.
  const size_t needed = size_ + more + NLMSG_ALIGNTO;
  if (needed <= capacity_) return;
  const size_t capacity = std::max({needed, 2 * capacity_, kInitialCapacity});
  auto grown = std::make_unique<uint8_t[]>(capacity);
  std::copy_n(buffer_.get(), size_, grown.get());
  Wipe();
  buffer_ = std::move(grown);
  capacity_ = capacity;
}

void Request::PutRaw(base::ByteSpan bytes) {
  Reserve(MNL_ALIGN(bytes.size()));
  std::copy(bytes.begin(), bytes.end(), buffer_.get() + size_);
  std::fill_n(buffer_.get() + size_ + bytes.size(),
              MNL_ALIGN(bytes.size()) - bytes.size(), uint8_t{0});
  size_ += MNL_ALIGN(bytes.size());
  header()->nlmsg_len = static_cast<uint32_t>(size_);
}

void Request::PutBytes(uint16_t attribute, base::ByteSpan value) {
  Reserve(MNL_ATTR_HDRLEN + MNL_ALIGN(value.size()));
  mnl_attr_put(header(), attribute, value.size(), value.data());
  size_ = header()->nlmsg_len;
}

void Request::PutU8(uint16_t attribute, uint8_t value) {
  PutStructAttribute(attribute, value);
}
void Request::PutU16(uint16_t attribute, uint16_t value) {
  PutStructAttribute(attribute, value);
}
void Request::PutU32(uint16_t attribute, uint32_t value) {
  PutStructAttribute(attribute, value);
}
void Request::PutU64(uint16_t attribute, uint64_t value) {
  PutStructAttribute(attribute, value);
}

void Request::PutString(uint16_t attribute, const std::string& value) {
  PutBytes(attribute,
           {reinterpret_cast<const uint8_t*>(value.c_str()), value.size() + 1});
}

void Request::PutNest(uint16_t attribute, const std::function<void()>& fill) {
  // By place, not by pointer: `fill` may move the buffer.
  const size_t start = size_;
  Reserve(MNL_ATTR_HDRLEN);
  mnl_attr_nest_start(header(), attribute);
  size_ = header()->nlmsg_len;
  fill();
  const auto length = static_cast<uint16_t>(size_ - start);
  std::memcpy(buffer_.get() + start, &length, sizeof(length));
}

uint16_t Request::type() const {
  return reinterpret_cast<const nlmsghdr*>(buffer_.get())->nlmsg_type;
}

uint16_t Request::flags() const {
  return reinterpret_cast<const nlmsghdr*>(buffer_.get())->nlmsg_flags;
}

void Request::AddFlags(uint16_t flags) { header()->nlmsg_flags |= flags; }

void Request::SetSequence(uint32_t sequence) { header()->nlmsg_seq = sequence; }

std::string Attribute::AsString() const {
  const auto end = std::ranges::find(value, uint8_t{0});
  return std::string(value.begin(), end);
}

std::optional<base::IpAddress> Attribute::AsAddress() const {
  absl::StatusOr<base::IpAddress> address = base::IpAddress::FromBytes(value);
  if (!address.ok()) return std::nullopt;
  return *address;
}

bool AttributeReader::Next(Attribute* attribute) {
  nlattr header;
  if (rest_.size() < sizeof(header)) return false;
  std::memcpy(&header, rest_.data(), sizeof(header));
  if (header.nla_len < sizeof(header) || header.nla_len > rest_.size()) {
    malformed_ = true;
    rest_ = {};
    return false;
  }
  attribute->type = header.nla_type & NLA_TYPE_MASK;
  attribute->value =
      rest_.subspan(sizeof(header), header.nla_len - sizeof(header));
  rest_ =
      rest_.subspan(std::min<size_t>(NLA_ALIGN(header.nla_len), rest_.size()));
  return true;
}

bool ReadMessage(base::ByteReader* reader, nlmsghdr* header,
                 base::ByteSpan* payload) {
  if (!ReadStruct(reader, header) || header->nlmsg_len < sizeof(*header) ||
      !reader->ReadSpan(header->nlmsg_len - sizeof(*header), payload)) {
    return false;
  }
  // The last one may go without its padding.
  const size_t padding =
      NLMSG_ALIGN(size_t{header->nlmsg_len}) - header->nlmsg_len;
  return reader->Skip(std::min(padding, reader->remaining()));
}

Acknowledgement ParseAcknowledgement(const nlmsghdr& header,
                                     base::ByteSpan payload) {
  Acknowledgement ack;
  base::ByteReader reader(payload);
  int32_t error = 0;
  if (!ReadStruct(&reader, &error)) {
    // Only a DONE may come without.
    ack.error = header.nlmsg_type == NLMSG_ERROR ? EBADMSG : 0;
    return ack;
  }
  // Negated errno; anything else is not the kernel's (MAX_ERRNO).
  if (error != 0) ack.error = error < 0 && error >= -4095 ? -error : EBADMSG;
  if ((header.nlmsg_flags & NLM_F_ACK_TLVS) == 0) return ack;
  if (header.nlmsg_type == NLMSG_ERROR) {
    nlmsghdr quoted;
    if (!ReadStruct(&reader, &quoted)) return ack;
    // Without NLM_F_CAPPED the whole request is quoted, not its header alone.
    if ((header.nlmsg_flags & NLM_F_CAPPED) == 0 &&
        (quoted.nlmsg_len < sizeof(quoted) ||
         !reader.Skip(NLMSG_ALIGN(size_t{quoted.nlmsg_len}) -
                      sizeof(quoted)))) {
      return ack;
    }
  }
  ack.detail = ExtendedAck(reader.rest());
  return ack;
}

}  // namespace espalier::netlink
