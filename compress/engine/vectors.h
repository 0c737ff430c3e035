// The few operations that the kernels are written in, for one instruction set at a time.
//
// INSTRUCTIONS_<name> says which. A file that includes this one is compiled once for each, and takes
// nothing inline from the standard library: the linker keeps one copy of such a function for the whole
// program, and it could be the one that this machine cannot run.
//
// I: int32 lanes, each also seen as four bytes. F: float lanes. Step: four int8 weights for every lane; Light:
// the same of light weights, of which neither the first two nor the last two are beyond 128 together.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#if !defined(INSTRUCTIONS_portable)
#include <immintrin.h>
#endif

namespace {

#if defined(INSTRUCTIONS_avx512_vnni)

constexpr int LANES = 16;
using I = __m512i;
using F = __m512;
using Step = __m512i;

inline I zero() { return _mm512_setzero_si512(); }
inline I set(int32_t x) { return _mm512_set1_epi32(x); }
inline I load(const void *p) { return _mm512_loadu_si512(p); }
inline void store(void *p, I x) { _mm512_storeu_si512(p, x); }
inline void store_some(void *p, I x, int n) {
  _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << n) - 1), x);
}
inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
inline I flip_signs(I x) { return _mm512_xor_si512(x, _mm512_set1_epi32(static_cast<int>(0x80808080u))); }
inline void spread(const int8_t *w, Step &out) {
  int32_t four;
  memcpy(&four, w, 4);
  out = _mm512_set1_epi32(four);
}
inline I dot(I sum, I x, Step w) { return _mm512_dpbusd_epi32(sum, x, w); }
inline I sum_bytes(I signed_bytes) { return _mm512_dpbusd_epi32(zero(), _mm512_set1_epi8(1), signed_bytes); }
// Brings lanes into 0..255; gives a + b·2⁸ + c·2¹⁶ + d·2²⁴.
inline I interleave(I a, I b, I c, I d) {
  const I abcd = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  return _mm512_shuffle_epi8(
      abcd, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
inline void store_bytes(void *p, I x) {
  _mm_storeu_si128(static_cast<__m128i *>(p), _mm512_cvtepi32_epi8(x));
}
inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }
inline I to_int(F x) { return _mm512_cvtps_epi32(x); }
inline F power_of_two(I x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(x, set(127)), 23)); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline F load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F subtract(F a, F b) { return _mm512_sub_ps(a, b); }
inline F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
inline F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F divide(F a, F b) { return _mm512_div_ps(a, b); }
inline F square_root(F a) { return _mm512_sqrt_ps(a); }
inline F least(F a, F b) { return _mm512_min_ps(a, b); }  // b if a is not a number
inline F largest(F a, F b) { return _mm512_max_ps(a, b); }

#elif defined(INSTRUCTIONS_avx2) || defined(INSTRUCTIONS_avx_vnni)

constexpr int LANES = 8;
using I = __m256i;
using F = __m256;

