#include "agent/service/event_hub.h"

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace espalier::service {
namespace {

v1::Event Named(const std::string& kind) {
  v1::Event event;
  event.set_kind(kind);
  return event;
}

TEST(EventHub, EveryReaderGetsWhatCameAfterIt) {
  EventHub hub;
  hub.Publish(Named("before"));
  auto a = *hub.NewReader();
  auto b = *hub.NewReader();
  hub.Publish(Named("one"));
  EXPECT_EQ(a->Next(std::chrono::seconds(10))->kind(), "one");
  EXPECT_EQ(b->Next(std::chrono::seconds(10))->kind(), "one");
  EXPECT_FALSE(a->Next(std::chrono::milliseconds(1)).has_value());
}

TEST(EventHub, ASlowReaderLosesTheOldestAndIsTold) {
  EventHub hub;
  auto reader = *hub.NewReader();
  for (size_t i = 0; i < EventHub::kMaxWaiting + 7; ++i) {
    hub.Publish(Named(std::to_string(i)));
  }
  const auto first = reader->Next(std::chrono::seconds(10));
  EXPECT_EQ(first->kind(), "7");
  EXPECT_EQ(first->missed(), 7u);
  EXPECT_EQ(reader->Next(std::chrono::seconds(10))->missed(), 0u);
}

TEST(EventHub, ReadersAreBoundedAndEnd) {
  EventHub hub;
  std::vector<std::unique_ptr<EventHub::Reader>> readers;
  for (size_t i = 0; i < EventHub::kMaxReaders; ++i) {
    readers.push_back(*hub.NewReader());
  }
  EXPECT_EQ(hub.NewReader().status().code(),
            absl::StatusCode::kResourceExhausted);
  readers.pop_back();
  EXPECT_TRUE(hub.NewReader().ok());
  std::thread ends([&] { hub.End(); });
  EXPECT_FALSE(readers[0]->Next(std::chrono::hours(1)).has_value());
  ends.join();
  EXPECT_TRUE(readers[0]->ended());
}

}  // namespace
}  // namespace espalier::service
