// Dot products of bfloat16: an output is one chain of fused multiply-adds, of each pair's second product
// first. That is what vdpbf16ps does, and where it is missing the same is done by two. (Only what is
// smaller than any normal float32 it takes for zero.)

#pragma once

#include "dots.h"

namespace stagetree {

struct BFloat16Dots {
#if defined(__AVX512BF16__)
  static constexpr const char* FORM = "AVX-512 BF16";
  static constexpr int MAX_ROWS = 14;
#else
  static constexpr const char* FORM = "fused multiply-adds";
  static constexpr int MAX_ROWS = NUM_REGISTERS >= 32 ? 12 : 6;
#endif
  static constexpr bool IS_TILED = false;
  static constexpr int LANES = stagetree::LANES;
  typedef Registers<LANES> R;
  typedef R::Floats Floats;
  typedef R::Words Words;

  static constexpr int num_panels(int rows) {
    constexpr int MOST = LANES == 16 ? 2 * MAX_ROWS : 8;
    return std::clamp(MOST / (rows * R::PARTS), 1, LANES == 16 ? 8 : 2);
  }

  static int64_t num_steps(int64_t in) { return (in + 1) / 2; }

  struct Weights {
    const uint8_t* panels;

    Weights from(int64_t panel, int64_t in) const { return {panels + panel * num_steps(in) * STEP}; }
  };

  static int64_t num_words(int64_t in) { return num_steps(in); }

  static Floats dot(Floats sums, Words weights, int32_t word) {
#if defined(__AVX512BF16__)
    const __m512i x = _mm512_set1_epi32(word);
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)(__m512i)weights, (__m512bh)x);
#else
    const uint32_t bits = word;
    const Words second = Words{} + (bits & 0xffff0000u), first = Words{} + (bits << 16);
    sums = R::fused((Floats)(weights & 0xffff0000u), (Floats)second, sums);
    return R::fused((Floats)(weights << 16), (Floats)first, sums);
#endif
  }

  template <int ROWS, int PANELS>
  static void block(
      const int32_t* words, int64_t in, Weights weights, float (&outputs)[ROWS][PANELS * OUTPUTS]) {
    constexpr int VECTORS = PANELS * R::PARTS;
    const int64_t steps = num_steps(in), panel = steps * STEP;
    Floats totals[ROWS][VECTORS] = {};
    for (int64_t step = 0; step < steps; ++step, words += ROWS) {
      Words pairs[VECTORS];
      for (int v = 0; v < VECTORS; ++v) {
        const uint8_t* place = weights.panels + v / R::PARTS * panel + step * STEP;
        std::memcpy(&pairs[v], place + v % R::PARTS * sizeof(Words), sizeof(Words));
        fetch_ahead<ROWS>(place);
      }
      for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) totals[r][v] = dot(totals[r][v], pairs[v], words[r]);
    }
    std::memcpy(outputs, totals, sizeof totals);
  }

  // One of ROWS rows of inputs, which are bfloat16 already: `input` are their bits.
  static void arrange(const uint16_t* input, int64_t in, int rows, int row, int32_t* words) {
    for (int64_t k = 0; k < in; k += 2, words += rows) words[row] = word(input, in, k);
  }

  // Two inputs from `k` on, the second of which, or both, may be beyond the end.
  static int32_t word(const uint16_t* input, int64_t in, int64_t k) {
    const uint32_t first = k < in ? input[k] : 0, second = k + 1 < in ? input[k + 1] : 0;
    return int32_t(second << 16 | first);
  }
};

}  // namespace stagetree
