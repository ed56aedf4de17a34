// What an API server says: objects, lists, and a whole list/watch against one
// that says anything in any order. The first octet chooses.
#include <map>
#include <string>

#include "absl/strings/str_split.h"
#include "agent/kube/list_watch.h"
#include "agent/kube/objects.h"

namespace kube = espalier::kube;
namespace base = espalier::base;

namespace {

void Require(bool holds) {
  if (!holds) __builtin_trap();
}

// What was understood can be said, and is then understood as the same.
template <typename T>
void DecodeOne(absl::string_view text) {
  if (absl::StatusOr<T> object = kube::Decode<T>(text); object.ok()) {
    const std::string said = Encode(*object);
    const absl::StatusOr<T> again = kube::Decode<T>(said);
    Require(again.ok() && Encode(*again) == said);
  }
  (void)kube::DecodePage<T>(text).ok();
}

class Counter : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) octet = next_ += 91;
  }

 private:
  uint8_t next_ = 0;
};

// An owner that believes all it is told.
class Owner {
 public:
  void Take(kube::ListWatch& core) {
    for (const kube::RawUpdate& update : core.TakeUpdates()) {
      if (const auto* put = std::get_if<kube::RawPut>(&update)) {
        objects_[Key(put->object)] = put->object;
      } else if (const auto* gone = std::get_if<kube::RawDeleted>(&update)) {
        Require(objects_.erase(Key(gone->object)) == 1);
      } else {
        const auto& relist = std::get<kube::RawRelist>(update);
        Require(relist.first == !listed_);
        for (const auto& object : relist.missing) {
          Require(objects_.contains(Key(object)));
        }
        const size_t before = objects_.size();
        Require(relist.lost_more_than_quarter ==
                (relist.missing.size() * 4 > before));
        listed_ = true;
        objects_.clear();
        for (const auto& object : relist.objects) {
          objects_[Key(object)] = object;
        }
        Require(objects_.size() == relist.objects.size());
      }
    }
    Require(objects_.size() == core.stats().objects);
    Require(listed_ == core.stats().in_sync);
  }

 private:
  static std::string Key(const kube::ObjectPointer& object) {
    return static_cast<const kube::EspalierNode*>(object.get())->meta.Key();
  }
  std::map<std::string, kube::ObjectPointer> objects_;
  bool listed_ = false;
};

// Steps are apart by a record separator; the first octet of each says how the
// rest arrives.
void Play(absl::string_view script) {
  Counter random;
  kube::ListWatchOptions options;
  options.max_line_octets = 2000;
  options.max_objects = 20;
  kube::ListWatch core(kube::TypeOf<kube::EspalierNode>(),
                       {kube::kEspalierNodes, {}}, options, &random);
  Owner owner;
  base::Instant now = absl::FromUnixSeconds(1000);
  int steps = 0;
  for (absl::string_view step : absl::StrSplit(script, '\x1e')) {
    if (++steps > 200) return;
    auto next = core.Next(now);
    if (const auto* wait = std::get_if<kube::ListWatch::Wait>(&next)) {
      Require(wait->until > now);
      now = wait->until;
      next = core.Next(now);
    }
    // A second wait would be a loop.
    const auto* request = std::get_if<kube::ListWatch::Request>(&next);
    Require(request != nullptr);
    const char how = step.empty() ? ' ' : step.front();
    const std::string rest(step.substr(step.empty() ? 0 : 1));
    kube::HttpResponse answer{.status = 200};
    if (request->kind == kube::ListWatch::RequestKind::kWatch) {
      // In two pieces: a cut anywhere says the same.
      const size_t cut = rest.size() / 2;
      if (core.OnWatchOctets(now, rest.substr(0, cut))) {
        (void)core.OnWatchOctets(now, rest.substr(cut));
      }
      owner.Take(core);
      now += absl::Minutes(1);
    } else {
      answer.body = rest;
    }
    switch (how) {
      case 'B':
        core.OnAnswer(now, absl::UnavailableError("broken"));
        break;
      case 'X':
        core.OnAnswer(now, absl::ResourceExhaustedError("too long"));
        break;
      case 'G':
        answer.status = 410;
        core.OnAnswer(now, answer);
        break;
      case 'R':
        answer.status = 429;
        answer.retry_after = absl::Hours(24 * 365);
        core.OnAnswer(now, answer);
        break;
      default:
        core.OnAnswer(now, answer);
    }
    owner.Take(core);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  switch (data[0]) {
    case 'e':
      DecodeOne<kube::EspalierNode>(text);
      break;
    case 'r':
      DecodeOne<kube::EspalierNodeReport>(text);
      break;
    case 'n':
      DecodeOne<kube::NamespaceMeta>(text);
      break;
    case 'p':
      DecodeOne<kube::Pod>(text);
      break;
    case 'o':
      DecodeOne<kube::Node>(text);
      break;
    case 'l':
      DecodeOne<kube::Lease>(text);
      break;
    case 'v':
      DecodeOne<kube::Event>(text);
      break;
    default:
      Play(text);
  }
  return 0;
}
