// A convolution of few pixels as one product of matrices. oneDNN puts the weights into an order of its own first, at every call;
// where there are fewer pixels than output channels, that costs more than to lay out the pixels, as is done here.
#include "cpu.h"
#include "ext.h"
#include "linear.h"
#include "parallel.h"
#include "unfolded_kernel.h"
#include <torch/csrc/autograd/custom_function.h>

namespace unfolded {

using Bias = std::optional<at::Tensor>;

Unfolded shape(const at::Tensor& x, const at::Tensor& w, int64_t stride, int64_t padding) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), w.size(2), stride, padding};
}

bool pays(const at::Tensor& x, const at::Tensor& w, const Bias& bias, int64_t stride, int64_t padding) {
  if (!cpu::takes(x) || !cpu::takes(w) || w.requires_grad() || x.dim() != 4 || w.dim() != 4 || w.size(2) != w.size(3)) return false;
  if (!cpu::takes_bias(bias, w.size(0))) return false;
  if (x.size(1) != w.size(1) || stride < 1 || padding < 0) return false;
  if (std::min(x.size(2), x.size(3)) + 2 * padding < w.size(2)) return false;
  Unfolded u = shape(x, w, stride, padding);
  return w.numel() >= 1 << 16 && u.rows() <= w.size(0);
}

struct Function : torch::autograd::Function<Function> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& w, const Bias& bias,
                            int64_t stride, int64_t padding) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({w});
    context->saved_data["sizes"] = input.sizes().vec();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    Unfolded u = shape(input, w, stride, padding);
    at::Tensor x = input.contiguous(), rows = at::empty({u.rows(), u.across()}, x.options());
    parallel::ranges(u.channels, 16, [&](int64_t from, int64_t to) {
      unfold(u, from, to, x.const_data_ptr<float>(), rows.data_ptr<float>());
    });
    at::Tensor y = linear::product(rows, w.reshape({w.size(0), -1}), bias);
    return y.view({u.batch, u.out_height(), u.out_width(), -1}).permute({0, 3, 1, 2}).contiguous();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    once_only();
    at::AutoDispatchBelowADInplaceOrView guard;
    at::Tensor w = context->get_saved_variables()[0], dx = at::empty(context->saved_data["sizes"].toIntVector(), w.options());
    Unfolded u = shape(dx, w, context->saved_data["stride"].toInt(), context->saved_data["padding"].toInt());
    at::Tensor dy = gradients[0].permute({0, 2, 3, 1}).reshape({u.rows(), w.size(0)});
    at::Tensor rows = linear::product(dy, w.reshape({w.size(0), -1}).t(), std::nullopt).contiguous();
    parallel::ranges(u.channels, 16, [&](int64_t from, int64_t to) {
      fold(u, from, to, rows.const_data_ptr<float>(), dx.data_ptr<float>());
    });
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace unfolded
