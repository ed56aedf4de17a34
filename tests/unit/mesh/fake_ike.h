// An IKE that does what the test says.
#ifndef ESPALIER_TESTS_UNIT_MESH_FAKE_IKE_H_
#define ESPALIER_TESTS_UNIT_MESH_FAKE_IKE_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "agent/mesh/mesh.h"

namespace espalier::mesh {

class FakeIke : public IkeControl {
 public:
  absl::Status UpsertPeer(ike::PeerConfig peer) override {
    if (peer.name == refused) return absl::InvalidArgumentError("refused");
    ++upserts;
    const ike::PeerId id = peer.id;
    peers.insert_or_assign(id, std::move(peer));
    return absl::OkStatus();
  }
  void RemovePeer(ike::PeerId peer) override {
    peers.erase(peer);
    removed.push_back(peer);
  }
  void Establish(ike::PeerId peer, bool at_once) override {
    established.push_back({peer, at_once});
  }
  void StopEstablishing(ike::PeerId) override {}
  void Delete(ike::PeerId peer) override { deleted.push_back(peer); }
  void Reestablish(ike::PeerId peer) override { reestablished.push_back(peer); }
  void HandleInboundTraffic(base::Spi spi) override { ++alive[spi.value()]; }
  void RekeyChildSa(ike::PeerId) override {}
  void WantCpuSa(ike::PeerId peer, uint32_t cpu) override {
    cpus.push_back({peer, cpu});
  }
  void HandleDatapathDone(ike::DatapathOpId op, absl::Status status) override {
    done[op] = std::move(status);
  }
  void HandleInboundSeen(base::Spi spi) override {
    seen.push_back(spi.value());
  }
  void HandleSaExpired(const base::SaKey& key, bool hard) override {
    expired.push_back({key.spi.value(), hard});
  }

  std::string refused;  // name of a peer that UpsertPeer refuses
  int upserts = 0;
  std::map<ike::PeerId, ike::PeerConfig> peers;
  std::vector<ike::PeerId> removed, deleted, reestablished;
  std::map<uint32_t, int> alive;  // by the SPI
  std::vector<std::pair<ike::PeerId, uint32_t>> cpus;
  std::vector<std::pair<ike::PeerId, bool>> established;
  std::map<ike::DatapathOpId, absl::Status> done;
  std::vector<uint32_t> seen;
  std::vector<std::pair<uint32_t, bool>> expired;
};

class FakeNetwork : public network::NodeNetwork {
 public:
  void SetDesired(network::DesiredNetwork wanted) override {
    ++calls;
    desired = std::move(wanted);
  }
  std::vector<network::NetworkProblem> Problems() const override { return {}; }

  int calls = 0;
  network::DesiredNetwork desired;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_TESTS_UNIT_MESH_FAKE_IKE_H_
