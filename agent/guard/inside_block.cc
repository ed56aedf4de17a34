#include "agent/guard/guard.h"

namespace espalier::guard {

using base::IpPrefix;

InsideBlock InsideBlock::Pods(const IpPrefix& prefix) {
  return {.prefix = prefix, .pods = true};
}

InsideBlock InsideBlock::PlaintextPods(const IpPrefix& prefix) {
  return {.prefix = prefix, .pods = true, .plaintext_from_disabled = true};
}

InsideBlock InsideBlock::PodsWithoutAgent(const IpPrefix& prefix) {
  return {.prefix = prefix,
          .pods = true,
          .plaintext_from_disabled = true,
          .plaintext_from_preferred = true,
          .plaintext_from_node = true};
}

InsideBlock InsideBlock::AgentNode(const IpPrefix& prefix) {
  return {.prefix = prefix,
          .plaintext_from_disabled = true,
          .plaintext_from_node = true};
}

InsideBlock InsideBlock::OtherNodes(const IpPrefix& prefix) {
  return {.prefix = prefix,
          .plaintext_from_disabled = true,
          .plaintext_from_preferred = true,
          .plaintext_from_node = true};
}

}  // namespace espalier::guard
