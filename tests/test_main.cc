// main() of every GoogleTest program. A skipped test is never shown as passed:
// in CI (CI=true) the program fails, elsewhere it ends with 77, which ctest
// reports as skipped.
#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

int main(int argc, char** argv) {
  constexpr int kSkipExitCode = 77;
  testing::InitGoogleMock(&argc, argv);
  const int result = RUN_ALL_TESTS();
  const int skipped = testing::UnitTest::GetInstance()->skipped_test_count();
  if (result != 0 || skipped == 0) return result;
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string(ci) == "true" ? 1 : kSkipExitCode;
}
