// Writes the seed corpora of ike_message and ike_payloads:
//   make_ike_corpus tests/fuzz/corpus
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "agent/wire/encrypted_payload.h"
#include "tests/property/wire_samples.h"

namespace {

using espalier::base::Bytes;

bool Write(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return file.good();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  const std::filesystem::path root = argv[1];
  std::filesystem::create_directories(root / "ike_message");
  std::filesystem::create_directories(root / "ike_payloads");
  for (const auto& sample : espalier::wire::MessageKinds()) {
    Bytes chain = {0, static_cast<uint8_t>(sample.header.response ? 1 : 0)};
    if (!sample.payloads.empty()) {
      chain[0] = static_cast<uint8_t>(sample.payloads.front().type);
    }
    for (uint8_t octet : Chain(sample)) chain.push_back(octet);
    if (!Write(root / "ike_message" / sample.name, Datagram(sample)) ||
        !Write(root / "ike_payloads" / sample.name, chain)) {
      std::fprintf(stderr, "cannot write %s below %s\n", sample.name.c_str(),
                   root.c_str());
      return 1;
    }
  }
  // RFC 7383: the first of two fragments.
  const auto first = espalier::wire::LayOut(
      {.initiator_spi = 1,
       .responder_spi = 2,
       .exchange = espalier::wire::ExchangeType::kIkeAuth,
       .message_id = 1},
      espalier::wire::PayloadType::kIdi, Bytes(64, 7),
      espalier::wire::FragmentPlace{1, 2}, {});
  const Bytes fragment(first.span().begin(), first.span().end());
  return Write(root / "ike_message" / "auth_fragment", fragment) ? 0 : 1;
}
