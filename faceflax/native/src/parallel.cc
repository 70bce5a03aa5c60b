#include "parallel.h"

#include <chrono>
#include <cstdlib>
#include <system_error>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace faceflax {

namespace {

constexpr int kMostThreads = 1024;
constexpr auto kSpin = std::chrono::microseconds(50);  // about what waking a thread costs

std::atomic<ThreadPool*> instance{nullptr};

#ifndef _WIN32
// A child has none of its parent's threads; what they held, locks included, is left behind with the pool.
const int forgets = pthread_atfork(nullptr, nullptr, [] { instance.store(nullptr); });
#endif

int Cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool* ThreadPool::Get(std::string* problem) {
  ThreadPool* pool = instance.load(std::memory_order_acquire);
  if (pool) return pool;
  int threads = std::min(Cores(), kMostThreads);
  const char* wanted = std::getenv("FACEFLAX_THREADS");
  if (wanted && *wanted) {
    char* end;
    const long number = std::strtol(wanted, &end, 10);
    if (*end || number < 1) {
      *problem = "FACEFLAX_THREADS: '" + std::string(wanted) +
                 "' is no number of threads; give 1 or more, or leave it unset for one a core";
      return nullptr;
    }
    threads = static_cast<int>(std::min<long>(threads, number));
  }
  ThreadPool* made = new ThreadPool(threads);  // never deleted: its threads outlive main
  if (!instance.compare_exchange_strong(pool, made)) {
    delete made;  // another thread was faster
    return pool;
  }
  made->Start();
  return made;
}

void ThreadPool::Start() {
  for (int i = 1; i < threads_; ++i) {
    try {
      std::thread([this] { Work(); }).detach();
    } catch (const std::system_error&) {
      return;  // no more threads for this process: callers do the work
    }
  }
}

void ThreadPool::Schedule(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
    ++queued_;
  }
  arrived_.notify_one();
}

void ThreadPool::Work() {
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while (queued_.load(std::memory_order_relaxed) == 0 && std::chrono::steady_clock::now() < until) Pause();
    std::function<void()> task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      arrived_.wait(lock, [this] { return !tasks_.empty(); });
      task = std::move(tasks_.front());
      tasks_.pop_front();
      --queued_;
    }
    task();
  }
}

// Fresh pages for every call would cost more than the arithmetic, and vectors that straddle two cache lines cost twice.
T* Scratch(int slot, Index size) {
  struct alignas(64) Line {
    T values[64 / sizeof(T)];
  };
  static thread_local std::vector<std::vector<Line>> slots;
  if (slots.size() <= static_cast<size_t>(slot)) slots.resize(slot + 1);
  const size_t lines = size * sizeof(T) / sizeof(Line) + 1;
  if (slots[slot].size() < lines) {
    slots[slot].clear();  // its content need not move
    slots[slot].resize(lines);
  }
  return slots[slot].data()->values;
}

}  // namespace faceflax
