#include "agent/runtime/loop.h"

#include <uv.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace espalier::runtime {
namespace {

constexpr absl::Duration kFileSettles = absl::Milliseconds(100);

absl::Status UvStatus(int error, const std::string& what) {
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(-error, what);
}

// A libuv handle may only be freed in its close callback.
template <typename T>
void CloseAndDelete(T* holder) {
  uv_close(reinterpret_cast<uv_handle_t*>(&holder->handle),
           [](uv_handle_t* handle) { delete static_cast<T*>(handle->data); });
}

}  // namespace

class Loop::Impl {
 public:
  Impl() {
    uv_loop_init(&loop_);
    uv_async_init(&loop_, &async_, [](uv_async_t* async) {
      static_cast<Impl*>(async->data)->RunPosted();
    });
    async_.data = this;
  }

  ~Impl() {
    for (auto& [fd, poll] : polls_) CloseAndDelete(poll);
    for (auto& [id, timer] : timers_) CloseAndDelete(timer);
    for (Signal* signal : signals_) CloseAndDelete(signal);
    for (File* file : files_) CloseAndDelete(file);
    uv_close(reinterpret_cast<uv_handle_t*>(&async_), nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    uv_loop_close(&loop_);
  }

  void Run() {
    while (!TakeStop()) uv_run(&loop_, UV_RUN_ONCE);
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    uv_async_send(&async_);
  }

  void Post(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      posted_.push_back(std::move(task));
    }
    uv_async_send(&async_);
  }

  struct Poll {
    uv_poll_t handle{};
    int events = 0;
    std::shared_ptr<std::function<void(bool, bool)>> ready;
  };

  void Watch(int fd, bool readable, bool writable,
             std::function<void(bool, bool)> ready) {
    Poll*& poll = polls_[fd];
    if (poll == nullptr) {
      poll = new Poll;
      poll->handle.data = poll;
      uv_poll_init(&loop_, &poll->handle, fd);
    }
    poll->ready =
        std::make_shared<std::function<void(bool, bool)>>(std::move(ready));
    poll->events = (readable ? UV_READABLE | UV_DISCONNECT : 0) |
                   (writable ? UV_WRITABLE : 0);
    Start(poll);
  }

  static void Start(Poll* poll) {
    uv_poll_start(
        &poll->handle, poll->events,
        [](uv_poll_t* handle, int status, int happened) {
          auto* self = static_cast<Poll*>(handle->data);
          // libuv gives up a descriptor with an error; but that of a socket
          // (an ICMP message, a netlink overrun) passes once it is read.
          if (status < 0) Start(self);
          // The callback may replace or remove its own watch.
          const auto call = self->ready;
          (*call)(status < 0 || (happened & (UV_READABLE | UV_DISCONNECT)) != 0,
                  (happened & UV_WRITABLE) != 0);
        });
  }

  void Unwatch(int fd) {
    const auto found = polls_.find(fd);
    if (found == polls_.end()) return;
    // Takes the fd out of epoll at once: the caller may close it.
    uv_poll_stop(&found->second->handle);
    CloseAndDelete(found->second);
    polls_.erase(found);
  }

  TimerId RunAfter(absl::Duration delay, std::function<void()> callback) {
    auto* timer = new Timer;
    timer->id = ++last_timer_;
    timer->owner = this;
    timer->callback = std::move(callback);
    timer->handle.data = timer;
    timers_[timer->id] = timer;
    uv_timer_init(&loop_, &timer->handle);
    // libuv counts whole milliseconds from a clock that it reads once a turn.
    uv_update_time(&loop_);
    const int64_t milliseconds = std::clamp<int64_t>(
        absl::ToInt64Milliseconds(absl::Ceil(delay, absl::Milliseconds(1))), 0,
        int64_t{1} << 40);
    uv_timer_start(
        &timer->handle,
        [](uv_timer_t* handle) {
          auto* self = static_cast<Timer*>(handle->data);
          const std::function<void()> call = std::move(self->callback);
          self->owner->CancelTimer(self->id);
          call();
        },
        milliseconds == 0 ? 0 : static_cast<uint64_t>(milliseconds) + 1, 0);
    return timer->id;
  }

  void CancelTimer(TimerId id) {
    const auto found = timers_.find(id);
    if (found == timers_.end()) return;
    CloseAndDelete(found->second);
    timers_.erase(found);
  }

