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

// Programs for ike_sequence_fuzz: after the octet of the options, an octet is
// an operation times two plus the end it concerns.
constexpr uint8_t Op(int operation, int end = 0) {
  return static_cast<uint8_t>(operation << 1 | end);
}
constexpr uint8_t kPsk = 0, kPublicKeys = 1, kCbc = 2, kCpus = 4, kUdp = 8,
                  kOnDemand = 16;
constexpr uint8_t kDeliver = Op(0), kRepeat = Op(1), kOvertake = Op(2),
                  kLose = Op(3), kDamage = Op(4), kCut = Op(5), kMad = Op(6),
                  kRunJob = Op(7), kFailJob = Op(8), kFinishOp = Op(9),
                  kFailOp = Op(10), kPassTime = Op(11), kCommand = Op(12),
                  kMove = Op(14), kQuieten = Op(15);

const std::pair<const char*, Bytes> kSequences[] = {
    {"handshake", {kPsk, kQuieten}},
    {"handshake_by_hand",
     {kPsk, kRunJob, kDeliver, Op(7, 1), Op(7, 1), kDeliver, kRunJob, kDeliver,
      Op(9, 1), kDeliver, kFinishOp, kQuieten}},
    {"losses",
     {kPsk, kRunJob, kLose, kPassTime, 10, kRepeat, kDeliver, kQuieten,
      kPassTime, 250, kQuieten}},
    {"damage",
     {kPsk, kRunJob, kDamage, 30, 1, kDamage, 120, 255, kCut, 100, kQuieten}},
    {"child_rekeys_cross",
     {kPsk, kQuieten, kCommand, 1, Op(12, 1), 1, kRunJob, Op(7, 1), kQuieten}},
    {"ike_rekeys_cross",
     {kPsk, kQuieten, kCommand, 2, Op(12, 1), 2, kRunJob, Op(7, 1), kQuieten}},
    {"rekeys_of_both_kinds_cross",
     {kPsk, kQuieten, kCommand, 1, Op(12, 1), 2, kRunJob, Op(7, 1), kOvertake,
      kQuieten}},
    {"delete_crosses_rekey",
     {kPsk, kQuieten, kCommand, 3, Op(12, 1), 1, Op(7, 1), kQuieten, kCommand,
      0, kQuieten}},
    {"jobs_fail",
     {kPsk, kFailJob, kPassTime, 50, kRunJob, kDeliver, Op(8, 1), kPassTime,
      100, kQuieten}},
    {"operations_fail",
     {kPsk,     kQuieten, kCommand,  1,        kRunJob,  kDeliver,
      Op(7, 1), Op(7, 1), Op(10, 1), kDeliver, kQuieten, kCommand,
      1,        kRunJob,  kDeliver,  Op(7, 1), Op(7, 1), Op(9, 1),
      kDeliver, kRunJob,  kFailOp,   kQuieten}},
    {"mad_auth",
     {kPsk, kRunJob, kDeliver, Op(7, 1), Op(7, 1), kDeliver, kRunJob, kMad, 1,
      10, 1, 60, 255, kQuieten}},
    {"mad_rekey", {kPsk, kQuieten, kCommand, 1,   kRunJob, kMad,    0, 0,
                   1,    kQuieten, kCommand, 2,   kRunJob, kMad,    2, 20,
                   4,    40,       8,        254, 30,      kQuieten}},
    {"mad_ids_and_exchanges",
     {kCbc, kQuieten,  kCommand, 1,    kRunJob, kMad, 0, 250,
      1,    kQuieten,  kCommand, 2,    kRunJob, kMad, 0, 249,
      37,   kPassTime, 20,       kMad, 0,       254,  0, kQuieten}},
    {"liveness",
     {kPsk, kQuieten, kPassTime, 255, kPassTime, 255, kDeliver, kDeliver,
      kPassTime, 255, kLose, kPassTime, 255, kLose, kQuieten}},
    {"inbound_traffic",
     {kPsk, kQuieten, kPassTime, 255, kCommand, 10, kPassTime, 255, kCommand,
      10, kPassTime, 255, kQuieten}},
    {"remove_peer",
     {kPsk, kQuieten, Op(12, 1), 5, kQuieten, Op(12, 1), 6, kQuieten}},
    {"public_keys", {kPublicKeys, kQuieten, kCommand, 2, kQuieten}},
    {"mad_fragments",
     {kPublicKeys, kRunJob,  kDeliver,  Op(7, 1), Op(7, 1), kDeliver,  kRunJob,
      kRunJob,     kMad,     1,         252,      1,        40,        255,
      kMad,        0,        253,       63,       kQuieten, kPassTime, 20,
      kQuieten,    kCommand, 1,         kRunJob,  kMad,     0,         253,
      3,           kRepeat,  kPassTime, 20,       kQuieten}},
    {"key_rotation",
     {kPublicKeys, kQuieten, kCommand, 11, kCommand, 8, kQuieten, Op(12, 1), 12,
      kQuieten, Op(12, 1), 12, kPassTime, 100, kQuieten}},
    {"limits",
     {kPsk, kQuieten, kCommand, 13, kQuieten, kCommand, 29, kQuieten, Op(12, 1),
      61, Op(12, 1), 45, kQuieten}},
    {"cpus",
     {kCpus, kQuieten, kCommand, 9, kCommand, 25, Op(12, 1), 9, kQuieten,
      kPassTime, 10, kQuieten, kCommand, 1, kQuieten}},
    {"mapping_moves",
     {kUdp, kQuieten, kCommand, 1, kRunJob, kMove, 9, kQuieten, kPassTime, 250,
      kMove, 41, kQuieten}},
    {"replaced_in_udp",
     {kUdp | kPublicKeys, kQuieten, kCommand, 8, Op(12, 1), 8, kRunJob,
      Op(7, 1), kOvertake, kQuieten, kPassTime, 250, kQuieten}},
    {"on_demand",
     {kOnDemand, kQuieten, kCommand, 4, kCommand, 3, kQuieten, Op(12, 1), 0,
      kQuieten, Op(12, 1), 13, kQuieten}},
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
