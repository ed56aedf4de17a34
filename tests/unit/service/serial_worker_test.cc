#include "agent/service/serial_worker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

namespace espalier::service {
namespace {

TEST(SerialWorkerTest, RunsInOrderOnItsOwnThread) {
  std::vector<int> seen;  // the worker's alone until Stop
  std::vector<std::thread::id> threads;
  SerialWorker worker;
  for (int i = 0; i < 100; ++i) {
    worker.Post([&, i] {
      seen.push_back(i);
      threads.push_back(std::this_thread::get_id());
    });
  }
  worker.Stop();
  ASSERT_EQ(seen.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
  for (const auto id : threads) {
    EXPECT_EQ(id, threads.front());
    EXPECT_NE(id, std::this_thread::get_id());
  }
}

TEST(SerialWorkerTest, TasksOfManyThreadsNeverOverlap) {
  SerialWorker worker;
  int count = 0;  // a data race if they did
  std::vector<std::thread> posters;
  for (int i = 0; i < 4; ++i) {
    posters.emplace_back([&] {
      for (int j = 0; j < 500; ++j) worker.Post([&count] { ++count; });
    });
  }
  for (std::thread& poster : posters) poster.join();
  worker.Stop();
  EXPECT_EQ(count, 2000);
}

TEST(SerialWorkerTest, ATaskMayPost) {
  SerialWorker worker;
  std::promise<bool> done;
  bool inside = false;
  worker.Post([&] {
    inside = true;
    worker.Post([&] { done.set_value(!inside); });
    inside = false;
  });
  EXPECT_TRUE(done.get_future().get()) << "it ran inside Post";
}

TEST(SerialWorkerTest, TicksBetweenTasks) {
  std::promise<void> twice;
  int ticks = 0;
  SerialWorker worker(absl::Milliseconds(1), [&] {
    if (++ticks == 2) twice.set_value();
  });
  twice.get_future().get();
}

TEST(SerialWorkerTest, NothingRunsAfterStop) {
  std::atomic<int> count = 0;
  SerialWorker worker(absl::Milliseconds(1), [&] { ++count; });
  worker.Stop();
  worker.Stop();
  const int before = count;
  worker.Post([&] { ++count; });
  EXPECT_EQ(count, before);
}

}  // namespace
}  // namespace espalier::service
