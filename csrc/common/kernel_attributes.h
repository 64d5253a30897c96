// What the CUDA compiler made of each kernel, as the driver reports it for the current device.
#pragma once

#include <string>
#include <vector>

namespace rddm {

struct KernelAttributes {
  std::string kernel;
  int registers;    // a thread
  int local_bytes;  // a thread: spilled registers and stack
  int threads_per_block;
  int blocks_per_sm;  // that fit a multiprocessor at once
};

// One entry an instantiation. Throws where there is no CUDA device to ask.
std::vector<KernelAttributes> reverse_step_kernel_attributes();
std::vector<KernelAttributes> forward_diffuse_kernel_attributes();
std::vector<KernelAttributes> joint_loss_kernel_attributes();

}  // namespace rddm
