#include "agent/wire/sa_payload.h"

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"

namespace espalier::wire {
namespace {

// RFC 7296 3.3.1, 3.3.2: "Last Substruc" of all but the last.
constexpr uint8_t kMoreProposals = 2;
constexpr uint8_t kMoreTransforms = 3;
constexpr size_t kProposalHeaderSize = 8;
constexpr size_t kTransformHeaderSize = 8;
// RFC 7296 3.3.5: the value is the two octets themselves.
constexpr uint16_t kAttributeFormatTv = 0x8000;

bool Fail(std::string* why, std::string text) {
  *why = std::move(text);
  return false;
}

bool DecodeAttributes(base::ByteReader* reader, Transform* out,
                      std::string* why) {
  size_t count = 0;
  while (!reader->empty()) {
    if (++count > kMaxAttributes) {
      return Fail(why, "more attributes in a transform than are read");
    }
    uint16_t type = 0, length_or_value = 0;
    if (!reader->ReadU16(&type) || !reader->ReadU16(&length_or_value)) {
      return Fail(why, "attribute cut short");
    }
    Attribute attribute;
    attribute.tv = (type & kAttributeFormatTv) != 0;
    attribute.type = type & ~kAttributeFormatTv;
    if (attribute.tv) {
      if (attribute.type == kAttributeKeyLength &&
          !out->key_length.has_value()) {
        out->key_length = length_or_value;
        continue;
      }
      attribute.value = {static_cast<uint8_t>(length_or_value >> 8),
                         static_cast<uint8_t>(length_or_value)};
    } else if (!reader->ReadBytes(length_or_value, &attribute.value)) {
      return Fail(why, "attribute value cut short");
    }
    out->unknown_attributes.push_back(std::move(attribute));
  }
  return true;
}

bool DecodeTransform(base::ByteReader* reader, bool last, Transform* out,
                     std::string* why) {
  uint8_t more = 0, reserved = 0, type = 0;
  uint16_t length = 0, id = 0;
  if (!reader->ReadU8(&more) || !reader->ReadU8(&reserved) ||
      !reader->ReadU16(&length) || !reader->ReadU8(&type) ||
      !reader->ReadU8(&reserved) || !reader->ReadU16(&id)) {
    return Fail(why, "transform cut short");
  }
  if (more != (last ? 0 : kMoreTransforms)) {
    return Fail(why, "transform count and chain disagree");
  }
  base::ByteReader attributes({});
  if (length < kTransformHeaderSize ||
      !reader->ReadSub(length - kTransformHeaderSize, &attributes)) {
    return Fail(why, absl::StrCat("transform length ", length));
  }
  out->type = static_cast<TransformType>(type);
  out->id = id;
  return DecodeAttributes(&attributes, out, why);
}

// RFC 7296 3.3.1: 8 octets (or none at first) for IKE, 4 for AH and ESP.
bool SpiSizeFits(ProtocolId protocol, size_t size) {
  switch (protocol) {
    case ProtocolId::kIke:
      return size == 0 || size == 8;
    case ProtocolId::kAh:
    case ProtocolId::kEsp:
      return size == 4;
    default:
      return true;
  }
}

bool DecodeProposal(base::ByteReader* reader, bool* more, Proposal* out,
                    std::string* why) {
  uint8_t last_substruc = 0, reserved = 0, protocol = 0, spi_size = 0,
          transform_count = 0;
  uint16_t length = 0;
  if (!reader->ReadU8(&last_substruc) || !reader->ReadU8(&reserved) ||
      !reader->ReadU16(&length) || !reader->ReadU8(&out->number) ||
      !reader->ReadU8(&protocol) || !reader->ReadU8(&spi_size) ||
      !reader->ReadU8(&transform_count)) {
    return Fail(why, "proposal cut short");
  }
  if (last_substruc != 0 && last_substruc != kMoreProposals) {
    return Fail(why, absl::StrCat("proposal chain octet ",
                                  static_cast<int>(last_substruc)));
  }
  *more = last_substruc == kMoreProposals;
  base::ByteReader body({});
  if (length < kProposalHeaderSize ||
      !reader->ReadSub(length - kProposalHeaderSize, &body)) {
    return Fail(why, absl::StrCat("proposal length ", length));
  }
  out->protocol = static_cast<ProtocolId>(protocol);
  if (!body.ReadBytes(spi_size, &out->spi)) {
    return Fail(why, "proposal SPI cut short");
  }
  if (!SpiSizeFits(out->protocol, spi_size)) {
    return Fail(why, absl::StrCat("SPI of ", static_cast<int>(spi_size),
                                  " octets for ", ToString(out->protocol)));
  }
  out->transforms.resize(transform_count);
  for (size_t i = 0; i < transform_count; ++i) {
    if (!DecodeTransform(&body, i + 1 == transform_count, &out->transforms[i],
                         why)) {
      return false;
    }
  }
  if (!body.empty()) return Fail(why, "octets behind the last transform");
  return true;
}

void EncodeTransform(const Transform& transform, bool last,
                     base::ByteWriter* writer) {
  const size_t start = writer->size();
  writer->WriteU8(last ? 0 : kMoreTransforms);
  writer->WriteU8(0);
  const size_t length = writer->ReserveU16();
  writer->WriteU8(static_cast<uint8_t>(transform.type));
  writer->WriteU8(0);
  writer->WriteU16(transform.id);
  if (transform.key_length.has_value()) {
    writer->WriteU16(kAttributeFormatTv | kAttributeKeyLength);
    writer->WriteU16(*transform.key_length);
  }
  for (const Attribute& attribute : transform.unknown_attributes) {
    if (attribute.tv) {
      writer->WriteU16(kAttributeFormatTv | attribute.type);
    } else {
      writer->WriteU16(attribute.type);
      writer->WriteU16(static_cast<uint16_t>(attribute.value.size()));
    }
    writer->WriteSpan(attribute.value);
  }
  writer->PatchU16(length, static_cast<uint16_t>(writer->size() - start));
}

}  // namespace

bool DecodeBody(base::ByteSpan body, SaPayload* out, std::string* why) {
  base::ByteReader reader(body);
  bool more = true;
  while (more) {
    if (out->proposals.size() == kMaxProposals) {
      return Fail(why, "more proposals than are read");
    }
    Proposal& proposal = out->proposals.emplace_back();
    if (!DecodeProposal(&reader, &more, &proposal, why)) return false;
    const size_t count = out->proposals.size();
    // RFC 7296 3.3.1: each number is one more than the one before.
    if (count > 1 && proposal.number != out->proposals[count - 2].number + 1) {
      return Fail(why, absl::StrCat("proposal number ",
                                    static_cast<int>(proposal.number),
                                    " out of order"));
    }
  }
  if (!reader.empty()) return Fail(why, "octets behind the last proposal");
  return true;
}

void EncodeBody(const SaPayload& payload, base::ByteWriter* writer) {
  for (size_t i = 0; i < payload.proposals.size(); ++i) {
    const Proposal& proposal = payload.proposals[i];
    const size_t start = writer->size();
    writer->WriteU8(i + 1 == payload.proposals.size() ? 0 : kMoreProposals);
    writer->WriteU8(0);
    const size_t length = writer->ReserveU16();
    writer->WriteU8(proposal.number);
    writer->WriteU8(static_cast<uint8_t>(proposal.protocol));
    writer->WriteU8(static_cast<uint8_t>(proposal.spi.size()));
    writer->WriteU8(static_cast<uint8_t>(proposal.transforms.size()));
    writer->WriteSpan(proposal.spi);
    for (size_t t = 0; t < proposal.transforms.size(); ++t) {
      EncodeTransform(proposal.transforms[t],
                      t + 1 == proposal.transforms.size(), writer);
    }
    writer->PatchU16(length, static_cast<uint16_t>(writer->size() - start));
  }
}

}  // namespace espalier::wire
