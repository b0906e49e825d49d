// silu((x - mean) / deviation * weight + bias), and its gradient at x. SiLU is z / (1 + exp(-z)).
#include "group_norm_kernel.h"
#include "vectors.h"

namespace {

INLINE v8 all(float x) { return v8{x, x, x, x, x, x, x, x}; }

INLINE float sum(v8 x) {
  float total = 0;
  for (int i = 0; i < 8; i++) total += x[i];
  return total;
}

// Less than 2e-7 from exp, relatively, for -87 <= x <= 87, beyond which it stays. NaN is taken for one of the ends.
INLINE v8 exponential(v8 x) {
  x = (v8)_mm256_max_ps(_mm256_min_ps((__m256)x, _mm256_set1_ps(87)), _mm256_set1_ps(-87));
  v8 n = (v8)_mm256_round_ps((__m256)(x * 1.44269504f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  v8 r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, of which the first is exact
  v8 p = all(1.f / 720);
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32((__m256)n), _mm256_set1_epi32(127)), 23);
  return p * (v8)_mm256_castsi256_ps(power);
}

constexpr int64_t PART = 2048;  // so many are added up in float32, their sums in float64

// Calls `each(place, count)` for all of [from, to): for eight numbers at once, and for those that are left.
template <class F>
INLINE void each_eight(int64_t from, int64_t to, F&& each) {
  int64_t i = from;
  for (; i + 8 <= to; i += 8) each(i, 8);
  if (i < to) each(i, to - i);
}

INLINE v8 some(const float* p, int64_t count) {
  if (count == 8) return load<v8>(p);
  float buffer[8] = {0};
  for (int64_t i = 0; i < count; i++) buffer[i] = p[i];
  return load<v8>(buffer);
}

INLINE void put(float* p, v8 x, int64_t count) {
  if (count == 8) return store(p, x);
  for (int64_t i = 0; i < count; i++) p[i] = x[i];
}

// x less the mean, and 0 where there is no number.
INLINE v8 centred(const float* p, float mean, float rest, int64_t count) {
  v8 x = some(p, count) - mean - rest;
  for (int64_t i = count; i < 8; i++) x[i] = 0;
  return x;
}

void forward(const GroupNormSilu& g, int64_t row, float* y) {
  int64_t size = g.channels * g.pixels;
  const float* x = g.x + row * size;
  double total = 0, differences = 0, squares = 0;
  for (int64_t part = 0; part < size; part += PART) {
    v8 s{};
    each_eight(part, part + PART < size ? part + PART : size, [&](int64_t i, int64_t count) { s += some(x + i, count); });
    total += sum(s);
  }
  float mean = total / size;
  for (int64_t part = 0; part < size; part += PART) {
    v8 s{}, t{};
    each_eight(part, part + PART < size ? part + PART : size, [&](int64_t i, int64_t count) {
      v8 d = centred(x + i, mean, 0, count);
      s += d;
      t += d * d;
    });
    differences += sum(s);
    squares += sum(t);
  }
  float rest = differences / size;  // what the first sum was off
  float inverse = 1 / __builtin_sqrt((squares - differences * differences / size) / size + g.eps);
  g.mean[row] = mean;
  g.rest_of_mean[row] = rest;
  g.inverse_deviation[row] = inverse;

  int64_t group = row % g.groups * g.channels;
  for (int64_t c = 0; c < g.channels; c++) {
    float scale = inverse * g.weight[group + c], shift = g.bias[group + c];
    const float* from = x + c * g.pixels;
    float* to = y + row * size + c * g.pixels;
    each_eight(0, g.pixels, [&](int64_t i, int64_t count) {
      v8 z = (some(from + i, count) - mean - rest) * scale + shift;
      put(to + i, z / (1.f + exponential(-z)), count);
    });
  }
}

// With g the gradient at the normalised numbers n: (g - mean of g - n * mean of g n) / deviation.
void backward(const GroupNormSilu& g, int64_t row, const float* dy, float* dx) {
  int64_t size = g.channels * g.pixels, group = row % g.groups * g.channels;
  const float* x = g.x + row * size;
  float mean = g.mean[row], rest = g.rest_of_mean[row], inverse = g.inverse_deviation[row];
  dy += row * size;
  dx += row * size;
  double plain = 0, weighted = 0;
  for (int64_t c = 0; c < g.channels; c++) {
    float weight = g.weight[group + c], scale = inverse * weight, shift = g.bias[group + c];
    int64_t at = c * g.pixels, end = at + g.pixels;
    for (int64_t part = at; part < end; part += PART) {
      v8 s{}, t{};
      each_eight(part, part + PART < end ? part + PART : end, [&](int64_t i, int64_t count) {
        v8 d = centred(x + i, mean, rest, count), z = d * scale + shift, sigmoid = 1.f / (1.f + exponential(-z));
        v8 gradient = some(dy + i, count) * weight * sigmoid * (1.f + z * (1.f - sigmoid));
        s += gradient;
        t += gradient * d;
        put(dx + i, gradient, count);
      });
      plain += sum(s);
      weighted += sum(t);
    }
  }
  float constant = plain / size * inverse, slope = weighted / size * inverse * inverse * inverse;
  each_eight(0, size, [&](int64_t i, int64_t count) {
    put(dx + i, some(dx + i, count) * inverse - constant - centred(x + i, mean, rest, count) * slope, count);
  });
}

}  // namespace

extern const GroupNormSiluKernel group_norm_silu_avx2 = {forward, backward};
