// A convolution of few pixels as one product of matrices. oneDNN puts the weights into an order of its own first, at every call;
// where there are fewer pixels than output channels, that costs more than to lay out the pixels, as is done here.
#include "cpu.h"
#include "ext.h"
#include "linear.h"
#include "parallel.h"
#include <torch/csrc/autograd/custom_function.h>

namespace unfolded {

using Bias = std::optional<at::Tensor>;

struct Shape {
  int64_t batch, channels, height, width, kernel, stride, padding;
  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  int64_t pixels() const { return batch * out_height() * out_width(); }
  int64_t taps() const { return kernel * kernel; }
};

Shape shape(const at::Tensor& x, const at::Tensor& w, int64_t stride, int64_t padding) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), w.size(2), stride, padding};
}

bool pays(const at::Tensor& x, const at::Tensor& w, const Bias& bias, int64_t stride, int64_t padding) {
  if (!x.device().is_cpu() || x.scalar_type() != at::kFloat || w.scalar_type() != at::kFloat || w.requires_grad()) return false;
  if (x.dim() != 4 || w.dim() != 4 || w.size(2) != w.size(3) || x.size(1) != w.size(1) || stride < 1 || padding < 0) return false;
  if (bias && (bias->requires_grad() || bias->scalar_type() != at::kFloat || bias->sizes() != w.sizes().slice(0, 1))) return false;
  Shape s = shape(x, w, stride, padding);
  return s.out_height() > 0 && s.out_width() > 0 && x.numel() > 0 && w.numel() >= 1 << 16 && s.pixels() <= w.size(0);
}

// f(tap, pixel) for the taps of an output pixel that fall on a pixel of the image.
template <class F>
void taps(const Shape& s, int64_t oy, int64_t ox, const F& f) {
  for (int64_t ky = 0; ky < s.kernel; ky++)
    for (int64_t kx = 0; kx < s.kernel; kx++) {
      int64_t y = oy * s.stride + ky - s.padding, x = ox * s.stride + kx - s.padding;
      if (y >= 0 && y < s.height && x >= 0 && x < s.width) f(ky * s.kernel + kx, y * s.width + x);
    }
}

// f(image, row): where in [batch, channels, height, width] and in [pixels, channels * taps] each number lies, for all threads.
template <class F>
void walk(const Shape& s, const F& f) {
  int64_t across = s.channels * s.taps(), per_image = s.out_height() * s.out_width();
  parallel::ranges(s.channels, 16, [&](int64_t from, int64_t to) {
    for (int64_t b = 0; b < s.batch; b++)
      for (int64_t c = from; c < to; c++)
        for (int64_t oy = 0; oy < s.out_height(); oy++)
          for (int64_t ox = 0; ox < s.out_width(); ox++) {
            int64_t plane = (b * s.channels + c) * s.height * s.width;
            int64_t row = (b * per_image + oy * s.out_width() + ox) * across + c * s.taps();
            taps(s, oy, ox, [&](int64_t tap, int64_t pixel) { f(plane + pixel, row + tap); });
          }
  });
}

struct Function : torch::autograd::Function<Function> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& w, const Bias& bias,
                            int64_t stride, int64_t padding) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({w});
    context->saved_data["sizes"] = input.sizes().vec();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    Shape s = shape(input, w, stride, padding);
    at::Tensor x = input.contiguous(), rows = at::zeros({s.pixels(), s.channels * s.taps()}, x.options());
    const float* from = x.const_data_ptr<float>();
    float* to = rows.data_ptr<float>();
    walk(s, [&](int64_t image, int64_t row) { to[row] = from[image]; });
    at::Tensor y = linear::product(rows, w.reshape({w.size(0), -1}), bias);
    return y.view({s.batch, s.out_height(), s.out_width(), -1}).permute({0, 3, 1, 2}).contiguous();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    at::AutoDispatchBelowADInplaceOrView guard;
    at::Tensor w = context->get_saved_variables()[0], dx = at::zeros(context->saved_data["sizes"].toIntVector(), w.options());
    Shape s = shape(dx, w, context->saved_data["stride"].toInt(), context->saved_data["padding"].toInt());
    at::Tensor dy = gradients[0].permute({0, 2, 3, 1}).reshape({s.pixels(), w.size(0)});
    at::Tensor rows = linear::product(dy, w.reshape({w.size(0), -1}).t(), std::nullopt).contiguous();
    const float* from = rows.const_data_ptr<float>();
    float* to = dx.data_ptr<float>();
    walk(s, [&](int64_t image, int64_t row) { to[image] += from[row]; });  // a channel is one thread's
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace unfolded
