// Products of levels and int8 weights, on vectors of tokens; see vectors.h for how often this is compiled.
#pragma once
#include "kernels.h"
#include "vectors.h"

namespace {

constexpr int PER_UNIT = UNIT / LANES;
constexpr size_t LANE_BYTES = sizeof(I);

// Adds up `count` steps of R rows for V vectors of tokens. `column` is what the rows' weights meet: from
// `index`, or one after the other. Weights of row r at step k stand at w + r * row + k * next.
template <int R, int V, bool SPARSE, typename W>
inline void accumulate(const uint8_t *x, size_t x_row, const int8_t *w, size_t row, size_t next, const uint16_t *index,
                       uint32_t count, const int32_t *start, int32_t *out) {
  I sum[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = set(start[r]);
  for (uint32_t k = 0; k < count; k++) {
    const uint8_t *at = x + (SPARSE ? index[k] : k) * x_row;
    W weights[R];
    for (int r = 0; r < R; r++) spread(w + static_cast<size_t>(r) * row, weights[r]);
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
constexpr int WIDEST[] = {0, 8, 4, 0, 2};
#endif

template <int R, bool SPARSE, typename W>
inline void rows(const uint8_t *x, size_t x_row, int units, const int8_t *w, size_t row, size_t next,
                 const uint16_t *index, uint32_t count, const int32_t *start, int32_t *out) {
  for (int left = units * PER_UNIT, taken; left; left -= taken) {
    if (WIDEST[R] >= 8 && left >= 8) {
      taken = 8;
      accumulate<R, 8, SPARSE, W>(x, x_row, w, row, next, index, count, start, out);
    } else if (WIDEST[R] >= 4 && left >= 4) {
      taken = 4;
      accumulate<R, 4, SPARSE, W>(x, x_row, w, row, next, index, count, start, out);
    } else if (WIDEST[R] >= 4 && left == 3) {
      taken = 3;
      accumulate<R, 3, SPARSE, W>(x, x_row, w, row, next, index, count, start, out);
    } else if (left >= 2) {
      taken = 2;
      accumulate<R, 2, SPARSE, W>(x, x_row, w, row, next, index, count, start, out);
    } else {
      taken = 1;
      accumulate<R, 1, SPARSE, W>(x, x_row, w, row, next, index, count, start, out);
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
template <int R, typename W>
inline void panel(const Matrix &m, const uint8_t *x, size_t x_row, int units, uint32_t begin, uint32_t end,
                  int32_t *sums) {
  for (uint32_t place = begin / R; place < end / R; place++) {
    const uint32_t row = m.order[place], from = m.start[row], count = m.start[row + 1] - from;
    rows<R, true, W>(x, x_row, units, m.data + size_t{from} * (R * 4), 4, R * 4, m.index + from, count, m.bias + row * R,
                  sums + (row * R - begin) * TILE);
  }
}

template <typename W>
void multiply(const Matrix &m, const uint8_t *x, int units, uint32_t begin, uint32_t end, const Destination &d) {
  alignas(64) int32_t sums[PANEL * TILE];
  const size_t x_row = static_cast<size_t>(units) * UNIT * 4;
  for (uint32_t from = begin; from < end; from += PANEL) {
    const uint32_t to = from + PANEL < end ? from + PANEL : end;
    if (m.block == 4) {
      panel<4, W>(m, x, x_row, units, from, to, sums);
    } else if (m.block == 2) {
      panel<2, W>(m, x, x_row, units, from, to, sums);
    } else if (m.block == 1) {
      panel<1, W>(m, x, x_row, units, from, to, sums);
    } else {
      for (uint32_t row = from; row < to; row += 4)
        rows<4, false, W>(x, x_row, units, m.data + size_t{row} * m.columns, 4, 16, nullptr, m.columns / 4, m.bias + row,
                       sums + (row - from) * TILE);
    }
    for (uint32_t row = from; row < to; row += 4) finish(sums + (row - from) * TILE, units, m, row, d);
  }
}

void product(const Matrix &m, const uint8_t *x, int units, uint32_t begin, uint32_t end, const Destination &d) {
  (m.light ? multiply<Light> : multiply<Step>)(m, x, units, begin, end, d);
}

}  // namespace
