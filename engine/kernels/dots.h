// Products of few rows in dot products, of four int8 (integers.h) or two bfloat16 (bfloat16.h) a word,
// by vectors, or by tiles where there are such (tiles.h).
//
// Weights (out, in) lie in panels of OUTPUTS rows, and a step of a panel is 64 bytes: a word of four
// bytes of each output, one after another. So it is for all instruction sets, and so are the figures
// to the bit, but for those of bfloat16 in tiles. Inputs are the words of ROWS rows side by side, in
// the order in which they are read.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#include "vectors.h"

namespace stagetree {

constexpr int OUTPUTS = 16, WORD = 4, STEP = OUTPUTS * WORD;

inline int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// Weights of one step in registers of `Lanes` words, and what is summed up in such.
template <int Lanes>
struct Registers {
  static constexpr int LANES = Lanes, PARTS = OUTPUTS / Lanes;
  typedef int32_t Ints __attribute__((vector_size(Lanes * 4)));
  typedef uint32_t Words __attribute__((vector_size(Lanes * 4)));
  typedef float Floats __attribute__((vector_size(Lanes * 4)));
  typedef uint8_t Bytes __attribute__((vector_size(Lanes * 4)));

  static Floats fused(Floats x, Floats y, Floats sum) {
#if defined(__FMA__) || defined(__aarch64__)
    return sum + x * y;  // which compilers contract
#else
    float left[Lanes], right[Lanes], sums[Lanes];
    std::memcpy(left, &x, sizeof x), std::memcpy(right, &y, sizeof y), std::memcpy(sums, &sum, sizeof sum);
    for (int lane = 0; lane < Lanes; ++lane) sums[lane] = std::fma(left[lane], right[lane], sums[lane]);
    std::memcpy(&sum, sums, sizeof sum);
    return sum;
#endif
  }
};

// ROWS rows times the panels `begin` to `end`, PANELS at once, and what is left half as many at once, and
// so on, since a sum alone waits for itself: take(row, first output, figures, how many).
template <typename Dots, int ROWS, int PANELS, typename Take>
void multiply_panels(
    const int32_t* words, int64_t in, typename Dots::Weights weights, int64_t begin, int64_t end,
    const Take& take) {
  for (; begin + PANELS <= end; begin += PANELS) {
    float outputs[ROWS][PANELS * OUTPUTS];
    Dots::template block<ROWS, PANELS>(words, in, weights.from(begin, in), outputs);
    for (int r = 0; r < ROWS; ++r) take(r, begin * OUTPUTS, outputs[r], PANELS * OUTPUTS);
  }
  if constexpr (PANELS > 1)
    multiply_panels<Dots, ROWS, PANELS / 2>(words, in, weights, begin, end, take);
}

// The same for a number of rows, MAX_ROWS at most, that is only known now.
template <typename Dots, int ROWS = Dots::MAX_ROWS, typename... Given>
void multiply_rows(int rows, const Given&... given) {
  if constexpr (Dots::IS_TILED) {
    Dots::multiply(rows, given...);
  } else {
    if constexpr (ROWS > 1)
      if (rows < ROWS) return multiply_rows<Dots, ROWS - 1>(rows, given...);
    multiply_panels<Dots, ROWS, Dots::num_panels(ROWS)>(given...);
  }
}

}  // namespace stagetree
