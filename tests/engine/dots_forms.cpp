// One form of the dot products, whichever it is compiled for, without torch.

#include <vector>

#include "bfloat16.h"
#include "integers.h"
#include "tiles.h"

namespace {

template <typename Dots, typename Input>
void multiply_by(
    const Input* input, int64_t rows, int64_t in, typename Dots::Weights weights, int64_t out,
    float* output) {
  for (int64_t top = 0; top < rows; top += Dots::MAX_ROWS) {
    const int count = std::min<int64_t>(Dots::MAX_ROWS, rows - top);
    std::vector<int32_t> words(count * Dots::num_words(in));
    for (int row = 0; row < count; ++row)
      Dots::arrange(input + (top + row) * in, in, count, row, words.data());
    const auto take = [&](int64_t row, int64_t first, const float* figures, int64_t many) {
      for (int64_t each = 0; each < std::min(many, out - first); ++each)
        output[(top + row) * out + first + each] = figures[each];
    };
    const int64_t num_panels = stagetree::padded(out, stagetree::OUTPUTS) / stagetree::OUTPUTS;
    stagetree::multiply_rows<Dots>(
        count, words.data(), in, weights, int64_t{0}, num_panels, take);
  }
}

template <typename Dots, typename Input>
void multiply(
    const Input* input, int64_t rows, int64_t in, typename Dots::Weights weights, int64_t out,
    float* output) {
  stagetree::with_form<Dots>(rows, [&]<typename Form>() {
    multiply_by<Form>(input, rows, in, weights, out, output);
  });
}

}  // namespace

extern "C" {

const char* form_of_integers() { return stagetree::IntegerForm::FORM; }
const char* form_of_bfloat16() { return stagetree::BFloat16Dots::FORM; }

bool has_tiles() {
#ifdef STAGETREE_TILES
  return stagetree::Tiles::are_there();
#else
  return false;
#endif
}

void int8(
    const float* input, int64_t rows, int64_t in, const uint8_t* panels, const uint16_t* scales,
    int64_t out, float* output) {
  multiply<stagetree::Integers<8>>(input, rows, in, {panels, scales}, out, output);
}

void int4(
    const float* input, int64_t rows, int64_t in, const uint8_t* panels, const uint16_t* scales,
    int64_t out, float* output) {
  multiply<stagetree::Integers<4>>(input, rows, in, {panels, scales}, out, output);
}

void bfloat16(
    const uint16_t* input, int64_t rows, int64_t in, const uint8_t* panels, const uint16_t* scales,
    int64_t out, float* output) {
  multiply<stagetree::BFloat16Dots>(input, rows, in, {panels}, out, output);
}
}
