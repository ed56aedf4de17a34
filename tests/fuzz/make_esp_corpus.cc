// Writes the seed corpora of the esp_*_fuzz targets: make_esp_corpus DIR.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "tests/support/esp_control_samples.h"
#include "tests/support/esp_end.h"

namespace {

using espalier::base::Bytes;
using espalier::base::ByteSpan;
using namespace espalier::esp;

void Write(const std::filesystem::path& folder, const std::string& name,
           ByteSpan bytes) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / name, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

std::string Name(const testing::PacketOptions& o) {
  return std::string(o.tcp ? "tcp" : "udp") + (o.v6 ? "6" : "4");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_esp_corpus DIR\n";
    return 2;
  }
  const std::filesystem::path root = argv[1];
  for (const bool tcp : {true, false}) {
    for (const bool v6 : {true, false}) {
      testing::PacketOptions o{.v6 = v6, .tcp = tcp, .payload = 60};
      // A traffic class, the packet, its trailer.
      Bytes packet = testing::MakePacket(o);
      const size_t size = packet.size();
      packet.resize(size + kMaxTrailer);
      packet.resize(WriteTrailer(packet.data(), size, 4, v6 ? 41 : 4));
      packet.insert(packet.begin(), 0);
      Write(root / "esp_packet", Name(o), packet);

      o.payload = 3000;
      o.finish_checksum = false;
      const VirtioNetHeader offload = testing::SuperPacket(o, 1000);
      const auto* header = reinterpret_cast<const uint8_t*>(&offload);
      Bytes frame(header, header + sizeof offload);
      const Bytes super = testing::MakePacket(o);
      frame.insert(frame.end(), super.begin(), super.end());
      Write(root / "esp_tun", Name(o) + "-super", frame);
      o.finish_checksum = true;
      o.payload = 1600;
      o.dont_fragment = tcp;
      const Bytes big = testing::MakePacket(o);
      frame.assign(sizeof offload, 0);
      frame.insert(frame.end(), big.begin(), big.end());
      Write(root / "esp_tun", Name(o) + "-big", frame);
    }
  }
  Write(root / "esp_packet", "dummy", Bytes{0, 0, 0, 0, 0, 0, 0, 2, 59});
  Write(root / "esp_packet", "keepalive", Bytes{0xff});
  for (const auto& frame : control::testing::SampleFrames()) {
    Write(root / "esp_control",
          "kind-" + std::to_string(frame.message.index()) + "-" +
              std::to_string(frame.id),
          control::Encode(frame).span());
  }
  return 0;
}
