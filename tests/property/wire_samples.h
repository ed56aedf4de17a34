// IKE messages for property tests and fuzz corpora: one of each kind that the
// exchanges have, and random ones from a seed.
#ifndef ESPALIER_TESTS_PROPERTY_WIRE_SAMPLES_H_
#define ESPALIER_TESTS_PROPERTY_WIRE_SAMPLES_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/wire/header.h"
#include "agent/wire/payload.h"

namespace espalier::wire {

struct Sample {
  std::string name;  // a file name
  Header header;
  Payloads payloads;
};

// Every kind of message of RFC 7296 1.2 to 1.4 with its refusals.
std::vector<Sample> MessageKinds();

// The message as it is on the wire: in the clear for IKE_SA_INIT; otherwise
// in an SK of AES-GCM's sizes whose content is left unencrypted.
base::Bytes Datagram(const Sample& sample);
// The chain that the SK holds.
base::Bytes Chain(const Sample& sample);

// Valid messages with every payload type, in sizes that random choice gives.
class Generator {
 public:
  explicit Generator(uint64_t seed) : engine_(seed) {}

  Header RandomHeader();
  Payload RandomPayload();
  Payloads RandomPayloads(size_t most);
  base::Bytes RandomBytes(size_t least, size_t most);
  // Uniform in [least, most].
  size_t Below(size_t least, size_t most);

 private:
  Transform RandomTransform();
  Proposal RandomProposal(uint8_t number);
  base::TrafficSelector RandomSelector();
  TsPayload RandomTs();

  std::mt19937_64 engine_;
};

}  // namespace espalier::wire

#endif  // ESPALIER_TESTS_PROPERTY_WIRE_SAMPLES_H_