  absl::Status OnSignal(int number, std::function<void()> handler) {
    auto* signal = new Signal;
    signal->handler = std::move(handler);
    signal->handle.data = signal;
    uv_signal_init(&loop_, &signal->handle);
    signals_.push_back(signal);
    return UvStatus(uv_signal_start(
                        &signal->handle,
                        [](uv_signal_t* handle, int) {
                          static_cast<Signal*>(handle->data)->handler();
                        },
                        number),
                    absl::StrCat("cannot handle signal ", number));
  }

  absl::Status WatchFile(const std::string& path,
                         const std::optional<base::FileStamp>& known,
                         std::function<void()> changed) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "."
                               : slash == 0               ? "/"
                                            : path.substr(0, slash);
    auto* file = new File;
    file->path = path;
    file->owner = this;
    file->changed = std::move(changed);
    file->stamp = known.value_or(base::StampOf(path));
    file->handle.data = file;
    uv_fs_event_init(&loop_, &file->handle);
    // The folder and not the file: a rename over the file leaves a watch of
    // the file itself on the inode that nobody writes again.
    absl::Status status =
        UvStatus(uv_fs_event_start(
                     &file->handle,
                     [](uv_fs_event_t* handle, const char*, int, int) {
                       static_cast<File*>(handle->data)->Settle();
                     },
                     folder.c_str(), 0),
                 absl::StrCat("cannot watch the folder ", folder));
    if (!status.ok()) {
      CloseAndDelete(file);
      return status;
    }
    files_.push_back(file);
    // Changed before there was a watch.
    if (file->stamp != base::StampOf(path)) file->Settle();
    return absl::OkStatus();
  }

 private:
  struct Timer {
    uv_timer_t handle{};
    TimerId id = 0;
    Impl* owner = nullptr;
    std::function<void()> callback;
  };
  struct Signal {
    uv_signal_t handle{};
    std::function<void()> handler;
  };
  struct File {
    uv_fs_event_t handle{};
    std::string path;
    Impl* owner = nullptr;
    std::function<void()> changed;
    base::FileStamp stamp;
    TimerId timer = 0;

    // Begins the wait anew with each event, so that a file that is still
    // being written is not read half.
    void Settle() {
      owner->CancelTimer(timer);
      timer = owner->RunAfter(kFileSettles, [this] {
        timer = 0;
        const base::FileStamp now = base::StampOf(path);
        if (now == stamp) return;
        stamp = now;
        changed();
      });
    }
  };

  bool TakeStop() {
    const std::lock_guard lock(mutex_);
    return std::exchange(stop_, false);
  }

  void RunPosted() {
    std::vector<std::function<void()>> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(posted_);
    }
    for (const std::function<void()>& task : tasks) task();
  }

  uv_loop_t loop_{};
  uv_async_t async_{};
  std::map<int, Poll*> polls_;
  std::map<TimerId, Timer*> timers_;
  TimerId last_timer_ = 0;
  std::vector<Signal*> signals_;
  std::vector<File*> files_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // under mutex_
  bool stop_ = false;                          // under mutex_
};

Loop::Loop() : impl_(std::make_unique<Impl>()) {}
Loop::~Loop() = default;
void Loop::Run() { impl_->Run(); }
void Loop::Stop() { impl_->Stop(); }
void Loop::Post(std::function<void()> task) { impl_->Post(std::move(task)); }
void Loop::Watch(int fd, bool readable, bool writable,
                 std::function<void(bool, bool)> ready) {
  impl_->Watch(fd, readable, writable, std::move(ready));
}
void Loop::Unwatch(int fd) { impl_->Unwatch(fd); }
Loop::TimerId Loop::RunAfter(absl::Duration delay,
                             std::function<void()> callback) {
  return impl_->RunAfter(delay, std::move(callback));
}
void Loop::CancelTimer(TimerId id) { impl_->CancelTimer(id); }
absl::Status Loop::OnSignal(int signal, std::function<void()> handler) {
  return impl_->OnSignal(signal, std::move(handler));
}
absl::Status Loop::WatchFile(const std::string& path,
                             std::function<void()> changed,
                             const std::optional<base::FileStamp>& known) {
  return impl_->WatchFile(path, known, std::move(changed));
}

}  // namespace espalier::runtime
