// Where the checkout is that the tests were built from.
#ifndef ESPALIER_TESTS_SUPPORT_SOURCE_DIR_H_
#define ESPALIER_TESTS_SUPPORT_SOURCE_DIR_H_

#include <string>

namespace espalier::testing {

// `path` below the checkout's root. A function and no macro: the path stands
// in one object only, and the compiler's cache serves all others to every
// checkout.
std::string InSource(const std::string& path);

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_SOURCE_DIR_H_
