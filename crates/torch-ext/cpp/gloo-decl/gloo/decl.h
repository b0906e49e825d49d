// libtorch exports c10d::ProcessGroupGloo, but comes without Gloo's headers. c10d holds Gloo's types behind pointers only, so
// declarations are enough to make one: vtable, layout and code are libtorch's own.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {
struct Context {
  void setTimeout(std::chrono::milliseconds);  // named by an inline function that nobody here calls
};
namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport
namespace rendezvous {
struct Store {
  virtual ~Store() = default;
  virtual void set(const std::string&, const std::vector<char>&) = 0;
  virtual std::vector<char> get(const std::string&) = 0;
  virtual void wait(const std::vector<std::string>&) = 0;
  virtual void wait(const std::vector<std::string>&, const std::chrono::milliseconds&) = 0;
};
}  // namespace rendezvous
}  // namespace gloo
