#include "ext.h"
#include <torch/csrc/autograd/autograd.h>

// out[i] = sum_k grad_outputs[k] . d outputs[k] / d inputs[i]; a null out[i] means "does not depend on it".
extern "C" char* ext_vjp(const TensorPtr* outputs, const TensorPtr* grad_outputs, size_t n_outputs,
                         const TensorPtr* inputs, size_t n_inputs, bool retain, TensorPtr* out) {
  return guarded([&] {
    auto grads = torch::autograd::grad(gather(outputs, n_outputs), gather(inputs, n_inputs),
                                       gather(grad_outputs, n_outputs), /*retain_graph=*/retain,
                                       /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < n_inputs; i++) out[i] = grads[i].defined() ? new at::Tensor(grads[i]) : nullptr;
  });
}
