#include "conv3x3.h"
#include "ext.h"
#include "parallel.h"
#include <ATen/ThreadLocalState.h>

extern "C" int64_t ext_threads() { return parallel::threads(); }

// work(data, part) for every part, on all threads; every thread sees the caller's modes (gradients, devices) and kept weights.
extern "C" char* ext_parallel(int64_t parts, void (*work)(const void*, size_t), const void* data) {
  return guarded([&] {
    const at::ThreadLocalState modes;
    auto* const kept = conv3x3::kept;
    parallel::each(parts, [&](int64_t part) {
      at::ThreadLocalStateGuard guard(modes);
      conv3x3::KeptGuard weights(kept);
      work(data, size_t(part));
    });
  });
}
