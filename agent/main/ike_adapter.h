// What the mesh asks of IKE, asked of the core.
#ifndef ESPALIER_AGENT_MAIN_IKE_ADAPTER_H_
#define ESPALIER_AGENT_MAIN_IKE_ADAPTER_H_

#include <utility>

#include "agent/mesh/ike_control.h"
#include "agent/runtime/ike_driver.h"

namespace espalier::agent {

class IkeAdapter : public mesh::IkeControl {
 public:
  explicit IkeAdapter(runtime::IkeDriver* driver) : driver_(driver) {}

  absl::Status UpsertPeer(ike::PeerConfig peer) override {
    absl::Status status =
        driver_->core().UpsertPeer(driver_->Now(), std::move(peer));
    driver_->WakeSoon();
    return status;
  }
  void RemovePeer(ike::PeerId peer) override {
    driver_->core().RemovePeer(driver_->Now(), peer);
    driver_->WakeSoon();
  }
  void Establish(ike::PeerId peer, bool at_once) override {
    driver_->core().Establish(driver_->Now(), peer, at_once);
    driver_->WakeSoon();
  }
  void StopEstablishing(ike::PeerId peer) override {
    driver_->core().StopEstablishing(driver_->Now(), peer);
    driver_->WakeSoon();
  }
  void Delete(ike::PeerId peer) override {
    driver_->core().Delete(driver_->Now(), peer);
    driver_->WakeSoon();
  }
  void Reestablish(ike::PeerId peer) override {
    driver_->core().Reestablish(driver_->Now(), peer);
    driver_->WakeSoon();
  }
  void HandleInboundTraffic(base::Spi spi) override {
    driver_->core().HandleInboundTraffic(driver_->Now(), spi);
    driver_->WakeSoon();
  }
  void RekeyChildSa(ike::PeerId peer) override {
    driver_->core().RekeyChildSa(driver_->Now(), peer);
    driver_->WakeSoon();
  }
  void WantCpuSa(ike::PeerId peer, uint32_t cpu) override {
    driver_->core().WantCpuSa(driver_->Now(), peer, cpu);
    driver_->WakeSoon();
  }
  void HandleDatapathDone(ike::DatapathOpId op, absl::Status status) override {
    driver_->core().HandleDatapathDone(driver_->Now(), op, std::move(status));
    driver_->WakeSoon();
  }
  void HandleInboundSeen(base::Spi spi) override {
    driver_->core().HandleInboundSeen(driver_->Now(), spi);
    driver_->WakeSoon();
  }
  void HandleSaExpired(const base::SaKey& key, bool hard) override {
    driver_->core().HandleSaExpired(driver_->Now(), key.direction,
                                    key.outer_destination, key.spi, hard);
    driver_->WakeSoon();
  }

 private:
  runtime::IkeDriver* driver_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_IKE_ADAPTER_H_
