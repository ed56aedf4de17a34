#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/guard/hooks.h"

namespace espalier::guard {
namespace {

using netlink::Attribute;
using netlink::AttributeReader;
using netlink::Request;

constexpr uint32_t kPriority = 1;
constexpr uint16_t kAll = ETH_P_ALL;

// One filter, as a dump shows it; what is not a program has id 0.
struct Filter {
  uint32_t priority = 0;
  uint32_t handle = 0;
  uint32_t program_id = 0;
  std::string name;  // libbpf's and ours: the program's
};

tcmsg Header(uint32_t ifindex, bool ingress) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = static_cast<int>(ifindex);
  header.tcm_parent =
      TC_H_MAKE(TC_H_CLSACT, ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
  return header;
}

// False for messages that are no filter of a chain.
bool DecodeFilter(const netlink::Reply& reply, Filter* filter) {
  base::ByteReader reader(reply.payload);
  tcmsg header;
  if (!netlink::ReadStruct(&reader, &header)) return false;
  filter->priority = TC_H_MAJ(header.tcm_info) >> 16;
  filter->handle = header.tcm_handle;
  bool chained = false;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    if (attribute.type == TCA_CHAIN) {
      chained = attribute.AsU32().value_or(0) != 0;
    } else if (attribute.type == TCA_OPTIONS) {
      AttributeReader options(attribute.value);
      Attribute option;
      while (options.Next(&option)) {
        if (option.type == TCA_BPF_ID) {
          filter->program_id = option.AsU32().value_or(0);
        } else if (option.type == TCA_BPF_NAME) {
          filter->name = option.AsString();
        }
      }
    }
  }
  // A dump also names the lists themselves, by handle 0.
  return filter->handle != 0 && !chained;
}

class ClsactHooks : public Hooks {
 public:
  ClsactHooks(ProgramSource* programs, netlink::Channel* channel)
      : programs_(programs), channel_(channel) {}

  absl::StatusOr<Standing> Inspect(uint32_t ifindex,
                                   BpfProgram program) override {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<Filter> filters,
                              List(ifindex, program));
    for (size_t i = 0; i < filters.size(); ++i) {
      if (!IsOurs(filters[i], program)) continue;
      if (i != 0) return Standing::kNotFirst;
      return programs_->IsCurrent(program, filters[i].program_id)
                 ? Standing::kInPlace
                 : Standing::kOld;
    }
    return Standing::kMissing;
  }

  absl::Status Attach(uint32_t ifindex, BpfProgram program) override {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<Filter> filters,
                              List(ifindex, program));
    std::vector<uint32_t> ours;
    uint32_t highest = 0;
    for (const Filter& filter : filters) {
      if (filter.priority == kPriority) {
        highest = std::max(highest, filter.handle);
      }
      if (IsOurs(filter, program)) ours.push_back(filter.handle);
    }
    if (!ours.empty() && IsOurs(filters.front(), program)) {
      // Atomically in the place of the old one.
      ESPALIER_RETURN_IF_ERROR(
          Put(ifindex, program, filters.front().handle, NLM_F_REPLACE));
    } else {
      if (filters.empty()) ESPALIER_RETURN_IF_ERROR(EnsureQdisc(ifindex));
      // The newest of a priority comes first.
      ESPALIER_RETURN_IF_ERROR(Put(ifindex, program, highest + 1, NLM_F_EXCL));
      for (const uint32_t handle : ours) {
        ESPALIER_RETURN_IF_ERROR(Remove(ifindex, program, handle));
      }
    }
    ESPALIER_ASSIGN_OR_RETURN(const Standing standing,
                              Inspect(ifindex, program));
    if (standing == Standing::kInPlace) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(What(ifindex, program),
                     ": a filter of somebody else stays in front of it"));
  }

  absl::Status Detach(uint32_t ifindex, BpfProgram program) override {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<Filter> filters,
                              List(ifindex, program));
    for (const Filter& filter : filters) {
      if (IsOurs(filter, program)) {
        ESPALIER_RETURN_IF_ERROR(Remove(ifindex, program, filter.handle));
      }
    }
    return absl::OkStatus();
  }

  // They go with their devices.
  absl::Status Forget(const std::vector<uint32_t>&) override {
    return absl::OkStatus();
  }

 private:
  static std::string What(uint32_t ifindex, BpfProgram program) {
    return absl::StrCat("eBPF: attach ", HookName(program),
                        " by clsact to device ", ifindex);
  }

  static bool IsOurs(const Filter& filter, BpfProgram program) {
    return filter.priority == kPriority && filter.name == KernelName(program);
  }

  absl::StatusOr<std::vector<Filter>> List(uint32_t ifindex,
                                           BpfProgram program) {
    Request request(RTM_GETTFILTER, 0,
                    absl::StrCat("list filters of device ", ifindex));
    request.PutStruct(Header(ifindex, IsIngress(program)));
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Reply> replies,
                              channel_->Dump(std::move(request)));
    std::vector<Filter> filters;
    for (const netlink::Reply& reply : replies) {
      Filter filter;
      if (DecodeFilter(reply, &filter)) filters.push_back(std::move(filter));
    }
    return filters;
  }

  absl::Status EnsureQdisc(uint32_t ifindex) {
    Request request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL,
                    absl::StrCat("make the clsact qdisc of device ", ifindex));
    tcmsg header{};
    header.tcm_family = AF_UNSPEC;
    header.tcm_ifindex = static_cast<int>(ifindex);
    header.tcm_parent = TC_H_CLSACT;
    header.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
    request.PutStruct(header);
    request.PutString(TCA_KIND, "clsact");
    const absl::Status status = channel_->Execute(std::move(request));
    // An "ingress" qdisc answers the same; then the egress filter fails, and
    // says so.
    return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
  }

  absl::Status Put(uint32_t ifindex, BpfProgram program, uint32_t handle,
                   uint16_t flags) {
    Request request(RTM_NEWTFILTER, NLM_F_CREATE | flags,
                    What(ifindex, program));
    tcmsg header = Header(ifindex, IsIngress(program));
    header.tcm_handle = handle;
    header.tcm_info = TC_H_MAKE(kPriority << 16, htons(kAll));
    request.PutStruct(header);
    request.PutString(TCA_KIND, "bpf");
    request.PutNest(TCA_OPTIONS, [&] {
      request.PutU32(TCA_BPF_FD, static_cast<uint32_t>(programs_->fd(program)));
      request.PutString(TCA_BPF_NAME, KernelName(program));
      request.PutU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
    });
    return channel_->Execute(std::move(request));
  }

  absl::Status Remove(uint32_t ifindex, BpfProgram program, uint32_t handle) {
    Request request(
        RTM_DELTFILTER, 0,
        absl::StrCat("remove ", HookName(program), " from device ", ifindex));
    tcmsg header = Header(ifindex, IsIngress(program));
    header.tcm_handle = handle;
    header.tcm_info = TC_H_MAKE(kPriority << 16, htons(kAll));
    request.PutStruct(header);
    request.PutString(TCA_KIND, "bpf");
    const absl::Status status = channel_->Execute(std::move(request));
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  ProgramSource* programs_;
  netlink::Channel* channel_;
};

}  // namespace

std::unique_ptr<Hooks> MakeClsactHooks(ProgramSource* programs,
                                       netlink::Channel* channel) {
  return std::make_unique<ClsactHooks>(programs, channel);
}

}  // namespace espalier::guard
