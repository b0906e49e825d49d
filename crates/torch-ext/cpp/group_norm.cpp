#include "cpu.h"
#include "ext.h"
#include "group_norm_kernel.h"
#include "parallel.h"
#include <torch/csrc/autograd/custom_function.h>

namespace group_norm {

const GroupNormSiluKernel* kernel() {
#if defined(__x86_64__)
  return cpu::vectors() == cpu::Vectors::Narrow ? nullptr : &group_norm_silu_avx2;
#else
  return nullptr;
#endif
}

bool fits(const at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias) {
  auto plain = [&](const at::Tensor& t) {
    return t.device().is_cpu() && t.scalar_type() == at::kFloat && t.is_contiguous() && t.dim() == 1 && t.size(0) == x.size(1) &&
           !t.requires_grad();
  };
  return kernel() && x.device().is_cpu() && x.scalar_type() == at::kFloat && x.dim() == 4 && x.numel() > 0 && groups > 0 &&
         x.size(1) % groups == 0 && plain(weight) && plain(bias);
}

// All rows by `each`, cut for the threads where there is enough to do.
template <class F>
void for_rows(const GroupNormSilu& g, int64_t rows, F&& each) {
  parallel::ranges(rows, 16384 / (g.channels * g.pixels), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) each(row);
  });
}

GroupNormSilu over(const at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias, double eps, at::Tensor& moments) {
  int64_t rows = x.size(0) * groups;
  float* numbers = moments.data_ptr<float>();
  return {x.size(1) / groups, x.size(2) * x.size(3), groups, float(eps), x.const_data_ptr<float>(), weight.const_data_ptr<float>(),
          bias.const_data_ptr<float>(), numbers, numbers + rows, numbers + 2 * rows};
}

struct Silu : torch::autograd::Function<Silu> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, int64_t groups, const at::Tensor& weight,
                            const at::Tensor& bias, double eps) {
    at::AutoDispatchBelowADInplaceOrView guard;
    at::Tensor x = input.contiguous(), y = at::empty_like(x), moments = at::empty({3, x.size(0) * groups}, x.options());
    GroupNormSilu g = over(x, groups, weight, bias, eps, moments);
    for_rows(g, x.size(0) * groups, [&](int64_t row) { kernel()->forward(g, row, y.data_ptr<float>()); });
    context->save_for_backward({x, weight, bias, moments});
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    once_only();
    at::AutoDispatchBelowADInplaceOrView guard;
    auto saved = context->get_saved_variables();
    at::Tensor &x = saved[0], dy = gradients[0].contiguous(), dx = at::empty_like(x);
    int64_t groups = context->saved_data["groups"].toInt();
    GroupNormSilu g = over(x, groups, saved[1], saved[2], context->saved_data["eps"].toDouble(), saved[3]);
    for_rows(g, x.size(0) * groups, [&](int64_t row) { kernel()->backward(g, row, dy.const_data_ptr<float>(), dx.data_ptr<float>()); });
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace group_norm

extern "C" char* ext_group_norm_silu(TensorPtr x, int64_t groups, TensorPtr weight, TensorPtr bias, double eps, TensorPtr* out) {
  return guarded([&] {
    *out = new at::Tensor(group_norm::fits(*x, groups, *weight, *bias) ? group_norm::Silu::apply(*x, groups, *weight, *bias, eps)
                                                                       : at::silu(at::group_norm(*x, groups, *weight, *bias, eps)));
  });
}
