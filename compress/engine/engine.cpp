// The encoder: which kernel runs on what, in which order.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>
#include <time.h>

#include "plan.h"
#include "pool.h"
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

// The time that this thread has had the processor [s]: what others take of it meanwhile does not count.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Tile {
  size_t token;  // its first
  int units;
};

std::vector<Tile> tiles_of(size_t tokens) {
  std::vector<Tile> tiles;
  for (size_t token = 0; token < tokens; token += TILE)
    tiles.push_back({token, static_cast<int>((std::min<size_t>(TILE, tokens - token) + UNIT - 1) / UNIT)});
  return tiles;
}

constexpr size_t SLACK = 256;  // bytes behind a buffer's end that a last vector may touch

}  // namespace

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

const char *winnow_model::reserve() {
  const uint64_t filled = (count_ + UNIT - 1) / UNIT * UNIT, dim = plan.dim, each = plan.integer ? 1 : sizeof(float);
  // An odd number of units: rows that lie a power of two apart would share few sets of the cache.
  stride_ = (filled + TILE) / UNIT % 2 ? filled + TILE : filled + TILE + UNIT;
  const uint64_t rows = stride_ * dim, batch = (batch_ + UNIT - 1) / UNIT * UNIT;
  const uint64_t columns = std::max(plan.hidden, plan.project.columns), inputs = plan.input == TOKENS ? 0 : filled;
  const bool done = known_.reserve(batch_ * tokens_) && made_.reserve(inputs * dim * sizeof(float) + SLACK) &&
                    stream_.reserve(filled * dim * sizeof(float) + SLACK) && levels_.reserve(filled * dim + SLACK) &&
                    wide_.reserve(filled * columns + SLACK) && query_.reserve(rows * each + SLACK) &&
                    key_.reserve(rows * each + SLACK) && value_.reserve(rows * each + SLACK) &&
                    mixed_.reserve(rows + SLACK) && pooled_.reserve(batch * dim * sizeof(float) + SLACK) &&
                    head_levels_.reserve(batch * dim + SLACK) &&
                    logits_.reserve(batch * (uint64_t{plan.classes} + 4) * sizeof(float) + SLACK) &&
                    scratch_.reserve(attention_scratch(static_cast<int>(tokens_)) * sizeof(float) *
                                     static_cast<uint64_t>(pool.size()));
  return done ? nullptr : "there is not enough memory for so many samples";
}

// Makes tokens of samples, and says which of them are valid.
const char *winnow_model::read(const void *x) {
  if (plan.input == TOKENS) {
    turn(static_cast<const float *>(x));
    return nullptr;
  }
  valid_ = known_.as<uint8_t>();
  if (plan.input == IDS) {
    if (const char *why = look_up(static_cast<const int64_t *>(x))) return why;
  } else {
    project(static_cast<const float *>(x));
  }
  locate();
  return nullptr;
}

// Turns [token][channel] into tiles of [channel][token].
void winnow_model::turn(const float *x) {
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *out = stream_.as<float>() + tile.token * plan.dim;
    for (size_t t = 0; t < width; t++)
      for (size_t c = 0; c < plan.dim; c++)
        out[c * width + t] = tile.token + t < count_ ? x[(tile.token + t) * plan.dim + c] : 0.0f;
  });
}

// Multiplies rows of the input, a token each, by the frontend's matrix.
void winnow_model::project(const float *x) {
  const size_t grid = tokens_ - plan.extra, columns = plan.project.columns;
  const Quantization input = plan.project.input();
  const float zero_point = static_cast<float>(input.zero_point);
  constexpr float whole = 12582912.0f;  // 1.5 · 2²³: what is added to it loses its fraction
  uint8_t *known = known_.as<uint8_t>();
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT, left = batch_ * grid - tile.token;
    uint8_t *levels = wide_.as<uint8_t>() + tile.token * columns;
    for (size_t t = 0; t < std::min(width, left); t++) {
      const size_t token = tile.token + t, place = token % grid;
      const float *row = x + token * columns;
      bool some = plan.input == ROWS || place == 0;
      for (size_t c = 0; c < columns; c++) {
        const float y = row[c] * input.inverse_scale + zero_point;
        const float bounded = y > 0.0f ? (y < 255.0f ? y : 255.0f) : 0.0f;
        levels[(c / 4 * width + t) * 4 + c % 4] = static_cast<uint8_t>(bounded + whole - whole);
        some |= row[c] != 0.0f;
      }
      known[token / grid * tokens_ + plan.extra + place] = some;
    }
    kernels.product(plan.project.matrix(), levels, tile.units, 0, plan.project.rows,
                    {Kind::floats, made_.as<float>() + tile.token * plan.dim, width, 0, {1, 0}});
  });
}