inline I zero() { return _mm256_setzero_si256(); }
inline I set(int32_t x) { return _mm256_set1_epi32(x); }
inline I load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store(void *p, I x) { _mm256_storeu_si256(static_cast<__m256i *>(p), x); }
inline void store_some(void *p, I x, int n) {
  const I place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_epi32(static_cast<int *>(p), _mm256_cmpgt_epi32(set(n), place), x);
}
inline I add(I a, I b) { return _mm256_add_epi32(a, b); }
inline I flip_signs(I x) { return _mm256_xor_si256(x, _mm256_set1_epi32(static_cast<int>(0x80808080u))); }
#if defined(INSTRUCTIONS_avx_vnni)
using Step = __m256i;
inline void spread(const int8_t *w, Step &out) {
  int32_t four;
  memcpy(&four, w, 4);
  out = _mm256_set1_epi32(four);
}
inline I dot(I sum, I x, Step w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
#else
// The byte product of AVX2 adds two products in 16 bits, and saturates: 255 · 128 fits, 2 · 255 · 127 does not.
// So bytes become 16-bit numbers first, the even and the odd ones apart, if weights are not light.
#define LIGHT_IS_ELSE
using Light = __m256i;
inline void spread(const int8_t *w, Light &out) {
  int32_t four;
  memcpy(&four, w, 4);
  out = _mm256_set1_epi32(four);
}
inline I dot(I sum, I x, Light w) {
  return add(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}
struct Step {
  __m256i even, odd;
};
inline void spread(const int8_t *w, Step &out) {
  __m256i all;
  spread(w, all);
  out = {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
}
inline I dot(I sum, I x, Step w) {
  const I even = _mm256_and_si256(x, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(x, 8);
  return add(add(sum, _mm256_madd_epi16(even, w.even)), _mm256_madd_epi16(odd, w.odd));
}
#endif
inline I sum_bytes(I signed_bytes) {  // at most 2 · 128 in 16 bits
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), signed_bytes), _mm256_set1_epi16(1));
}
inline I interleave(I a, I b, I c, I d) {
  const I abcd = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  return _mm256_shuffle_epi8(
      abcd, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
inline void store_bytes(void *p, I x) {
  const I low = _mm256_shuffle_epi8(
      x, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1,
                          -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(static_cast<__m128i *>(p), eight);
}
inline F to_float(I x) { return _mm256_cvtepi32_ps(x); }
inline I to_int(F x) { return _mm256_cvtps_epi32(x); }
inline F power_of_two(I x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x, set(127)), 23)); }
inline F set(float x) { return _mm256_set1_ps(x); }
inline F load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, F x) { _mm256_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F subtract(F a, F b) { return _mm256_sub_ps(a, b); }
inline F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
inline F multiply_add(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F divide(F a, F b) { return _mm256_div_ps(a, b); }
inline F square_root(F a) { return _mm256_sqrt_ps(a); }
inline F least(F a, F b) { return _mm256_min_ps(a, b); }
inline F largest(F a, F b) { return _mm256_max_ps(a, b); }

#elif defined(INSTRUCTIONS_portable)

constexpr int LANES = 8;
struct I {
  int32_t at[LANES];
};
struct F {
  float at[LANES];
};
struct Step {
  int8_t at[4];
};

template <typename Out, typename Function>
inline Out each(Function f) {
  Out out;
  for (int i = 0; i < LANES; i++) out.at[i] = f(i);
  return out;
}
inline I set(int32_t x) { return each<I>([=](int) { return x; }); }
inline I zero() { return set(0); }
inline I load(const void *p) {
  I x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void store(void *p, I x) { memcpy(p, &x, sizeof x); }
inline void store_some(void *p, I x, int n) { memcpy(p, &x, sizeof(int32_t) * static_cast<size_t>(n)); }
inline I add(I a, I b) {
  return each<I>([=](int i) {
    return static_cast<int32_t>(static_cast<uint32_t>(a.at[i]) + static_cast<uint32_t>(b.at[i]));
  });
}
inline I flip_signs(I x) {
  return each<I>([=](int i) { return static_cast<int32_t>(static_cast<uint32_t>(x.at[i]) ^ 0x80808080u); });
}
inline void spread(const int8_t *w, Step &out) { memcpy(&out, w, sizeof out); }
inline int32_t byte(I x, int lane, int k) { return (static_cast<uint32_t>(x.at[lane]) >> (8 * k)) & 0xff; }
inline I dot(I sum, I x, Step w) {
  return each<I>([=](int i) {
    const int32_t total = byte(x, i, 0) * w.at[0] + byte(x, i, 1) * w.at[1] + byte(x, i, 2) * w.at[2] +
                          byte(x, i, 3) * w.at[3];
    return static_cast<int32_t>(static_cast<uint32_t>(sum.at[i]) + static_cast<uint32_t>(total));
  });
}
inline I sum_bytes(I x) {
  return each<I>([=](int i) {
    int32_t total = 0;
    for (int k = 0; k < 4; k++) total += static_cast<int8_t>(byte(x, i, k));
    return total;
  });
}
inline uint32_t saturated(int32_t x) { return static_cast<uint32_t>(x < 0 ? 0 : x > 255 ? 255 : x); }
inline I interleave(I a, I b, I c, I d) {
  return each<I>([=](int i) {
    return static_cast<int32_t>(saturated(a.at[i]) | saturated(b.at[i]) << 8 | saturated(c.at[i]) << 16 |
                                saturated(d.at[i]) << 24);
  });
}
inline void store_bytes(void *p, I x) {
  for (int i = 0; i < LANES; i++) static_cast<uint8_t *>(p)[i] = static_cast<uint8_t>(x.at[i]);
}
inline F to_float(I x) {
  return each<F>([=](int i) { return static_cast<float>(x.at[i]); });
}
inline I to_int(F x) {
  return each<I>([=](int i) {  // what does not fit becomes the smallest number, as x86 has it
    const bool fits = x.at[i] >= -2147483648.0f && x.at[i] < 2147483648.0f;
    return fits ? static_cast<int32_t>(__builtin_rintf(x.at[i])) : INT32_MIN;
  });
}
inline F power_of_two(I x) {
  F out;
  for (int i = 0; i < LANES; i++) {
    const uint32_t bits = static_cast<uint32_t>(x.at[i] + 127) << 23;
    memcpy(&out.at[i], &bits, 4);
  }
  return out;
}
inline F set(float x) { return each<F>([=](int) { return x; }); }
inline F load(const float *p) {
  F x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float *p, F x) { memcpy(p, &x, sizeof x); }
inline F add(F a, F b) { return each<F>([=](int i) { return a.at[i] + b.at[i]; }); }
inline F subtract(F a, F b) { return each<F>([=](int i) { return a.at[i] - b.at[i]; }); }
inline F multiply(F a, F b) { return each<F>([=](int i) { return a.at[i] * b.at[i]; }); }
inline F multiply_add(F a, F b, F c) { return each<F>([=](int i) { return a.at[i] * b.at[i] + c.at[i]; }); }
inline F divide(F a, F b) { return each<F>([=](int i) { return a.at[i] / b.at[i]; }); }
inline F square_root(F a) { return each<F>([=](int i) { return __builtin_sqrtf(a.at[i]); }); }
inline F least(F a, F b) { return each<F>([=](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; }); }
inline F largest(F a, F b) { return each<F>([=](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; }); }

#endif

#if !defined(LIGHT_IS_ELSE)
using Light = Step;
#endif

inline F bounded(F x, float low, float high) { return least(largest(x, set(low)), set(high)); }

// e^x, to a relative error of 2e-7; 0 or infinity beyond ±87.
inline F exponential(F x) {
  x = bounded(multiply(x, set(1.44269504f)), -126.0f, 126.0f);
  const I whole = to_int(x);
  const F rest = subtract(x, to_float(whole));
  F y = set(0.0013266979929626498f);
  y = multiply_add(y, rest, set(0.009675469400229883f));
  y = multiply_add(y, rest, set(0.05550742675438569f));
  y = multiply_add(y, rest, set(0.2402212157613929f));
  y = multiply_add(y, rest, set(0.6931469490691692f));
  y = multiply_add(y, rest, set(1.0000000710651848f));
  return multiply(y, power_of_two(whole));
}

// x · Φ(x), with erf(x / √2) as x times a polynomial of x² up to 4.8, and ±1 beyond; to 2e-6 there, and
// a relative error of 1e-6 further out.
inline F gelu(F x) {
  constexpr float end = 4.8f;
  const F inner = bounded(x, -end, end);
  const F u = multiply_add(multiply(inner, inner), set(2 / (end * end)), set(-1.0f));
  F y = set(-0.0012945736525580287f);
  y = multiply_add(y, u, set(0.004019259940832853f));
  y = multiply_add(y, u, set(-0.0056169056333601475f));
  y = multiply_add(y, u, set(0.008453382179141045f));
  y = multiply_add(y, u, set(-0.01696898601949215f));
  y = multiply_add(y, u, set(0.029375581070780754f));
  y = multiply_add(y, u, set(-0.04372377321124077f));
  y = multiply_add(y, u, set(0.060978133231401443f));
  y = multiply_add(y, u, set(-0.0812092274427414f));
  y = multiply_add(y, u, set(0.10585242509841919f));
  y = multiply_add(y, u, set(-0.14595723152160645f));
  y = multiply_add(y, u, set(0.2944249212741852f));
  const F half = multiply(x, set(0.5f));
  return multiply_add(half, multiply(y, inner), half);
}

}  // namespace
