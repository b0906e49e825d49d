#include "conv3x3.h"
#include "conv3x3_kernel.h"
#include "cpu.h"
#include "ext.h"
#include "parallel.h"
#include <torch/csrc/autograd/custom_function.h>

namespace conv3x3 {

const Conv3x3Kernel* kernel() {
#if defined(__x86_64__)
  return cpu::vectors() == cpu::Vectors::Avx512 ? &conv3x3_avx512 : cpu::vectors() == cpu::Vectors::Avx2 ? &conv3x3_avx2 : nullptr;
#else
  return nullptr;
#endif
}

using Bias = std::optional<at::Tensor>;

// Whether the products that are saved are more than what tiles and the weights' transformation cost.
bool pays(const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
  if (!kernel() || !cpu::takes(x) || !cpu::takes(w) || w.requires_grad()) return false;
  if (x.dim() != 4 || w.dim() != 4 || w.size(2) != 3 || w.size(3) != 3 || w.size(0) % 8 != 0 || w.size(1) % 8 != 0) return false;
  if (!cpu::takes_bias(bias, w.size(0))) return false;
  int64_t tiles = x.size(0) * ((x.size(2) + 3) / 4) * ((x.size(3) + 3) / 4);
  int64_t weights = 36 * w.size(0) * w.size(1) < (1 << 22) ? 600 : 3000;  // those that leave the cache cost more
  return x.size(1) == w.size(1) && 9 * x.size(0) * x.size(2) * x.size(3) >= 50 * tiles + weights;
}

at::Tensor transform(const at::Tensor& w, bool transposed, int64_t inputs, int64_t outputs) {
  at::Tensor out = at::empty({36 * weights_at_point(inputs, outputs)}, w.options());
  parallel::ranges(inputs, 16, [&](int64_t from, int64_t to) {
    kernel()->transform_weights(w.const_data_ptr<float>(), transposed, inputs, outputs, from, to, out.data_ptr<float>());
  });
  return out;
}

at::Tensor transformed(const at::Tensor& w, bool transposed, int64_t inputs, int64_t outputs) {
  int64_t numbers = 36 * weights_at_point(inputs, outputs);
  if (transposed || !kept->keepers || numbers > Kept::MOST) return transform(w, transposed, inputs, outputs);
  {
    std::lock_guard<std::mutex> guard(kept->lock);  // another thread that wants the same weights waits for them
    const void* key = w.const_data_ptr();
    if (auto found = kept->pairs.find(key); found != kept->pairs.end() && found->second.weight.sizes() == w.sizes())
      return found->second.transformed;
    if (kept->size + numbers <= Kept::MOST) {
      at::Tensor out = transform(w, false, inputs, outputs);
      kept->size += numbers;
      kept->pairs[key] = {w, out};
      return out;
    }
  }
  return transform(w, false, inputs, outputs);
}

at::Tensor run(const at::Tensor& input, const at::Tensor& weight, const float* bias, bool transposed) {
  at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor x = input.contiguous(), w = weight.contiguous();
  int64_t outputs = w.size(transposed ? 1 : 0);
  at::Tensor y = at::empty({x.size(0), outputs, x.size(2), x.size(3)}, x.options());
  bool given = w.is_same(weight);  // a copy that is made for this call is not worth keeping
  at::Tensor weights = given ? transformed(w, transposed, x.size(1), outputs) : transform(w, transposed, x.size(1), outputs);
  Conv3x3 c{x.size(0), x.size(1), outputs, x.size(2), x.size(3), x.const_data_ptr<float>(), weights.const_data_ptr<float>(), bias, y.data_ptr<float>()};

  // A block's tiles are as large as the weights, so that neither drives the other out of the cache, and every thread has some.
  int64_t rows = c.batch * c.tile_rows(), threads = parallel::threads();
  int64_t tiles = std::clamp<int64_t>(c.inputs * c.outputs / (c.inputs + c.outputs), 24, 192);
  int64_t block = std::max<int64_t>(1, std::min(tiles / c.tiles_across(), (rows + threads - 1) / threads));
  int64_t blocks = (rows + block - 1) / block;
  parallel::ranges(blocks, 1, [&](int64_t from, int64_t to) {
    at::Tensor scratch = at::empty({int64_t(kernel()->scratch(c, block))}, y.options());
    for (int64_t b = from; b < to; b++) kernel()->run(c, b * block, std::min(rows, (b + 1) * block), scratch.data_ptr<float>());
  });
  return y;
}

struct Function : torch::autograd::Function<Function> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
    context->save_for_backward({w});
    at::Tensor b = bias ? bias->contiguous() : at::Tensor();
    return run(x, w, bias ? b.const_data_ptr<float>() : nullptr, false);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    once_only();
    return {run(gradients[0], context->get_saved_variables()[0], nullptr, true), at::Tensor(), at::Tensor()};
  }
};

}  // namespace conv3x3

extern "C" void ext_conv3x3_keep_weights(bool begin) {
  auto& kept = *conv3x3::kept;
  std::lock_guard<std::mutex> guard(kept.lock);
  if ((kept.keepers += begin ? 1 : -1) == 0) {
    kept.pairs.clear();
    kept.size = 0;
  }
}