const char *winnow_model::look_up(const int64_t *ids) {
  const size_t grid = tokens_ - plan.extra, dim = plan.dim;
  for (size_t i = 0; i < batch_ * grid; i++)
    if (ids[i] < 0 || ids[i] >= int64_t{plan.table.rows}) return "an id is out of bounds";
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT, left = batch_ * grid - tile.token;
    float *out = made_.as<float>() + tile.token * dim;
    for (size_t t = 0; t < std::min(width, left); t++) {
      const size_t token = tile.token + t, place = token % grid, id = static_cast<size_t>(ids[token]);
      const int8_t *row = plan.table.data.data() + id * dim;
      for (size_t c = 0; c < dim; c++) out[c * width + t] = static_cast<float>(row[c]) * plan.table.scale[id];
      known_.as<uint8_t>()[token / grid * tokens_ + plan.extra + place] = id != plan.table.padding || place == 0;
    }
  });
  return nullptr;
}

// Adds positions to tokens of the input, and puts them behind the extra ones.
void winnow_model::locate() {
  const size_t grid = tokens_ - plan.extra, dim = plan.dim;
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *made = made_.as<float>() + tile.token * dim;
    if (plan.positions)
      for (size_t t = 0; t < width; t++) {
        const float *position = plan.position.data() + (tile.token + t) % grid * dim;
        for (size_t c = 0; c < dim; c++) made[c * width + t] += position[c];
      }
    if (plan.position_norm)
      kernels.normalize(made, static_cast<int>(dim), tile.units, plan.located.gain.data(), plan.located.shift.data(),
                        plan.eps, true, nullptr, {1, 0});
  });
  if (!plan.extra) {  // tiles are the same
    memcpy(stream_.as<void>(), made_.as<void>(), (count_ + UNIT - 1) / UNIT * UNIT * dim * sizeof(float));
    return;
  }
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *out = stream_.as<float>() + tile.token * dim;
    for (size_t t = 0; t < width && tile.token + t < count_; t++) {
      const size_t sample = (tile.token + t) / tokens_, place = (tile.token + t) % tokens_;
      if (place < plan.extra) {
        known_.as<uint8_t>()[tile.token + t] = 1;
        for (size_t c = 0; c < dim; c++) out[c * width + t] = plan.front[place * dim + c];
        continue;
      }
      const size_t token = sample * grid + place - plan.extra;
      const Tile &from = parts[token / TILE];
      const float *made = made_.as<float>() + from.token * dim + token % TILE;
      for (size_t c = 0; c < dim; c++) out[c * width + t] = made[c * static_cast<size_t>(from.units) * UNIT];
    }
  });
}

// Multiplies levels by one or several matrices. `to` says where each goes: rows of all tokens.
void winnow_model::project(std::initializer_list<const Weights *> weights, const uint8_t *levels, const Destination *to) {
  struct Part {
    const Weights *weights;
    const Destination *to;
    uint32_t begin;
  };
  std::vector<Part> parts;
  for (const Weights *one : weights) {
    for (uint32_t begin = 0; begin < one->rows; begin += CHUNK) parts.push_back({one, to, begin});
    to++;
  }
  each(parts.size() * tiles_.size(), [&](int item, int) {
    const Part part = parts[static_cast<size_t>(item) / tiles_.size()];
    const Tile tile = tiles_[static_cast<size_t>(item) % tiles_.size()];
    Destination d = *part.to;
    d.token = tile.token;
    kernels.product(part.weights->matrix(), levels + tile.token * part.weights->columns, tile.units, part.begin,
                    std::min(part.begin + CHUNK, part.weights->rows), d);
  });
}

// The same into tiles, one behind the other.
void winnow_model::multiply(const Weights &weights, const uint8_t *levels, Kind kind, void *out,
                            Quantization quantization) {
  const size_t parts = (weights.rows + CHUNK - 1) / CHUNK, each_bytes = kind == Kind::sum ? sizeof(float) : 1;
  each(parts * tiles_.size(), [&](int item, int) {
    const uint32_t begin = static_cast<uint32_t>(static_cast<size_t>(item) / tiles_.size()) * CHUNK;
    const Tile tile = tiles_[static_cast<size_t>(item) % tiles_.size()];
    uint8_t *there = static_cast<uint8_t *>(out) + tile.token * weights.rows * each_bytes;
    kernels.product(weights.matrix(), levels + tile.token * weights.columns, tile.units, begin,
                    std::min(begin + CHUNK, weights.rows),
                    {kind, there, static_cast<size_t>(tile.units) * UNIT, 0, quantization});
  });
}

