// Threads that share the items of one task after the other. Who does an item does all of it, so that
// results do not depend on how many there are.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

class Pool {
 public:
  using Item = void (*)(void *context, int item, int worker);

  explicit Pool(int threads) {
    for (int worker = 1; worker < threads; worker++) threads_.emplace_back([this, worker] { work(worker); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stops_ = true;
      task_++;
    }
    wake_.notify_all();
    for (auto &thread : threads_) thread.join();
  }
  int size() const { return static_cast<int>(threads_.size()) + 1; }

  template <typename Function>
  void each(int items, Function &function) {
    if (threads_.empty() || items < 2) {
      for (int item = 0; item < items; item++) function(item, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      item_ = [](void *context, int item, int worker) { (*static_cast<Function *>(context))(item, worker); };
      context_ = &function;
      items_ = items;
      next_.store(0);
      busy_.store(static_cast<int>(threads_.size()));
      task_++;
    }
    wake_.notify_all();
    take(0);
    for (int turn = 0; busy_.load(); turn++)
      if (turn > SPINS) std::this_thread::yield();
  }

 private:
  static constexpr int SPINS = 4000;

  void take(int worker) {
    for (int item; (item = next_.fetch_add(1)) < items_;) item_(context_, item, worker);
  }
  void work(int worker) {
    for (uint64_t seen = 0;;) {
      for (int turn = 0; turn < SPINS && task_.load() == seen; turn++) {
      }
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return task_.load() != seen; });
      seen = task_.load();
      if (stops_) return;
      lock.unlock();
      take(worker);
      busy_.fetch_sub(1);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> task_{0};
  std::atomic<int> next_{0}, busy_{0};
  bool stops_ = false;
  Item item_ = nullptr;
  void *context_ = nullptr;
  int items_ = 0;
};
