// Dot products of weights in 8 or 4 bits and inputs in 8, by groups of GROUP inputs.
//
// A group of an output's weights has a scale, in half precision: a weight is scale * code, as in GGUF's
// Q8_0. In 4 bits, whose codes are 0 to 15, it has a minimum, too: scale * code + minimum, as in Q4_1
// and Q4_0. A group of a row's inputs is rounded to int8 with a scale of its own.
//
// A group's products are summed up as integers, which no order changes, and an output is one chain of
// fused multiply-adds over groups: of its sum, and then of its minimum and the sum of its inputs. So all
// forms give the same figures to the bit. Codes of 8 bits are kept 128 too high, as the instructions
// want one factor unsigned. A byte of 4 bits has a code of the group's first half below one of its second.

#pragma once

#include "dots.h"

namespace stagetree {

// What a processor has for words of four bytes.
struct IntegerForm {
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

  // Codes of 8 bits as signed or unsigned bytes, whichever `dot` wants.
  static Bytes given(Bytes codes) { return IS_OFFSET ? codes : codes ^ uint8_t{0x80}; }

  static Ints dot(Ints sums, Bytes codes, int32_t word) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, _mm512_set1_epi32(word));
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, _mm256_set1_epi32(word));
#elif defined(__AVX2__)
    // Of 127 at most, two products fit 16 bits.
    const __m256i x = _mm256_set1_epi32(word);
    const __m256i turned = _mm256_sign_epi8((__m256i)codes, x);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), turned);
    return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)codes, (int8x16_t)vdupq_n_s32(word));
#else
    int8_t bytes[LANES * WORD];
    int32_t products[LANES] = {};
    std::memcpy(bytes, &codes, sizeof bytes);
    for (int lane = 0; lane < LANES; ++lane)
      for (int byte = 0; byte < WORD; ++byte)
        products[lane] += bytes[WORD * lane + byte] * int8_t(word >> 8 * byte);
    Ints more;
    std::memcpy(&more, products, sizeof more);
    return sums + more;
#endif
  }

  // The same of codes that are 15 at most, which are the same signed and unsigned.
  static Ints dot_of_few_bits(Ints sums, Bytes codes, int32_t word) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, _mm256_set1_epi32(word));
    return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    return dot(sums, codes, word);
#endif
  }

  // LANES numbers of half precision, none of which is infinite.
  static Floats widened(const uint16_t* halves) {
#if defined(__AVX512VNNI__)
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)halves));
#elif defined(__F16C__)
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)halves));
#else
    float found[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
      const uint32_t bits = uint32_t(halves[lane] & 0x8000u) << 16 | uint32_t(halves[lane] & 0x7fffu) << 13;
      std::memcpy(&found[lane], &bits, sizeof bits);
      found[lane] *= 0x1p112f;  // what the exponents' biases differ by
    }
    Floats vector;
    std::memcpy(&vector, found, sizeof vector);
    return vector;
#endif
  }
};

template <int BITS>
struct Integers : IntegerForm {
  static constexpr int GROUP = 32, STEPS = GROUP / WORD, LOADS = STEPS * BITS / 8;
  static constexpr bool IS_TILED = false;
  static constexpr bool HAS_MINIMA = BITS == 4, IS_OFFSET = !HAS_MINIMA && IntegerForm::IS_OFFSET;
  static constexpr int HALVES = OUTPUTS * (HAS_MINIMA ? 2 : 1);  // of a group of a panel

  // Those of a panel: codes (groups, LOADS, STEP), halves (groups, HALVES): scales, then minima.
  struct Weights {
    const uint8_t* codes;
    const uint16_t* halves;

    Weights from(int64_t panel, int64_t in) const {
      return {codes + panel * num_loads(in) * STEP, halves + panel * num_groups(in) * HALVES};
    }
  };

