#include "ext.h"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

extern "C" {

char* ext_generator_new(uint64_t seed, at::Generator** out) {
  return guarded([&] { *out = new at::Generator(at::make_generator<at::CPUGeneratorImpl>(seed)); });
}

void ext_generator_free(at::Generator* g) { delete g; }

char* ext_randn(at::Generator* g, const int64_t* shape, size_t dims, TensorPtr* out) {
  return guarded([&] {
    *out = new at::Tensor(at::randn(at::IntArrayRef(shape, dims), *g, at::TensorOptions().dtype(at::kFloat)));
  });
}

char* ext_randint(at::Generator* g, int64_t low, int64_t high, int64_t* out) {
  return guarded([&] { *out = at::randint(low, high, {1}, *g, at::TensorOptions().dtype(at::kLong)).item<int64_t>(); });
}

}  // extern "C"
