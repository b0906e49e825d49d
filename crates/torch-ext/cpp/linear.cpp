#include "linear.h"
#include "cpu.h"
#include "ext.h"
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

namespace linear {

using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, c10::string_view, c10::List<std::optional<at::Scalar>>,
                             std::optional<c10::string_view>);

// oneDNN's product of matrices; none in a libtorch without it.
const std::optional<c10::TypedOperatorHandle<Pointwise>>& onednn() {
  static const auto found = [] {
    auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    return schema ? std::optional(schema->typed<Pointwise>()) : std::nullopt;
  }();
  return found;
}

constexpr int64_t LEAST = 1 << 16;  // products below which a call of oneDNN costs more than it saves

bool pays(int64_t m, int64_t n, int64_t k) { return cpu::mkl_is_slower() && m * n * k >= LEAST && onednn(); }

at::Tensor product(const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
  if (!pays(x.size(0), w.size(0), x.size(1))) return at::linear(x, w, bias);
  at::Tensor dense = w.is_contiguous() || w.t().is_contiguous() ? w : w.contiguous();
  return onednn()->call(x, dense, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

bool fits(const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
  return cpu::takes(x) && cpu::takes(w) && x.dim() >= 2 && w.dim() == 2 && x.size(-1) == w.size(1) &&
         cpu::takes_bias(bias, w.size(0)) && pays(x.numel() / x.size(-1), w.size(0), w.size(1));
}

struct Function : torch::autograd::Function<Function> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x.requires_grad() ? w : at::Tensor(), w.requires_grad() ? x : at::Tensor()});
    auto sizes = x.sizes().vec();
    sizes.back() = w.size(0);
    return product(x.reshape({-1, w.size(1)}), w, bias).view(sizes);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    once_only();
    at::AutoDispatchBelowADInplaceOrView guard;
    auto saved = context->get_saved_variables();
    const at::Tensor &w = saved[0], &x = saved[1], &dy = gradients[0];
    at::Tensor dx, dw, rows = dy.reshape({-1, dy.size(-1)});
    if (w.defined() && context->needs_input_grad(0)) {
      auto sizes = dy.sizes().vec();
      sizes.back() = w.size(1);
      dx = product(rows, w.t(), std::nullopt).view(sizes);
    }
    if (x.defined() && context->needs_input_grad(1)) dw = product(rows.t(), x.reshape({-1, x.size(-1)}).t(), std::nullopt);
    return {dx, dw, at::Tensor()};
  }
};

}  // namespace linear

extern "C" char* ext_linear(TensorPtr x, TensorPtr w, TensorPtr bias, TensorPtr* out) {
  return guarded([&] {
    auto b = bias ? linear::Bias(*bias) : std::nullopt;
    *out = new at::Tensor(linear::fits(*x, *w, b) ? linear::Function::apply(*x, *w, b) : at::linear(*x, *w, b));
  });
}
