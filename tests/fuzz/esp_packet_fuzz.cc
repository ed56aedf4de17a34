// Any octets as an ESP packet: first as they stand, then as the payload of a
// packet that an authentic but hostile peer sealed.
#include <cstdint>
#include <cstdlib>

#include "tests/support/esp_end.h"

namespace {

using espalier::base::Bytes;
using espalier::base::Direction;
using namespace espalier::esp;

struct Receiver {
  Receiver() : end(2) {
    const espalier::base::EspSuite suite;
    auto in = end.sas.Install(
        testing::MakeSa(Direction::kInbound, 0x1000, suite), end.clock.now);
    auto out = MakeCipher(testing::MakeSa(Direction::kOutbound, 0x1000, suite),
                          CipherChoice::kFastest);
    if (!in.ok() || !out.ok()) std::abort();
    sealer = *std::move(out);
  }
  testing::End end;
  std::unique_ptr<espalier::crypto::EspCipher> sealer;
  uint64_t sequence = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Receiver* const receiver = new Receiver();
  testing::End& end = receiver->end;
  Classify({data, size});

  // As it came from the wire: never authentic.
  end.FromWire({testing::WirePacket{Bytes(data, data + size)}});
  if (!end.tun.packets.empty()) std::abort();

  // From a peer that has the key. The last octets are the trailer.
  if (size < 1 || size > 3000) return 0;
  Bytes padded(data + 1, data + size);
  padded.resize((padded.size() + 3) / 4 * 4);
  testing::WirePacket packet{Bytes(8 + 8 + padded.size() + 16), data[0]};
  const uint64_t sequence = ++receiver->sequence;
  WriteHeader({espalier::base::Spi(0x1000), static_cast<uint32_t>(sequence)},
              packet.bytes.data());
  if (!receiver->sealer->Seal(sequence, padded.data(), padded.size(),
                              packet.bytes.data())) {
    std::abort();
  }
  // Twice, so that joining is met too.
  testing::WirePacket second = packet;
  const uint64_t next = ++receiver->sequence;
  WriteHeader({espalier::base::Spi(0x1000), static_cast<uint32_t>(next)},
              second.bytes.data());
  if (!receiver->sealer->Seal(next, padded.data(), padded.size(),
                              second.bytes.data())) {
    std::abort();
  }
  end.FromWire({packet, second});
  for (const auto& out : end.tun.packets) {
    const auto inner = ParseInnerPacket(out.bytes);
    // Whatever passes has a source of that peer and a destination of ours.
    if (!inner.has_value() ||
        !(testing::Prefix(testing::kLocal).Contains(inner->source()) ||
          testing::Prefix(testing::kLocal6).Contains(inner->source())) ||
        !(testing::Prefix(testing::kRemote).Contains(inner->destination()) ||
          testing::Prefix(testing::kRemote6).Contains(inner->destination()))) {
      std::abort();
    }
  }
  end.tun.packets.clear();
  return 0;
}
