// Netlink messages: building requests, and reading attributes of replies with
// every length checked. Netlink is in host byte order unless said otherwise.
#ifndef ESPALIER_AGENT_NETLINK_MESSAGE_H_
#define ESPALIER_AGENT_NETLINK_MESSAGE_H_

#include <linux/netlink.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "agent/base/byte_reader.h"
#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"

namespace espalier::netlink {

// One request under construction. Move-only, because it may carry keys: after
// MarkSecret() every buffer it ever lived in is wiped, also when it grows.
class Request {
 public:
  // NLM_F_REQUEST is added; the channel adds NLM_F_ACK or NLM_F_DUMP and the
  // sequence number. `what` names the request in errors ("add route
  // 10.1.0.0/16 table 100").
  Request(uint16_t type, uint16_t flags, std::string what);
  Request(Request&& other) noexcept;
  Request& operator=(Request&& other) noexcept;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request();

  // A deep copy, for a caller that may have to repeat it.
  Request Clone() const;

  // The fixed header that follows nlmsghdr (ifinfomsg, rtmsg...), and headers
  // inside nests (the peer of a veth).
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void PutStruct(const T& value) {
    PutRaw({reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  void PutU8(uint16_t attribute, uint8_t value);
  void PutU16(uint16_t attribute, uint16_t value);
  void PutU32(uint16_t attribute, uint32_t value);
  void PutU64(uint16_t attribute, uint64_t value);
  // With a terminating zero octet.
  void PutString(uint16_t attribute, const std::string& value);
  void PutBytes(uint16_t attribute, base::ByteSpan value);
  void PutAddress(uint16_t attribute, const base::IpAddress& value) {
    PutBytes(attribute, value.bytes());
  }
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void PutStructAttribute(uint16_t attribute, const T& value) {
    PutBytes(attribute,
             {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  // Whatever `fill` puts becomes the contents of the nested attribute.
  void PutNest(uint16_t attribute, const std::function<void()>& fill);

  void MarkSecret() { secret_ = true; }

  uint16_t type() const;
  uint16_t flags() const;
  const std::string& what() const { return what_; }
  // The whole message, nlmsghdr included.
  base::ByteSpan bytes() const { return {buffer_.get(), size_}; }
  // What follows nlmsghdr.
  base::ByteSpan payload() const { return bytes().subspan(NLMSG_HDRLEN); }

  // For channels.
  void AddFlags(uint16_t flags);
  void SetSequence(uint32_t sequence);

 private:
  void PutRaw(base::ByteSpan bytes);
  void Reserve(size_t more);
  void Wipe();
  nlmsghdr* header() { return reinterpret_cast<nlmsghdr*>(buffer_.get()); }

  std::unique_ptr<uint8_t[]> buffer_;
  size_t size_ = 0;
  size_t capacity_ = 0;
  bool secret_ = false;
  std::string what_;
};

// One message that answered a request or came as a notification.
struct Reply {
  uint16_t type = 0;
  uint16_t flags = 0;
  base::Bytes payload;  // what follows nlmsghdr
};

// Reads a struct of the kernel's ABI; false when the bytes do not suffice.
template <typename T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] bool ReadStruct(base::ByteReader* reader, T* out) {
  base::ByteSpan span;
  if (!reader->ReadSpan(sizeof(T), &span)) return false;
  std::memcpy(out, span.data(), sizeof(T));
  return true;
}

// One attribute; borrows from the message.
struct Attribute {
  uint16_t type = 0;  // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
  base::ByteSpan value;

  // nullopt when the size is not the type's.
  std::optional<uint8_t> AsU8() const { return As<uint8_t>(); }
  std::optional<uint16_t> AsU16() const { return As<uint16_t>(); }
  std::optional<uint32_t> AsU32() const { return As<uint32_t>(); }
  std::optional<uint64_t> AsU64() const { return As<uint64_t>(); }
  // Up to the first zero octet.
  std::string AsString() const;
  // 4 or 16 octets.
  std::optional<base::IpAddress> AsAddress() const;
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  std::optional<T> As() const {
    if (value.size() != sizeof(T)) return std::nullopt;
    T result;
    std::memcpy(&result, value.data(), sizeof(T));
    return result;
  }
};

// Walks attributes. Stops, and malformed() turns true, at one whose length
// does not fit; fewer than 4 octets at the end are padding.
class AttributeReader {
 public:
  explicit AttributeReader(base::ByteSpan bytes) : rest_(bytes) {}
  [[nodiscard]] bool Next(Attribute* attribute);
  bool malformed() const { return malformed_; }

 private:
  base::ByteSpan rest_;
  bool malformed_ = false;
};

// Reads one message with its padding; false at the end and at a header whose
// length does not fit.
[[nodiscard]] bool ReadMessage(base::ByteReader* reader, nlmsghdr* header,
                               base::ByteSpan* payload);

// What NLMSG_ERROR and NLMSG_DONE say of a request.
struct Acknowledgement {
  int error = 0;  // errno, 0: it succeeded. EBADMSG when it does not parse
  // The extended acknowledgement, for people: "; kernel: ..." or empty.
  std::string detail;
};
Acknowledgement ParseAcknowledgement(const nlmsghdr& header,
                                     base::ByteSpan payload);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_MESSAGE_H_
