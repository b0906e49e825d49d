// A CUDA device that is none: a library to preload into a process with a CPU build of libtorch. Tensors "on cuda:N" lie in the host's
// memory, every operator on them runs the CPU's kernel. As CUDA does, it refuses operators whose tensors lie on different devices;
// and it counts copies between host and device, and operators that read a value of the device.
//
// STAND_IN_LOG names a file that receives the counts, a line each, when the process ends.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace {

constexpr auto CUDA = c10::DeviceType::CUDA;
constexpr int DEVICES = 2;
constexpr size_t MEMORY = size_t(16) << 30;

// ---- counts

std::mutex counting;
std::map<std::string, long>& counts() {
  static auto* all = new std::map<std::string, long>;  // outlives every static
  return *all;
}
void count(const std::string& what) {
  std::lock_guard<std::mutex> lock(counting);
  counts()[what] += 1;
}
void write_counts() {
  const char* path = std::getenv("STAND_IN_LOG");
  if (!path) return;
  if (FILE* file = std::fopen(path, "a")) {
    std::lock_guard<std::mutex> lock(counting);
    for (const auto& [what, times] : counts()) std::fprintf(file, "%ld %s\n", times, what.c_str());
    std::fclose(file);
  }
}

// ---- memory, streams and devices

thread_local c10::DeviceIndex current = 0;

struct Memory final : c10::DeviceAllocator {
  std::mutex lock;
  std::array<int64_t, DEVICES> held{}, peak{};

  static Memory& get() {
    static auto* memory = new Memory;
    return *memory;
  }
  struct Block {
    void* data;
    size_t bytes;
    c10::DeviceIndex device;
  };
  static void free(void* context) {
    auto* block = static_cast<Block*>(context);
    std::free(block->data);
    std::lock_guard<std::mutex> guard(get().lock);
    get().held[block->device] -= block->bytes;
    delete block;
  }
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(CUDA, current);
    if (bytes == 0) return {nullptr, device};
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 64, bytes) == 0, "CUDA out of memory");
    std::lock_guard<std::mutex> guard(lock);
    held[current] += bytes;
    peak[current] = std::max(peak[current], held[current]);
    return {data, new Block{data, bytes, current}, &free, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    c10::CachingDeviceAllocator::DeviceStats stats{};
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    stats.allocated_bytes[all].current = held[device];
    stats.allocated_bytes[all].peak = peak[device];
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex device) override { peak[device] = held[device]; }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    return {MEMORY - held[device], MEMORY};
  }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {CUDA, current}; }
  void setDevice(c10::Device device) const override {
    if (device.index() >= 0) current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override { setDevice(device); }
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  c10::DeviceIndex deviceCount() const noexcept override { return DEVICES; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { count("synchronize"); }
  void synchronizeEvent(void*) const override { count("synchronize"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { count("synchronize"); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return DEVICES; }
  c10::DeviceIndex deviceCount() const override { return DEVICES; }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex device) const override { current = device; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &Memory::get(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  void deviceSynchronize(c10::DeviceIndex) const override { count("synchronize"); }
};

// ---- from device to host and back, without copying where that can be

at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const auto options = at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  auto alias = at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(), options);
  return tensor.is_conj() ? alias.conj() : tensor.is_neg() ? alias._neg_view() : alias;
}

void copy_bytes(const at::Tensor& to, const at::Tensor& from) {
  at::Tensor host = on_host(to);
  host.copy_(from);
}

at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined() || tensor.is_cuda()) return tensor;
  auto copy = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  if (tensor.numel() > 0) copy_bytes(copy, tensor);
  return copy;
}

bool is_one_of(const std::string& name, std::initializer_list<const char*> known) {
  return std::any_of(known.begin(), known.end(), [&](const char* one) { return name == one; });
}

// Operators that CUDA runs with indices on the host too.
bool mixes(const std::string& name) {
  return is_one_of(name, {"aten::index", "aten::_unsafe_index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"});
}

bool reads_a_value(const std::string& name) {
  return is_one_of(name, {"aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_consecutive"});
}

