#pragma once
#include <ATen/ATen.h>
#include <optional>

namespace linear {

using Bias = std::optional<at::Tensor>;

// x w^T + bias of matrices x [m, k] and w [n, k], in float32 on the CPU, without a graph. Neither need be contiguous.
at::Tensor product(const at::Tensor& x, const at::Tensor& w, const Bias& bias);

}  // namespace linear
