// All kernels of one set of instructions; compiled once for each.
#include "kernels.h"

#include "attention.h"
#include "products.h"
#include "vectors.h"

namespace {

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
  Light weights;
  spread(w, weights);
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
const Kernels avx512_vnni_kernels{"avx512_vnni", false, product, attend_int8, attend_float, normalize, quantize, dots};
#elif defined(INSTRUCTIONS_avx_vnni)
const Kernels avx_vnni_kernels{"avx_vnni", false, product, attend_int8, attend_float, normalize, quantize, dots};
#elif defined(INSTRUCTIONS_avx2)
const Kernels avx2_kernels{"avx2", true, product, attend_int8, attend_float, normalize, quantize, dots};
#else
const Kernels portable_kernels{"portable", false, product, attend_int8, attend_float, normalize, quantize, dots};
#endif