  static constexpr int num_panels(int rows) {
    constexpr int MOST = MAX_ROWS * R::PARTS;
    return std::clamp(MOST / (rows * R::PARTS), 1, LANES == 16 ? 8 : 2);
  }

  static int64_t num_groups(int64_t in) { return (in + GROUP - 1) / GROUP; }
  static int64_t num_loads(int64_t in) { return num_groups(in) * LOADS; }

  // What the inputs of a row take: of each group its words, its scale, and what its sum adds.
  static int64_t num_words(int64_t in) { return num_groups(in) * (STEPS + 2); }

  template <int ROWS, int PANELS>
  static void block(
      const int32_t* words, int64_t in, Weights weights, float (&outputs)[ROWS][PANELS * OUTPUTS]) {
    constexpr int VECTORS = PANELS * R::PARTS;
    Floats totals[ROWS][VECTORS] = {};
    for (int64_t group = 0; group < num_groups(in); ++group, words += ROWS * (STEPS + 2)) {
      const int32_t* added = words + ROWS * (STEPS + 1);
      Ints sums[ROWS][VECTORS];
      for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = Ints{} + (IS_OFFSET ? added[r] : 0);
      for (int load = 0; load < LOADS; ++load)
        for (int v = 0; v < VECTORS; ++v) {
          Bytes codes;
          const uint8_t* panel = weights.from(v / R::PARTS, in).codes;
          const uint8_t* place = panel + (group * LOADS + load) * STEP;
          std::memcpy(&codes, place + v % R::PARTS * sizeof codes, sizeof codes);
          fetch_ahead<ROWS>(place);
          for (int r = 0; r < ROWS; ++r)
            sums[r][v] = add<ROWS>(sums[r][v], codes, words + load * ROWS + r);
        }
      for (int v = 0; v < VECTORS; ++v) {
        const uint16_t* halves = weights.from(v / R::PARTS, in).halves + group * HALVES;
        halves += v % R::PARTS * LANES;
        for (int r = 0; r < ROWS; ++r)
          totals[r][v] =
              chained(totals[r][v], sums[r][v], halves, words[ROWS * STEPS + r], added[r]);
      }
    }
    std::memcpy(outputs, totals, sizeof totals);
  }

  // One more group in outputs' chains; `scale` and what its sum adds are the row's, as bits.
  static Floats chained(
      Floats totals, Ints sums, const uint16_t* halves, int32_t scale, int32_t added) {
    const Floats scales = widened(halves) * of_bits(scale);
    totals = R::fused(__builtin_convertvector(sums, Floats), scales, totals);
    if constexpr (HAS_MINIMA)
      totals = R::fused(widened(halves + OUTPUTS), Floats{} + of_bits(added), totals);
    return totals;
  }

  // The products of one load, of one step or of two, whose inputs are half a group apart.
  template <int ROWS>
  static Ints add(Ints sums, Bytes codes, const int32_t* word) {
    if constexpr (BITS == 8) return dot(sums, given(codes), word[0]);
    sums = dot_of_few_bits(sums, codes & uint8_t{0x0f}, word[0]);
    return dot_of_few_bits(sums, codes >> 4, word[LOADS * ROWS]);
  }

  static float of_bits(int32_t word) {
    float number;
    std::memcpy(&number, &word, sizeof number);
    return number;
  }

  // One of ROWS rows of inputs, by groups: the largest becomes 127. What is not finite stays so. A
  // group has the words of its steps, row beside row, or those of its rows, step after step.
  template <bool IS_BY_ROW = false>
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
        std::memcpy(
            words + (IS_BY_ROW ? row * STEPS + step : step * rows + row), bytes + step * WORD, WORD);
      std::memcpy(words + STEPS * rows + row, &scale, sizeof scale);
      const float mass = scale * float(sum);
      int32_t& added = words[(STEPS + 1) * rows + row];
      if constexpr (HAS_MINIMA) std::memcpy(&added, &mass, sizeof mass);
      else added = -128 * sum;
    }
  }
};

}  // namespace stagetree
