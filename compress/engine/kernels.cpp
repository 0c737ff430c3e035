// Products, attention and norms on tiles of tokens; compiled once for each instruction set.
#include "kernels.h"

#include "vectors.h"

namespace {

constexpr int PER_UNIT = UNIT / LANES;
constexpr size_t LANE_BYTES = sizeof(I);

// Adds up `count` steps of R rows for V vectors of tokens. `column` is what the rows' weights meet: from
// `index`, or one after the other. Weights of row r at step k stand at w + r * row + k * next.
template <int R, int V, bool SPARSE>
inline void accumulate(const uint8_t *x, size_t x_row, const int8_t *w, size_t row, size_t next, const uint16_t *index,
                       uint32_t count, const int32_t *start, int32_t *out) {
  I sum[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = set(start[r]);
  for (uint32_t k = 0; k < count; k++) {
    const uint8_t *at = x + (SPARSE ? index[k] : k) * x_row;
    Step weights[R];
    for (int r = 0; r < R; r++) weights[r] = step(w + static_cast<size_t>(r) * row);
    w += next;
    for (int v = 0; v < V; v++) {
      const I column = load(at + static_cast<size_t>(v) * LANE_BYTES);
      for (int r = 0; r < R; r++) sum[r][v] = dot(sum[r][v], column, weights[r]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * TILE + v * LANES, sum[r][v]);
}

// As many vectors at a time as there are registers for.
#if defined(INSTRUCTIONS_avx512_vnni)
constexpr int WIDEST[] = {0, 8, 8, 0, 4};  // by rows
#else
constexpr int WIDEST[] = {0, 4, 4, 0, 2};
#endif

template <int R, bool SPARSE>
inline void rows(const uint8_t *x, size_t x_row, int units, const int8_t *w, size_t row, size_t next,
                 const uint16_t *index, uint32_t count, const int32_t *start, int32_t *out) {
  for (int left = units * PER_UNIT, taken; left; left -= taken) {
    if (WIDEST[R] >= 8 && left >= 8) {
      taken = 8;
      accumulate<R, 8, SPARSE>(x, x_row, w, row, next, index, count, start, out);
    } else if (WIDEST[R] >= 4 && left >= 4) {
      taken = 4;
      accumulate<R, 4, SPARSE>(x, x_row, w, row, next, index, count, start, out);
    } else if (WIDEST[R] >= 4 && left == 3) {
      taken = 3;
      accumulate<R, 3, SPARSE>(x, x_row, w, row, next, index, count, start, out);
    } else if (left >= 2) {
      taken = 2;
      accumulate<R, 2, SPARSE>(x, x_row, w, row, next, index, count, start, out);
    } else {
      taken = 1;
      accumulate<R, 1, SPARSE>(x, x_row, w, row, next, index, count, start, out);
    }
    x += static_cast<size_t>(taken) * LANE_BYTES;
    out += taken * LANES;
  }
}

// The bound is for what does not fit into int32, and becomes its smallest number; `interleave` does the rest.
inline I to_levels(F x, F inverse_scale, F zero_point) {
  return to_int(least(multiply_add(x, inverse_scale, zero_point), set(1e9f)));
}
inline I to_levels(F x, const Quantization &q) {
  return to_levels(x, set(q.inverse_scale), set(static_cast<float>(q.zero_point)));
}

// Turns accumulators of four rows into what is asked for.
inline void finish(const int32_t *sums, int units, const Matrix &m, uint32_t row, const Destination &d) {
  const size_t width = static_cast<size_t>(units) * UNIT, at = row * d.stride + d.token;
  const bool gelus = d.kind == Kind::gelu, flips = d.kind == Kind::signed_levels;
  const F inverse = set(d.levels.inverse_scale), zero_point = set(static_cast<float>(d.levels.zero_point));
  F scale[4];
  for (int r = 0; r < 4; r++) scale[r] = set(m.scale[row + r]);
  switch (d.kind) {
    case Kind::accumulators:
      for (int r = 0; r < 4; r++)
        for (size_t t = 0; t < width; t += LANES)
          store(static_cast<int32_t *>(d.out) + at + r * d.stride + t, load(sums + r * TILE + t));
      break;
    case Kind::floats:
    case Kind::sum:
      for (int r = 0; r < 4; r++) {
        float *out = static_cast<float *>(d.out) + at + r * d.stride;
        for (size_t t = 0; t < width; t += LANES) {
          const F before = d.kind == Kind::sum ? load(out + t) : set(0.0f);
          store(out + t, multiply_add(to_float(load(sums + r * TILE + t)), scale[r], before));
        }
      }
      break;
    case Kind::signed_rows:
      for (int r = 0; r < 4; r++)
        for (size_t t = 0; t < width; t += LANES) {
          const F y = multiply_add(multiply(to_float(load(sums + r * TILE + t)), scale[r]), inverse, zero_point);
          store_bytes(static_cast<uint8_t *>(d.out) + at + r * d.stride + t, flip_signs(to_int(bounded(y, 0.0f, 255.0f))));
        }
      break;
    case Kind::gelu:
    case Kind::levels:
    case Kind::signed_levels:
      for (size_t t = 0; t < width; t += LANES) {
        I level[4];
        for (int r = 0; r < 4; r++) {
          const F y = multiply(to_float(load(sums + r * TILE + t)), scale[r]);
          level[r] = to_levels(gelus ? gelu(y) : y, inverse, zero_point);
        }
        const I four = interleave(level[0], level[1], level[2], level[3]);
        store(static_cast<uint8_t *>(d.out) + row * d.stride + (d.token + t) * 4, flips ? flip_signs(four) : four);
      }
  }
}

// Of rows that need about the same number of steps, one after the other is not mispredicted.
template <int R>
inline void panel(const Matrix &m, const uint8_t *x, size_t x_row, int units, uint32_t begin, uint32_t end,
                  int32_t *sums) {
  for (uint32_t place = begin / R; place < end / R; place++) {
    const uint32_t row = m.order[place], from = m.start[row], count = m.start[row + 1] - from;
    rows<R, true>(x, x_row, units, m.data + size_t{from} * (R * 4), 4, R * 4, m.index + from, count, m.bias + row * R,
                  sums + (row * R - begin) * TILE);
  }
}

void product(const Matrix &m, const uint8_t *x, int units, uint32_t begin, uint32_t end, const Destination &d) {
  alignas(64) int32_t sums[PANEL * TILE];
  const size_t x_row = static_cast<size_t>(units) * UNIT * 4;
  for (uint32_t from = begin; from < end; from += PANEL) {
    const uint32_t to = from + PANEL < end ? from + PANEL : end;
    if (m.block == 4) {
      panel<4>(m, x, x_row, units, from, to, sums);
    } else if (m.block == 2) {
      panel<2>(m, x, x_row, units, from, to, sums);
    } else if (m.block == 1) {
      panel<1>(m, x, x_row, units, from, to, sums);
    } else {
      for (uint32_t row = from; row < to; row += 4)
        rows<4, false>(x, x_row, units, m.data + size_t{row} * m.columns, 4, 16, nullptr, m.columns / 4, m.bias + row,
                       sums + (row - from) * TILE);
    }
    for (uint32_t row = from; row < to; row += 4) finish(sums + (row - from) * TILE, units, m, row, d);
  }
}

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
    rows<4, false>(query, a.stride * 4, units, key + static_cast<size_t>(k) * 4, 4, a.stride * 4, nullptr, steps, none,
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
    rows<4, false>(shares, static_cast<size_t>(width) * 4, units, value + c * a.stride, a.stride, 4, nullptr,
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
  const int units = (a.queries + UNIT - 1) / UNIT, width = units * UNIT, keys = (a.tokens + 3) / 4 * 4;
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

template <int V>
inline void normalize_columns(float *x, int channels, size_t width, const float *gain, const float *shift, float eps,
                              bool keep, uint8_t *levels, const Quantization &q) {
  F mean[V], spread[V];
  for (int v = 0; v < V; v++) mean[v] = spread[v] = set(0.0f);
  for (int c = 0; c < channels; c++)
    for (int v = 0; v < V; v++) mean[v] = add(mean[v], load(x + c * width + v * LANES));
  const F share = set(1.0f / static_cast<float>(channels));
  for (int v = 0; v < V; v++) mean[v] = multiply(mean[v], share);
  for (int c = 0; c < channels; c++)
    for (int v = 0; v < V; v++) {
      const F off = subtract(load(x + c * width + v * LANES), mean[v]);
      spread[v] = multiply_add(off, off, spread[v]);
    }
  for (int v = 0; v < V; v++)
    spread[v] = divide(set(1.0f), square_root(multiply_add(spread[v], share, set(eps))));
  for (int c = 0; c < channels; c += 4)
    for (int v = 0; v < V; v++) {
      F y[4];
      for (int r = 0; r < 4; r++) {
        float *at = x + (c + r) * width + v * LANES;
        const F unit = multiply(subtract(load(at), mean[v]), spread[v]);
        y[r] = multiply_add(unit, set(gain[c + r]), set(shift[c + r]));
        if (keep) store(at, y[r]);
      }
      if (levels)
        store(levels + c * width + v * LANE_BYTES,
              interleave(to_levels(y[0], q), to_levels(y[1], q), to_levels(y[2], q), to_levels(y[3], q)));
    }
}

void normalize(float *x, int channels, int units, const float *gain, const float *shift, float eps, bool keep,
               uint8_t *levels, const Quantization &q) {
  const size_t width = static_cast<size_t>(units) * UNIT;
  size_t t = 0;
  for (; t + 4 * LANES <= width; t += 4 * LANES)
    normalize_columns<4>(x + t, channels, width, gain, shift, eps, keep, levels ? levels + t * 4 : nullptr, q);
  for (; t < width; t += LANES)
    normalize_columns<1>(x + t, channels, width, gain, shift, eps, keep, levels ? levels + t * 4 : nullptr, q);
}

void quantize(const float *x, int channels, int units, uint8_t *levels, const Quantization &q) {
  const size_t width = static_cast<size_t>(units) * UNIT;
  for (int c = 0; c < channels; c += 4)
    for (size_t t = 0; t < width; t += LANES) {
      I level[4];
      for (int r = 0; r < 4; r++) level[r] = to_levels(load(x + (c + r) * width + t), q);
      store(levels + c * width + t * 4, interleave(level[0], level[1], level[2], level[3]));
    }
}

double dots(int rounds) {
  constexpr int CHAINS = 12;
  I sum[CHAINS];
  for (int i = 0; i < CHAINS; i++) sum[i] = zero();
  const int8_t w[4] = {1, -2, 3, -4};
  const Step weights = step(w);
  for (int n = 0; n < rounds * 1000; n++) {
    I x = set(n);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) sum[i] = dot(sum[i], x, weights);
  }
  alignas(64) int32_t out[LANES];
  for (int i = 1; i < CHAINS; i++) sum[0] = add(sum[0], sum[i]);
  store(out, sum[0]);
  volatile int32_t seen = out[0];  // else nothing of this would be done
  (void)seen;
  return 4.0 * LANES * CHAINS * rounds * 1000;
}

}  // namespace

#if defined(INSTRUCTIONS_avx512_vnni)
const Kernels avx512_vnni_kernels{"avx512_vnni", product, attend_int8, attend_float, normalize, quantize, dots};
#elif defined(INSTRUCTIONS_avx_vnni)
const Kernels avx_vnni_kernels{"avx_vnni", product, attend_int8, attend_float, normalize, quantize, dots};
#elif defined(INSTRUCTIONS_avx2)
const Kernels avx2_kernels{"avx2", product, attend_int8, attend_float, normalize, quantize, dots};
#else
const Kernels portable_kernels{"portable", product, attend_int8, attend_float, normalize, quantize, dots};
#endif
