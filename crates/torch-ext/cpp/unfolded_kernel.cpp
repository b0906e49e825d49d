#include "unfolded_kernel.h"
#include <vector>

namespace {

// f(padded, row) for every output pixel of an image: its first tap in the channel's padded plane, and its numbers in the rows.
template <class F>
inline void pixels(const Unfolded& u, int64_t image, int64_t channel, const F& f) {
  const int64_t width = u.width + 2 * u.padding, across = u.across();
  int64_t row = image * u.out_height() * u.out_width() * across + channel * u.kernel * u.kernel;
  for (int64_t y = 0; y < u.out_height(); y++)
    for (int64_t x = 0; x < u.out_width(); x++, row += across) f((y * width + x) * u.stride, row);
}

// f(tap in the padded plane, tap in the row); KERNEL is 0 for one that is known at run time only.
template <int KERNEL, class F>
inline void taps(const Unfolded& u, const F& f) {
  const int64_t kernel = KERNEL ? KERNEL : u.kernel, width = u.width + 2 * u.padding;
  for (int64_t y = 0; y < kernel; y++)
    for (int64_t x = 0; x < kernel; x++) f(y * width + x, y * kernel + x);
}

// f(image, padded): places of the channel's own numbers.
template <class F>
inline void inside(const Unfolded& u, int64_t image, int64_t channel, const F& f) {
  const int64_t width = u.width + 2 * u.padding, plane = (image * u.channels + channel) * u.height * u.width;
  for (int64_t y = 0; y < u.height; y++)
    for (int64_t x = 0; x < u.width; x++) f(plane + y * u.width + x, (y + u.padding) * width + x + u.padding);
}

std::vector<float> padded_plane(const Unfolded& u) {
  return std::vector<float>((u.height + 2 * u.padding) * (u.width + 2 * u.padding));
}

template <int KERNEL>
void unfold_by(const Unfolded& u, int64_t from, int64_t to, const float* image, float* rows) {
  auto plane = padded_plane(u);
  float* padded = plane.data();
  for (int64_t b = 0; b < u.batch; b++)
    for (int64_t c = from; c < to; c++) {
      inside(u, b, c, [&](int64_t i, int64_t p) { padded[p] = image[i]; });
      pixels(u, b, c, [&](int64_t p, int64_t r) { taps<KERNEL>(u, [&](int64_t pt, int64_t rt) { rows[r + rt] = padded[p + pt]; }); });
    }
}

template <int KERNEL>
void fold_by(const Unfolded& u, int64_t from, int64_t to, const float* rows, float* image) {
  auto plane = padded_plane(u);
  float* padded = plane.data();
  for (int64_t b = 0; b < u.batch; b++)
    for (int64_t c = from; c < to; c++) {
      for (float& sum : plane) sum = 0;
      pixels(u, b, c, [&](int64_t p, int64_t r) { taps<KERNEL>(u, [&](int64_t pt, int64_t rt) { padded[p + pt] += rows[r + rt]; }); });
      inside(u, b, c, [&](int64_t i, int64_t p) { image[i] = padded[p]; });
    }
}

}  // namespace

void unfold(const Unfolded& u, int64_t from, int64_t to, const float* image, float* rows) {
  (u.kernel == 3 ? unfold_by<3> : unfold_by<0>)(u, from, to, image, rows);
}

void fold(const Unfolded& u, int64_t from, int64_t to, const float* rows, float* image) {
  (u.kernel == 3 ? fold_by<3> : fold_by<0>)(u, from, to, rows, image);
}
