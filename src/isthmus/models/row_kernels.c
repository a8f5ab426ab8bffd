/* The memory-bound parts of an expert layer, each one pass over its rows, in bf16 and fp32.

   A row is computed by one thread in one order, so results do not depend on the number of threads. The file
   includes itself for each element type. See row_kernels.py for the calls. */

#ifndef ELEMENT

#include <stdint.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(function) JOIN(function, ELEMENT)
#define FOR_ROWS _Pragma("omp parallel for num_threads(threads) if (threads > 1) schedule(static)")

typedef uint16_t bf16;
typedef float fp32;

static inline float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float load_bf16(bf16 x) { return from_bits((uint32_t)x << 16); }
static inline float load_fp32(fp32 x) { return x; }
static inline fp32 store_fp32(float x) { return x; }
static inline bf16 store_bf16(float x) { /* to nearest, half to even; a NaN stays one */
  uint32_t bits = to_bits(x), rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return (bf16)(x == x ? rounded : 0x7FC0u);
}

/* exp to 2 ulp (Cody and Waite); unlike expf it is made vectors of. */
static inline float exp_(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
  float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * from_bits((to_bits(shifted) + 127u) << 23);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

#define ELEMENT bf16
#include __FILE__
#undef ELEMENT
#define ELEMENT fp32
#include __FILE__

/* out[i][r] = in[r][i], for 8 x 8 elements: three rounds of interleaving. */
typedef uint16_t eight __attribute__((vector_size(16)));
#define LOW(a, b) __builtin_shuffle(a, b, (eight){0, 8, 1, 9, 2, 10, 3, 11})
#define HIGH(a, b) __builtin_shuffle(a, b, (eight){4, 12, 5, 13, 6, 14, 7, 15})

static inline void transpose_8x8(const bf16 *in, int64_t in_width, bf16 *out, int64_t out_width) {
  eight a[8], b[8];
  for (int i = 0; i < 8; i++) memcpy(&a[i], in + i * in_width, 16);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 4; i++) { b[2 * i] = LOW(a[i], a[i + 4]); b[2 * i + 1] = HIGH(a[i], a[i + 4]); }
    memcpy(a, b, sizeof a);
  }
  for (int i = 0; i < 8; i++) memcpy(out + i * out_width, &a[i], 16);
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* out[i][r] = in[r][i], by tiles of cache lines. */
void transpose_bf16(const bf16 *in, bf16 *out, int64_t rows, int64_t width, int threads) {
  FOR_ROWS
  for (int64_t left = 0; left < width; left += 32) {
    int64_t right = smaller(left + 32, width);
    for (int64_t top = 0; top < rows; top += 32) {
      int64_t bottom = smaller(top + 32, rows);
      if ((right - left) % 8 == 0 && (bottom - top) % 8 == 0) {
        for (int64_t i = left; i < right; i += 8)
          for (int64_t r = top; r < bottom; r += 8) transpose_8x8(in + r * width + i, width, out + i * rows + r, rows);
      } else {
        for (int64_t i = left; i < right; i++)
          for (int64_t r = top; r < bottom; r++) out[i * rows + r] = in[r * width + i];
      }
    }
  }
}

#else

/* out[r] = in[token[r]], zeros where that is -1. */
void NAME(gather)(const ELEMENT *in, const int64_t *token, ELEMENT *out, int64_t rows, int64_t width, int threads) {
  FOR_ROWS
  for (int64_t r = 0; r < rows; r++) {
    ELEMENT *to = out + r * width;
    if (token[r] < 0) memset(to, 0, width * sizeof(ELEMENT));
    else memcpy(to, in + token[r] * width, width * sizeof(ELEMENT));
  }
}

/* out[r] = weight[r] * silu(gate[r]) * up[r]. */
void NAME(swiglu)(const ELEMENT *gate_up, const float *weight, ELEMENT *out, int64_t rows, int64_t width, int threads) {
  FOR_ROWS
  for (int64_t r = 0; r < rows; r++) {
    const ELEMENT *gate = gate_up + r * 2 * width, *up = gate + width;
    ELEMENT *to = out + r * width;
    float w = weight[r];
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      float g = NAME(load)(gate[i]);
      to[i] = NAME(store)(w * (g * sigmoid(g) * NAME(load)(up[i])));
    }
  }
}

/* From `grad`, the gradient of out above: those of gate_up and weight, and out once more. */
void NAME(swiglu_backward)(const ELEMENT *grad, const ELEMENT *gate_up, const float *weight, ELEMENT *grad_gate_up,
                           ELEMENT *out, float *grad_weight, int64_t rows, int64_t width, int threads) {
  FOR_ROWS
  for (int64_t r = 0; r < rows; r++) {
    const ELEMENT *gate = gate_up + r * 2 * width, *up = gate + width, *from = grad + r * width;
    ELEMENT *to_gate = grad_gate_up + r * 2 * width, *to_up = to_gate + width, *to = out + r * width;
    float w = weight[r], sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) {
      float g = NAME(load)(gate[i]), u = NAME(load)(up[i]), d = NAME(load)(from[i]);
      float s = sigmoid(g), silu = g * s, a = silu * u, wd = w * d;
      sum += d * a;
      to[i] = NAME(store)(w * a);
      to_up[i] = NAME(store)(wd * silu);
      to_gate[i] = NAME(store)(wd * u * (s + silu * (1.0f - s)));
    }
    grad_weight[r] = sum;
  }
}

/* out[n] = sum over k of in[row[n][k]], added in fp32. */
void NAME(combine)(const ELEMENT *in, const int64_t *row, ELEMENT *out, int64_t tokens, int64_t width, int64_t k,
                   int threads) {
  FOR_ROWS
  for (int64_t n = 0; n < tokens; n++) {
    float sum[256];
    for (int64_t low = 0; low < width; low += 256) {
      int64_t count = width - low < 256 ? width - low : 256;
      memset(sum, 0, sizeof sum);
      for (int64_t j = 0; j < k; j++) {
        const ELEMENT *from = in + row[n * k + j] * width + low;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] += NAME(load)(from[i]);
      }
      ELEMENT *to = out + n * width + low;
#pragma omp simd
      for (int64_t i = 0; i < count; i++) to[i] = NAME(store)(sum[i]);
    }
  }
}

#endif
