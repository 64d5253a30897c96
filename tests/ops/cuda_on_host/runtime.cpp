// Blocks of threads as coroutines; see cuda_runtime.h.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

#include "cuda_runtime.h"

uint3 threadIdx, blockIdx, gridDim;

namespace on_host {
namespace {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStack = 64 * 1024;

struct Barrier {
  unsigned threads = 0, arrived = 0, generation = 0;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  uint64_t slot;
  bool done;
  const Barrier* barrier;  // where it waits, and for the end of which of its generations
  unsigned generation;

  bool waits() const { return barrier != nullptr && barrier->generation == generation; }
};

Thread threads[kMostThreads];
Barrier of_block, of_warp[kMostThreads / kWarp];
ucontext_t scheduler;
const std::function<void()>* body;
std::mutex one_launch;
long launches = 0;
void (*change_before_replay)() = nullptr;

void thread_main() {
  (*body)();
  threads[threadIdx.x].done = true;  // and on to the scheduler, its context's successor
}

void wait_at(Barrier& barrier) {
  Thread& self = threads[threadIdx.x];
  if (++barrier.arrived == barrier.threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  self.barrier = &barrier;
  self.generation = barrier.generation;
  swapcontext(&self.context, &scheduler);
}

// Lets each thread of a warp run to where it has to wait; returns how many could.
unsigned run_warp(unsigned first, bool backwards, unsigned& left) {
  unsigned moved = 0;
  for (unsigned i = 0; i < kWarp; ++i) {
    const unsigned number = first + (backwards ? kWarp - 1 - i : i);
    Thread& thread = threads[number];
    if (thread.done || thread.waits()) continue;
    threadIdx.x = number;
    swapcontext(&scheduler, &thread.context);
    ++moved;
    left -= thread.done;
  }
  return moved;
}

void run_block(unsigned count, bool backwards) {
  of_block = {count};
  for (Barrier& barrier : of_warp) barrier = {kWarp};
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = threads[i];
    thread.done = false;
    thread.barrier = nullptr;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, thread_main, 0);
  }
  // A warp runs as far as it can before another does, so that a barrier that is missing is missed.
  const unsigned warps = count / kWarp;
  for (unsigned left = count; left > 0;) {
    unsigned moved = 0;
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = (backwards ? warps - 1 - i : i) * kWarp;
      while (const unsigned steps = run_warp(first, backwards, left)) moved += steps;
    }
    if (moved == 0) {
      std::fprintf(stderr, "block %u: threads wait at a barrier that others never reach\n",
                   blockIdx.x);
      std::abort();
    }
  }
}

void run_grid(unsigned blocks, unsigned count, bool backwards) {
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx.x = backwards ? blocks - 1 - i : i;
    run_block(count, backwards);
  }
}

}  // namespace

void run(unsigned blocks, unsigned count, const std::function<void()>& kernel) {
  const std::lock_guard lock(one_launch);
  if (blocks == 0 || count == 0 || count > kMostThreads || count % kWarp != 0) {
    std::fprintf(stderr, "a launch of %u blocks of %u threads\n", blocks, count);
    std::abort();
  }
  body = &kernel;
  gridDim = {blocks, 1, 1};
  run_grid(blocks, count, launches++ % 2 == 1);
  if (const auto change = std::exchange(change_before_replay, nullptr)) {
    change();
    run_grid(blocks, count, launches++ % 2 == 1);
  }
}

void wait_for_block() { wait_at(of_block); }
void wait_for_warp() { wait_at(of_warp[threadIdx.x / kWarp]); }
uint64_t& slot_of(unsigned thread) { return threads[thread].slot; }

}  // namespace on_host

// torch's own of these are in libtorch_cuda.so.
extern "C" {
__attribute__((visibility("default"))) long rddm_on_host_launches() { return on_host::launches; }

// The next launch is run again with the same arguments, as by a graph, after `change`.
__attribute__((visibility("default"))) void rddm_on_host_replay(void (*change)()) {
  on_host::change_before_replay = change;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool,
                                        char** message) {
  *message = nullptr;
  return AOTI_TORCH_SUCCESS;
}

void torch_c10_cuda_free_error_msg(char*) {}
}
