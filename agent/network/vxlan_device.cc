#include "agent/network/vxlan_device.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/network/ownership.h"

namespace espalier::network {
namespace {

// The kernel takes no alias while it makes a device: one that is down and has
// none is what an agent left that ended in between.
bool Ours(const netlink::Link& link) {
  return link.kind == "vxlan" && (absl::StartsWith(link.alias, kVxlanAlias) ||
                                  (link.alias.empty() && !link.up()));
}

}  // namespace

absl::StatusOr<int32_t> VxlanDevice::Ensure(
    const std::optional<Vxlan>& desired) {
  absl::StatusOr<netlink::Link> link = client_->GetLink(kVxlanDevice);
  if (!link.ok() && !absl::IsNotFound(link.status())) return link.status();
  const std::string alias =
      desired ? absl::StrCat(kVxlanAlias, desired->port) : "";
  if (link.ok() && !Ours(*link)) {
    if (!desired) return 0;
    return absl::AlreadyExistsError(absl::StrCat(
        "a device ", kVxlanDevice,
        " is there that Espalier did not make: remove it, or rename it"));
  }
  // A port cannot be changed.
  if (link.ok() && (!desired || link->alias != alias)) {
    ESPALIER_RETURN_IF_ERROR(client_->DeleteLink(link->index));
    link = absl::NotFoundError("deleted");
  }
  if (!desired) return 0;
  if (!link.ok()) {
    ESPALIER_ASSIGN_OR_RETURN(link, Make(*desired));
  }
  // Loose: what comes out of it has the address of a pod, whose own route is
  // the tunnel's.
  ESPALIER_RETURN_IF_ERROR(sysctl_->Ensure(
      absl::StrCat("net/ipv4/conf/", kVxlanDevice, "/rp_filter"), "2"));
  ESPALIER_RETURN_IF_ERROR(SetAddress(link->index, *desired));
  if (link->up() && link->mtu == desired->mtu) return link->index;
  netlink::LinkChange change;
  change.alias = alias;
  change.mtu = desired->mtu;
  change.no_ipv6_link_local = true;
  change.up = true;
  ESPALIER_RETURN_IF_ERROR(client_->ChangeLink(link->index, change));
  return link->index;
}

absl::Status VxlanDevice::SetAddress(int32_t index, const Vxlan& desired) {
  if (!desired.address) return absl::OkStatus();
  const netlink::Address wanted{
      .interface_index = index,
      .address = *desired.address,
      .prefix_length = static_cast<uint8_t>(desired.address->bits())};
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            client_->ListAddresses(index));
  for (const netlink::Address& address : addresses) {
    if (address.address == wanted.address) return absl::OkStatus();
  }
  return client_->Apply(netlink::Verb::kReplace, wanted);
}

absl::StatusOr<netlink::Link> VxlanDevice::Make(const Vxlan& desired) {
  const absl::Status status =
      client_->AddVxlan({.name = kVxlanDevice}, desired.port);
  if (!status.ok()) {
    return base::Annotate(
        status,
        "the VXLAN device of cluster.plaintextPath cannot be made (has this "
        "kernel VXLAN?); `disabled` pods use ESP until it is there");
  }
  return client_->GetLink(kVxlanDevice);
}

}  // namespace espalier::network
