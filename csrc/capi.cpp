// The C face: descriptors in, status codes out; the one place where errors, threads and the
// workspace are handled before a kernel runs.
#if defined(_OPENMP)
#include <omp.h>
#endif
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "check.h"
#include "plan.h"

using namespace pyconv;

namespace {

thread_local std::string last_error;

template <class Body>
pyconv_status guarded(Body&& body) noexcept {
  try {
    body();
    return PYCONV_OK;
  } catch (const ValueError& error) {
    last_error = error.what();
    return PYCONV_VALUE_ERROR;
  } catch (const std::bad_alloc&) {
    last_error = "no memory for the plan";
    return PYCONV_MEMORY_ERROR;
  } catch (const std::exception& error) {
    last_error = error.what();
    return PYCONV_RUNTIME_ERROR;
  }
}

std::atomic<int> asked_threads{0};
// libgomp's threads do not survive a fork, and a parallel region in the child would wait for them
// for ever. The child computes serially.
std::atomic<bool> forked{false};

struct AtFork {
  AtFork() {
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
  }
} at_fork;

int threads_now() {
  if (forked.load(std::memory_order_relaxed)) return 1;
  const int asked = asked_threads.load(std::memory_order_relaxed);
  if (asked > 0) return asked;
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

template <class Desc>
void check_struct(const Desc* desc) {
  if (!desc) throw ValueError("pyconv: the descriptor is NULL");
  if (desc->struct_size != sizeof(Desc))
    throw ValueError("pyconv: struct_size (=" + std::to_string(desc->struct_size) + ") must be " +
                     std::to_string(sizeof(Desc)) +
                     "; the caller was built for another ABI version");
}

char* align_64(void* p) {
  return reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + 63) / 64 * 64);
}

// Indices come from outside: none may point out of its plane.
void check_indices(const pyconv_plan& plan, const i64* indices, int threads) {
  const PoolProblem& p = plan.pool;
  const bool unpools = p.kind == PoolKind::unpool;
  const i64 plane = unpools ? p.out_pixels() : p.in_pixels();
  const i64 count = p.n * p.c * (unpools ? p.in_pixels() : p.out_pixels());
  if (plan.table->indices_within(indices, count, plane, threads)) return;
  i64 least = 0, most = 0;
  for (i64 i = 0; i < count; ++i) {
    least = std::min(least, indices[i]);
    most = std::max(most, indices[i]);
  }
  const i64(&size)[3] = unpools ? p.out : p.in;
  Check check(plan.op.c_str(), p.axes);
  check.fail("indices must lie in the plane of " + std::to_string(size[0]) + " x " +
             std::to_string(size[1]) + " x " + std::to_string(size[2]) + ", [0, " +
             std::to_string(plane) + "), got " + std::to_string(least < 0 ? least : most) +
             "; the " + (unpools ? "output" : "input") + " has " + std::to_string(p.n) +
             " images of " + std::to_string(p.c) + " channels");
}

void run(const pyconv_plan& plan, const pyconv_buffers& given) {
  Buffers buffers{};
  buffers.a = given.a;
  buffers.b = given.b;
  buffers.bias = given.bias;
  buffers.residual = given.residual;
  buffers.out = given.out;
  buffers.aux = given.aux;
  buffers.scratch_bytes = plan.scratch_bytes;
  buffers.stream = given.stream;
  int threads = std::min(threads_now(), plan.most_threads);
  if (plan.pools) {
    const PoolProblem& p = plan.pool;
    const bool indexed =
        p.kind == PoolKind::unpool || (p.kind == PoolKind::max && plan.pass != Pass::fwd);
    if (indexed && plan.table->indices_within)
      check_indices(plan, static_cast<const i64*>(given.b), threads);
    if (p.kind == PoolKind::lp && plan.pass != Pass::fwd && plan.buffer_bytes[5] && !given.aux)
      throw ValueError("lp_pool_backward: aux must hold y");
    buffers.threads = threads;
    plan.table->pool[int(p.dtype)](p, plan.pass, buffers);
    return;
  }
  const int dtype = int(plan.conv.dtype);
  if (!plan.kernel) {
    buffers.threads = threads;
    plan.table->reshape[dtype](plan.conv, plan.pass, buffers);
    return;
  }
  if (plan.transposed && plan.pass == Pass::bwd_weight) std::swap(buffers.a, buffers.b);

  const std::size_t packed = given.b_is_packed ? 0 : plan.call_packed_bytes;
  const std::size_t fixed = packed + plan.shared_bytes;
  char* workspace = align_64(given.workspace);
  const std::size_t slack = std::size_t(workspace - static_cast<char*>(given.workspace));
  const std::size_t usable = given.workspace_bytes > slack ? given.workspace_bytes - slack : 0;
  if (plan.scratch_bytes && usable >= fixed)
    threads =
        int(std::min<std::size_t>(std::size_t(threads), (usable - fixed) / plan.scratch_bytes));
  if (threads < 1 || usable < fixed)
    throw ValueError("pyconv: workspace_bytes (=" + std::to_string(given.workspace_bytes) +
                     ") is less than pyconv_plan_workspace(plan, 1)");
  if (given.b_is_packed) {
    buffers.packed = given.b;
  } else if (packed) {
    plan.kernel->pack(plan.conv, plan.pass, given.b, workspace, threads);
    buffers.packed = workspace;
  }
  buffers.shared = workspace + packed;
  buffers.scratch = workspace + fixed;
  buffers.threads = threads;
  plan.kernel->run(plan.conv, plan.pass, buffers);
}

}  // namespace

