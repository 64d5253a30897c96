// How memory holds the values that are computed in float32.
#pragma once

namespace rddm {

enum class Stored { kFloat32, kBfloat16, kFloat16 };

}  // namespace rddm
