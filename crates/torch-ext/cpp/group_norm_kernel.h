// Group norm followed by SiLU, in one pass over the memory that libtorch takes three for. The kernel is compiled for AVX2.
#pragma once
#include <cstddef>
#include <cstdint>

struct GroupNormSilu {
  int64_t channels, pixels;  // of a group: its numbers lie together
  int64_t groups;            // of an image
  float eps;
  const float* x;                      // [rows, channels, pixels], where a row is a group of an image
  const float *weight, *bias;          // [groups, channels]
  // [rows]; `forward` writes them, `backward` reads them. The mean is a sum of two, since a large one's last digit can be
  // more than the deviation.
  float *mean, *rest_of_mean, *inverse_deviation;
};

struct GroupNormSiluKernel {
  void (*forward)(const GroupNormSilu& g, int64_t row, float* y);
  // From the gradient at the output to the one at the input.
  void (*backward)(const GroupNormSilu& g, int64_t row, const float* dy, float* dx);
};

extern const GroupNormSiluKernel group_norm_silu_avx2;
