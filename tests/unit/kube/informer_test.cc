#include "agent/kube/informer.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_kube_server.h"

namespace espalier::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class SomeRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    for (uint8_t& octet : out) octet = next_ += 57;
  }

 private:
  uint8_t next_ = 0;
};

// Holds tasks until the test's own thread runs them.
class HeldExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_all();
  }
  // Runs the next; waits for it as long as it takes.
  void RunOne() {
    AwaitTasks(1);
    std::function<void()> task;
    {
      const std::lock_guard lock(mutex_);
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
  void AwaitTasks(size_t count) {
    std::unique_lock lock(mutex_);
    posted_.wait(lock, [&] { return tasks_.size() >= count; });
  }
  size_t held() {
    const std::lock_guard lock(mutex_);
    return tasks_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> tasks_;
};

class InformerTest : public ::testing::Test {
 protected:
  InformerTest() {
    options_.backoff_first = absl::Milliseconds(2);
    options_.backoff_most = absl::Milliseconds(10);
    options_.page_size = 3;
  }
  std::unique_ptr<Informer<Pod>> Make() {
    return std::make_unique<Informer<Pod>>(
        &server_, Resource{kPods, {.fields = "spec.nodeName=n"}}, &executor_,
        &random_,
        [this](std::vector<Update<Pod>> updates) {
          for (const Update<Pod>& update : updates) Take(update);
        },
        options_);
  }
  void Take(const Update<Pod>& update) {
    if (const auto* relist = std::get_if<Relist<Pod>>(&update)) {
      std::string text = relist->first ? "first" : "again";
      if (relist->older_than_seen) text += " older";
      if (relist->lost_more_than_quarter) text += " lost";
      for (const auto& pod : relist->objects) text += " " + pod->meta.name;
      told_.push_back(text);
    } else if (const auto* put = std::get_if<Put<Pod>>(&update)) {
      told_.push_back("+" + put->object->meta.name);
    } else {
      told_.push_back("-" + std::get<Deleted<Pod>>(update).object->meta.name);
    }
  }
  void RunUntil(size_t told) {
    while (told_.size() < told) executor_.RunOne();
  }
  void AwaitWatch() {
    while (server_.watching() == 0) std::this_thread::yield();
  }
  void SetPod(const std::string& name, const std::string& node = "n",
              const std::string& phase = "Pending") {
    server_.Set("/api/v1/namespaces/ns/pods/" + name,
                absl::StrCat(R"({"spec":{"nodeName":")", node,
                             R"("},"status":{"phase":")", phase, R"("}})"));
  }

  FakeKubeServer server_;
  HeldExecutor executor_;
  SomeRandom random_;
  ListWatchOptions options_;
  std::vector<std::string> told_;
};

TEST_F(InformerTest, AListThenWhatChanges) {
  for (const char* name : {"a", "b", "c", "d"}) SetPod(name);
  SetPod("elsewhere", "m");
  auto informer = Make();
  informer->Start();
  RunUntil(1);
  EXPECT_THAT(told_, ElementsAre("first a b c d"));
  EXPECT_TRUE(informer->Stats().in_sync);
  SetPod("e");
  SetPod("elsewhere", "m", "Running");
  SetPod("a", "n", "Running");
  server_.Remove("/api/v1/namespaces/ns/pods/b");
  RunUntil(4);
  EXPECT_THAT(told_, ElementsAre("first a b c d", "+e", "+a", "-b"));
  EXPECT_EQ(informer->Stats().objects, 4u);
}

TEST_F(InformerTest, NothingIsLostOverBreaksGoneAndOutages) {
  SetPod("a");
  auto informer = Make();
  informer->Start();
  RunUntil(1);
  AwaitWatch();
  server_.BreakWatches(/*cleanly=*/false);
  SetPod("b");
  RunUntil(2);
  server_.Answer(-1);
  server_.BreakWatches(/*cleanly=*/false);
  SetPod("c");
  server_.Answer(503, absl::Seconds(0));
  SetPod("d");
  server_.Answer(0);
  RunUntil(4);
  EXPECT_THAT(told_, ElementsAre("first a", "+b", "+c", "+d"));
  // What happened before the history begins comes by a list.
  server_.Answer(-1);
  server_.BreakWatches(/*cleanly=*/false);
  server_.Remove("/api/v1/namespaces/ns/pods/a");
  SetPod("e");
  server_.Compact();
  server_.Answer(0);
  RunUntil(5);
  EXPECT_EQ(told_.back(), "again b c d e");
}

TEST_F(InformerTest, AServerSetBackToAnOlderStateIsNoticed) {
  SetPod("a");
  SetPod("b");
  const FakeKubeServer::Snapshot before = server_.Save();
  SetPod("c");
  SetPod("d");
  auto informer = Make();
  informer->Start();
  RunUntil(1);
  EXPECT_THAT(told_, ElementsAre("first a b c d"));
  AwaitWatch();
  server_.Restore(before);
  RunUntil(2);
  EXPECT_EQ(told_.back(), "again older lost a b");
  // And goes on from the state that is.
  SetPod("e");
  RunUntil(3);
  EXPECT_EQ(told_.back(), "+e");
}

TEST_F(InformerTest, WhileTheServerIsAwayNothingIsTold) {
  SetPod("a");
  auto informer = Make();
  informer->Start();
  RunUntil(1);
  AwaitWatch();
  server_.Answer(500);
  server_.BreakWatches(/*cleanly=*/false);
  while (informer->Stats().failures < 5) std::this_thread::yield();
  EXPECT_EQ(executor_.held(), 0u);
  EXPECT_TRUE(informer->Stats().in_sync);
  EXPECT_FALSE(informer->Stats().last_failure.ok());
  EXPECT_EQ(informer->Stats().objects, 1u);
}

// A slow owner makes the informer wait, not the memory grow.
TEST_F(InformerTest, ASlowExecutorStopsTheReading) {
  auto informer = Make();
  informer->Start();
  RunUntil(1);
  for (int i = 0; i < 200; ++i) SetPod(absl::StrCat("p", i));
  executor_.AwaitTasks(64);
  EXPECT_EQ(executor_.held(), 64u);
  RunUntil(201);
  EXPECT_THAT(told_, SizeIs(201));
}

TEST_F(InformerTest, AfterStopNothingIsToldAndNothingHangs) {
  SetPod("a");
  auto informer = Make();
  informer->Start();
  executor_.AwaitTasks(1);
  AwaitWatch();
  informer->Stop();
  executor_.RunOne();
  EXPECT_THAT(told_, IsEmpty());
  informer->Stop();
  informer.reset();
  // In a wait for the executor, too.
  informer = Make();
  informer->Start();
  executor_.AwaitTasks(1);
  for (int i = 0; i < 200; ++i) SetPod(absl::StrCat("p", i));
  executor_.AwaitTasks(64);
  informer.reset();
  // And in a wait for the server.
  server_.Answer(-1);
  informer = Make();
  informer->Start();
  informer.reset();
  // And when it was never started.
  Make();
  while (executor_.held() > 0) executor_.RunOne();
  EXPECT_THAT(told_, IsEmpty());
}

}  // namespace
}  // namespace espalier::kube
