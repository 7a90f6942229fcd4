// Products of few rows in dot products of integers or bfloat16, as torch calls them; see dots.h.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "integers.h"
#include "shims.h"
#include "tiles.h"

namespace stagetree::dots {
namespace {

using at::Tensor;
using namespace stagetree;

// One of several products of the same inputs.
template <typename Weights>
struct Product {
  Weights weights;
  int64_t num_panels;
};

// `finish(product, row, first output, figures, how many)` takes what comes out.
template <typename Dots, typename Input, typename Finish>
void multiply_by(
    const Input* input, int64_t rows, int64_t in,
    const std::vector<Product<typename Dots::Weights>>& products, const Finish& finish) {
  const int64_t blocks = (rows + Dots::MAX_ROWS - 1) / Dots::MAX_ROWS;
  const int64_t num_words = Dots::num_words(in);
  const auto top = [&](int64_t block) { return rows * block / blocks; };
  std::vector<int32_t> words(rows * num_words);
  at::parallel_for(0, blocks, blocks < 4 ? blocks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      for (int64_t row = top(block); row < top(block + 1); ++row)
        Dots::arrange(
            input + row * in, in, top(block + 1) - top(block), row - top(block),
            words.data() + top(block) * num_words);
  });
  int64_t num_panels = 0;
  for (const auto& each : products) num_panels += each.num_panels;
  // A thread is worth waking for some 200,000 products; a chunk of panels stays in the first caches.
  const int64_t grain = 200000 / (rows * in * OUTPUTS) + 1, chunk = blocks > 1 ? 8 : num_panels;
  at::parallel_for(0, num_panels, grain, [&](int64_t begin, int64_t end) {
    for (size_t place = 0; place < products.size(); ++place) {
      const auto& [weights, count] = products[place];
      const int64_t last = std::min(end, count);
      for (int64_t first = std::max<int64_t>(begin, 0); first < last; first += chunk)
        for (int64_t block = 0; block < blocks; ++block)
          multiply_rows<Dots>(
              top(block + 1) - top(block), words.data() + top(block) * num_words, in, weights, first,
              std::min(first + chunk, last),
              [&](int64_t row, int64_t output, const float* figures, int64_t many) {
                finish(place, top(block) + row, output, figures, many);
              });
      begin -= count, end -= count;
    }
  });
}

// The same by the form for so many rows.
template <typename Dots, typename Input, typename Finish>
void multiply(
    const Input* input, int64_t rows, int64_t in,
    const std::vector<Product<typename Dots::Weights>>& products, const Finish& finish) {
  with_form<Dots>(
      rows, [&]<typename Form>() { multiply_by<Form>(input, rows, in, products, finish); });
}

void check(const Tensor& part, int64_t out, int64_t steps, int64_t bytes, int64_t in) {
  TORCH_CHECK(
      part.dim() == 3 && part.size(0) == (out + OUTPUTS - 1) / OUTPUTS && part.size(1) == steps &&
          part.size(2) * part.element_size() == bytes && part.is_contiguous(),
      "these panels were not packed for ", in, " inputs and ", out, " outputs");
}

Tensor outputs_of(const Tensor& input, int64_t out, at::ScalarType type = at::kFloat) {
  auto shape = input.sizes().vec();
  shape.back() = out;
  return at::empty(shape, input.options().dtype(type));
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

// Codes of 8 bits, -127 to 127 (int8), to (panels, steps, STEP) of unsigned ones.
Tensor pack_int8(const Tensor& codes) {
  return pack(codes.to(at::kShort).add(128), Integers<8>::num_loads(codes.size(1)), 4).to(at::kByte);
}

Tensor unpack_int8(const Tensor& panels, int64_t out, int64_t in) {
  return unpack(panels, out, in, 4).to(at::kShort).sub(128).to(at::kChar);
}

// Codes of 4 bits, 0 to 15 (uint8), to (panels, groups * LOADS, STEP): two halves of a group in one.
Tensor pack_int4(const Tensor& codes) {
  const int64_t groups = Integers<4>::num_groups(codes.size(1)), loads = Integers<4>::LOADS;
  const Tensor steps = pack(codes, groups * 2 * loads, 4);
  const Tensor halves = steps.view({steps.size(0), groups, 2, loads, STEP});
  const Tensor both = halves.select(2, 0).bitwise_or(halves.select(2, 1).mul(16));
  return both.reshape({steps.size(0), groups * loads, STEP}).contiguous();
}

Tensor unpack_int4(const Tensor& panels, int64_t out, int64_t in) {
  const int64_t loads = Integers<4>::LOADS, groups = panels.size(1) / loads;
  const Tensor both = panels.view({panels.size(0), groups, 1, loads, STEP});
  const Tensor halves = at::cat({both.bitwise_and(15), both.div(16, "floor")}, 2);
  return unpack(halves.reshape({panels.size(0), groups * 2 * loads, STEP}), out, in, 4);
}

Tensor pack_bfloat16(const Tensor& weight) {
  return pack(weight.to(at::kBFloat16), BFloat16Dots::num_steps(weight.size(1)), 2);
}

Tensor unpack_bfloat16(const Tensor& panels, int64_t out, int64_t in) {
  return unpack(panels, out, in, 2);
}

// The products of one input with several matrices: its rows are rounded once, threads woken once.
template <int BITS>
std::vector<Tensor> products_of_integers(
    const Tensor& given, at::TensorList panels, at::TensorList scales, at::IntArrayRef outs) {
  using Dots = Integers<BITS>;
  const Tensor input = given.to(at::kFloat).contiguous();
  const int64_t in = input.size(-1), rows = input.numel() / std::max<int64_t>(in, 1);
  std::vector<Product<typename Dots::Weights>> products;
  std::vector<Tensor> outputs;
  std::vector<float*> to;
  for (size_t place = 0; place < panels.size(); ++place) {
    check(panels[place], outs[place], Dots::num_loads(in), STEP, in);
    check(scales[place], outs[place], Dots::num_groups(in), Dots::HALVES * 2, in);
    const auto* halves = static_cast<const uint16_t*>(scales[place].const_data_ptr());
    products.push_back({{panels[place].const_data_ptr<uint8_t>(), halves}, panels[place].size(0)});
    outputs.push_back(outputs_of(input, outs[place]));
    to.push_back(outputs.back().mutable_data_ptr<float>());
  }
  if (rows)
    multiply<Dots>(
        input.const_data_ptr<float>(), rows, in, products,
        [&](size_t place, int64_t row, int64_t first, const float* figures, int64_t count) {
          const int64_t out = outs[place];
          std::copy_n(figures, std::min(count, out - first), to[place] + row * out + first);
        });
  return outputs;
}

template <int BITS>
Tensor linear_integers(
    const Tensor& given, const Tensor& panels, const Tensor& scales, const std::optional<Tensor>& bias,
    int64_t out) {
  Tensor output = products_of_integers<BITS>(given, panels, scales, out)[0];
  if (bias) output += *bias;
  return output.to(given.scalar_type());
}

// The same of bfloat16, rounded to what `Output` is.
template <typename Output>
std::vector<Tensor> products_in(const Tensor& given, at::TensorList panels, at::IntArrayRef outs) {
  const Tensor input = given.to(at::kBFloat16).contiguous();
  const int64_t in = input.size(-1), rows = input.numel() / std::max<int64_t>(in, 1);
  std::vector<Product<BFloat16Dots::Weights>> products;
  std::vector<Tensor> outputs;
  std::vector<Output*> to;
  for (size_t place = 0; place < panels.size(); ++place) {
    check(panels[place], outs[place], BFloat16Dots::num_steps(in), STEP, in);
    const auto* weights = static_cast<const uint8_t*>(panels[place].const_data_ptr());
    products.push_back({{weights}, panels[place].size(0)});
    outputs.push_back(outputs_of(input, outs[place], c10::CppTypeToScalarType<Output>::value));
    to.push_back(outputs.back().template mutable_data_ptr<Output>());
  }
  if (rows)
    multiply<BFloat16Dots>(
        static_cast<const uint16_t*>(input.const_data_ptr()), rows, in, products,
        [&](size_t place, int64_t row, int64_t first, const float* figures, int64_t count) {
          const int64_t out = outs[place];
          for (int64_t each = 0; each < std::min(count, out - first); ++each)
            to[place][row * out + first + each] = Output(figures[each]);
        });
  return outputs;
}

std::vector<Tensor> products_bfloat16(
    const Tensor& given, at::TensorList panels, at::IntArrayRef outs) {
  if (given.scalar_type() == at::kBFloat16) return products_in<at::BFloat16>(given, panels, outs);
  std::vector<Tensor> outputs = products_in<float>(given, panels, outs);
  for (Tensor& output : outputs) output = output.to(given.scalar_type());
  return outputs;
}

Tensor linear_bfloat16(
    const Tensor& given, const Tensor& panels, const std::optional<Tensor>& bias, int64_t out) {
  if (!bias) return products_bfloat16(given, panels, out)[0];
  Tensor output = products_in<float>(given, panels, out)[0];
  output += *bias;  // rounded once
  return output.to(given.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def("pack_int8(Tensor codes) -> Tensor");
  library.def("unpack_int8(Tensor panels, int out, int inputs) -> Tensor");
  library.def("linear_int8(Tensor input, Tensor panels, Tensor scales, Tensor? bias, int out) -> Tensor");
  library.def("products_int8(Tensor input, Tensor[] panels, Tensor[] scales, int[] outs) -> Tensor[]");
  library.def("pack_int4(Tensor codes) -> Tensor");
  library.def("unpack_int4(Tensor panels, int out, int inputs) -> Tensor");
  library.def("linear_int4(Tensor input, Tensor panels, Tensor scales, Tensor? bias, int out) -> Tensor");
  library.def("products_int4(Tensor input, Tensor[] panels, Tensor[] scales, int[] outs) -> Tensor[]");
  library.def("pack_bfloat16(Tensor weight) -> Tensor");
  library.def("unpack_bfloat16(Tensor panels, int out, int inputs) -> Tensor");
  library.def("linear_bfloat16(Tensor input, Tensor panels, Tensor? bias, int out) -> Tensor");
  library.def("products_bfloat16(Tensor input, Tensor[] panels, int[] outs) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) {
  library.impl("pack_int8", pack_int8);
  library.impl("unpack_int8", unpack_int8);
  library.impl("linear_int8", linear_integers<8>);
  library.impl("products_int8", products_of_integers<8>);
  library.impl("pack_int4", pack_int4);
  library.impl("unpack_int4", unpack_int4);
  library.impl("linear_int4", linear_integers<4>);
  library.impl("products_int4", products_of_integers<4>);
  library.impl("pack_bfloat16", pack_bfloat16);
  library.impl("unpack_bfloat16", unpack_bfloat16);
  library.impl("linear_bfloat16", linear_bfloat16);
  library.impl("products_bfloat16", products_bfloat16);
}

// How compiled passes call them, see shims.h.
#define STAGETREE_INTEGER_SHIMS(BITS)                                                               \
  extern "C" int32_t aoti_torch_cpu_linear_int##BITS(                                               \
      Tensor* input, Tensor* panels, Tensor* scales, Tensor** bias, int64_t out, Tensor** output) { \
    const std::optional<Tensor> added = shims::if_any(bias);                                        \
    return shims::hand_out(linear_integers<BITS>(*input, *panels, *scales, added, out), output);    \
  }                                                                                                 \
  extern "C" int32_t aoti_torch_cpu_products_int##BITS(                                             \
      Tensor* input, Tensor* const* panels, int64_t count, Tensor* const* scales, int64_t,          \
      const int64_t* outs, int64_t given, ...) {                                                    \
    va_list outputs;                                                                                \
    va_start(outputs, given);                                                                       \
    const auto lists = std::pair(shims::list_of(panels, count), shims::list_of(scales, count));     \
    shims::hand_out(                                                                                \
        products_of_integers<BITS>(*input, lists.first, lists.second, {outs, size_t(count)}), outputs); \
    va_end(outputs);                                                                                \
    return 0;                                                                                       \
  }

STAGETREE_INTEGER_SHIMS(8)
STAGETREE_INTEGER_SHIMS(4)

extern "C" int32_t aoti_torch_cpu_linear_bfloat16(
    Tensor* input, Tensor* panels, Tensor** bias, int64_t out, Tensor** output) {
  return shims::hand_out(linear_bfloat16(*input, *panels, shims::if_any(bias), out), output);
}

extern "C" int32_t aoti_torch_cpu_products_bfloat16(
    Tensor* input, Tensor* const* panels, int64_t count, const int64_t* outs, int64_t given, ...) {
  va_list outputs;
  va_start(outputs, given);
  const std::vector<Tensor> list = shims::list_of(panels, count);
  shims::hand_out(products_bfloat16(*input, list, {outs, size_t(count)}), outputs);
  va_end(outputs);
  return 0;
}

}  // namespace stagetree::dots
