// The registers and memory of each compiled kernel, as the driver reports them for this device.
#pragma once

#include <string>
#include <vector>

namespace rddm {

struct KernelAttributes {
  std::string kernel;
  int registers;    // a thread
  int local_bytes;  // per thread: spilled registers and stack
  int threads_per_block;
  int blocks_per_sm;  // resident per multiprocessor
};

// One entry per instantiation. Throws if there is no CUDA device to ask.
std::vector<KernelAttributes> reverse_step_kernel_attributes();
std::vector<KernelAttributes> forward_diffuse_kernel_attributes();
std::vector<KernelAttributes> joint_loss_kernel_attributes();
std::vector<KernelAttributes> range_null_step_kernel_attributes();
std::vector<KernelAttributes> tacos_step_kernel_attributes();

}  // namespace rddm
