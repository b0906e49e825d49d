#define USE_C10D_GLOO
#include "ext.h"
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace {
struct Store {
  c10::intrusive_ptr<c10d::TCPStore> tcp;
  std::chrono::milliseconds timeout;
};

struct Group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;
};

std::string name_in_roll(int rank) { return "here/" + std::to_string(rank); }

// Everybody says that they are there, and waits for the others; an error names those who are missing.
void roll_call(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout) {
  std::vector<std::string> all;
  for (int i = 0; i < size; i++) all.push_back(name_in_roll(i));
  store.set(all[rank], std::vector<uint8_t>{1});
  try {
    store.wait(all, timeout);
  } catch (const std::exception&) {
    std::string missing;
    for (int i = 0; i < size; i++)
      if (!store.check({all[i]})) missing += (missing.empty() ? "" : ", ") + std::to_string(i);
    if (missing.empty()) throw;
    throw std::runtime_error("no sign of rank " + missing);
  }
}
}  // namespace

extern "C" {

// Port 0: any that is free.
char* ext_store_open(const char* host, uint16_t port, bool serve, int64_t timeout_ms, Store** out) {
  return guarded([&] {
    // c10d also prints what it then throws, with a backtrace: only where somebody asks for it
    if (std::getenv("TORCH_CPP_LOG_LEVEL")) c10::initLogging();
    else FLAGS_caffe2_log_level = c10::GLOG_FATAL;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = new Store{c10::make_intrusive<c10d::TCPStore>(host, options), options.timeout};
  });
}

uint16_t ext_store_port(Store* s) { return s->tcp->getPort(); }

void ext_store_free(Store* s) { delete s; }

// Whether a rank has not said yet that it is there; by another connection than the one that waits for it.
char* ext_store_lacks(Store* s, const char* prefix, int rank, bool* out) {
  return guarded([&] {
    c10d::PrefixStore store(prefix, s->tcp);
    *out = !store.check({name_in_roll(rank)});
  });
}

char* ext_group_join(Store* s, const char* prefix, int rank, int size, Group** out) {
  return guarded([&] {
    auto store = c10::make_intrusive<c10d::PrefixStore>(prefix, s->tcp);
    roll_call(*store, rank, size, s->timeout);
    auto options = c10d::ProcessGroupGloo::Options::create_default(s->timeout);
    auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
    *out = new Group{std::move(store), std::move(backend)};
  });
}

void ext_group_free(Group* g) { delete g; }

char* ext_group_sum(Group* g, TensorPtr t) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*t};
    g->backend->allreduce(tensors)->wait();
  });
}

char* ext_group_broadcast(Group* g, TensorPtr t, int root) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*t};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    g->backend->broadcast(tensors, options)->wait();
  });
}

char* ext_group_barrier(Group* g) {
  return guarded([&] { g->backend->barrier()->wait(); });
}

}  // extern "C"
