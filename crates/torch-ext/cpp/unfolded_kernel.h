// Where the numbers of an image lie in the rows that a convolution multiplies by its weights. It is optimized more than the rest.
#pragma once
#include <cstdint>

struct Unfolded {
  int64_t batch, channels, height, width, kernel, stride, padding;

  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  int64_t rows() const { return batch * out_height() * out_width(); }
  int64_t across() const { return channels * kernel * kernel; }
};

// Channels [from, to) of `image` [batch, channels, height, width] to `rows` [rows, across], zeros where a tap lies outside.
void unfold(const Unfolded& u, int64_t from, int64_t to, const float* image, float* rows);

// The way back: sums of `rows` to the channels [from, to) of `image`.
void fold(const Unfolded& u, int64_t from, int64_t to, const float* rows, float* image);
