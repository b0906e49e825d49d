// The threads of libtorch's OpenMP. Its header's parallel_for cuts nothing unless this library is compiled for OpenMP, and then it
// could be given another OpenMP than libtorch's; so the function is looked up among those that libtorch has brought.
#pragma once
#include <ATen/Parallel.h>
#include <atomic>
#include <dlfcn.h>
#include <exception>

namespace parallel {

using Start = void (*)(void (*)(void*), void*, unsigned, unsigned);

inline Start start() {
  static const auto found = reinterpret_cast<Start>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// Threads that work now: one inside of parallel work.
inline int64_t threads() { return start() && !at::in_parallel_region() ? at::get_num_threads() : 1; }

// f(part) for 0 <= part < parts, on all threads. The first exception is thrown again.
template <class F>
void each(int64_t parts, const F& f) {
  struct Work {
    const F& f;
    int64_t parts;
    std::atomic<int64_t> next{0};
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr error;
  } work{f, parts};
  auto run = [](void* data) {
    Work& work = *static_cast<Work*>(data);
    try {
      for (int64_t part = work.next++; part < work.parts; part = work.next++) work.f(part);
    } catch (...) {
      if (!work.failed.test_and_set()) work.error = std::current_exception();
    }
  };
  if (parts > 1 && threads() > 1) {
    start()(run, &work, 0, 0);  // always with all threads: libgomp ends those that a smaller team leaves over
  } else {
    run(&work);
  }
  if (work.error) std::rethrow_exception(work.error);
}

// f(from, to) over 0 <= i < count, in as many ranges as there are threads, none of them smaller than `least`.
template <class F>
void ranges(int64_t count, int64_t least, const F& f) {
  int64_t parts = std::max<int64_t>(1, std::min(threads(), count / std::max<int64_t>(1, least)));
  each(parts, [&](int64_t part) { f(count * part / parts, count * (part + 1) / parts); });
}

}  // namespace parallel
