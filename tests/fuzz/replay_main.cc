// Replays a seed corpus through LLVMFuzzerTestOneInput, so that ctest runs
// every fuzz target in every build, without libFuzzer.
//
//   TARGET PATH...   each PATH is a file, or a folder that is read whole
//
// An empty corpus is a failure: it would prove nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// A target may define it, as with libFuzzer.
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc,
                                                          char*** argv);

namespace {

bool IsCorpusFile(const std::filesystem::directory_entry& entry) {
  return entry.is_regular_file() &&
         !entry.path().filename().string().starts_with('.');
}

std::vector<std::filesystem::path> CorpusFiles(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    const std::filesystem::path path = argv[i];
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(path)) {
      if (IsCorpusFile(entry)) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

int Replay(int argc, char** argv) {
  if (LLVMFuzzerInitialize != nullptr) LLVMFuzzerInitialize(&argc, &argv);
  const std::vector<std::filesystem::path> files = CorpusFiles(argc, argv);
  if (files.empty()) {
    std::fprintf(stderr, "%s: the corpus is empty; give files or folders\n",
                 argv[0]);
    return 1;
  }
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "%s: cannot read %s\n", argv[0], file.c_str());
      return 1;
    }
    // An exact-size heap block, so that AddressSanitizer sees one byte too far.
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    const std::vector<uint8_t> input(text.begin(), text.end());
    // Before the call: a crash must show its input as the last line.
    std::printf("%s: %zu bytes\n", file.c_str(), input.size());
    std::fflush(stdout);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu inputs replayed\n", files.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Replay(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 1;
  }
}
