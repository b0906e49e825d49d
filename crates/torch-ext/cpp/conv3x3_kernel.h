// What a 3x3 convolution by Winograd's method asks of a kernel, which is compiled for AVX2 and for AVX-512.
// No function here may be the linker's to choose: it would take one of the two for everybody (vectors.h).
#pragma once
#include <cstddef>
#include <cstdint>

struct Conv3x3 {
  int64_t batch, inputs, outputs, height, width;  // channels are multiples of 8
  const float* x;                                 // [batch, inputs, height, width]
  const float* transformed;                       // weights, as `transform_weights` gives them
  const float* bias;                              // [outputs], or null
  float* y;                                       // [batch, outputs, height, width]

  __attribute__((always_inline)) int64_t tile_rows() const { return (height + 3) / 4; }  // of one image
  __attribute__((always_inline)) int64_t tiles_across() const { return (width + 3) / 4; }
};

// Numbers from one point of the transformed weights to the next.
static constexpr int64_t weights_at_point(int64_t inputs, int64_t outputs) { return inputs * outputs + 16; }

struct Conv3x3Kernel {
  // Input channels [from, to) of the weights [outputs, inputs, 3, 3] to 36 * weights_at_point numbers. `transposed`: those of the
  // convolution that gives the gradient at the input, of weights [inputs, outputs, 3, 3].
  void (*transform_weights)(const float* w, bool transposed, int64_t inputs, int64_t outputs, int64_t from, int64_t to, float* transformed);
  // How many numbers `run` needs as scratch for so many rows of tiles.
  size_t (*scratch)(const Conv3x3& c, int64_t rows);
  // Rows [from, to) of tiles, counted over all images.
  void (*run)(const Conv3x3& c, int64_t from, int64_t to, float* scratch);
};

extern const Conv3x3Kernel conv3x3_avx2, conv3x3_avx512;
