#include "agent/netlink/nftables.h"

#include <nftables/libnftables.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::netlink {
namespace {

absl::StatusOr<std::string> RunWith(unsigned int flags,
                                    const std::string& commands) {
  // A context of its own for each call: it caches the ruleset it has seen.
  const std::unique_ptr<nft_ctx, decltype(&nft_ctx_free)> context(
      nft_ctx_new(NFT_CTX_DEFAULT), &nft_ctx_free);
  if (context == nullptr) {
    return absl::ResourceExhaustedError("nftables: no context");
  }
  nft_ctx_output_set_flags(context.get(), flags);
  nft_ctx_buffer_output(context.get());
  nft_ctx_buffer_error(context.get());
  if (nft_run_cmd_from_buffer(context.get(), commands.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "nftables refused: ", nft_ctx_get_error_buffer(context.get())));
  }
  return std::string(nft_ctx_get_output_buffer(context.get()));
}

}  // namespace

absl::StatusOr<std::string> Nftables::Run(const std::string& commands) {
  return RunWith(0, commands);
}

absl::StatusOr<std::string> Nftables::RunStateless(
    const std::string& commands) {
  return RunWith(NFT_CTX_OUTPUT_STATELESS, commands);
}

absl::StatusOr<bool> RemoveTable(Nftables* nftables, const std::string& name) {
  const std::string table = absl::StrCat("table inet ", name);
  const bool there = nftables->RunStateless(absl::StrCat("list ", table)).ok();
  // Made first: not being able to list it does not say that it is not there.
  ESPALIER_RETURN_IF_ERROR(
      nftables->Run(absl::StrCat(table, " {\n}\ndelete ", table, "\n"))
          .status());
  return there;
}

}  // namespace espalier::netlink