void winnow_model::attend(const Layer &layer, size_t number) {
  const size_t width = plan.dim / plan.heads, chunks = (tokens_ + TILE - 1) / TILE;
  const size_t each_bytes = plan.integer ? 1 : sizeof(float), scratch = attention_scratch(static_cast<int>(tokens_));
  const float *bias = plan.bias.empty() ? nullptr : plan.bias[std::min(number, plan.bias.size() - 1)].data();
  const float scores = 1.0f / std::sqrt(static_cast<float>(width));
  each(batch_ * plan.heads * chunks, [&](int item, int worker) {
    const size_t chunk = static_cast<size_t>(item) % chunks, head = static_cast<size_t>(item) / chunks % plan.heads;
    const size_t sample = static_cast<size_t>(item) / chunks / plan.heads, token = sample * tokens_;
    const size_t row = head * width * stride_, at = (row + token * 4) * each_bytes;
    Attention a{};
    if (plan.integer) {
      a.query = query_.as<uint8_t>() + at;
      a.key = key_.as<int8_t>() + at;
      a.value = value_.as<int8_t>() + row + token;
    } else {
      a.query = query_.as<float>() + row + token;
      a.key = key_.as<float>() + row + token;
      a.value = value_.as<float>() + row + token;
    }
    a.stride = stride_;
    a.width = static_cast<int>(width);
    a.tokens = static_cast<int>(tokens_);
    a.first = static_cast<int>(chunk * TILE);
    a.queries = static_cast<int>(std::min<size_t>(TILE, tokens_ - chunk * TILE));
    a.valid = valid_ + token;
    a.bias = bias ? bias + head * plan.tokens * plan.bias_stride() : nullptr;
    a.bias_stride = plan.bias_stride();
    a.scale = plan.integer ? scores * layer.query_levels.scale * layer.key_levels.scale : scores;
    a.query_zero = static_cast<int32_t>(layer.query_levels.zero_point);
    a.value_zero = static_cast<int32_t>(layer.value_levels.zero_point) - 128;
    a.value_scale = layer.value_levels.scale;
    a.out = mixed_.as<uint8_t>() + row + token * 4;
    a.levels = layer.out.input();
    (plan.integer ? kernels.attend_int8 : kernels.attend_float)(a, scratch_.as<float>() + static_cast<size_t>(worker) * scratch);
  });
  each(tiles_.size(), [&](int item, int) {  // rows of all tokens become tiles
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t bytes = static_cast<size_t>(tile.units) * UNIT * 4;
    uint8_t *out = levels_.as<uint8_t>() + tile.token * plan.dim;
    for (size_t c = 0; c < plan.dim; c += 4, out += bytes)
      memcpy(out, mixed_.as<uint8_t>() + c * stride_ + tile.token * 4, bytes);
  });
}

void winnow_model::normalize(const Norm &norm, bool keep, const Weights *reader) {
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    uint8_t *levels = reader ? levels_.as<uint8_t>() + tile.token * plan.dim : nullptr;
    kernels.normalize(stream_.as<float>() + tile.token * plan.dim, static_cast<int>(plan.dim), tile.units,
                      norm.gain.data(), norm.shift.data(), plan.eps, keep, levels,
                      reader ? reader->input() : Quantization{1, 0});
  });
}

