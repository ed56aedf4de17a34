// A thread to do things on, as seen by others.
#ifndef ESPALIER_AGENT_BASE_EXECUTOR_H_
#define ESPALIER_AGENT_BASE_EXECUTOR_H_

#include <functional>

namespace espalier::base {

class Executor {
 public:
  virtual ~Executor() = default;
  // From any thread. Tasks run one at a time, in the order of posting, on the
  // executor's own thread; never inside Post.
  virtual void Post(std::function<void()> task) = 0;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_EXECUTOR_H_
