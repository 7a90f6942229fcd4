// Dot products of few rows, by the instructions that take four int8 or two bfloat16 at a time.
//
// Weights (out, in) lie in panels of OUTPUTS rows, and a step of a panel is 64 bytes: a word of four
// bytes of each output, one after another. So it is for all instruction sets, and so are the figures
// to the bit. Inputs are the words of ROWS rows side by side, in the order in which they are read.
//
// int8: inputs are rounded by groups of GROUP, each with a scale of its own. A group's products are
// summed up as integers, which no order changes, and an output is one chain of fused multiply-adds
// over groups. Weights are kept 128 too high, as the instructions want one factor: unsigned.
//
// bfloat16: an output is one chain of fused multiply-adds, of each pair's second product first: that
// is what vdpbf16ps does, and where it is missing the same is done by two. (Only what is smaller
// than any normal float32 it takes for zero.)

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

struct Int8 {
#if defined(__AVX512VNNI__)
  static constexpr const char* FORM = "AVX-512 VNNI";
  static constexpr int LANES = 16, MAX_ROWS = 14;
  static constexpr bool IS_OFFSET = true;
#elif defined(__AVXVNNI__)
  static constexpr const char* FORM = "AVX-VNNI";
  static constexpr int LANES = 8, MAX_ROWS = 3;
  static constexpr bool IS_OFFSET = true;
#elif defined(__AVX2__)
  static constexpr const char* FORM = "AVX2";
  static constexpr int LANES = 8, MAX_ROWS = 3;
  static constexpr bool IS_OFFSET = false;
#elif defined(__ARM_FEATURE_DOTPROD)
  static constexpr const char* FORM = "NEON";
  static constexpr int LANES = 4, MAX_ROWS = 3;
  static constexpr bool IS_OFFSET = false;
#else
  static constexpr const char* FORM = "plain";
  static constexpr int LANES = 4, MAX_ROWS = 3;
  static constexpr bool IS_OFFSET = false;
#endif
  typedef Registers<LANES> R;
  typedef R::Ints Ints;
  typedef R::Floats Floats;
  typedef R::Bytes Bytes;

  static constexpr int GROUP = 32, STEPS = GROUP / WORD;

  static constexpr int num_panels(int rows) {
    constexpr int MOST = MAX_ROWS * R::PARTS;
    return std::clamp(MOST / (rows * R::PARTS), 1, LANES == 16 ? 8 : 2);
  }

  static int64_t num_steps(int64_t in) { return padded(in, GROUP) / WORD; }

  // What the inputs of a row take: of each group its words, what an offset adds, and its scale.
  static int64_t num_words(int64_t in) { return padded(in, GROUP) / GROUP * (STEPS + 2); }

  // The weights as signed or unsigned bytes, whichever `dot` wants.
  static Bytes given(Bytes weights) { return IS_OFFSET ? weights : weights ^ uint8_t{0x80}; }

  static Ints dot(Ints sums, Bytes weights, int32_t word) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(word));
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)weights, _mm256_set1_epi32(word));
#elif defined(__AVX2__)
    // Of 127 at most, two products fit 16 bits.
    const __m256i x = _mm256_set1_epi32(word);
    const __m256i turned = _mm256_sign_epi8((__m256i)weights, x);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), turned);
    return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, (int8x16_t)vdupq_n_s32(word));
#else
    int8_t bytes[LANES * WORD];
    int32_t products[LANES] = {};
    std::memcpy(bytes, &weights, sizeof bytes);
    for (int lane = 0; lane < LANES; ++lane)
      for (int byte = 0; byte < WORD; ++byte)
        products[lane] += bytes[WORD * lane + byte] * int8_t(word >> 8 * byte);
    Ints more;
    std::memcpy(&more, products, sizeof more);
    return sums + more;