// Averages the valid tokens of each sample, which the head reads, tile by tile of samples.
void winnow_model::classify(float *out, float *means) {
  const size_t dim = plan.dim, parts = (batch_ + TILE - 1) / TILE;
  each(parts, [&](int item, int) {
    const size_t first = static_cast<size_t>(item) * TILE, samples = std::min<size_t>(TILE, batch_ - first);
    const size_t width = (samples + UNIT - 1) / UNIT * UNIT;
    const int units = static_cast<int>(width / UNIT);
    float *mean = pooled_.as<float>() + first * dim;  // [channel][sample]
    memset(mean, 0, width * dim * sizeof(float));
    for (size_t i = 0; i < samples; i++) {
      size_t valid = 0;
      for (size_t t = plan.extra; t < tokens_; t++) {
        const size_t token = (first + i) * tokens_ + t;
        if (!valid_[token]) continue;
        valid++;
        const Tile &tile = tiles_[token / TILE];
        const float *from = stream_.as<float>() + tile.token * dim + token % TILE;
        for (size_t c = 0; c < dim; c++) mean[c * width + i] += from[c * static_cast<size_t>(tile.units) * UNIT];
      }
      const float share = 1.0f / static_cast<float>(std::max<size_t>(valid, 1));
      for (size_t c = 0; c < dim; c++) mean[c * width + i] *= share;
    }
    if (plan.output_norm == 2)
      kernels.normalize(mean, static_cast<int>(dim), units, plan.last.gain.data(), plan.last.shift.data(), plan.eps, true,
                        nullptr, {1, 0});
    for (size_t i = 0; means && i < samples; i++)
      for (size_t c = 0; c < dim; c++) means[(first + i) * dim + c] = mean[c * width + i];
    uint8_t *levels = head_levels_.as<uint8_t>() + first * dim;
    float *logits = logits_.as<float>() + first * plan.head.rows;
    kernels.quantize(mean, static_cast<int>(dim), units, levels, plan.head.input());
    kernels.product(plan.head.matrix(), levels, units, 0, plan.head.rows, {Kind::floats, logits, width, 0, {1, 0}});
    for (size_t i = 0; i < samples; i++)
      for (size_t c = 0; c < plan.classes; c++) out[(first + i) * plan.classes + c] = logits[c * width + i];
  });
}

const char *winnow_model::run(const void *x, const uint8_t *valid, size_t batch, size_t tokens, float *out,
                              float *pooled) {
  batch_ = batch, tokens_ = tokens, count_ = batch * tokens, valid_ = valid;
  tiles_ = tiles_of(count_);
  if (const char *why = reserve()) return why;
  if (const char *why = read(x)) return why;
  const bool pre = plan.pre_norm;
  auto *levels = levels_.as<uint8_t>();
  const auto reader = [&](size_t number) {
    return number < plan.layer.size() ? &plan.layer[number].query : nullptr;
  };
  if (plan.input_norm) {
    normalize(plan.first, true, pre ? nullptr : reader(0));
  } else if (!pre) {
    each(tiles_.size(), [&](int item, int) {
      const Tile tile = tiles_[static_cast<size_t>(item)];
      kernels.quantize(stream_.as<float>() + tile.token * plan.dim, static_cast<int>(plan.dim), tile.units,
                       levels + tile.token * plan.dim, plan.layer[0].query.input());
    });
  }
  for (size_t number = 0; number < plan.layer.size(); number++) {
    const Layer &layer = plan.layer[number];
    if (pre) normalize(layer.norm1, false, &layer.query);
    const bool whole = plan.integer;
    const Destination to[3] = {
        {whole ? Kind::levels : Kind::floats, query_.as<void>(), stride_, 0, layer.query_levels.quantization()},
        {whole ? Kind::signed_levels : Kind::floats, key_.as<void>(), stride_, 0, layer.key_levels.quantization()},
        {whole ? Kind::signed_rows : Kind::floats, value_.as<void>(), stride_, 0, layer.value_levels.quantization()}};
    project({&layer.query, &layer.key, &layer.value}, levels, to);
    attend(layer, number);
    multiply(layer.out, levels, Kind::sum, stream_.as<void>(), {1, 0});
    normalize(pre ? layer.norm2 : layer.norm1, !pre, &layer.fc1);
    multiply(layer.fc1, levels, Kind::gelu, wide_.as<void>(), layer.fc2.input());
    multiply(layer.fc2, wide_.as<uint8_t>(), Kind::sum, stream_.as<void>(), {1, 0});
    if (!pre) normalize(layer.norm2, true, reader(number + 1));
  }
  if (plan.output_norm == 1) normalize(plan.last, true, nullptr);
  if (plan.classes) {
    classify(out, pooled);
    return nullptr;
  }
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    const float *in = stream_.as<float>() + tile.token * plan.dim;
    for (size_t t = 0; t < width && tile.token + t < count_; t++)
      for (size_t c = 0; c < plan.dim; c++) out[(tile.token + t) * plan.dim + c] = in[c * width + t];
  });
  return nullptr;
}

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
  const Weights weights = reader.weights();
  reader.require(reader.finished(), "it goes on behind its end");
  reader.require(kernels != nullptr, "this machine has no such instructions");
  reader.require(tokens > 0 && tokens < (1 << 24) && out_size == static_cast<uint64_t>(tokens) * weights.rows,
                 "the output has another size");
  if (reader.failed()) {
    explain(error, error_size, reader.error());
    return 1;
  }
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
