#include "agent/ike/nat_detection.h"

#include <algorithm>

#include "agent/base/byte_writer.h"
#include "agent/crypto/hash.h"

namespace espalier::ike {
namespace {

bool Contains(const std::vector<base::ByteSpan>& hashes, const NatHash& hash) {
  return std::any_of(hashes.begin(), hashes.end(), [&](base::ByteSpan h) {
    return std::equal(h.begin(), h.end(), hash.begin(), hash.end());
  });
}

}  // namespace

NatHash ComputeNatHash(const SpiPair& spis, const base::Endpoint& endpoint) {
  base::ByteWriter writer;
  writer.WriteU64(spis.initiator);
  writer.WriteU64(spis.responder);
  writer.WriteSpan(endpoint.address.bytes());
  writer.WriteU16(endpoint.port);
  return crypto::Sha1ForNatDetection({writer.span()});
}

NatVerdict DetectNat(const SpiPair& spis, const Path& path,
                     const std::vector<base::ByteSpan>& sources,
                     const std::vector<base::ByteSpan>& destinations) {
  NatVerdict verdict;
  verdict.supported = !sources.empty() && !destinations.empty();
  if (!verdict.supported) return verdict;
  verdict.remote = !Contains(sources, ComputeNatHash(spis, path.remote));
  verdict.local = !Contains(destinations, ComputeNatHash(spis, path.local));
  return verdict;
}

NatHash UnmatchableNatHash(base::RandomSource& random) {
  NatHash hash{};
  random.Fill(hash);
  return hash;
}

}  // namespace espalier::ike
