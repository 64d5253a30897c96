// The Python side of the compiled library. Importing it registers the ops, by static initialisers
// in the other files. Its own functions only say what was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "amx/bands.h"
#include "common/cpu_blocks.h"
#include "common/kernel_attributes.h"
#include "conv3x3/winograd_sets.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = RDDM_TORCH_VERSION;
  info["stable_abi_target"] = RDDM_STABLE_ABI_TARGET;
  info["compiler"] = RDDM_CXX_COMPILER;
#ifdef RDDM_WITH_CUDA
  info["cuda"] = true;
  info["nvcc"] = RDDM_NVCC_VERSION;
  info["cuda_architectures"] = RDDM_CUDA_ARCHITECTURES;
#else
  info["cuda"] = false;
  info["why_no_cuda"] = RDDM_WHY_NO_CUDA;
#endif
  py::list sets;
  for (const rddm::WinogradSteps* set : rddm::winograd_sets()) sets.append(set->name);
  info["instruction_sets"] = sets;
  info["amx"] = rddm::amx_steps() != nullptr;
  return info;
}

py::list kernel_attributes() {
#ifdef RDDM_WITH_CUDA
  py::list all;
  for (const auto& kernels :
       {rddm::reverse_step_kernel_attributes(), rddm::forward_diffuse_kernel_attributes(),
        rddm::joint_loss_kernel_attributes(), rddm::range_null_step_kernel_attributes(),
        rddm::tacos_step_kernel_attributes()}) {
    for (const auto& k : kernels) {
      py::dict entry;
      entry["kernel"] = k.kernel;
      entry["registers"] = k.registers;
      entry["local_bytes"] = k.local_bytes;
      entry["threads_per_block"] = k.threads_per_block;
      entry["blocks_per_sm"] = k.blocks_per_sm;
      all.append(entry);
    }
  }
  return all;
#else
  throw std::runtime_error(
      std::string("no kernel attributes: this build has no CUDA code, because ") +
      RDDM_WHY_NO_CUDA);
#endif
}

std::vector<float> normals(uint64_t seed, uint64_t stream, int64_t first, int64_t count,
                           const std::string& instruction_set) {
  if (first < 0 || count < 0 || count > rddm::kBlock) {
    throw std::invalid_argument("normals: first must be 0 or more and count 0 to " +
                                std::to_string(rddm::kBlock));
  }
  rddm::NoiseArgument noise;
  noise.seed = seed;
  noise.stream = stream;
  const auto& loops = rddm::normals_loops();
  const auto loop = std::find_if(loops.rbegin(), loops.rend(), [&](const auto* each) {
    return instruction_set.empty() || instruction_set == each->name;
  });
  if (loop == loops.rend()) {
    throw std::invalid_argument("normals: there is no instruction set " + instruction_set);
  }
  rddm::DrawnNoise drawn(noise, {}, **loop);
  const float* z = drawn.at(first, count);
  return {z, z + count};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled ops of rddm_fast. Importing it registers them with torch.";
  m.def("build_info", &build_info, "What this library was built with and for.");
  m.def(
      "normals", &normals, py::arg("seed"), py::arg("stream"), py::arg("first"), py::arg("count"),
      py::arg("instruction_set") = "",
      "The noise that the CPU ops draw for `count` elements from the logical element `first` on.");
  m.def("kernel_attributes", &kernel_attributes,
        "Registers, local memory and occupancy of every CUDA kernel on the current device.");
}
