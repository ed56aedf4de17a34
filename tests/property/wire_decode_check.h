// What must hold of any octets handed to the decoders of agent/wire; shared by
// the property tests and the fuzz targets.
#ifndef ESPALIER_TESTS_PROPERTY_WIRE_DECODE_CHECK_H_
#define ESPALIER_TESTS_PROPERTY_WIRE_DECODE_CHECK_H_

#include <string>

#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

// Each returns what is wrong, or an empty text. `*accepted`, where given,
// tells whether the octets made a value.
std::string CheckMessageDecoding(base::ByteSpan datagram,
                                 bool* accepted = nullptr);
std::string CheckChainDecoding(PayloadType first, base::ByteSpan chain,
                               bool response, bool* accepted = nullptr);

}  // namespace espalier::wire

#endif  // ESPALIER_TESTS_PROPERTY_WIRE_DECODE_CHECK_H_
