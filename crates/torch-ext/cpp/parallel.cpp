#include "conv3x3.h"
#include "ext.h"
#include "parallel.h"
#include <ATen/ThreadLocalState.h>

namespace parallel {

// In a parallel region every thread has one thread, itself, and libraries that ask shall be told so: oneDNN chooses by that number how it
// cuts its work, and so how sums are rounded. libtorch tells them when it first works on a thread, but for that one region alone, so that
// a process's first region would be rounded otherwise than its later ones.
void work_alone() {
  using Set = void (*)(int);
  static const auto set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (!at::in_parallel_region()) return;
  at::get_num_threads();
  if (set) set(1);  // for this thread's task in this region
}

}  // namespace parallel

extern "C" int64_t ext_threads() { return parallel::threads(); }

// work(data, part) for every part, on all threads; every thread sees the caller's modes (with gradients or without) and kept weights.
extern "C" char* ext_parallel(int64_t parts, void (*work)(const void*, size_t), const void* data) {
  return guarded([&] {
    const at::ThreadLocalState modes;
    auto* const kept = conv3x3::kept;
    parallel::each(parts, [&](int64_t part) {
      at::ThreadLocalStateGuard guard(modes);
      parallel::work_alone();
      conv3x3::KeptGuard weights(kept);
      work(data, size_t(part));
    });
  });
}
