// Numbers that must not be mixed up: StrongId<struct PeerIdTag, uint32_t>.
#ifndef ESPALIER_AGENT_BASE_STRONG_ID_H_
#define ESPALIER_AGENT_BASE_STRONG_ID_H_

#include <compare>
#include <cstddef>
#include <functional>

namespace espalier::base {

template <typename Tag, typename Rep>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

  template <typename H>
  friend H AbslHashValue(H state, StrongId id) {
    return H::combine(std::move(state), id.value_);
  }

 private:
  Rep value_{};
};

}  // namespace espalier::base

template <typename Tag, typename Rep>
struct std::hash<espalier::base::StrongId<Tag, Rep>> {
  size_t operator()(espalier::base::StrongId<Tag, Rep> id) const {
    return std::hash<Rep>()(id.value());
  }
};

#endif  // ESPALIER_AGENT_BASE_STRONG_ID_H_
