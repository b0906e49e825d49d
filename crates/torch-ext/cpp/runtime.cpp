#include "ext.h"
#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/version.h>
#include <cstring>
#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" {

// Both are the caller's to free.
char* ext_torch_version() { return strdup(TORCH_VERSION); }
char* ext_cpu_capability() { return strdup(at::get_cpu_capability().c_str()); }

char* ext_allow_tf32(bool allow) {
  return guarded([&] {
    const auto precision = allow ? at::Float32Precision::TF32 : at::Float32Precision::IEEE;
    at::globalContext().setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL, precision);
  });
}

char* ext_allow_tf32_convolutions(bool allow) {
  return guarded([&] {
    const auto precision = allow ? at::Float32Precision::TF32 : at::Float32Precision::IEEE;
    at::globalContext().setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::CONV, precision);
  });
}

// What has no deterministic algorithm is an error. Not only a warning: then attention's gradients would stay as they are, although
// they have one. Memory that nothing was written to is not filled: nothing here reads it.
char* ext_set_deterministic(bool on) {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setDeterministicCuDNN(on);
    at::globalContext().setBenchmarkCuDNN(!on);
  });
}

// Whether: [0] algorithms and [1] cuDNN are deterministic, [2] cuDNN tries its algorithms, [3] matrix products and [4] convolutions
// may use TF32.
char* ext_cuda_flags(bool* out) {
  return guarded([&] {
    const auto& context = at::globalContext();
    const auto tf32 = [&](at::Float32Op op) {
      return context.float32Precision(at::Float32Backend::CUDA, op) == at::Float32Precision::TF32;
    };
    out[0] = context.deterministicAlgorithms();
    out[1] = context.deterministicCuDNN();
    out[2] = context.benchmarkCuDNN();
    out[3] = tf32(at::Float32Op::MATMUL);
    out[4] = tf32(at::Float32Op::CONV);
  });
}

// Bytes: [0] held by tensors now, [1] the most since the last reset.
char* ext_cuda_memory(int device, int64_t* out) {
  return guarded([&] {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
    TORCH_CHECK(allocator, "no CUDA allocator");
    auto stats = allocator->getDeviceStats(device);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    out[0] = stats.allocated_bytes[all].current;
    out[1] = stats.allocated_bytes[all].peak;
  });
}

// Bytes that nobody holds. What the allocator keeps for later counts as held.
char* ext_cuda_free_memory(int device, int64_t* out) {
  return guarded([&] {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
    TORCH_CHECK(allocator, "no CUDA allocator");
    *out = allocator->getMemoryInfo(device).first;
  });
}

char* ext_cuda_reset_peak(int device) {
  return guarded([&] {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
    TORCH_CHECK(allocator, "no CUDA allocator");
    allocator->resetPeakStats(device);
  });
}

// By default every block of a few megabytes is mapped anew, or its pages go back when it is freed, and the system fills the next
// ones with zeros. Memory that is kept is given back by `ext_release_free_memory`.
void ext_keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc takes
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

// What was freed and lies between blocks that are in use goes back to the system.
void ext_release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // extern "C"
