#include "ext.h"
#include <ATen/record_function.h>
#include <map>
#include <mutex>
#include <string>

namespace {

std::mutex counted_lock;
std::map<std::string, int64_t> counted;

// Operators after which the host knows a value of the device, so that it has waited for it.
bool waits(const char* name) {
  for (const char* known : {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select",
                            "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"})
    if (strcmp(name, known) == 0) return true;
  return false;
}

std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
  const char* name = function.name();
  std::string key;
  if (waits(name)) {
    key = name;
  } else if (strcmp(name, "aten::copy_") == 0) {
    const auto inputs = function.inputs();
    if (inputs.size() < 2 || !inputs[0].isTensor() || !inputs[1].isTensor()) return nullptr;
    const auto &to = inputs[0].toTensor(), &from = inputs[1].toTensor();
    if (!to.defined() || !from.defined() || to.device().type() == from.device().type()) return nullptr;
    key = to.is_cpu() ? "copy to the host" : "copy to the device";
  } else {
    return nullptr;
  }
  std::lock_guard<std::mutex> guard(counted_lock);
  counted[key]++;
  return nullptr;
}

}  // namespace

extern "C" {

char* ext_count_start(uint64_t* handle) {
  return guarded([&] {
    *handle = at::addGlobalCallback(
        at::RecordFunctionCallback(&count).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  });
}

void ext_count_stop(uint64_t handle) {
  at::removeCallback(handle);
  std::lock_guard<std::mutex> guard(counted_lock);
  counted.clear();
}

// A line `COUNT NAME` for each since the last call; the caller's to free.
char* ext_count_take() {
  std::lock_guard<std::mutex> guard(counted_lock);
  std::string text;
  for (const auto& [name, number] : counted) text += std::to_string(number) + " " + name + "\n";
  counted.clear();
  return strdup(text.c_str());
}

}  // extern "C"
