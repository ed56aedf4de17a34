#include "agent/service/event_hub.h"

#include "absl/strings/str_cat.h"

namespace espalier::service {

void EventHub::Publish(const v1::Event& event) {
  {
    const std::lock_guard lock(mutex_);
    for (Reader* reader : readers_) {
      if (reader->waiting_.size() >= kMaxWaiting) {
        ++reader->missed_;
        reader->waiting_.pop_front();
      }
      reader->waiting_.push_back(event);
    }
  }
  changed_.notify_all();
}

absl::StatusOr<std::unique_ptr<EventHub::Reader>> EventHub::NewReader() {
  std::unique_ptr<Reader> reader(new Reader(this));
  const std::lock_guard lock(mutex_);
  if (readers_.size() >= kMaxReaders) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxReaders, " programs watch already"));
  }
  readers_.insert(reader.get());
  return reader;
}

void EventHub::End() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
}

EventHub::Reader::~Reader() {
  const std::lock_guard lock(hub_->mutex_);
  hub_->readers_.erase(this);
}

std::optional<v1::Event> EventHub::Reader::Next(
    std::chrono::milliseconds wait) {
  std::unique_lock lock(hub_->mutex_);
  hub_->changed_.wait_for(lock, wait,
                          [this] { return hub_->ended_ || !waiting_.empty(); });
  if (waiting_.empty()) return std::nullopt;
  v1::Event event = std::move(waiting_.front());
  waiting_.pop_front();
  event.set_missed(missed_);
  missed_ = 0;
  return event;
}

bool EventHub::Reader::ended() const {
  const std::lock_guard lock(hub_->mutex_);
  return hub_->ended_;
}

}  // namespace espalier::service
