#include "agent/runtime/loop.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::runtime {
namespace {

using ::testing::ElementsAre;

TEST(Loop, PostsFromManyThreadsAllRunOnTheLoopInOrder) {
  Loop loop;
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  std::vector<std::vector<int>> seen(kThreads);
  int total = 0;
  const std::thread::id self = std::this_thread::get_id();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        loop.Post([&, t, i] {
          EXPECT_EQ(std::this_thread::get_id(), self);
          seen[t].push_back(i);
          if (++total == kThreads * kEach) loop.Stop();
        });
      }
    });
  }
  loop.Run();
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int>& one : seen) {
    ASSERT_EQ(one.size(), size_t{kEach});
    EXPECT_TRUE(std::is_sorted(one.begin(), one.end()));
  }
}

TEST(Loop, StopBeforeRunReturnsAtOnce) {
  Loop loop;
  loop.Stop();
  loop.Run();
}

TEST(Loop, TimersRunInOrderAndNotWhenCancelled) {
  Loop loop;
  std::vector<std::string> order;
  bool inside = true;
  const auto late = loop.RunAfter(absl::Milliseconds(30), [&] {
    order.push_back("late");
    loop.Stop();
  });
  (void)late;
  loop.RunAfter(absl::Milliseconds(10), [&] { order.push_back("early"); });
  const auto never = loop.RunAfter(absl::Milliseconds(5), [] { FAIL(); });
  loop.RunAfter(absl::ZeroDuration(), [&] {
    EXPECT_FALSE(inside);
    order.push_back("now");
  });
  loop.CancelTimer(never);
  loop.CancelTimer(never);
  loop.CancelTimer(0);
  inside = false;
  loop.Run();
  EXPECT_THAT(order, ElementsAre("now", "early", "late"));
}

TEST(Loop, ATimerMayCancelAnotherAndBeginItself) {
  Loop loop;
  base::EventLoop::TimerId other = 0;
  int runs = 0;
  std::function<void()> again = [&] {
    loop.CancelTimer(other);
    if (++runs == 3) {
      loop.Stop();
    } else {
      loop.RunAfter(absl::Milliseconds(1), again);
    }
  };
  loop.RunAfter(absl::Milliseconds(1), again);
  other = loop.RunAfter(absl::Milliseconds(500), [] { FAIL(); });
  loop.Run();
  EXPECT_EQ(runs, 3);
}

TEST(Loop, ATimerDoesNotRunEarly) {
  Loop loop;
  const absl::Time begin = absl::Now();
  loop.RunAfter(absl::Microseconds(2500), [&] { loop.Stop(); });
  loop.Run();
  EXPECT_GE(absl::Now() - begin, absl::Microseconds(2500));
}

class Pair {
 public:
  Pair() {
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_), 0);
  }
  ~Pair() {
    close(fds_[0]);
    if (fds_[1] >= 0) close(fds_[1]);
  }
  int near() const { return fds_[0]; }
  void Write() { EXPECT_EQ(write(fds_[1], "x", 1), 1); }
  void Hangup() {
    close(fds_[1]);
    fds_[1] = -1;
  }

 private:
  int fds_[2];
};

TEST(Loop, WatchTellsReadingWritingAndHangup) {
  Loop loop;
  Pair pair;
  std::vector<std::string> seen;
  loop.Watch(pair.near(), true, true, [&](bool readable, bool writable) {
    EXPECT_TRUE(writable);
    if (!readable) {
      pair.Write();
      return;
    }
    char c;
    EXPECT_EQ(read(pair.near(), &c, 1), 1);
    seen.push_back("read");
    // Replaces the very callback that runs.
    loop.Watch(pair.near(), true, false, [&](bool again, bool) {
      EXPECT_TRUE(again);
      seen.push_back("hangup");
      loop.Unwatch(pair.near());
      loop.Stop();
    });
    pair.Hangup();
  });
  loop.Run();
  EXPECT_THAT(seen, ElementsAre("read", "hangup"));
}

TEST(Loop, AnUnwatchedDescriptorMayBeClosedAndUsedAgain) {
  Loop loop;
  for (int i = 0; i < 20; ++i) {
    Pair pair;
    bool ran = false;
    loop.Watch(pair.near(), true, false, [&](bool, bool) {
      ran = true;
      loop.Unwatch(pair.near());
      loop.Stop();
    });
    pair.Write();
    loop.Run();
    EXPECT_TRUE(ran);
  }
  loop.Unwatch(12345);
}

