// Restores a PPM photograph with a sampler that `rddm-fast export` wrote, by libtorch alone.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

at::Tensor read_ppm(const std::string& path) {  // (1, 3, H, W), float32 in [0, 1]
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, most = 0;
  file >> magic >> width >> height >> most;
  if (magic != "P6" || most != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is no binary 8-bit PPM without comments");
  file.get();
  auto pixels = at::empty({1, height, width, 3}, at::kByte);
  if (!file.read(reinterpret_cast<char*>(pixels.data_ptr()), pixels.numel()))
    throw std::runtime_error(path + " is cut short");
  return pixels.permute({0, 3, 1, 2}).to(at::kFloat).div(255).contiguous();
}

void write_ppm(const std::string& path, const at::Tensor& image) {
  auto pixels = image.cpu().mul(255).round().to(at::kByte)[0].permute({1, 2, 0}).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << pixels.size(1) << ' ' << pixels.size(0) << "\n255\n";
  file.write(reinterpret_cast<const char*>(pixels.data_ptr()), pixels.numel());
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: restore sampler.pt2 degraded.ppm restored.ppm [mask.ppm]\n";
    return 2;
  }
  torch::inductor::AOTIModelPackageLoader sampler(argv[1]);
  auto about = sampler.get_metadata();
  if (about["inputs"] != (argc > 4 ? "image,noise,mask" : "image,noise"))
    throw std::runtime_error("the sampler takes '" + about["inputs"] + "'");
  const auto number = [&](const char* name) { return std::stoll(about.at(name)); };
  const std::vector<int64_t> shape{number("batch"), 3, number("height"), number("width")};
  at::manual_seed(0);
  std::vector<at::Tensor> inputs{
      read_ppm(argv[2]), at::randn({number("draws"), shape[0], shape[1], shape[2], shape[3]})};
  if (argc > 4) inputs.push_back(read_ppm(argv[4]));
  for (auto& image : inputs) {
    if (image.sizes().slice(image.dim() - 4) != at::IntArrayRef(shape))
      throw std::runtime_error("the sampler takes one image of " + about["height"] + "x" +
                               about["width"]);
    image = image.to(at::Device(about["device"]));
  }
  write_ppm(argv[3], sampler.run(inputs)[0]);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
