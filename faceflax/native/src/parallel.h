// Work shared among threads, and each thread's memory. Compiled for any processor.

#ifndef FACEFLAX_PARALLEL_H_
#define FACEFLAX_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "kernels.h"

namespace faceflax {

// The process's own threads, for inference; ops that XLA calls get XLA's. Both have these two functions.
class ThreadPool {
 public:
  // The pool, made on the first call of a process, a forked child's included; null with `problem` set if
  // FACEFLAX_THREADS cannot be used.
  static ThreadPool* Get(std::string* problem);

  int64_t num_threads() const { return threads_; }  // the caller of Parallel is one of them
  void Schedule(std::function<void()> task);

 private:
  explicit ThreadPool(int threads) : threads_(threads) {}
  void Start();
  void Work();

  const int threads_;
  std::atomic<int64_t> queued_{0};
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::function<void()>> tasks_;
};

// Runs body(0) .. body(tasks - 1) on the pool and on the caller; false if one of them ran out of memory. The caller
// takes tasks too, so that it never waits for a thread that is not already at work: nested or concurrent calls cannot
// block one another.
template <class Pool, class Body>
[[nodiscard]] bool Parallel(Pool& pool, Index tasks, const Body& body) {
  struct State {
    std::atomic<Index> next{0}, done{0};
    std::atomic<bool> failed{false};
    Index tasks;
    const Body* body;
    void Work() {
      for (Index i; (i = next.fetch_add(1)) < tasks; done.fetch_add(1)) {
        try {
          (*body)(i);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
      }
    }
  };
  auto state = std::make_shared<State>();
  state->tasks = tasks;
  state->body = &body;
  const Index helpers = std::min<Index>(pool.num_threads(), tasks) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule([state] { state->Work(); });
  state->Work();
  while (state->done.load() < tasks) std::this_thread::yield();
  return !state->failed;
}

}  // namespace faceflax

#endif  // FACEFLAX_PARALLEL_H_
