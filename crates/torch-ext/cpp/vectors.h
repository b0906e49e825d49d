// Eight or sixteen numbers at once, for the kernels that are compiled for AVX2 or AVX-512. Nothing of the standard library or of libtorch is included there:
// an inline function of theirs, compiled so, could be the one that the linker keeps for everybody.
#pragma once
#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

typedef float v8 __attribute__((vector_size(32)));
typedef float v16 __attribute__((vector_size(64)));

// Numbers at any address: weights lie in files that are mapped, at any multiple of 4.
template <class V>
struct __attribute__((packed, may_alias)) Unaligned {
  V v;
};

template <class V>
INLINE V load(const float* p) { return reinterpret_cast<const Unaligned<V>*>(p)->v; }

template <class V>
INLINE void store(float* p, V x) { reinterpret_cast<Unaligned<V>*>(p)->v = x; }
