#include "unfolded_kernel.h"

namespace {

// Output positions [first, last) whose tap at `offset` falls into [0, size).
struct Range {
  int64_t first, last;
  Range(int64_t offset, int64_t stride, int64_t size, int64_t outputs) {
    first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
    last = size <= offset ? 0 : (size - offset - 1) / stride + 1;
    if (last > outputs) last = outputs;
  }
};

// f(image, row): every number's place in both.
template <class F>
inline void walk(const Unfolded& u, int64_t from, int64_t to, const F& f) {
  const int64_t out_height = u.out_height(), out_width = u.out_width(), across = u.across(), taps = u.kernel * u.kernel;
  for (int64_t b = 0; b < u.batch; b++)
    for (int64_t c = from; c < to; c++)
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t top = tap / u.kernel - u.padding, left = tap % u.kernel - u.padding;
        const Range down(top, u.stride, u.height, out_height), right(left, u.stride, u.width, out_width);
        for (int64_t y = down.first; y < down.last; y++) {
          const int64_t image = ((b * u.channels + c) * u.height + y * u.stride + top) * u.width + left;
          const int64_t row = (b * out_height + y) * out_width * across + c * taps + tap;
          for (int64_t x = right.first; x < right.last; x++) f(image + x * u.stride, row + x * across);
        }
      }
}

}  // namespace

void unfold(const Unfolded& u, int64_t from, int64_t to, const float* image, float* rows) {
  walk(u, from, to, [&](int64_t i, int64_t r) { rows[r] = image[i]; });
}

void fold(const Unfolded& u, int64_t from, int64_t to, const float* rows, float* image) {
  walk(u, from, to, [&](int64_t i, int64_t r) { image[i] += rows[r]; });
}
