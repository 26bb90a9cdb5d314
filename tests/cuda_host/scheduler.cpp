// The fibres behind cuda_runtime.h. A context is only entered once by setcontext; after that the
// compiler's own jumps switch, without the two system calls of swapcontext. Built without
// AddressSanitizer, which would take a jump for the end of a stack.
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_host {
namespace {

constexpr unsigned warp = 32;
constexpr std::size_t stack_bytes = 128 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, finished };

typedef void* Jump[5];

struct Fibre {
  ucontext_t context;  // where it begins
  Jump jump;           // where it goes on
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};

// A fibre runs threads one after another as long as they meet no barrier, so a kernel without any
// needs one only.
struct Block {
  const std::function<void()>* kernel;
  std::vector<unsigned> order;  // in which the threads start
  std::size_t started;
  std::vector<State> state;
  std::vector<Fibre*> fibre;  // of a thread that waits
  std::vector<unsigned> ready;
  std::vector<char> values[2];  // shown_bytes a thread, in turns two of them: see show
  std::vector<unsigned> turn;
  std::vector<std::deque<std::vector<Copy>>> copies;  // of a thread, by group; the last is open
};

unsigned seed() {
  const char* text = std::getenv("CUDA_HOST_SEED");
  return text ? unsigned(std::strtoul(text, nullptr, 10)) : 0;
}

std::mt19937 generator(seed());
std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Fibre*> idle;
Jump scheduler;
Block block;
Fibre* running;

// noipa: whoever calls these must expect that anything has changed meanwhile. A function of its own
// for the jump, as GCC forbids both builtins in one.
__attribute__((noipa)) void jump(Jump& to) {
  __builtin_longjmp(to, 1);
}

__attribute__((noipa)) void to_scheduler(Fibre* from) {
  if (!__builtin_setjmp(from->jump)) jump(scheduler);
}

__attribute__((noipa)) void resume(Fibre* fibre) {
  running = fibre;
  if (__builtin_setjmp(scheduler)) return;
  if (fibre->begun) jump(fibre->jump);
  fibre->begun = true;
  setcontext(&fibre->context);
}

void work() {
  for (;;) {
    while (block.started < block.order.size()) {
      const unsigned thread = block.order[block.started++];
      threadIdx.x = thread;
      (*block.kernel)();
      block.state[threadIdx.x] = State::finished;
    }
    idle.push_back(running);
    to_scheduler(running);
  }
}

Fibre* idle_fibre() {
  if (!idle.empty()) {
    Fibre* const fibre = idle.back();
    idle.pop_back();
    return fibre;
  }
  fibres.push_back(std::make_unique<Fibre>());
  ucontext_t& context = fibres.back()->context;
  getcontext(&context);
  context.uc_stack.ss_sp = fibres.back()->stack.get();
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, work, 0);
  return fibres.back().get();
}

void wait(State at) {
  const unsigned thread = threadIdx.x;
  block.state[thread] = at;
  block.fibre[thread] = running;
  to_scheduler(running);
  threadIdx.x = thread;
}

// Makes threads ready again, all of [first, last); false unless all of them wait at that barrier.
bool release(State at, unsigned first, unsigned last) {
  const auto begin = block.state.begin() + first, end = block.state.begin() + last;
  if (!std::all_of(begin, end, [&](State s) { return s == at; })) return false;
  std::fill(begin, end, State::ready);
  for (unsigned thread = first; thread < last; ++thread) block.ready.push_back(thread);
  return true;
}

void release_some() {
  const unsigned threads = unsigned(block.state.size());
  bool any = release(State::at_block_barrier, 0, threads);
  for (unsigned first = 0; first < threads; first += warp)
    any |= release(State::at_warp_barrier, first, std::min(threads, first + warp));
  if (!any) fail("a barrier that not all threads reach");
  std::shuffle(block.ready.begin(), block.ready.end(), generator);
}

void run_block() {
  const std::size_t threads = block.order.size();
  std::shuffle(block.order.begin(), block.order.end(), generator);
  block.started = 0;
  block.state.assign(threads, State::ready);
  block.turn.assign(threads, 0);
  block.copies.assign(threads, std::deque<std::vector<Copy>>(1));
  for (;;) {
    if (!block.ready.empty()) {
      const unsigned thread = block.ready.back();
      block.ready.pop_back();
      resume(block.fibre[thread]);
    } else if (block.started < threads) {
      resume(idle_fibre());
    } else if (std::all_of(block.state.begin(), block.state.end(),
                           [](State s) { return s == State::finished; })) {
      return;
    } else {
      release_some();
    }
  }
}

}  // namespace

void fail(const char* text) {
  std::fprintf(stderr, "cuda_host: %s, block %u\n", text, blockIdx.x);
  std::abort();
}

void run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  block.kernel = &kernel;
  block.order.resize(blockDim.x);
  std::iota(block.order.begin(), block.order.end(), 0u);
  block.fibre.resize(blockDim.x);
  for (auto& values : block.values) values.resize(std::size_t(blockDim.x) * shown_bytes);
  std::vector<unsigned> blocks(gridDim.x);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), generator);
  for (const unsigned b : blocks) {
    blockIdx.x = b;
    run_block();
  }
}

void block_barrier() {
  wait(State::at_block_barrier);
}

void warp_barrier() {
  wait(State::at_warp_barrier);
}

const char* show(const void* value, std::size_t bytes) {
  // In turns: nobody can overwrite what was shown two turns ago before all have read it.
  const unsigned thread = threadIdx.x, slot = block.turn[thread]++ % 2;
  char* const board = block.values[slot].data();
  std::memcpy(board + thread * shown_bytes, value, bytes);
  warp_barrier();
  return board + thread / warp * warp * shown_bytes;
}

void mma_tf32(float* d, const unsigned* a, const unsigned* b) {
  float mine[6];
  for (int i = 0; i < 6; ++i) {
    const unsigned bits = (i < 4 ? a[i] : b[i - 4]) & 0xffffe000u;  // what the hardware reads
    std::memcpy(mine + i, &bits, 4);
  }
  const char* const all = show(mine, sizeof mine);
  const unsigned lane = threadIdx.x % warp, g = lane / 4, t = lane % 4;
  const auto of_lane = [&](unsigned other) {
    return reinterpret_cast<const float*>(all + other * shown_bytes);
  };
  for (unsigned i = 0; i < 4; ++i) {
    double sum = d[i];
    for (unsigned k = 0; k < 8; ++k)
      sum += double(of_lane(g * 4 + k % 4)[i / 2 + 2 * (k / 4)]) *
             double(of_lane((2 * t + i % 2) * 4 + k % 4)[4 + k / 4]);
    float near = float(sum);
    if (std::isfinite(near) && std::fabs(double(near)) > std::fabs(sum))
      near = std::nextafter(near, 0.0f);
    d[i] = near;
  }
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  block.copies[threadIdx.x].back().push_back({to, from, bytes});
}

void commit_copies() {
  block.copies[threadIdx.x].emplace_back();
}

void wait_copies(std::size_t groups_left) {
  auto& groups = block.copies[threadIdx.x];
  for (; groups.size() > groups_left + 1; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.from)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
}

}  // namespace cuda_host
