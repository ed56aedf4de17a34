#include "tests/support/source_dir.h"

namespace espalier::testing {

std::string InSource(const std::string& path) {
  return std::string(ESPALIER_SOURCE_DIR) + "/" + path;
}

}  // namespace espalier::testing
