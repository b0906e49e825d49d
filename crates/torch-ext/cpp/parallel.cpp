#include "conv3x3.h"
#include "ext.h"
#include "parallel.h"
#include <ATen/ThreadLocalState.h>

namespace parallel {

// Libraries that choose by the number of threads, as oneDNN does how it cuts its work, shall see the one that they have here. libtorch sets
// that number when it first works on a thread, so only then for the first time: numbers would be rounded otherwise in later regions.
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