TEST(Loop, SignalsArriveOnTheLoop) {
  Loop loop;
  int count = 0;
  ASSERT_TRUE(loop.OnSignal(SIGUSR1,
                            [&] {
                              ++count;
                              loop.Stop();
                            })
                  .ok());
  kill(getpid(), SIGUSR1);
  loop.Run();
  EXPECT_EQ(count, 1);
  EXPECT_FALSE(loop.OnSignal(SIGKILL, [] {}).ok());
}

class WatchFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-loop-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    Write("file", "one");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  // Watches `name`, does `change`, waits for the call.
  void Expect(const std::string& name, const std::function<void()>& change) {
    Loop loop;
    bool changed = false;
    ASSERT_TRUE(loop.WatchFile(folder_ / name,
                               [&] {
                                 changed = true;
                                 loop.Stop();
                               })
                    .ok());
    loop.Post(change);
    const auto timeout = loop.RunAfter(absl::Seconds(30), [&] { loop.Stop(); });
    loop.Run();
    loop.CancelTimer(timeout);
    EXPECT_TRUE(changed);
  }
  std::filesystem::path folder_;
};

TEST_F(WatchFileTest, AWrite) {
  Expect("file", [&] { Write("file", "two two"); });
}

TEST_F(WatchFileTest, ARenameOver) {
  Expect("file", [&] {
    Write(".file.new", "two");
    std::filesystem::rename(folder_ / ".file.new", folder_ / "file");
  });
}

TEST_F(WatchFileTest, ASwitchedLink) {
  // As kubelet writes a ConfigMap's volume.
  std::filesystem::create_directory(folder_ / "1");
  std::filesystem::create_directory(folder_ / "2");
  Write("1/config", "one");
  Write("2/config", "two two");
  std::filesystem::create_symlink("1", folder_ / "data");
  std::filesystem::create_symlink("data/config", folder_ / "config");
  Expect("config", [&] {
    std::filesystem::create_symlink("2", folder_ / "data.new");
    std::filesystem::rename(folder_ / "data.new", folder_ / "data");
  });
}

TEST_F(WatchFileTest, AChangeBeforeTheWatch) {
  const base::FileStamp read = base::StampOf(folder_ / "file");
  Write("file", "two two");
  Loop loop;
  bool changed = false;
  const auto note = [&] {
    changed = true;
    loop.Stop();
  };
  ASSERT_TRUE(loop.WatchFile(folder_ / "file", note, read).ok());
  loop.RunAfter(absl::Seconds(30), [&] { loop.Stop(); });
  loop.Run();
  EXPECT_TRUE(changed);
}

TEST_F(WatchFileTest, NotWhatWasRead) {
  Loop loop;
  const base::FileStamp read = base::StampOf(folder_ / "file");
  ASSERT_TRUE(loop.WatchFile(folder_ / "file", [] { FAIL(); }, read).ok());
  loop.RunAfter(absl::Milliseconds(400), [&] { loop.Stop(); });
  loop.Run();
}

TEST_F(WatchFileTest, NotAnotherFileOfTheFolder) {
  Loop loop;
  ASSERT_TRUE(loop.WatchFile(folder_ / "file", [] { FAIL(); }).ok());
  loop.Post([&] { Write("other", "x"); });
  loop.RunAfter(absl::Milliseconds(400), [&] { loop.Stop(); });
  loop.Run();
}

TEST_F(WatchFileTest, AnAbsentFolderIsAnErrorUntilItIsThere) {
  Loop loop;
  const std::filesystem::path path = folder_ / "later/file";
  EXPECT_FALSE(loop.WatchFile(path, [] { FAIL(); }).ok());
  std::filesystem::create_directory(folder_ / "later");
  bool changed = false;
  const auto note = [&] {
    changed = true;
    loop.Stop();
  };
  ASSERT_TRUE(loop.WatchFile(path, note).ok());
  loop.Post([&] { Write("later/file", "one"); });
  loop.RunAfter(absl::Seconds(30), [&] { loop.Stop(); });
  loop.Run();
  EXPECT_TRUE(changed);
}

}  // namespace
}  // namespace espalier::runtime
