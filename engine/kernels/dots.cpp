// Products of few rows in dot products of int8 or bfloat16, as torch calls them; see dots.h.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "dots.h"

namespace {

using at::Tensor;
using namespace stagetree;

// `finish(row, first output, figures, how many)` takes what comes out.
template <typename Dots, typename Input, typename Finish>
void multiply(
    const Input* input, int64_t rows, int64_t in, const Tensor& panels, const Finish& finish) {
  const int64_t blocks = (rows + Dots::MAX_ROWS - 1) / Dots::MAX_ROWS;
  const int64_t num_words = Dots::num_words(in), num_panels = panels.size(0);
  const auto top = [&](int64_t block) { return rows * block / blocks; };
  std::vector<int32_t> words(rows * num_words);
  at::parallel_for(0, blocks, blocks < 4 ? blocks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      for (int64_t row = top(block); row < top(block + 1); ++row)
        Dots::arrange(
            input + row * in, in, top(block + 1) - top(block), row - top(block),
            words.data() + top(block) * num_words);
  });
  // A thread is worth waking for some 200,000 products; a chunk of panels stays in the first caches.
  const int64_t grain = 200000 / (rows * in * OUTPUTS) + 1, chunk = blocks > 1 ? 8 : num_panels;
  const auto* weights = static_cast<const uint8_t*>(panels.const_data_ptr());
  at::parallel_for(0, num_panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += chunk)
      for (int64_t block = 0; block < blocks; ++block)
        multiply_rows<Dots>(
            top(block + 1) - top(block), words.data() + top(block) * num_words, in, weights, first,
            std::min(first + chunk, end),
            [&](int64_t row, int64_t output, const float* figures, int64_t count) {
              finish(top(block) + row, output, figures, count);
            });
  });
}

template <typename Dots>
void check(const Tensor& panels, int64_t in, int64_t out) {
  TORCH_CHECK(
      panels.dim() == 3 && panels.size(0) == (out + OUTPUTS - 1) / OUTPUTS &&
          panels.size(1) == Dots::num_steps(in) && panels.size(2) * panels.element_size() == STEP &&
          panels.is_contiguous(),
      "these panels were not packed for ", in, " inputs and ", out, " outputs");
}

Tensor outputs_of(const Tensor& input, int64_t out) {
  auto shape = input.sizes().vec();
  shape.back() = out;
  return at::empty(shape, input.options());
}

// (out, in) to (panels, steps, STEP): words of `per_word` weights of every output of a panel.
Tensor pack(const Tensor& weight, int64_t steps, int64_t per_word) {
  const int64_t out = weight.size(0), in = weight.size(1), panels = (out + OUTPUTS - 1) / OUTPUTS;
  Tensor whole = at::zeros({panels * OUTPUTS, steps * per_word}, weight.options());
  whole.narrow(0, 0, out).narrow(1, 0, in).copy_(weight);
  const Tensor words = whole.view({panels, OUTPUTS, steps, per_word}).permute({0, 2, 1, 3});
  return words.contiguous().view({panels, steps, OUTPUTS * per_word});
}

// What was packed: (out, in).
Tensor unpack(const Tensor& panels, int64_t out, int64_t in, int64_t per_word) {
  const Tensor words = panels.view({panels.size(0), panels.size(1), OUTPUTS, per_word});
  const Tensor whole = words.permute({0, 2, 1, 3}).reshape({panels.size(0) * OUTPUTS, -1});
  return whole.narrow(0, 0, out).narrow(1, 0, in).contiguous();
}

Tensor pack_int8(const Tensor& weight) {
  return pack(weight.to(at::kShort).add(128), Int8::num_steps(weight.size(1)), 4).to(at::kByte);
}

Tensor unpack_int8(const Tensor& panels, int64_t out, int64_t in) {
  return unpack(panels, out, in, 4).to(at::kShort).sub(128).to(at::kChar);
}

Tensor pack_bfloat16(const Tensor& weight) {
  return pack(weight.to(at::kBFloat16), BFloat16Dots::num_steps(weight.size(1)), 2);
}

Tensor unpack_bfloat16(const Tensor& panels, int64_t out, int64_t in) {
  return unpack(panels, out, in, 2);
}

Tensor linear_int8(
    const Tensor& given, const Tensor& panels, const Tensor& scales,
    const std::optional<Tensor>& bias, int64_t out) {
  const Tensor input = given.to(at::kFloat).contiguous();
  const int64_t in = input.size(-1), rows = input.numel() / std::max<int64_t>(in, 1);
  check<Int8>(panels, in, out);
  Tensor output = outputs_of(input, out);
  const float* by_output = scales.const_data_ptr<float>();
  float* to = output.mutable_data_ptr<float>();
  if (rows)
    multiply<Int8>(
        input.const_data_ptr<float>(), rows, in, panels,
        [&](int64_t row, int64_t first, const float* figures, int64_t count) {
          for (int64_t each = 0; each < std::min(count, out - first); ++each)
            to[row * out + first + each] = figures[each] * by_output[first + each];
        });
  if (bias) output += *bias;
  return output.to(given.scalar_type());
}

Tensor linear_bfloat16(
    const Tensor& given, const Tensor& panels, const std::optional<Tensor>& bias, int64_t out) {
  const Tensor input = given.to(at::kBFloat16).contiguous();
  const int64_t in = input.size(-1), rows = input.numel() / std::max<int64_t>(in, 1);
  check<BFloat16Dots>(panels, in, out);
  const auto run = [&]<typename Output>(Tensor output) {
    Output* to = output.mutable_data_ptr<Output>();
    if (rows)
      multiply<BFloat16Dots>(
          static_cast<const uint16_t*>(input.const_data_ptr()), rows, in, panels,
          [&](int64_t row, int64_t first, const float* figures, int64_t count) {
            for (int64_t each = 0; each < std::min(count, out - first); ++each)
              to[row * out + first + each] = Output(figures[each]);
          });
    return output;
  };
  if (!bias && given.scalar_type() == at::kBFloat16)
    return run.template operator()<at::BFloat16>(outputs_of(input, out));
  Tensor output = run.template operator()<float>(outputs_of(input.to(at::kFloat), out));
  if (bias) output += *bias;
  return output.to(given.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def("pack_int8(Tensor weight) -> Tensor");
  library.def("unpack_int8(Tensor panels, int out, int inputs) -> Tensor");
  library.def("linear_int8(Tensor input, Tensor panels, Tensor scales, Tensor? bias, int out) -> Tensor");
  library.def("pack_bfloat16(Tensor weight) -> Tensor");
  library.def("unpack_bfloat16(Tensor panels, int out, int inputs) -> Tensor");
  library.def("linear_bfloat16(Tensor input, Tensor panels, Tensor? bias, int out) -> Tensor");
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) {
  library.impl("pack_int8", pack_int8);
  library.impl("unpack_int8", unpack_int8);
  library.impl("linear_int8", linear_int8);
  library.impl("pack_bfloat16", pack_bfloat16);
  library.impl("unpack_bfloat16", unpack_bfloat16);
  library.impl("linear_bfloat16", linear_bfloat16);
}
