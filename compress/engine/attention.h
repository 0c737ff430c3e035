// Attention of one head, in integers or in floats; see vectors.h for how often this is compiled.
#pragma once
#include "products.h"

namespace {

// Writes four channels of a head's output; the last vector may have fewer queries than lanes.
inline void write_mixed(const Attention &a, int channel, int t, const F *y) {
  const I four = interleave(to_levels(y[0], a.levels), to_levels(y[1], a.levels), to_levels(y[2], a.levels),
                            to_levels(y[3], a.levels));
  uint8_t *out = a.out + channel * a.stride + static_cast<size_t>(a.first + t) * 4;
  const int left = a.queries - t;
  if (left >= LANES) {
    store(out, four);
  } else {
    store_some(out, four, left);
  }
}

constexpr int32_t none[4] = {0, 0, 0, 0};
constexpr float NEVER = -1e30f;  // a score that softmax makes 0 of

inline F biased(const Attention &a, int key, int t, F score) {
  if (a.bias) score = add(score, load(a.bias + static_cast<size_t>(key) * a.bias_stride + a.first + t));
  return a.valid[key] ? score : set(NEVER);
}

void attend_int8(const Attention &a, float *scratch) {
  const int units = (a.queries + UNIT - 1) / UNIT, width = units * UNIT, keys = (a.tokens + 3) / 4 * 4;
  float *scores = scratch;                                                 // [key][width]
  uint8_t *shares = reinterpret_cast<uint8_t *>(scores + static_cast<size_t>(keys) * width);  // [key / 4][width][4]
  float *offset = reinterpret_cast<float *>(shares + static_cast<size_t>(keys) * width);      // [key]
  const auto *key = static_cast<const int8_t *>(a.key);
  const auto *query = static_cast<const uint8_t *>(a.query) + static_cast<size_t>(a.first) * 4;
  const auto *value = static_cast<const int8_t *>(a.value);

  for (int k = 0; k < a.tokens; k += LANES) {  // what the queries' zero point adds
    I sum = zero();
    for (int c = 0; c < a.width; c += 4)
      sum = add(sum, sum_bytes(load(key + c * a.stride + static_cast<size_t>(k) * 4)));
    store(offset + k, multiply(to_float(sum), set(static_cast<float>(-a.query_zero) * a.scale)));
  }
  alignas(64) int32_t sums[4 * TILE];
  alignas(64) float highest[TILE], total[TILE];
  for (int t = 0; t < width; t += LANES) store(highest + t, set(NEVER));
  const uint32_t steps = static_cast<uint32_t>(a.width / 4);
  for (int k = 0; k < keys; k += 4) {
    rows<4, false, Step>(query, a.stride * 4, units, key + static_cast<size_t>(k) * 4, 4, a.stride * 4, nullptr, steps, none,
                   sums);
    for (int r = 0; r < 4 && k + r < a.tokens; r++)
      for (int t = 0; t < width; t += LANES) {
        const F raw = to_float(load(sums + r * TILE + t));
        const F score = biased(a, k + r, t, multiply_add(raw, set(a.scale), set(offset[k + r])));
        store(scores + static_cast<size_t>(k + r) * width + t, score);
        store(highest + t, largest(load(highest + t), score));
      }
  }
  for (int t = 0; t < width; t += LANES) {
    const F high = load(highest + t);
    I sum = zero();
    for (int k = 0; k < keys; k += 4) {
      I share[4];
      for (int r = 0; r < 4; r++) {
        if (k + r >= a.tokens) {
          share[r] = zero();
          continue;
        }
        const F e = exponential(subtract(load(scores + static_cast<size_t>(k + r) * width + t), high));
        share[r] = to_int(multiply(e, set(255.0f)));
        sum = add(sum, share[r]);
      }
      store(shares + static_cast<size_t>(k) * width + static_cast<size_t>(t) * 4,
            interleave(share[0], share[1], share[2], share[3]));
    }
    store(total + t, divide(set(a.value_scale), to_float(sum)));
  }
  const F shift = set(-static_cast<float>(a.value_zero) * a.value_scale);
  for (int c = 0; c < a.width; c += 4) {
    rows<4, false, Step>(shares, static_cast<size_t>(width) * 4, units, value + c * a.stride, a.stride, 4, nullptr,
                   static_cast<uint32_t>(keys / 4), none, sums);
    for (int t = 0; t < a.queries; t += LANES) {
      F y[4];
      for (int r = 0; r < 4; r++)
        y[r] = multiply_add(to_float(load(sums + r * TILE + t)), load(total + t), shift);
      write_mixed(a, c, t, y);
    }
  }
}

// The same as `accumulate`, of floats: weights of row r at step k stand at w[r * row + k * next].
template <int R, int V>
inline void accumulate_floats(const float *x, size_t x_row, const float *w, size_t row, size_t next, int count,
                              float *out, size_t out_row) {
  F sum[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = set(0.0f);
  for (int k = 0; k < count; k++) {
    for (int v = 0; v < V; v++) {
      const F column = load(x + v * LANES);
      for (int r = 0; r < R; r++) sum[r][v] = multiply_add(column, set(w[r * row]), sum[r][v]);
    }
    x += x_row;
    w += next;
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * out_row + v * LANES, sum[r][v]);
}

inline void float_rows(const float *x, size_t x_row, int width, const float *w, size_t row, size_t next, int count,
                       float *out) {
  int t = 0;
  for (; t + 2 * LANES <= width; t += 2 * LANES)
    accumulate_floats<4, 2>(x + t, x_row, w, row, next, count, out + t, TILE);
  if (t < width) accumulate_floats<4, 1>(x + t, x_row, w, row, next, count, out + t, TILE);
}

void attend_float(const Attention &a, float *scores) {
  const int width = (a.queries + LANES - 1) / LANES * LANES, keys = (a.tokens + 3) / 4 * 4;
  const auto *key = static_cast<const float *>(a.key), *value = static_cast<const float *>(a.value);
  const auto *query = static_cast<const float *>(a.query) + a.first;
  alignas(64) float sums[4 * TILE], highest[TILE], total[TILE];
  for (int t = 0; t < width; t += LANES) store(highest + t, set(NEVER));
  for (int k = 0; k < keys; k += 4) {
    float_rows(query, a.stride, width, key + k, 1, a.stride, a.width, sums);
    for (int r = 0; r < 4 && k + r < a.tokens; r++)
      for (int t = 0; t < width; t += LANES) {
        const F score = biased(a, k + r, t, multiply(load(sums + r * TILE + t), set(a.scale)));
        store(scores + static_cast<size_t>(k + r) * width + t, score);
        store(highest + t, largest(load(highest + t), score));
      }
  }
  for (int t = 0; t < width; t += LANES) {
    const F high = load(highest + t);
    F sum = set(0.0f);
    for (int k = 0; k < a.tokens; k++) {
      float *at = scores + static_cast<size_t>(k) * width + t;
      const F e = exponential(subtract(load(at), high));
      store(at, e);
      sum = add(sum, e);
    }
    store(total + t, divide(set(1.0f), sum));
  }
  for (int c = 0; c < a.width; c += 4) {
    float_rows(scores, static_cast<size_t>(width), width, value + c * a.stride, a.stride, 1, a.tokens, sums);
    for (int t = 0; t < a.queries; t += LANES) {
      F y[4];
      for (int r = 0; r < 4; r++) y[r] = multiply(load(sums + r * TILE + t), load(total + t));
      write_mixed(a, c, t, y);
    }
  }
}

}  // namespace
