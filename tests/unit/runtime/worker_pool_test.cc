#include "agent/runtime/worker_pool.h"

#include <atomic>
#include <future>

#include "gtest/gtest.h"

namespace espalier::runtime {
namespace {

TEST(WorkerPool, RunsEverythingItTook) {
  std::atomic<int> ran{0};
  std::promise<void> all;
  WorkerPool pool(3, 1000);
  for (int i = 0; i < 1000; ++i) {
    while (!pool.Submit([&] {
      if (++ran == 1000) all.set_value();
    })) {
      std::this_thread::yield();
    }
  }
  all.get_future().wait();
  EXPECT_EQ(ran, 1000);
}

TEST(WorkerPool, RefusesBeyondItsBound) {
  std::promise<void> begun;
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  bool dropped_ran = false;
  {
    WorkerPool pool(1, 2);
    ASSERT_TRUE(pool.Submit([&] {
      begun.set_value();
      released.wait();
    }));
    begun.get_future().wait();
    EXPECT_TRUE(pool.Submit([] {}));
    EXPECT_TRUE(pool.Submit([&] { dropped_ran = true; }));
    EXPECT_FALSE(pool.Submit([] {}));
    release.set_value();
  }
  (void)dropped_ran;  // either way is right: it was waiting at the end
}

TEST(WorkerPool, EndsWithTasksWaiting) {
  std::atomic<int> ran{0};
  {
    WorkerPool pool(2, 100);
    for (int i = 0; i < 100; ++i) pool.Submit([&] { ++ran; });
  }
  const int at_end = ran;
  EXPECT_LE(at_end, 100);
  EXPECT_EQ(at_end, ran);
}

}  // namespace
}  // namespace espalier::runtime
