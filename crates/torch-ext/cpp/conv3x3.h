// Transformed weights of convolutions, kept for the next call (conv3x3.cpp).
#pragma once
#include <ATen/ATen.h>
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace conv3x3 {

// By the weights that they are of, which are held so that no other's come to lie at their address.
struct Kept {
  static constexpr int64_t MOST = 1 << 24;  // numbers
  struct Pair {
    at::Tensor weight, transformed;
  };
  std::mutex lock;
  std::atomic<int64_t> keepers{0};
  int64_t size = 0;
  std::unordered_map<const void*, Pair> pairs;
};

inline thread_local Kept own;
// What this thread uses: its own, or in parallel work the caller's.
inline thread_local Kept* kept = &own;

struct KeptGuard {
  Kept* before = kept;
  explicit KeptGuard(Kept* callers) { kept = callers; }
  ~KeptGuard() { kept = before; }
};

}  // namespace conv3x3
