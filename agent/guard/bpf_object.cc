#include "agent/guard/bpf_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

// The object file's bytes, between the two symbols.
__asm__(
    ".section .rodata\n"
    ".balign 8\n"
    "espalier_bpf_object_begin:\n"
    ".incbin \"" ESPALIER_BPF_OBJECT_FILE
    "\"\n"
    "espalier_bpf_object_end:\n"
    ".previous\n");
extern "C" {
extern const char espalier_bpf_object_begin[];
extern const char espalier_bpf_object_end[];
}

namespace espalier::guard {
namespace {

// What libbpf printed on this thread since it was cleared. Its error codes
// alone say little; the verifier's last words are here.
thread_local std::string last_words;
constexpr size_t kMaxWords = 4096;

int CollectWords(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG) return 0;
  char line[1024];
  const int size = vsnprintf(line, sizeof(line), format, args);
  if (size > 0) last_words.append(line);
  if (last_words.size() > kMaxWords) {
    last_words.erase(0, last_words.size() - kMaxWords);
  }
  return 0;
}

absl::Status LibbpfError(int error, absl::string_view what) {
  if (error < 0) error = -error;
  std::string text = absl::StrCat("eBPF: ", what, ": ", strerror(error));
  if (!last_words.empty()) {
    absl::StrAppend(&text, "; libbpf: ", last_words);
    while (!text.empty() && text.back() == '\n') text.pop_back();
  }
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EPERM:
    case EACCES:
      return absl::PermissionDeniedError(text);
    case ENOMEM:
    case E2BIG:
    case ENOSPC:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::FailedPreconditionError(text);
  }
}

absl::StatusOr<int> CpuCount() {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return LibbpfError(cpus, "counting CPUs");
  return cpus;
}

}  // namespace

const char* HookName(BpfProgram program) {
  switch (program) {
    case BpfProgram::kFromPod:
      return "from_pod";
    case BpfProgram::kToPod:
      return "to_pod";
    case BpfProgram::kUplinkIn:
    case BpfProgram::kL3In:
      return "uplink_in";
    case BpfProgram::kUplinkOut:
    case BpfProgram::kL3Out:
      return "uplink_out";
  }
  return "unknown";
}

const char* KernelName(BpfProgram program) {
  static constexpr const char* kNames[kBpfPrograms] = {
      "esp_from_pod",   "esp_to_pod", "esp_uplink_in",
      "esp_uplink_out", "esp_l3_in",  "esp_l3_out"};
  return kNames[static_cast<int>(program)];
}

const char* MapName(BpfMap map) {
  static constexpr const char* kNames[kBpfMaps] = {
      "esp_config",   "esp_pods",    "esp_addresses",
      "esp_blocks4",  "esp_blocks6", "esp_flows",
      "esp_counters", "esp_budgets", "esp_events"};
  return kNames[static_cast<int>(map)];
}

absl::StatusOr<std::unique_ptr<BpfObject>> BpfObject::Open() {
  libbpf_set_print(CollectWords);
  last_words.clear();
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = "espalier_guard";
  bpf_object* object = bpf_object__open_mem(
      espalier_bpf_object_begin,
      espalier_bpf_object_end - espalier_bpf_object_begin, &options);
  if (object == nullptr) return LibbpfError(errno, "opening the programs");
  return std::unique_ptr<BpfObject>(new BpfObject(object));
}

absl::StatusOr<std::unique_ptr<BpfObject>> BpfObject::Load(
    const std::string& pin_directory) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<BpfObject> out, Open());
  if (!pin_directory.empty()) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, out->object_) {
      const std::string path =
          absl::StrCat(pin_directory, "/", bpf_map__name(map));
      if (const int error = bpf_map__set_pin_path(map, path.c_str());
          error != 0) {
        return LibbpfError(error, absl::StrCat("pin path ", path));
      }
    }
  }
  ESPALIER_RETURN_IF_ERROR(out->LoadPrograms(std::nullopt));
  return out;
}

absl::StatusOr<std::unique_ptr<BpfObject>> BpfObject::LoadCopy(
    const BpfObject& whole, BpfProgram only) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<BpfObject> out, Open());
  for (int i = 0; i < kBpfMaps; ++i) {
    const char* name = MapName(static_cast<BpfMap>(i));
    bpf_map* map = bpf_object__find_map_by_name(out->object_, name);
    if (map == nullptr) return LibbpfError(ENOENT, name);
    // Not by its pin, which somebody may have removed.
    if (const int error = bpf_map__reuse_fd(map, whole.maps_[i]); error != 0) {
      return LibbpfError(error, absl::StrCat("sharing map ", name));
    }
  }
  ESPALIER_RETURN_IF_ERROR(out->LoadPrograms(only));
  return out;
}

