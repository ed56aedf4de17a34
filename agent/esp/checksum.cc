#include "agent/esp/checksum.h"

#include <cstring>

namespace espalier::esp {
namespace {

// The compiler turns this loop into whatever vectors the target has; the same
// source is compiled once for every machine and once for AVX2.
[[gnu::always_inline]] inline uint64_t SumWords(const uint8_t* data,
                                                size_t words) {
  uint64_t sum = 0;
  for (size_t i = 0; i < words; ++i) {
    uint32_t word;
    std::memcpy(&word, data + 4 * i, sizeof word);
    sum += word;
  }
  return sum;
}

uint64_t SumWordsPlain(const uint8_t* data, size_t words) {
  return SumWords(data, words);
}

using SumWordsFunction = uint64_t (*)(const uint8_t*, size_t);

#if defined(__x86_64__)
[[gnu::target("avx2")]] uint64_t SumWordsAvx2(const uint8_t* data,
                                              size_t words) {
  return SumWords(data, words);
}
const SumWordsFunction kSumWords =
    __builtin_cpu_supports("avx2") ? SumWordsAvx2 : SumWordsPlain;
#else
const SumWordsFunction kSumWords = SumWordsPlain;
#endif

}  // namespace

uint64_t PartialSum(const uint8_t* data, size_t size, uint64_t sum) {
  const size_t words = size / 4;
  sum += words < 16 ? SumWords(data, words) : kSumWords(data, words);
  data += 4 * words;
  if ((size & 2) != 0) {
    uint16_t word;
    std::memcpy(&word, data, sizeof word);
    sum += word;
    data += 2;
  }
  if ((size & 1) != 0) {
    // The octet is the first of its word, whatever the machine's order.
    uint16_t word = 0;
    std::memcpy(&word, data, 1);
    sum += word;
  }
  return sum;
}

}  // namespace espalier::esp
