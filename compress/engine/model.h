// A model in memory, and the buffers that its runs share.
#pragma once
#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "pool.h"

// Memory that begins at a cache line and holds zeros; it may be refused, which `new` could not say.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { free(at_); }
  bool reserve(uint64_t bytes) {
    if (bytes <= size_) return true;
    free(at_);
    size_ = 0;
    bytes = (bytes + 63) / 64 * 64;
    at_ = bytes > (uint64_t{1} << 40) ? nullptr : aligned_alloc(64, bytes);
    if (!at_) return false;
    memset(at_, 0, bytes);
    size_ = bytes;
    return true;
  }
  template <typename T>
  T *as() {
    return static_cast<T *>(at_);
  }

 private:
  void *at_ = nullptr;
  uint64_t size_ = 0;
};

struct Tile {
  size_t token;  // its first
  int units;
};

inline std::vector<Tile> tiles_of(size_t tokens) {
  std::vector<Tile> tiles;
  for (size_t token = 0; token < tokens; token += TILE)
    tiles.push_back({token, static_cast<int>(((tokens - token < TILE ? tokens - token : TILE) + UNIT - 1) / UNIT)});
  return tiles;
}

constexpr size_t SLACK = 256;  // bytes behind a buffer's end that a last vector may touch

struct winnow_model {
  winnow_model(Plan &&read, const Kernels *kernels, int threads) : plan(std::move(read)), kernels(*kernels), pool(threads) {}

  const char *run(const void *x, const uint8_t *valid, size_t batch, size_t tokens, float *out, float *pooled);

  Plan plan;
  const Kernels &kernels;
  Pool pool;
  std::mutex mutex;

 private:
  template <typename Function>
  void each(size_t items, Function function) {
    pool.each(static_cast<int>(items), function);
  }
  const char *reserve();
  const char *read(const void *x);
  void turn(const float *x);
  void project(const float *x);
  const char *look_up(const int64_t *ids);
  void locate();
  void project(std::initializer_list<const Weights *> weights, const uint8_t *levels, const Destination *to);
  void multiply(const Weights &weights, const uint8_t *levels, Kind kind, void *out, Quantization quantization);
  void attend(const Layer &layer, size_t number);
  void normalize(const Norm &norm, bool keep, const Weights *reader);
  void classify(float *out, float *means);

  static constexpr uint32_t CHUNK = 4 * PANEL;  // rows of an item

  size_t batch_ = 0, tokens_ = 0, count_ = 0, stride_ = 0;
  const uint8_t *valid_ = nullptr;
  std::vector<Tile> tiles_;
  Buffer known_, made_, stream_, levels_, wide_, query_, key_, value_, mixed_, scratch_, pooled_, head_levels_, logits_;
};
