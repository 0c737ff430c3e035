// The encoder: which kernel runs on what, in which order.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

const char *winnow_model::reserve() {
  const uint64_t filled = (count_ + UNIT - 1) / UNIT * UNIT, dim = plan.dim, each = plan.integer ? 1 : sizeof(float);
  // An odd number of units: rows that lie a power of two apart would share few sets of the cache.
  stride_ = (filled + TILE) / UNIT % 2 ? filled + TILE : filled + TILE + UNIT;
  const uint64_t rows = stride_ * dim, batch = (batch_ + UNIT - 1) / UNIT * UNIT;
  const uint64_t inputs = plan.input == TOKENS ? 0 : filled;
  uint64_t columns = plan.project.columns;  // at most that a matrix reads of a token
  for (const Layer &layer : plan.layer) columns = std::max<uint64_t>(columns, layer.fc2.columns);
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
  const size_t width = plan.width(), chunks = (tokens_ + TILE - 1) / TILE;
  const size_t each_bytes = plan.integer ? 1 : sizeof(float), scratch = attention_scratch(static_cast<int>(tokens_));
  const float *bias = plan.bias.empty() ? nullptr : plan.bias[std::min(number, plan.bias.size() - 1)].data();
  const float scores = 1.0f / std::sqrt(static_cast<float>(width));
  each(batch_ * layer.heads * chunks, [&](int item, int worker) {
    const size_t chunk = static_cast<size_t>(item) % chunks, head = static_cast<size_t>(item) / chunks % layer.heads;
    const size_t sample = static_cast<size_t>(item) / chunks / layer.heads, token = sample * tokens_;
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
    uint8_t *out = levels_.as<uint8_t>() + tile.token * layer.out.columns;
    for (size_t c = 0; c < layer.out.columns; c += 4, out += bytes)
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
