// Any octets as an ESP packet: the first chooses the suite; the rest first as
// it stands, then as the payload of a packet that an authentic but hostile peer
// sealed.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "tests/support/esp_end.h"

namespace {

using espalier::base::Bytes;
using espalier::base::Direction;
using espalier::base::EspCipher;
using espalier::base::EspIntegrity;
using espalier::base::EspSuite;
using namespace espalier::esp;

// Of each layout (IV, block, ICV) one, with ESN and without.
const std::array<EspSuite, 4> kSuites = {{
    {EspCipher::kAesGcm16, 256, EspIntegrity::kNone, true},
    {EspCipher::kChaCha20Poly1305, 256, EspIntegrity::kNone, false},
    {EspCipher::kAesCbc, 128, EspIntegrity::kHmacSha2_256_128, true},
    {EspCipher::kAesCbc, 256, EspIntegrity::kHmacSha2_512_256, false},
}};

struct Receiver {
  explicit Receiver(const EspSuite& suite) : end(2), layout(suite) {
    auto in = end.sas.Install(
        testing::MakeSa(Direction::kInbound, 0x1000, suite), end.clock.now);
    auto out = MakeCipher(testing::MakeSa(Direction::kOutbound, 0x1000, suite),
                          CipherChoice::kFastest);
    if (!in.ok() || !out.ok()) std::abort();
    sealer = *std::move(out);
  }

  testing::WirePacket Seal(const Bytes& padded, uint8_t traffic_class) {
    testing::WirePacket packet{
        Bytes(kEspHeader + layout.iv + padded.size() + layout.icv),
        traffic_class};
    ++sequence;
    WriteHeader({espalier::base::Spi(0x1000), static_cast<uint32_t>(sequence)},
                packet.bytes.data());
    if (!sealer->Seal(sequence, padded.data(), padded.size(),
                      packet.bytes.data())) {
      std::abort();
    }
    return packet;
  }

  testing::End end;
  const EspLayout layout;
  std::unique_ptr<espalier::crypto::EspCipher> sealer;
  uint64_t sequence = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::array<std::unique_ptr<Receiver>, kSuites.size()> receivers;
  if (size < 1) return 0;
  const size_t chosen = data[0] % kSuites.size();
  ++data;
  --size;
  auto& receiver = receivers[chosen];
  if (receiver == nullptr) {
    receiver = std::make_unique<Receiver>(kSuites[chosen]);
  }
  testing::End& end = receiver->end;
  Classify({data, size});

  // As it came from the wire: never authentic.
  end.FromWire({testing::WirePacket{Bytes(data, data + size)}});
  if (!end.tun.packets.empty()) std::abort();

  // From a peer that has the key. The last octets are the trailer.
  if (size < 1 || size > 3000) return 0;
  Bytes padded(data + 1, data + size);
  const size_t block = receiver->layout.block;
  padded.resize((padded.size() + block - 1) / block * block);
  // Twice, so that joining is met too.
  testing::WirePacket first = receiver->Seal(padded, data[0]);
  testing::WirePacket second = receiver->Seal(padded, data[0]);
  end.FromWire({std::move(first), std::move(second)});
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
