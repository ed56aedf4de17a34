// Octets written as the RFC's figures show them: "21 00 0008 ...".
#ifndef ESPALIER_TESTS_UNIT_WIRE_HEX_H_
#define ESPALIER_TESTS_UNIT_WIRE_HEX_H_

#include <gtest/gtest.h>

#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"

namespace espalier::wire {

inline base::Bytes Hex(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  base::Bytes bytes;
  EXPECT_TRUE(base::FromHex(text, &bytes)) << text;
  return bytes;
}

// The body alone, without generic header.
template <typename T>
base::Bytes Encoded(const T& payload) {
  base::ByteWriter writer;
  EncodeBody(payload, &writer);
  return writer.Take();
}

// Decodes a body; the reason for a failure goes to *why.
template <typename T>
bool DecodesTo(const base::Bytes& body, const T& expected) {
  T out;
  std::string why;
  return DecodeBody(body, &out, &why) && out == expected;
}

template <typename T>
std::string WhyNot(const base::Bytes& body) {
  T out;
  std::string why;
  return DecodeBody(body, &out, &why) ? "accepted" : why;
}

}  // namespace espalier::wire

#endif  // ESPALIER_TESTS_UNIT_WIRE_HEX_H_
