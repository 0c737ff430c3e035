// What engine.cpp asks of one instruction set. Tokens are always the lanes: no sum crosses them.
//
// A tile is up to 64 tokens, in units of 16. As levels (uint8), four channels of a token stand side by
// side, [channel / 4][token][4]; as floats, [channel][token]. `stride` counts tokens from row to row.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr int UNIT = 16;  // tokens
constexpr int TILE = 64;
constexpr uint32_t PANEL = 32;  // rows that are worked on together

struct Quantization {
  float inverse_scale;
  int32_t zero_point;
};

// int8 weights of rows × columns. Blocks are `block` rows × 4 columns, each row's four bytes together.
struct Matrix {
  uint32_t rows, columns;  // multiples of 4
  uint32_t block;          // 1, 2 or 4; 0: all 4 × 4 blocks are there, and index and start are not
  const uint32_t *start;   // of each row of blocks, and the end of the last
  const uint16_t *index;   // column / 4
  const uint32_t *order;   // rows of blocks, those of a panel by their number of blocks
  const int8_t *data;
  const int32_t *bias;  // less the input's zero point times the row's sum
  const float *scale;   // input's times row's
  bool light;           // of four bytes, neither the first two nor the last two are beyond 128 together
};

enum class Kind {
  accumulators,   // int32 [row][token], with the bias
  floats,         // float [row][token]
  sum,            // the same, added to what is there
  gelu,           // levels [row / 4][token][4] of its GELU
  levels,         // levels [row / 4][token][4]
  signed_levels,  // the same less 128
  signed_rows,    // int8 [row][token], less 128
};

struct Destination {
  Kind kind;
  void *out;
  size_t stride, token;  // tokens in a row of `out`; the first that is written
  Quantization levels;
};

// One head of one sample; all of its keys, and some of its queries. Pointers are to its first channel and
// token. Levels of queries may have any zero point, which only adds what softmax takes away.
struct Attention {
  const void *query;  // levels, or floats
  const void *key;    // levels less 128, or floats
  const void *value;  // int8 rows, or floats
  size_t stride;
  int width;              // channels of a head
  int tokens;             // keys
  int first, queries;     // queries, at most 64
  const uint8_t *valid;   // of each key
  const float *bias;      // [key][query], or null
  size_t bias_stride;
  float scale;            // of scores
  int32_t query_zero;     // level
  int32_t value_zero;     // level less 128
  float value_scale;
  uint8_t *out;           // levels
  Quantization levels;
};

struct Kernels {
  const char *name;
  bool saturates;  // products of two bytes that are added in 16 bits: light weights take less time
  void (*product)(const Matrix &, const uint8_t *x, int units, uint32_t begin, uint32_t end, const Destination &);
  void (*attend_int8)(const Attention &, float *scratch);
  void (*attend_float)(const Attention &, float *scratch);
  // LayerNorm over channels of a tile, into `x` (if `keep`) and into `levels` (if it is not null).
  void (*normalize)(float *x, int channels, int units, const float *gain, const float *shift, float eps, bool keep,
                    uint8_t *levels, const Quantization &);
  void (*quantize)(const float *x, int channels, int units, uint8_t *levels, const Quantization &);
  double (*dots)(int rounds);  // does 1000 `rounds` dots of registers: how many products of bytes that is
};

// Floats of scratch that attention to so many keys takes.
inline size_t attention_scratch(int tokens) { return (static_cast<size_t>(tokens) + 68) * (TILE + TILE / 4 + 1); }

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx_vnni_kernels, avx512_vnni_kernels;
#endif