#endif
  }

  template <int ROWS, int PANELS>
  static void block(
      const int32_t* words, int64_t in, const uint8_t* panels, float (&outputs)[ROWS][PANELS * OUTPUTS]) {
    constexpr int VECTORS = PANELS * R::PARTS;
    const int64_t panel = num_steps(in) * STEP, num_groups = num_steps(in) / STEPS;
    Floats totals[ROWS][VECTORS] = {};
    for (int64_t group = 0; group < num_groups; ++group, words += ROWS * (STEPS + 2)) {
      const int32_t *offsets = words + ROWS * STEPS, *scales = offsets + ROWS;
      Ints sums[ROWS][VECTORS];
      for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = Ints{} + (IS_OFFSET ? offsets[r] : 0);
      for (int step = 0; step < STEPS; ++step) {
        Bytes weights[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
          const uint8_t* place = panels + v / R::PARTS * panel + (group * STEPS + step) * STEP;
          std::memcpy(&weights[v], place + v % R::PARTS * sizeof(Bytes), sizeof(Bytes));
          weights[v] = given(weights[v]);
        }
        for (int r = 0; r < ROWS; ++r)
          for (int v = 0; v < VECTORS; ++v)
            sums[r][v] = dot(sums[r][v], weights[v], words[step * ROWS + r]);
      }
      for (int r = 0; r < ROWS; ++r) {
        float scale;
        std::memcpy(&scale, scales + r, sizeof scale);
        for (int v = 0; v < VECTORS; ++v) {
          const Floats sum = __builtin_convertvector(sums[r][v], Floats);
          totals[r][v] = R::fused(sum, Floats{} + scale, totals[r][v]);
        }
      }
    }
    std::memcpy(outputs, totals, sizeof totals);
  }

  // One of ROWS rows of inputs, by groups: the largest becomes 127. What is not finite stays so.
  static void arrange(const float* input, int64_t in, int rows, int row, int32_t* words) {
    for (int64_t first = 0; first < in; first += GROUP, words += rows * (STEPS + 2)) {
      float group[GROUP] = {};
      std::memcpy(group, input + first, std::min<int64_t>(GROUP, in - first) * sizeof(float));
      uint32_t bits[GROUP], most = 0;
      std::memcpy(bits, group, sizeof bits);
      // As numbers, bits are in the order of what they mean, and what is no number comes last.
      for (int k = 0; k < GROUP; ++k) most = std::max(most, bits[k] & 0x7fffffffu);
      float largest;
      std::memcpy(&largest, &most, sizeof largest);
      const bool is_finite = most < 0x7f800000u, is_something = is_finite && largest > 1e-30f;
      const float inverse = is_something ? 127 / largest : 0.0f;
      const float scale = is_finite ? largest / 127 : NAN;
      int8_t bytes[GROUP];
      int32_t sum = 0;
      for (int k = 0; k < GROUP; ++k) {
        bytes[k] = is_something ? int8_t(std::rint(group[k] * inverse)) : 0;
        sum += bytes[k];
      }
      for (int step = 0; step < STEPS; ++step)
        std::memcpy(words + step * rows + row, bytes + step * WORD, WORD);
      words[STEPS * rows + row] = -128 * sum;
      std::memcpy(words + (STEPS + 1) * rows + row, &scale, sizeof scale);
    }
  }
};

struct BFloat16Dots {
#if defined(__AVX512BF16__)
  static constexpr const char* FORM = "AVX-512 BF16";
  static constexpr int MAX_ROWS = 14;
#else
  static constexpr const char* FORM = "fused multiply-adds";
  static constexpr int MAX_ROWS = NUM_REGISTERS >= 32 ? 12 : 6;
#endif
  static constexpr int LANES = stagetree::LANES;
  typedef Registers<LANES> R;
  typedef R::Floats Floats;
  typedef R::Words Words;

  static constexpr int num_panels(int rows) {
    constexpr int MOST = LANES == 16 ? 2 * MAX_ROWS : 8;
    return std::clamp(MOST / (rows * R::PARTS), 1, LANES == 16 ? 8 : 2);
  }

  static int64_t num_steps(int64_t in) { return (in + 1) / 2; }
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
      const int32_t* words, int64_t in, const uint8_t* panels, float (&outputs)[ROWS][PANELS * OUTPUTS]) {
    constexpr int VECTORS = PANELS * R::PARTS;
    const int64_t steps = num_steps(in), panel = steps * STEP;
    Floats totals[ROWS][VECTORS] = {};
    for (int64_t step = 0; step < steps; ++step, words += ROWS) {
      Words weights[VECTORS];
      for (int v = 0; v < VECTORS; ++v) {
        const uint8_t* place = panels + v / R::PARTS * panel + step * STEP;
        std::memcpy(&weights[v], place + v % R::PARTS * sizeof(Words), sizeof(Words));
      }
      for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) totals[r][v] = dot(totals[r][v], weights[v], words[r]);
    }
    std::memcpy(outputs, totals, sizeof totals);
  }

  // One of ROWS rows of inputs, which are bfloat16 already: `input` are their bits.
  static void arrange(const uint16_t* input, int64_t in, int rows, int row, int32_t* words) {
    for (int64_t k = 0; k < in; k += 2, words += rows) {
      const uint32_t second = k + 1 < in ? input[k + 1] : 0;
      words[row] = int32_t(second << 16 | input[k]);
    }
  }
};

// ROWS rows times the panels `begin` to `end`: take(row, first output, figures, how many).
template <typename Dots, int ROWS, typename Take>
void multiply_panels(
    const int32_t* words, int64_t in, const uint8_t* panels, int64_t begin, int64_t end,
    const Take& take) {
  const int64_t panel = Dots::num_steps(in) * STEP;
  const auto multiply = [&]<int PANELS>(int64_t p) {
    float outputs[ROWS][PANELS * OUTPUTS];
    Dots::template block<ROWS, PANELS>(words, in, panels + p * panel, outputs);
    for (int r = 0; r < ROWS; ++r) take(r, p * OUTPUTS, outputs[r], PANELS * OUTPUTS);
  };
  constexpr int PANELS = Dots::num_panels(ROWS);
  int64_t p = begin;
  for (; p + PANELS <= end; p += PANELS) multiply.template operator()<PANELS>(p);
  for (; p < end; ++p) multiply.template operator()<1>(p);
}

// The same for a number of rows, MAX_ROWS at most, that is only known now.
template <typename Dots, int ROWS = Dots::MAX_ROWS, typename... Given>
void multiply_rows(int rows, const Given&... given) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return multiply_rows<Dots, ROWS - 1>(rows, given...);
  multiply_panels<Dots, ROWS>(given...);
}

}  // namespace stagetree
