// Ops that say what the library was built with and for, and show what it draws. Loading the library
// registers them and, by static initialisers in the other files, the kernels of all ops.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "amx/bands.h"
#include "check.h"
#include "common/cpu_blocks.h"
#include "common/kernel_attributes.h"
#include "conv3x3/winograd_sets.h"

namespace rddm {
namespace {

using torch::stable::Tensor;

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += c;
  }
  return json + '"';
}

std::string joined(const std::vector<std::string>& items) {
  std::string all;
  for (const std::string& item : items) all += (all.empty() ? "" : ", ") + item;
  return all;
}

std::string json_object(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::vector<std::string> items;
  for (const auto& [name, value] : fields) items.push_back(quoted(name) + ": " + value);
  return '{' + joined(items) + '}';
}

std::string build_info() {
  std::vector<std::string> sets;
  for (const WinogradSteps* set : winograd_sets()) sets.push_back(quoted(set->name));
  return json_object({
      {"torch", quoted(RDDM_TORCH_VERSION)},
      {"stable_abi_target", quoted(RDDM_STABLE_ABI_TARGET)},
      {"compiler", quoted(RDDM_CXX_COMPILER)},
#ifdef RDDM_WITH_CUDA
      {"cuda", "true"},
      {"nvcc", quoted(RDDM_NVCC_VERSION)},
      {"cuda_architectures", quoted(RDDM_CUDA_ARCHITECTURES)},
#else
      {"cuda", "false"},
      {"why_no_cuda", quoted(RDDM_WHY_NO_CUDA)},
#endif
      {"instruction_sets", '[' + joined(sets) + ']'},
      {"amx", amx_steps() != nullptr ? "true" : "false"},
  });
}

std::string kernel_attributes() {
#ifdef RDDM_WITH_CUDA
  std::vector<std::string> all;
  for (const auto& kernels : {reverse_step_kernel_attributes(), forward_diffuse_kernel_attributes(),
                              joint_loss_kernel_attributes(), range_null_step_kernel_attributes(),
                              tacos_step_kernel_attributes()}) {
    for (const KernelAttributes& k : kernels) {
      all.push_back(json_object({{"kernel", quoted(k.kernel)},
                                 {"registers", std::to_string(k.registers)},
                                 {"local_bytes", std::to_string(k.local_bytes)},
                                 {"threads_per_block", std::to_string(k.threads_per_block)},
                                 {"blocks_per_sm", std::to_string(k.blocks_per_sm)}}));
    }
  }
  return '[' + joined(all) + ']';
#else
  throw std::runtime_error(
      std::string("no kernel attributes: this build has no CUDA code, because ") +
      RDDM_WHY_NO_CUDA);
#endif
}

Tensor normals(int64_t seed, int64_t stream, int64_t first, int64_t count,
               const std::string& instruction_set) {
  RDDM_CHECK(first >= 0 && count >= 0 && count <= kBlock,
             "normals: first must be 0 or more and count 0 to ", kBlock);
  const auto& loops = normals_loops();
  const auto loop = std::find_if(loops.rbegin(), loops.rend(), [&](const auto* each) {
    return instruction_set.empty() || instruction_set == each->name;
  });
  RDDM_CHECK(loop != loops.rend(), "normals: there is no instruction set ", instruction_set);
  NoiseArgument noise;
  noise.seed = static_cast<uint64_t>(seed);
  noise.stream = static_cast<uint64_t>(stream);
  DrawnNoise drawn(noise, {}, **loop);
  const float* z = drawn.at(first, count);
  Tensor result = torch::stable::empty({count}, torch::headeronly::ScalarType::Float);
  std::copy_n(z, count, static_cast<float*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace
}  // namespace rddm

STABLE_TORCH_LIBRARY_FRAGMENT(rddm_fast, m) {
  // JSON: what this library was built with and for.
  m.def("build_info() -> str");
  // JSON: registers, local memory and occupancy of every CUDA kernel on the current device.
  m.def("kernel_attributes() -> str");
  // The noise that the CPU ops draw for `count` elements from the logical element `first` on.
  m.def("normals(int seed, int stream, int first, int count, str instruction_set='') -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rddm_fast, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&rddm::build_info));
  m.impl("kernel_attributes", TORCH_BOX(&rddm::kernel_attributes));
  m.impl("normals", TORCH_BOX(&rddm::normals));
}
