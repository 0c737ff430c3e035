// The plain C interface, and the choice of kernels.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <time.h>

#include "model.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

void explain(char *error, uint64_t size, const char *why) {
  if (error && size) snprintf(error, size, "%s", why);
}

#if defined(__x86_64__)
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

std::vector<const Kernels *> available() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    found.push_back(&avx512_vnni_kernels);
  if (avx2 && has_avx_vnni()) found.push_back(&avx_vnni_kernels);
  if (avx2) found.push_back(&avx2_kernels);
#endif
  found.push_back(&portable_kernels);
  return found;
}

const Kernels *chosen(const char *instructions) {
  for (const Kernels *kernels : available())
    if (!instructions || !*instructions || !strcmp(instructions, kernels->name)) return kernels;
  return nullptr;
}

// The time that this thread has had the processor [s]: what others take of it meanwhile does not count.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

const char *winnow_instructions(void) {
  static const std::string names = [] {
    std::string all;
    for (const Kernels *kernels : available()) all += (all.empty() ? "" : " ") + std::string(kernels->name);
    return all;
  }();
  return names.c_str();
}

winnow_model *winnow_open(const uint8_t *plan, uint64_t size, const char *instructions, int32_t threads, char *error,
                          uint64_t error_size) {
  const Kernels *kernels = chosen(instructions);
  if (!kernels || threads < 1 || threads > 1024) {
    explain(error, error_size, kernels ? "threads are from 1 to 1024" : "this machine has no such instructions");
    return nullptr;
  }
  Reader reader(plan, size);
  Plan read = reader.plan();
  if (reader.failed()) {
    explain(error, error_size, reader.error());
    return nullptr;
  }
  if (kernels->saturates) {
    for (Weights *one : {&read.project, &read.head}) one->lighten();
    for (Layer &layer : read.layer)
      for (Weights *one : {&layer.query, &layer.key, &layer.value, &layer.out, &layer.fc1, &layer.fc2}) one->lighten();
  }
  return new winnow_model(std::move(read), kernels, threads);
}

void winnow_close(winnow_model *model) { delete model; }

void winnow_measure(const winnow_model *model, winnow_sizes *sizes) {
  const Plan &plan = model->plan;
  *sizes = {plan.dim, plan.tokens, plan.extra, plan.classes, plan.input, plan.project.columns};
}

int32_t winnow_run(winnow_model *model, const void *x, uint64_t x_size, const uint8_t *valid, int64_t batch,
                   int64_t tokens, float *out, float *pooled, char *error, uint64_t error_size) {
  const Plan &plan = model->plan;
  const uint64_t grid = static_cast<uint64_t>(std::max<int64_t>(tokens - plan.extra, 0));
  const uint64_t sample = plan.input == TOKENS ? static_cast<uint64_t>(tokens) * plan.dim * sizeof(float)
                          : plan.input == IDS  ? grid * sizeof(int64_t)
                                               : grid * plan.project.columns * sizeof(float);
  const char *why = nullptr;
  if (batch < 1 || batch > (1 << 24) || tokens <= plan.extra || tokens > plan.tokens) {
    why = "there is no sample, or a sample has no or too many tokens";
  } else if ((!plan.bias.empty() || plan.positions) && tokens != plan.tokens) {
    why = "with positions or biases of attention, a sample has as many tokens as they";
  } else if (x_size != sample * static_cast<uint64_t>(batch)) {
    why = "the input has another size";
  } else {
    std::lock_guard<std::mutex> lock(model->mutex);
    why = model->run(x, valid, static_cast<size_t>(batch), static_cast<size_t>(tokens), out, pooled);
  }
  if (why) explain(error, error_size, why);
  return why ? 1 : 0;
}

int32_t winnow_product(const uint8_t *plan, uint64_t size, const char *instructions, const uint8_t *x, int64_t tokens,
                       int32_t *out, uint64_t out_size, int32_t repeats, double *seconds, char *error,
                       uint64_t error_size) {
  const Kernels *kernels = chosen(instructions);
  Reader reader(plan, size);
  Weights weights = reader.weights();
  reader.require(reader.finished(), "it goes on behind its end");
  reader.require(kernels != nullptr, "this machine has no such instructions");
  reader.require(tokens > 0 && tokens < (1 << 24) && out_size == static_cast<uint64_t>(tokens) * weights.rows,
                 "the output has another size");
  if (reader.failed()) {
    explain(error, error_size, reader.error());
    return 1;
  }
  if (kernels->saturates) weights.lighten();
  const auto tiles = tiles_of(static_cast<size_t>(tokens));
  const size_t filled = tiles.back().token + static_cast<size_t>(tiles.back().units) * UNIT;
  Buffer levels, sums;
  if (!levels.reserve(filled * weights.columns + SLACK) || !sums.reserve(filled * weights.rows * 4 + SLACK)) {
    explain(error, error_size, "there is not enough memory for so many tokens");
    return 1;
  }
  for (size_t t = 0; t < static_cast<size_t>(tokens); t++) {
    const Tile &tile = tiles[t / TILE];
    uint8_t *to = levels.as<uint8_t>() + tile.token * weights.columns;
    for (size_t c = 0; c < weights.columns; c++)
      to[(c / 4 * static_cast<size_t>(tile.units) * UNIT + t % TILE) * 4 + c % 4] = x[t * weights.columns + c];
  }
  for (int32_t i = 0; i < repeats; i++) {
    const double began = now();
    for (const Tile &tile : tiles)
      kernels->product(weights.matrix(), levels.as<uint8_t>() + tile.token * weights.columns, tile.units, 0, weights.rows,
                       {Kind::accumulators, sums.as<int32_t>() + tile.token * weights.rows,
                        static_cast<size_t>(tile.units) * UNIT, 0, {1, 0}});
    seconds[i] = now() - began;
  }
  for (size_t t = 0; t < static_cast<size_t>(tokens); t++) {
    const Tile &tile = tiles[t / TILE];
    const int32_t *from = sums.as<int32_t>() + tile.token * weights.rows + t % TILE;
    for (size_t row = 0; row < weights.rows; row++)
      out[t * weights.rows + row] = from[row * static_cast<size_t>(tile.units) * UNIT];
  }
  return 0;
}

double winnow_peak(const char *instructions) {
  const Kernels *kernels = chosen(instructions);
  double best = 0;
  for (int i = 0; kernels && i < 20; i++) {
    const double began = now();
    const double products = kernels->dots(50);
    best = std::max(best, products / (now() - began));
  }
  return best;
}
