#include <gtest/gtest.h>

#include "agent/controller/controller.h"
#include "tests/support/metric_families.h"

namespace espalier::controller {
namespace {

TEST(ControllerMetricsTest, FamiliesAreUniqueAndDocumented) {
  espalier::testing::ExpectFamiliesAreDocumented(
      RenderMetrics(ControllerState()), /*of_controller=*/true);
}

}  // namespace
}  // namespace espalier::controller