// Any operator: the CPU's kernel on the same memory.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.name();
  const size_t inputs = schema.arguments().size(), first = stack->size() - inputs;
  std::optional<c10::Device> device;
  std::vector<at::Tensor> given;
  auto see = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    given.push_back(tensor);
    if (tensor.is_cuda() && !device) device = tensor.device();
  };
  for (size_t i = 0; i < inputs; i++) {
    const c10::IValue& value = (*stack)[first + i];
    if (value.isTensor()) see(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorList()) see(tensor);
    if (value.isOptionalTensorList())
      for (const auto& tensor : value.toOptionalTensorList())
        if (std::optional<at::Tensor> it = tensor) see(*it);
  }
  // a factory (empty_like and the like) may have its device as an argument only
  for (size_t i = 0; i < inputs && !device; i++)
    if ((*stack)[first + i].isDevice() && (*stack)[first + i].toDevice().is_cuda()) device = (*stack)[first + i].toDevice();
  if (!mixes(name))
    for (const at::Tensor& tensor : given)
      TORCH_CHECK(tensor.device() == *device || (tensor.is_cpu() && tensor.dim() == 0),
          "Expected all tensors to be on the same device, but found at least two devices, ", *device, " and ",
          tensor.device(), ", in ", name);
  if (reads_a_value(name)) count(name);

  struct Grown {
    at::Tensor device, host;
  };
  std::vector<Grown> written;
  auto lower = [&](const at::Tensor& tensor, bool writes) {
    at::Tensor host = on_host(tensor);
    if (writes && tensor.defined() && tensor.is_cuda() && tensor.numel() == 0) written.push_back({tensor, host});
    return host;
  };
  std::vector<std::pair<const c10::AliasInfo*, c10::IValue>> aliases;
  for (size_t i = 0; i < inputs; i++) {
    c10::IValue& value = (*stack)[first + i];
    const auto* alias = schema.arguments()[i].alias_info();
    const bool writes = alias && alias->isWrite();
    if (alias) aliases.emplace_back(alias, value);
    if (value.isTensor()) {
      value = lower(value.toTensor(), writes);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> host;
      for (const at::Tensor& tensor : value.toTensorList()) host.push_back(lower(tensor, writes));
      value = host;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> host;
      for (const auto& tensor : value.toOptionalTensorList()) {
        std::optional<at::Tensor> it = tensor;
        host.push_back(it ? std::optional(lower(*it, writes)) : std::nullopt);
      }
      value = host;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      value = c10::Device(at::kCPU);
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  for (const Grown& one : written) {
    if (one.host.numel() == 0) continue;
    at::native::resize_output(one.device, one.host.sizes());
    copy_bytes(one.device, one.host);
  }
  const auto& results = schema.returns();
  for (size_t i = 0; i < results.size(); i++) {
    c10::IValue& value = (*stack)[stack->size() - results.size() + i];
    if (const auto* alias = results[i].alias_info()) {
      bool found = false;
      for (const auto& [of, argument] : aliases)
        if (*of == *alias) {
          value = argument;
          found = true;
          break;
        }
      TORCH_CHECK(found || !value.isTensor(), name, " returns a view; the stand-in has no kernel for it");
      if (found) continue;
    }
    if (value.isTensor()) {
      value = on_device(value.toTensor(), *device);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> there;
      for (const at::Tensor& tensor : value.toTensorList()) there.push_back(on_device(tensor, *device));
      value = there;
    }
  }
}

// ---- what has to be said for a device of its own

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(size, &Memory::get(), keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, &Memory::get(), keys, c10::dtype_or_default(dtype));
}

at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  if (to.is_cuda() && from.is_cpu()) count(non_blocking ? "copy to the device, not waited for" : "copy to the device");
  if (to.is_cpu() && from.is_cuda()) count("copy to the host");
  at::Tensor host = on_host(to);
  host.copy_(on_host(from));
  return to;
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  count("aten::_local_scalar_dense");
  return at::native::_local_scalar_dense_cpu(on_host(tensor));
}

const at::Tensor& resize_(const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto* impl = tensor.unsafeGetTensorImpl();
  if (tensor.sizes() == size) return tensor;
  auto fresh = at::empty(size, tensor.options(), format);
  const int64_t kept = std::min(tensor.numel(), fresh.numel());
  if (kept > 0) std::memcpy(fresh.mutable_data_ptr(), tensor.const_data_ptr(), kept * tensor.element_size());
  impl->set_storage_keep_dtype(fresh.storage());
  impl->set_sizes_and_strides(fresh.sizes(), fresh.strides(), 0);
  return tensor;
}

void boxed(torch::Library& m, const char* name) { m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("resize_", &resize_);
  m.impl("view", &at::native::view);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  // composed operators that look at the device and take CUDA's own ways
  for (const char* name : {"convolution", "convolution_backward", "convolution_overrideable"}) boxed(m, name);
}

struct Register {
  Register() {
    c10::SetAllocator(CUDA, &Memory::get(), 1);
    c10::impl::registerDeviceGuard(CUDA, new Guard);
    std::atexit(&write_counts);
  }
} const registered;

}  // namespace

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
