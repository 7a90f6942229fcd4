// Matrix products of few rows: x (rows, in) times weights (out, in), as y (rows, out).
//
// With few rows a product is bound by reading its weights, with many by arithmetic, and a tree's
// pass lies between the two. So the weights are kept as the checkpoint has them: in bfloat16 if
// that holds them exactly, which halves the reading, and widened in registers; all arithmetic is
// in float32. They lie in panels of PANEL outputs, in the order in which the inner loop reads them.
//
// An output is one chain of fused multiply-adds over `in`, whatever the number of rows: rows do not
// change one another's figures, to the bit.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "shims.h"
#include "vectors.h"

namespace stagetree::linear {
namespace {

using at::BFloat16;
using at::Tensor;
using stagetree::FloatVector;
using stagetree::LANES;
using stagetree::MAX_ROWS;
using stagetree::PANEL;
using stagetree::WordVector;

// One step of a panel: the weights of PANEL outputs for one input, as two vectors.
struct Pair {
  FloatVector low, high;
};

inline Pair widen(const float* weights) {
  Pair pair;
  std::memcpy(&pair.low, weights, sizeof pair.low);
  std::memcpy(&pair.high, weights + LANES, sizeof pair.high);
  return pair;
}

// Two bfloat16 share a word: the even ones of the panel's order are its lower halves.
inline Pair widen(const BFloat16* weights) {
  WordVector words;
  std::memcpy(&words, weights, sizeof words);
  return {(FloatVector)(words << 16), (FloatVector)(words & 0xffff0000u)};
}

template <int ROWS, int PANELS, typename Weight>
inline void multiply_block(
    const float* input, int64_t in, const Weight* panels, float* output, int64_t out, int64_t first) {
  FloatVector sums[ROWS][PANELS][2] = {};
  for (int64_t k = 0; k < in; ++k) {
    Pair weights[PANELS];
    for (int p = 0; p < PANELS; ++p) weights[p] = widen(panels + (p * in + k) * PANEL);
    for (int r = 0; r < ROWS; ++r) {
      const FloatVector x = stagetree::in_every_lane(input[r * in + k]);
      for (int p = 0; p < PANELS; ++p) {
        sums[r][p][0] += x * weights[p].low;
        sums[r][p][1] += x * weights[p].high;
      }
    }
  }
  const int64_t width = std::min<int64_t>(out - first, PANELS * PANEL);  // the last is padded
  for (int r = 0; r < ROWS; ++r)
    std::memcpy(output + r * out + first, sums[r], width * sizeof(float));
}

// ROWS rows times the panels `begin` to `end`, several panels at once where registers allow.
template <int ROWS, typename Weight>
void multiply_rows(
    const float* input, int64_t in, const Weight* panels, int64_t begin, int64_t end,
    float* output, int64_t out) {
  constexpr int PANELS = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
  int64_t p = begin;
  for (; p + PANELS <= end; p += PANELS)
    multiply_block<ROWS, PANELS>(input, in, panels + p * in * PANEL, output, out, p * PANEL);
  for (; p < end; ++p)
    multiply_block<ROWS, 1>(input, in, panels + p * in * PANEL, output, out, p * PANEL);
}

template <typename Weight, int... INDICES>
constexpr auto row_kernels(std::integer_sequence<int, INDICES...>) {
  return std::array{&multiply_rows<INDICES + 1, Weight>...};
}

template <typename Weight>
void multiply(
    const float* input, int64_t rows, int64_t in, const Weight* panels, int64_t num_panels,
    float* output, int64_t out) {
  static constexpr auto kernels =
      row_kernels<Weight>(std::make_integer_sequence<int, MAX_ROWS>());
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
  // A thread is worth waking for some 100,000 products; a chunk of panels stays in the first caches.
  const int64_t grain = 100000 / (rows * in * PANEL) + 1;
  at::parallel_for(0, num_panels, grain, [&](int64_t begin, int64_t end) {
    constexpr int64_t CHUNK = 4;
    for (int64_t first = begin; first < end; first += CHUNK) {
      const int64_t last = std::min(first + CHUNK, end);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t top = rows * block / blocks, bottom = rows * (block + 1) / blocks;
        kernels[bottom - top - 1](input + top * in, in, panels, first, last, output + top * out, out);
      }
    }
  });
}

bool is_exact(const Tensor& weight) {
  return weight.to(at::kBFloat16).to(at::kFloat).equal(weight);
}

// (out, in) to (panels, in, PANEL): float32, or bfloat16 if that loses nothing.
Tensor pack_linear(const Tensor& given) {
  const Tensor weight = given.to(at::kFloat).contiguous();
  const int64_t out = weight.size(0), in = weight.size(1), num_panels = (out + PANEL - 1) / PANEL;
  Tensor padded = at::zeros({num_panels * PANEL, in}, weight.options());
  padded.narrow(0, 0, out).copy_(weight);
  const Tensor halves = padded.view({num_panels, 2, LANES, in});
  if (is_exact(weight))
    return halves.permute({0, 3, 2, 1}).to(at::kBFloat16).contiguous().view({num_panels, in, PANEL});
  return halves.permute({0, 3, 1, 2}).contiguous().view({num_panels, in, PANEL});
}

// The weights that were packed, in float32.
Tensor unpack_linear(const Tensor& panels, int64_t out) {
  const int64_t in = panels.size(1);
  const Tensor weights = panels.to(at::kFloat);
  const Tensor halves = panels.scalar_type() == at::kBFloat16
      ? weights.view({-1, in, LANES, 2}).permute({0, 3, 2, 1})
      : weights.view({-1, in, 2, LANES}).permute({0, 2, 3, 1});
  return halves.reshape({-1, in}).narrow(0, 0, out).contiguous();
}

Tensor linear(
    const Tensor& given, const Tensor& panels, const std::optional<Tensor>& bias, int64_t out) {
  const Tensor input = given.to(at::kFloat).contiguous();
  const int64_t in = input.size(-1), rows = input.numel() / std::max<int64_t>(in, 1);
  TORCH_CHECK(
      panels.dim() == 3 && panels.size(1) == in && panels.size(2) == PANEL &&
          panels.size(0) == (out + PANEL - 1) / PANEL && panels.is_contiguous(),
      "these panels were not packed for ", in, " inputs and ", out, " outputs");
  auto shape = input.sizes().vec();
  shape.back() = out;
  Tensor output = at::empty(shape, input.options());
  const auto run = [&](const auto* weights) {
    multiply(
        input.const_data_ptr<float>(), rows, in, weights, panels.size(0),
        output.mutable_data_ptr<float>(), out);
  };
  if (rows == 0) return output.to(given.scalar_type());
  if (panels.scalar_type() == at::kBFloat16)
    run(panels.const_data_ptr<BFloat16>());
  else
    run(panels.const_data_ptr<float>());
  if (bias) output += *bias;
  return output.to(given.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def("pack_linear(Tensor weight) -> Tensor");
  library.def("unpack_linear(Tensor panels, int out) -> Tensor");
  library.def("linear_float32(Tensor input, Tensor panels, Tensor? bias, int out) -> Tensor");
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) {
  library.impl("pack_linear", pack_linear);
  library.impl("unpack_linear", unpack_linear);
  library.impl("linear_float32", linear);
}

extern "C" int32_t aoti_torch_cpu_linear_float32(
    Tensor* input, Tensor* panels, Tensor** bias, int64_t out, Tensor** output) {
  return shims::hand_out(linear(*input, *panels, shims::if_any(bias), out), output);
}

}  // namespace stagetree::linear
