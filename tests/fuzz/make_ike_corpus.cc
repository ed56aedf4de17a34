// Writes the seed corpora of ike_message, ike_payloads and ike_sequence:
//   make_ike_corpus tests/fuzz/corpus
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

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

// Programs for ike_sequence_fuzz: an octet is an operation times two plus the
// end it concerns.
constexpr uint8_t Op(int operation, int end = 0) {
  return static_cast<uint8_t>(operation << 1 | end);
}
constexpr uint8_t kDeliver = Op(0), kRepeat = Op(1), kOvertake = Op(2),
                  kLose = Op(3), kDamage = Op(4), kCut = Op(5), kMad = Op(6),
                  kRunJob = Op(7), kFailJob = Op(8), kFinishOp = Op(9),
                  kFailOp = Op(10), kPassTime = Op(11), kCommand = Op(12),
                  kQuieten = Op(15);

const std::pair<const char*, Bytes> kSequences[] = {
    {"handshake", {kQuieten}},
    {"handshake_by_hand",
     {kRunJob, kDeliver, Op(7, 1), Op(7, 1), kDeliver, kRunJob, kDeliver,
      Op(9, 1), kDeliver, kFinishOp, kQuieten}},
    {"losses",
     {kRunJob, kLose, kPassTime, 10, kRepeat, kDeliver, kQuieten, kPassTime,
      250, kQuieten}},
    {"damage",
     {kRunJob, kDamage, 30, 1, kDamage, 120, 255, kCut, 100, kQuieten}},
    {"child_rekeys_cross",
     {kQuieten, kCommand, 1, Op(12, 1), 1, kRunJob, Op(7, 1), kQuieten}},
    {"ike_rekeys_cross",
     {kQuieten, kCommand, 2, Op(12, 1), 2, kRunJob, Op(7, 1), kQuieten}},
    {"rekeys_of_both_kinds_cross",
     {kQuieten, kCommand, 1, Op(12, 1), 2, kRunJob, Op(7, 1), kOvertake,
      kQuieten}},
    {"delete_crosses_rekey",
     {kQuieten, kCommand, 3, Op(12, 1), 1, Op(7, 1), kQuieten, kCommand, 0,
      kQuieten}},
    {"jobs_fail",
     {kFailJob, kPassTime, 50, kRunJob, kDeliver, Op(8, 1), kPassTime, 100,
      kQuieten}},
    {"operations_fail",
     {kQuieten,  kCommand, 1,        kRunJob,  kDeliver, Op(7, 1), Op(7, 1),
      Op(10, 1), kDeliver, kQuieten, kCommand, 1,        kRunJob,  kDeliver,
      Op(7, 1),  Op(7, 1), Op(9, 1), kDeliver, kRunJob,  kFailOp,  kQuieten}},
    {"mad_auth",
     {kRunJob, kDeliver, Op(7, 1), Op(7, 1), kDeliver, kRunJob, kMad, 1, 10, 1,
      60, 255, kQuieten}},
    {"mad_rekey",
     {kQuieten, kCommand, 1, kRunJob, kMad, 0,  0, 1,   kQuieten, kCommand, 2,
      kRunJob,  kMad,     2, 20,      4,    40, 8, 254, 30,       kQuieten}},
    {"liveness",
     {kQuieten, kPassTime, 255, kPassTime, 255, kDeliver, kDeliver, kPassTime,
      255, kLose, kPassTime, 255, kLose, kQuieten}},
    {"remove_peer", {kQuieten, Op(12, 1), 5, kQuieten, Op(12, 1), 6, kQuieten}},
};

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
  std::filesystem::create_directories(root / "ike_sequence");
  for (const auto& [name, bytes] : kSequences) {
    if (!Write(root / "ike_sequence" / name, bytes)) return 1;
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