extern "C" {

int32_t pyconv_abi_version(void) {
  return PYCONV_ABI_VERSION;
}
const char* pyconv_last_error(void) {
  return last_error.c_str();
}

pyconv_status pyconv_plan_conv(const pyconv_conv_desc* desc, pyconv_plan** plan) {
  return guarded([&] {
    check_struct(desc);
    *plan = new pyconv_plan(plan_conv(*desc));
  });
}

pyconv_status pyconv_plan_pool(const pyconv_pool_desc* desc, pyconv_plan** plan) {
  return guarded([&] {
    check_struct(desc);
    *plan = new pyconv_plan(plan_pool(*desc));
  });
}

void pyconv_plan_free(pyconv_plan* plan) {
  delete plan;
}

int32_t pyconv_plan_shape(const pyconv_plan* plan, int64_t shape[5]) {
  std::copy(plan->shape, plan->shape + plan->rank, shape);
  return plan->rank;
}

size_t pyconv_plan_workspace(const pyconv_plan* plan, int32_t threads) {
  const int team = std::min(threads > 0 ? threads : threads_now(), plan->most_threads);
  const size_t bytes =
      plan->call_packed_bytes + plan->shared_bytes + plan->scratch_bytes * size_t(team);
  return bytes ? bytes + 63 : 0;  // the caller's block may start anywhere
}

size_t pyconv_plan_packed_bytes(const pyconv_plan* plan) {
  return plan->packed_bytes;
}

pyconv_status pyconv_pack_weights(const pyconv_plan* plan, const void* w, void* packed) {
  return guarded([&] {
    if (!plan->packed_bytes) throw ValueError("pyconv: this plan reads its weights unpacked");
    plan->kernel->pack(plan->conv, plan->pass, w, packed, threads_now());
  });
}

void pyconv_plan_buffer_bytes(const pyconv_plan* plan, size_t bytes[6]) {
  std::copy(plan->buffer_bytes, plan->buffer_bytes + 6, bytes);
}

const char* pyconv_plan_algorithm(const pyconv_plan* plan) {
  return algorithm_name(plan->algorithm);
}
const char* pyconv_plan_target(const pyconv_plan* plan) {
  return plan->table->name;
}
const char* pyconv_plan_reason(const pyconv_plan* plan) {
  return plan->reason.c_str();
}
double pyconv_plan_flops(const pyconv_plan* plan) {
  return plan->flops;
}
double pyconv_plan_bytes(const pyconv_plan* plan) {
  return plan->bytes;
}

pyconv_status pyconv_run(const pyconv_plan* plan, const pyconv_buffers* buffers) {
  return guarded([&] { run(*plan, *buffers); });
}

pyconv_status pyconv_activation_backward(int32_t activation, int32_t dtype, int64_t size,
                                         const void* dy, const void* y, void* dx, void* stream) {
  return guarded([&] {
    const Check check("activation_backward", 1);
    const auto kind = check.choice<Activation>("activation", activation, activation_count);
    const auto type = check.choice<DType>("dtype", dtype, 2);
    current_target().activation_backward[int(type)](kind, size, dy, y, dx, threads_now(), stream);
  });
}

pyconv_status pyconv_layer_bytes(const pyconv_layer_desc* desc, int64_t bytes[8]) {
  return guarded([&] {
    check_struct(desc);
    i64 found[layer_buffers];
    check_layer(*desc, found);
    std::copy(found, found + layer_buffers, bytes);
  });
}

pyconv_status pyconv_run_layer(const pyconv_layer_desc* desc, void* const buffers[8],
                               void* stream) {
  return guarded([&] {
    check_struct(desc);
    i64 bytes[layer_buffers];
    const LayerProblem p = check_layer(*desc, bytes);
    const Check check(desc->op, 1);
    for (int i = 0; i < layer_buffers; ++i)
      check.require(bytes[i] <= 0 || buffers[i], "buffer", i, "must not be NULL");
    const double bytes_moved = 8 * double(p.elements());  // an element read and written
    const int threads = std::min(threads_now(), threads_worth(0, bytes_moved));
    const auto run = current_target().layer[int(p.dtype)];
    if (!run) check.fail("not built for this target");
    run(p, buffers, threads, stream);
  });
}

void pyconv_set_num_threads(int32_t threads) {
  asked_threads.store(threads > 0 ? threads : 0);
}
int32_t pyconv_get_num_threads(void) {
  return threads_now();
}

int32_t pyconv_target_count(void) {
  return target_count();
}
const char* pyconv_target_name(int32_t i) {
  return target(i).name;
}

const char* pyconv_get_target(void) {
  const char* name = nullptr;
  return guarded([&] { name = current_target().name; }) == PYCONV_OK ? name : nullptr;
}

pyconv_status pyconv_set_target(const char* name) {
  return guarded([&] { set_target(name); });
}
}
