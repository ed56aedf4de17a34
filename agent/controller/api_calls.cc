#include "agent/controller/api_calls.h"

#include <string>
#include <utility>

#include "agent/base/status_macros.h"

namespace espalier::controller {

using kube::EspalierNode;

absl::StatusOr<TermView> ReadTermView(kube::Client* client,
                                      absl::Duration timeout,
                                      kube::Cancellation* cancellation) {
  TermView view;
  ESPALIER_ASSIGN_OR_RETURN(
      view.nodes, client->List<EspalierNode>(kube::kEspalierNodes, {}, timeout,
                                             cancellation));
  std::string token;
  do {
    ESPALIER_ASSIGN_OR_RETURN(
        const std::string json,
        client->ListPage(kube::kEspalierNodeReports, {}, /*metadata_only=*/true,
                         kube::Client::kPageSize, token, timeout,
                         cancellation));
    // Metadata alone looks the same for every kind.
    ESPALIER_ASSIGN_OR_RETURN(kube::Page<kube::NamespaceMeta> page,
                              kube::DecodePage<kube::NamespaceMeta>(json));
    for (kube::NamespaceMeta& report : page.items) {
      view.reports.push_back(std::move(report.meta));
    }
    if (page.items.empty() || page.continue_token == token) break;
    token = std::move(page.continue_token);
  } while (!token.empty());
  return view;
}

absl::StatusOr<EspalierNode> CarryOut(kube::Client* client, const Write& write,
                                      absl::Duration timeout,
                                      kube::Cancellation* cancellation) {
  const std::string path = kube::ObjectPath(kube::kEspalierNodes, write.name);
  const std::string report_path =
      kube::ObjectPath(kube::kEspalierNodeReports, write.name);
  const auto apply = [&](const std::string& to, const std::string& body) {
    // These fields are the controller's alone: whoever else wrote them did so
    // by mistake.
    return client->ServerSideApply(to, body, kFieldManager, /*force=*/true,
                                   timeout, cancellation);
  };
  switch (write.kind) {
    case Write::Kind::kStatus: {
      ESPALIER_ASSIGN_OR_RETURN(
          const std::string json,
          apply(kube::StatusPath(kube::kEspalierNodes, write.name),
                kube::EncodeStatus(write.node)));
      return kube::Decode<EspalierNode>(json);
    }
    case Write::Kind::kOwner: {
      ESPALIER_ASSIGN_OR_RETURN(
          const std::string json,
          apply(path, kube::EncodeOwner(EspalierNode::kKind, write.name,
                                        write.owner)));
      return kube::Decode<EspalierNode>(json);
    }
    case Write::Kind::kReportOwner:
      ESPALIER_RETURN_IF_ERROR(
          apply(report_path, kube::EncodeOwner(kube::EspalierNodeReport::kKind,
                                               write.name, write.owner))
              .status());
      break;
    case Write::Kind::kFindNode:
      ESPALIER_RETURN_IF_ERROR(
          client
              ->Get(kube::ObjectPath(kube::kNodes, write.name), timeout,
                    cancellation)
              .status());
      break;
    case Write::Kind::kDelete:
      ESPALIER_RETURN_IF_ERROR(
          client->Delete(path, write.uid, timeout, cancellation));
      break;
    case Write::Kind::kDeleteReport:
      ESPALIER_RETURN_IF_ERROR(
          client->Delete(report_path, "", timeout, cancellation));
      break;
  }
  return EspalierNode();
}

absl::StatusOr<kube::Lease> CarryOut(kube::Client* client,
                                     const LeaderElection::Request& request,
                                     absl::Duration timeout,
                                     kube::Cancellation* cancellation) {
  const std::string collection =
      kube::LeasesPath(request.lease.meta.name_space);
  const std::string path =
      kube::ObjectPath(collection, request.lease.meta.name);
  absl::StatusOr<std::string> json;
  switch (request.verb) {
    case LeaderElection::Verb::kGet:
      json = client->Get(path, timeout, cancellation);
      break;
    case LeaderElection::Verb::kCreate:
      json = client->Create(collection, kube::Encode(request.lease), timeout,
                            cancellation);
      break;
    case LeaderElection::Verb::kUpdate:
      json = client->Update(path, kube::Encode(request.lease), timeout,
                            cancellation);
      break;
  }
  if (!json.ok()) return json.status();
  return kube::Decode<kube::Lease>(*json);
}

}  // namespace espalier::controller
