#include "ext.h"

// Operators on many tensors at once: on a GPU a few launches in place of one for each tensor.
extern "C" {

char* ext_add_to_all(const TensorPtr* sums, const TensorPtr* addends, size_t n) {
  return guarded([&] {
    at::NoGradGuard guard;
    at::_foreach_add_(gather(sums, n), gather(addends, n));
  });
}

// Multiplies all by `factor` (float32, one number). *found: a float32 number of theirs, 1 where one was not finite, else 0.
char* ext_unscale(const TensorPtr* tensors, size_t n, TensorPtr factor, TensorPtr* found) {
  return guarded([&] {
    at::NoGradGuard guard;
    auto not_finite = at::zeros({1}, factor->options());
    at::_amp_foreach_non_finite_check_and_unscale_(gather(tensors, n), not_finite, *factor);
    *found = new at::Tensor(not_finite);
  });
}

// `updates`: with this one.
char* ext_adamw(TensorPtr values, TensorPtr gradient, TensorPtr mean, TensorPtr square, uint64_t updates, double rate,
                double beta1, double beta2, double decay, double epsilon) {
  return guarded([&] {
    at::NoGradGuard guard;
    for (auto* tensor : {values, mean, square}) TORCH_CHECK(tensor->is_contiguous(), "AdamW takes contiguous tensors");
    TORCH_CHECK(gradient->sizes() == values->sizes() && gradient->scalar_type() == values->scalar_type(),
                "AdamW: a gradient ", gradient->sizes(), " of ", gradient->scalar_type(), " for values ",
                values->sizes(), " of ", values->scalar_type());
    const auto count = at::full({}, static_cast<double>(updates), values->options().dtype(at::kFloat));
    at::_fused_adamw_({*values}, {gradient->contiguous()}, {*mean}, {*square}, {}, {count}, rate, beta1, beta2, decay, epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

}  // extern "C"
