// A device of its own for tests, "sim", on machines that have none. What makes code for devices go wrong is real on it:
//
// - Its tensors are on no CPU: mixing them with those that are raises, as it does on a GPU.
// - It lags: a copy to the host that nobody waits for has arrived once LAG more kernels were launched, or when somebody
//   waits for an event behind it. Until then the host's memory holds garbage.
// - What makes the host wait (an item, a copy that blocks, a kernel whose shape is its result) is counted, or raises.
// - Backward runs in a thread of the device's own.
// - While a graph is said to be recorded, memory may not be pinned, and no event asked.
//
// Its kernels are the CPU's, on copies. There are two of them, and one stream for both.

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>

namespace {

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
constexpr uint64_t LAG = 64; // kernels
constexpr size_t ALIGNMENT = 64; // bytes, as torch's own on the CPU
constexpr c10::DeviceIndex DEVICES = 2;
thread_local c10::DeviceIndex current = 0;

// ---- Time, and what is under way

struct UnderWay {
  uint64_t launched;
  at::Tensor host; // pinned
  at::Tensor device_had; // then: what is to arrive; or undefined for a copy to the device, of which
  at::Tensor host_had; // nobody may change the source
};

// Never destroyed, as tensors may live longer.
std::recursive_mutex& mutex = *new std::recursive_mutex;
std::deque<UnderWay>& under_way = *new std::deque<UnderWay>;
uint64_t launched = 0; // kernels and copies so far, which is the device's clock
uint64_t awaited = 0; // what the host has waited for
std::atomic<int64_t> waits{0};
std::atomic<int64_t> races{0}; // pinned memory that was changed while it was still to be copied to the device
std::atomic<bool> waiting_is_forbidden{false};
std::atomic<bool> recording{false}; // of a graph, which what only the host can do would break
thread_local int in_kernel = 0;

uint64_t done() {
  return std::max(awaited, launched > LAG ? launched - LAG : 0);
}

void deliver() {
  while (!under_way.empty() && under_way.front().launched <= done()) {
    auto copy = std::move(under_way.front());
    under_way.pop_front();
    if (copy.device_had.defined()) {
      std::memcpy(copy.host.data_ptr(), copy.device_had.data_ptr(), copy.host.nbytes());
    } else if (std::memcmp(copy.host.data_ptr(), copy.host_had.data_ptr(), copy.host.nbytes()) != 0) {
      ++races;
    }
  }
}

void check_that_nothing_is_recorded(const char* what) {
  TORCH_CHECK(!recording || in_kernel, what, " while a graph is recorded");
}

uint64_t launch() {
  const std::lock_guard lock(mutex);
  ++launched;
  deliver();
  return launched;
}

void catch_up(uint64_t until) {
  const std::lock_guard lock(mutex);
  awaited = std::max(awaited, until);
  deliver();
}

void wait_for_all(const std::string& why) {
  check_that_nothing_is_recorded("the host waits");
  ++waits;
  TORCH_CHECK(!waiting_is_forbidden, "the host waits for the device: ", why);
  catch_up(launched);
}

// ---- Memory

void* allocate(size_t bytes) {
  return bytes ? std::aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) : nullptr;
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = ::allocate(bytes);
    return {data, data, &std::free, c10::Device(TYPE, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &std::free;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

struct PinnedMemory final : c10::Allocator {
  static std::set<std::pair<uintptr_t, uintptr_t>>& blocks() {
    static auto* all = new std::set<std::pair<uintptr_t, uintptr_t>>;
    return *all;
  }
  c10::DataPtr allocate(size_t bytes) override {
    check_that_nothing_is_recorded("host memory is pinned");
    void* data = ::allocate(std::max<size_t>(bytes, 1));
    const auto start = reinterpret_cast<uintptr_t>(data);
    const std::lock_guard lock(mutex);
    blocks().insert({start, start + bytes});
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  static void release(void* data) {
    const std::lock_guard lock(mutex);
    blocks().erase(blocks().lower_bound({reinterpret_cast<uintptr_t>(data), 0}));
    std::free(data);
  }
  static bool holds(const void* data) {
    const auto address = reinterpret_cast<uintptr_t>(data);
    const std::lock_guard lock(mutex);
    auto behind = blocks().upper_bound({address, UINTPTR_MAX});
    return behind != blocks().begin() && address < (--behind)->second;
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;
REGISTER_ALLOCATOR(TYPE, &device_memory)

// ---- What torch asks of a device

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return DEVICES;
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    current = index;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current, index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? current : exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override {
    return PinnedMemory::holds(data);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned_memory;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto data = device_memory.allocate(bytes);
    if (storage.nbytes() && bytes) {
      std::memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
    }
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(bytes);
  }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  explicit Guard(c10::DeviceType = TYPE) {}
  c10::DeviceType type() const override {
    return TYPE;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return c10::Device(TYPE, std::exchange(current, device.index()));
  }
  c10::Device getDevice() const override {
    return c10::Device(TYPE, current);
  }
  void setDevice(c10::Device device) const override {
    current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return DEVICES;
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return getStream(stream.device());
  }
  bool queryStream(const c10::Stream&) const override {
    const std::lock_guard lock(mutex);
    return launched <= done();
  }
  void synchronizeStream(const c10::Stream&) const override {
    wait_for_all("synchronize() of a stream");
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    wait_for_all("synchronize() of the device");
  }
  // An event is the time at which it was recorded.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (!*event) {
      *event = new uint64_t;
    }
    *static_cast<uint64_t*>(*event) = launch();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<uint64_t*>(event);
  }
  void block(void*, const c10::Stream&) const override {} // one stream is in order by itself
  bool queryEvent(void* event) const override {
    check_that_nothing_is_recorded("an event is asked");
    const std::lock_guard lock(mutex);
    return !event || *static_cast<uint64_t*>(event) <= done();
  }
  void synchronizeEvent(void* event) const override {
    if (event && !queryEvent(event)) {
      ++waits;
      TORCH_CHECK(!waiting_is_forbidden, "the host waits for the device: synchronize() of an event");
      catch_up(*static_cast<uint64_t*>(event));
    }
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// ---- Kernels

at::Tensor on_host(const at::Tensor& tensor) { // the same memory, as a tensor of the CPU
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU).requires_grad(false));
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(
      size, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(
      size, stride, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const c10::InferenceMode guard; // these are copies of memory: nothing of torch's own has to know
  const auto now = in_kernel ? launched : launch();
  if (from.device().type() == to.device().type() || in_kernel) {
    auto target = to.is_cpu() ? to : on_host(to);
    target.copy_(from.is_cpu() ? from : on_host(from));
  } else if (from.is_cpu()) {
    if (!non_blocking) {
      wait_for_all("a blocking copy from the host");
    }
    catch_up(now); // the device does one after the other: what it was to write to that memory before is there now
    on_host(to).copy_(from);
    if (non_blocking && PinnedMemory::holds(from.data_ptr()) && from.is_contiguous()) {
      const std::lock_guard lock(mutex);
      under_way.push_back({now, from.alias(), {}, from.clone()});
    }
  } else if (non_blocking && PinnedMemory::holds(to.data_ptr()) && to.is_non_overlapping_and_dense()) {
    auto device_has = at::empty_strided(to.sizes(), to.strides(), to.options().pinned_memory(false));
    device_has.copy_(on_host(from));
    const std::lock_guard lock(mutex);
    under_way.push_back({now, to.alias(), device_has, {}});
    std::memset(to.data_ptr(), 0xFF, to.nbytes());
  } else {
    wait_for_all("a blocking copy to the host");
    to.detach().copy_(on_host(from));
  }
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const at::Tensor& tensor) {
  if (!in_kernel) {
    wait_for_all("item()");
  }
  return on_host(tensor).item();
}

// Kernels after which the host waits, as the size of what they give is known on the device only.
const std::unordered_set<std::string> WAITING = {
    "aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::repeat_interleave", "aten::bincount"};

void check_that_all_are_in_one_place(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  std::optional<c10::Device> place;
  for (const auto& value : stack) {
    if (!value.isTensor() || !value.toTensor().defined() || (value.toTensor().is_cpu() && value.toTensor().dim() == 0)) {
      continue;
    }
    const auto device = value.toTensor().device();
    TORCH_CHECK(
        !place || *place == device, op.operator_name().name, ": a tensor is on ", *place, ", another on ", device);
    place = device;
  }
}

bool has_a_mask(const torch::jit::Stack& stack) {
  for (const auto& value : stack) {
    if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& index : value.toOptionalTensorVector()) {
        if (index && index->defined() && index->scalar_type() == c10::kBool) {
          return true;
        }
      }
    }
  }
  return false;
}

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  launch();
  check_that_all_are_in_one_place(op, *stack);
  const auto& name = op.operator_name().name;
  if (!in_kernel && (WAITING.count(name) || (name.rfind("aten::index", 0) == 0 && has_a_mask(*stack)))) {
    wait_for_all(name);
  }
  ++in_kernel;
  try {
    at::native::cpu_fallback(op, stack);
  } catch (...) {
    --in_kernel;
    throw;
  }
  --in_kernel;
}

// What torch's fallback cannot do: a convolution, for which a device like this one has to have its own name ...

at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  auto result = at::empty_like(tensor, tensor.options().device(device));
  on_host(result).copy_(tensor);
  return result;
}

at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups) {
  launch();
  std::optional<at::Tensor> host_bias;
  if (bias && bias->defined()) {
    host_bias = on_host(*bias);
  }
  return on_device(at::convolution_symint(
      on_host(input), on_host(weight), host_bias, stride, padding, dilation, transposed, output_padding, groups),
      input.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  launch();
  const c10::SymInt bias_size = gradient.sym_size(1);
  auto [of_input, of_weight, of_bias] = at::convolution_backward_symint(
      on_host(gradient), on_host(input), on_host(weight), c10::SymIntArrayRef(&bias_size, 1), stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  const auto moved = [&](const at::Tensor& each) { return each.defined() ? on_device(each, input.device()) : each; };
  return {moved(of_input), moved(of_weight), moved(of_bias)};
}

// ... and a normalization that changes its running statistics, of which the schema does not tell.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& input, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& mean, const std::optional<at::Tensor>& variance, bool training, double momentum,
    double eps) {
  launch();
  const auto seen = [](const std::optional<at::Tensor>& each) {
    return each && each->defined() ? std::make_optional(on_host(*each)) : std::nullopt;
  };
  auto [output, kept_mean, kept_scale] = at::native_batch_norm(
      on_host(input), seen(weight), seen(bias), seen(mean), seen(variance), training, momentum, eps);
  const auto device = input.device();
  return {on_device(output, device), on_device(kept_mean, device), on_device(kept_scale, device)};
}

at::Tensor view(const at::Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor reshape_alias(const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor as_strided(
    const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::make_optional(offset->expect_int()) : std::nullopt);
}

const at::Tensor& resize_(const at::Tensor& tensor, c10::SymIntArrayRef size, std::optional<c10::MemoryFormat> format) {
  return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  return at::native::set_tensor_(tensor, source);
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage source) {
  return at::native::set_(tensor, source);
}

at::Tensor& set_storage_at(
    at::Tensor& tensor, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(tensor, std::move(source), offset, size, stride);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("view", &view);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("as_strided", &as_strided);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage_at);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
}

// ---- Mixed precision

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  using at::autocast::CastPolicy;
  KERNEL_PRIVATEUSEONE(conv2d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(cross_entropy_loss, fp32)
}

// ---- For tests

void register_hooks() {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
}

int64_t count_of_waits() {
  return waits;
}

int64_t count_of_races() {
  catch_up(launched);
  return races;
}

int64_t count_of_kernels() {
  return launched;
}

void forbid_waiting(bool on) {
  waiting_is_forbidden = on;
}

void record(bool on) {
  recording = on;
}

bool is_recording() {
  return recording;
}

TORCH_LIBRARY(sim, m) {
  m.def("register_hooks() -> ()", &register_hooks);
  m.def("waits() -> int", &count_of_waits);
  m.def("races() -> int", &count_of_races);
  m.def("launched() -> int", &count_of_kernels);
  m.def("forbid_waiting(bool on) -> ()", &forbid_waiting);
  m.def("record(bool on) -> ()", &record);
  m.def("is_recording() -> bool", &is_recording);
}

} // namespace
