// Which vectors the CPU has, as libtorch sees it: ATEN_CPU_CAPABILITY (default, avx2, avx512) limits both.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <optional>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace cpu {

enum class Vectors { Narrow, Avx2, Avx512 };

inline Vectors vectors() {
#if defined(__x86_64__)
  static const Vectors found = [] {
    std::string name = at::get_cpu_capability();
    return name == "AVX512" ? Vectors::Avx512 : name == "AVX2" ? Vectors::Avx2 : Vectors::Narrow;
  }();
  return found;
#else
  return Vectors::Narrow;
#endif
}

// MKL, by which libtorch multiplies matrices, uses AVX-512 on Intel's CPUs alone; oneDNN uses it on all. On AMD's that is worth
// something from Zen 5 on (family 26), whose units are 512 bits wide.
inline bool mkl_is_slower() {
#if defined(__x86_64__)
  static const bool slower = [] {
    unsigned version = 0, other = 0;
    if (vectors() != Vectors::Avx512 || !__builtin_cpu_is("amd") || !__get_cpuid(1, &version, &other, &other, &other)) return false;
    return (version >> 8 & 15) + (version >> 20 & 255) >= 26;
  }();
  return slower;
#else
  return false;
#endif
}

// What the kernels here take: float32 in the CPU's memory, of any strides.
inline bool takes(const at::Tensor& t) { return t.device().is_cpu() && t.scalar_type() == at::kFloat && t.layout() == at::kStrided && t.numel() > 0; }

// Whether a bias is of that kind and length, and no gradient at it is wanted.
inline bool takes_bias(const std::optional<at::Tensor>& bias, int64_t outputs) {
  return !bias || (takes(*bias) && !bias->requires_grad() && bias->dim() == 1 && bias->size(0) == outputs);
}

}  // namespace cpu
