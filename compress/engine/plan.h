// A model as the engine reads it: what Python writes from the canonical file, and never keeps.
//
// All numbers are little endian and of four bytes, but for indices (two bytes) and weights (one), whose
// arrays are filled up to four. In this order:
//
//   magic "WNP2", dim, heads (dim / heads is the width of one; a layer may have fewer), layers, tokens (most of
//   a sample), extra (of them, in front, that are not pooled), classes (0: no head), pre_norm, input_norm,
//   output_norm (0 none, 1 token, 2 pooled), integer attention, biases (0, 1 for all layers, or one for each),
//   input (0 tokens, 1 rows, 2 frames, 3 ids), positions, position_norm, norm_eps (float)
//   rows and frames: a matrix; ids: their number, padding, scale [id] floats, weights [id][dim]
//   positions [token][dim], position norm, extra tokens [extra][dim]; nothing of these for an input of tokens
//   input norm: gain [dim], shift [dim]
//   layers: matrices query, key, value, out, norm1, matrices fc1, fc2, norm2; for integer attention the
//   scale (float) and zero point of query, key and value. Their rows say how many heads and channels there are
//   attention biases, each [head of its layer][query][key] floats
//   output norm, matrix of the head
//
// A matrix: rows, columns (multiples of 4), block (0, 1, 2, 4), input scale (float), input zero point,
// scale [row] floats, bias [row]; with a block: their number, starts [rows / block + 1], indices, weights
// [block][row of it][4]; without: weights [row / 4][column / 4][4][4].
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

struct Norm {
  std::vector<float> gain, shift;
};

struct Weights {
  uint32_t rows = 0, columns = 0, block = 0;
  float input_scale = 1;
  uint32_t input_zero = 0;
  std::vector<float> scale;
  std::vector<int32_t> bias;
  std::vector<uint32_t> start, order;
  std::vector<uint16_t> index;
  std::vector<int8_t> data;
  bool light = false;

  Matrix matrix() const {
    return {rows,        columns,     block,       start.data(), index.data(), order.data(), data.data(),
            bias.data(), scale.data(), light};
  }
  void sort();
  void lighten();
  Quantization input() const { return {1.0f / input_scale, static_cast<int32_t>(input_zero)}; }
};

struct Levels {
  float scale = 1;
  uint32_t zero_point = 0;
  Quantization quantization() const { return {1.0f / scale, static_cast<int32_t>(zero_point)}; }
};

struct Layer {
  Weights query, key, value, out, fc1, fc2;
  Norm norm1, norm2;
  Levels query_levels, key_levels, value_levels;
  uint32_t heads = 0;
};

// What a sample is: tokens of the encoder's width, with what is valid of them; rows of numbers, all of them
// valid; the same, but rows of zeros are not valid, if they are not the first; ids, valid but for padding.
enum Input : uint32_t { TOKENS, ROWS, FRAMES, IDS };

struct Table {
  uint32_t rows = 0, padding = 0;
  std::vector<float> scale;
  std::vector<int8_t> data;
};

struct Plan {
  uint32_t dim, heads, layers, tokens, extra, classes, pre_norm, input_norm, output_norm, integer, biases;
  uint32_t input, positions, position_norm;
  float eps;
  std::vector<std::vector<float>> bias;  // [head][key][query, filled up to a unit]
  Weights project;
  Table table;
  std::vector<float> position, front;
  Norm located, first, last;
  std::vector<Layer> layer;
  Weights head;

  uint32_t width() const { return dim / heads; }  // of a head
  size_t bias_stride() const { return (size_t{tokens} + UNIT - 1) / UNIT * UNIT; }
};

// Reads numbers one after the other; once something is wrong, everything is, and `error` says what.
class Reader {
 public:
  Reader(const uint8_t *bytes, uint64_t size) : at_(bytes), left_(size) {}

  const char *error() const { return error_; }
  bool failed() const { return error_ != nullptr; }
  void fail(const char *why) {
    if (!error_) error_ = why;
  }
  void require(bool right, const char *why) {
    if (!right) fail(why);
  }
  bool finished() const { return left_ == 0; }

  uint32_t number(uint32_t least, uint32_t most, const char *why) {
    uint32_t x = 0;
    take(&x, 4);
    require(x >= least && x <= most, why);
    return failed() ? least : x;
  }
  float real(const char *why) {
    float x = 0;
    take(&x, 4);
    require(std::isfinite(x), why);
    return failed() ? 1.0f : x;
  }
  float scale() {
    const float x = real("a scale is not a number");
    require(x > 1e-30f && x < 1e30f, "a scale is out of bounds");
    return failed() ? 1.0f : x;
  }
  // The size is compared with what is left before anything is allocated.
  template <typename T>
  void array(std::vector<T> &out, uint64_t count) {
    const uint64_t bytes = count * sizeof(T), filled = (bytes + 3) / 4 * 4;
    if (count > left_ || filled > left_) fail("it ends too early");
    if (failed()) return;
    out.resize(count);
    take(out.data(), bytes);
    at_ += filled - bytes;
    left_ -= filled - bytes;
  }
  void reals(std::vector<float> &out, uint64_t count) {
    array(out, count);
    for (float x : out) require(std::isfinite(x), "a float is not a number");
  }

  Norm norm(uint32_t dim) {
    Norm out;
    reals(out.gain, dim);
    reals(out.shift, dim);
    return out;
  }
  Weights weights();
  Plan plan();

 private:
  void input(Plan &plan);

  void take(void *out, uint64_t bytes) {
    if (bytes > left_) fail("it ends too early");
    if (failed() || !bytes) return;
    memcpy(out, at_, bytes);
    at_ += bytes;
    left_ -= bytes;
  }

  const uint8_t *at_;
  uint64_t left_;
  const char *error_ = nullptr;
};