absl::Status BpfObject::LoadPrograms(std::optional<BpfProgram> only) {
  if (only) {
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object_) {
      bpf_program__set_autoload(
          program,
          bpf_program__name(program) == absl::string_view(KernelName(*only)));
    }
  }
  if (const int error = bpf_object__load(object_); error != 0) {
    return LibbpfError(error, "loading the programs");
  }
  for (int i = 0; i < kBpfPrograms; ++i) {
    const char* name = KernelName(static_cast<BpfProgram>(i));
    const bpf_program* program =
        bpf_object__find_program_by_name(object_, name);
    if (program == nullptr) return LibbpfError(ENOENT, name);
    programs_[i] = !only || *only == static_cast<BpfProgram>(i)
                       ? bpf_program__fd(program)
                       : -1;
  }
  for (int i = 0; i < kBpfMaps; ++i) {
    const char* name = MapName(static_cast<BpfMap>(i));
    const int fd = bpf_object__find_map_fd_by_name(object_, name);
    if (fd < 0) return LibbpfError(ENOENT, name);
    maps_[i] = fd;
  }
  return absl::OkStatus();
}

BpfObject::~BpfObject() { bpf_object__close(object_); }

int BpfObject::fd(BpfProgram program) const {
  return programs_[static_cast<int>(program)];
}

int BpfObject::fd(BpfMap map) const { return maps_[static_cast<int>(map)]; }

absl::Status BpfObject::Update(BpfMap map, const std::string& key,
                               const std::string& value) {
  last_words.clear();
  if (bpf_map_update_elem(fd(map), key.data(), value.data(), BPF_ANY) != 0) {
    return LibbpfError(errno, absl::StrCat("writing map ", MapName(map)));
  }
  return absl::OkStatus();
}

absl::Status BpfObject::Delete(BpfMap map, const std::string& key) {
  last_words.clear();
  if (bpf_map_delete_elem(fd(map), key.data()) != 0) {
    return LibbpfError(errno, absl::StrCat("deleting from map ", MapName(map)));
  }
  return absl::OkStatus();
}

absl::StatusOr<MapContents> BpfObject::Read(BpfMap map) const {
  last_words.clear();
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd(map), &info, &size) != 0) {
    return LibbpfError(errno, absl::StrCat("asking of map ", MapName(map)));
  }
  MapContents contents;
  std::string key(info.key_size, '\0'), next = key;
  std::string value(info.value_size, '\0');
  const void* previous = nullptr;
  // Twice the size: entries come and go while this walks.
  for (uint64_t i = 0; i < 2 * uint64_t{info.max_entries}; ++i) {
    if (bpf_map_get_next_key(fd(map), previous, next.data()) != 0) {
      if (errno == ENOENT) return contents;
      return LibbpfError(errno, absl::StrCat("walking map ", MapName(map)));
    }
    if (bpf_map_lookup_elem(fd(map), next.data(), value.data()) == 0) {
      contents[next] = value;
    } else if (errno != ENOENT) {
      return LibbpfError(errno, absl::StrCat("reading map ", MapName(map)));
    }
    key = next;
    previous = key.data();
  }
  return contents;
}

absl::StatusOr<espalier_counters> BpfObject::ReadCounters(uint32_t slot) const {
  last_words.clear();
  ESPALIER_ASSIGN_OR_RETURN(const int cpus, CpuCount());
  std::vector<espalier_counters> values(cpus);
  if (bpf_map_lookup_elem(fd(BpfMap::kCounters), &slot, values.data()) != 0) {
    return LibbpfError(errno, absl::StrCat("reading counters of slot ", slot));
  }
  espalier_counters sum{};
  for (const espalier_counters& value : values) {
    for (int i = 0; i < ESPALIER_VERDICT_SLOTS; ++i) {
      sum.packets[i] += value.packets[i];
    }
  }
  return sum;
}

absl::Status BpfObject::ResetCounters(uint32_t slot) {
  last_words.clear();
  ESPALIER_ASSIGN_OR_RETURN(const int cpus, CpuCount());
  const std::vector<espalier_counters> zeros(cpus);
  if (bpf_map_update_elem(fd(BpfMap::kCounters), &slot, zeros.data(),
                          BPF_ANY) != 0) {
    return LibbpfError(errno, absl::StrCat("clearing counters of slot ", slot));
  }
  return absl::OkStatus();
}

}  // namespace espalier::guard
