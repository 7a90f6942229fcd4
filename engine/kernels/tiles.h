// The same dot products by AMX, of as many as 16 rows and 16 outputs in one instruction.
//
// A step of a panel is a row of a tile of weights as it lies in memory; a tile of inputs has a row's
// words side by side. In integers a tile is a group, and its sums are those of every other form, to the
// bit: so a form is chosen by what is faster. In bfloat16 the first and the second input of each pair
// are summed up apart for 32 inputs, and then added: figures differ in last bits from those of other
// processors. So all rows there are go by tiles, and a row's figures depend on no other row.

#pragma once

#include "bfloat16.h"
#include "integers.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512VNNI__) && defined(__linux__)
#define STAGETREE_TILES
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stagetree {

// The form by tiles of `Dots`, and the least number of rows that it is for.
template <typename Dots>
struct ByTiles;

#ifdef STAGETREE_TILES

// Tiles 0 to 3 are sums of four panels, 4 is of inputs, 5 and 6 are of weights.
class Tiles {
 public:
  static constexpr int ROWS = 16, PANELS = 4;
  typedef const uint8_t* Weights[PANELS];

  // Linux gives a process their state if it asks, for all of its threads, and may refuse. Not every
  // kernel refuses where there are none, so the processor is asked first.
  static bool are_there() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    constexpr unsigned NEEDED = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
    static const bool is_given = [] {
      unsigned a = 0, b = 0, c = 0, d = 0;
      return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & NEEDED) == NEEDED &&
          syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    }();
    return is_given;
  }

  // For inputs of `rows` rows and `steps` words, in this thread, as long as it lives.
  Tiles(int rows, int steps) {
    struct alignas(64) {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 7; ++tile) {
      shape.bytes[tile] = tile == 4 ? steps * WORD : STEP;
      shape.rows[tile] = tile > 4 ? steps : rows;
    }
    settle(&shape);
    _tile_loadconfig(&shape);
  }

  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  void clear() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  void store(int32_t (&sums)[PANELS][ROWS][OUTPUTS]) {
    _tile_stored(0, sums[0], STEP);
    _tile_stored(1, sums[1], STEP);
    _tile_stored(2, sums[2], STEP);
    _tile_stored(3, sums[3], STEP);
    settle(sums);
  }

  // A tile's number is a part of its instruction, and so has to be written out.
#define STAGETREE_ADD_TILES(dot, inputs, bytes, weights) \
  settle(weights[0]);                                    \
  _tile_loadd(4, inputs, bytes);                         \
  _tile_loadd(5, weights[0], STEP);                      \
  _tile_loadd(6, weights[1], STEP);                      \
  dot(0, 4, 5);                                          \
  dot(1, 4, 6);                                          \
  _tile_loadd(5, weights[2], STEP);                      \
  _tile_loadd(6, weights[3], STEP);                      \
  dot(2, 4, 5);                                          \
  dot(3, 4, 6);

  void add_integers(const int32_t* inputs, int steps, const Weights& weights) {
    STAGETREE_ADD_TILES(_tile_dpbsud, inputs, steps * WORD, weights);
  }

  void add_bfloat16(const int32_t* inputs, int steps, const Weights& weights) {
    STAGETREE_ADD_TILES(_tile_dpbf16ps, inputs, steps * WORD, weights);
  }

 private:
  // The compiler does not know that tiles read and write memory.
  static void settle(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }
};

// Four panels from `first` on, or as many as there are and some of them again.
template <typename Weights>
void next_panels(Weights weights, int64_t in, int64_t first, int64_t end, Weights (&panels)[Tiles::PANELS]) {
  for (int64_t place = 0; place < Tiles::PANELS; ++place)
    panels[place] = weights.from(std::min(first + place, end - 1), in);
}

template <typename Take>
void take_panels(
    int rows, int64_t first, int64_t end, const float (&figures)[Tiles::PANELS][Tiles::ROWS][OUTPUTS],
    const Take& take) {
  for (int64_t place = 0; place < std::min<int64_t>(Tiles::PANELS, end - first); ++place)
    for (int r = 0; r < rows; ++r) take(r, (first + place) * OUTPUTS, figures[place][r], OUTPUTS);
}

template <int BITS>
struct TileIntegers : Integers<BITS> {
  typedef Integers<BITS> Form;
  typedef typename Form::Ints Ints;
  typedef typename Form::Floats Floats;
  static constexpr bool IS_TILED = true;
  static constexpr int MAX_ROWS = Tiles::ROWS, PANELS = Tiles::PANELS, STEPS = Form::STEPS;

  static void arrange(const float* input, int64_t in, int rows, int row, int32_t* words) {
    Form::template arrange<true>(input, in, rows, row, words);
  }

  template <typename Take>
  static void multiply(
      int rows, const int32_t* words, int64_t in, typename Form::Weights weights, int64_t begin,
      int64_t end, const Take& take) {
    Tiles tiles(rows, STEPS);
    for (int64_t first = begin; first < end; first += PANELS) {
      typename Form::Weights panels[PANELS];
      next_panels(weights, in, first, end, panels);
      alignas(STEP) float totals[PANELS][Tiles::ROWS][OUTPUTS] = {};
      const int32_t* inputs = words;
      for (int64_t group = 0; group < Form::num_groups(in); ++group, inputs += rows * (STEPS + 2)) {
        alignas(STEP) uint8_t room[PANELS][STEPS * STEP];
        alignas(STEP) int32_t sums[PANELS][Tiles::ROWS][OUTPUTS];
        Tiles::Weights codes;
        for (int place = 0; place < PANELS; ++place)
          codes[place] = unpacked(panels[place].codes + group * Form::LOADS * STEP, room[place]);
        tiles.clear();
        tiles.add_integers(inputs, STEPS, codes);
        tiles.store(sums);
        for (int place = 0; place < PANELS; ++place) {
          const uint16_t* halves = panels[place].halves + group * Form::HALVES;
          for (int r = 0; r < rows; ++r) {
            Ints sum;
            Floats total;
            std::memcpy(&sum, sums[place][r], sizeof sum);
            std::memcpy(&total, totals[place][r], sizeof total);
            const int32_t scale = inputs[rows * STEPS + r], added = inputs[rows * (STEPS + 1) + r];
            if constexpr (!Form::HAS_MINIMA) sum += added;
            total = Form::chained(total, sum, halves, scale, added);
            std::memcpy(totals[place][r], &total, sizeof total);
          }
        }
      }
      take_panels(rows, first, end, totals, take);
    }
  }

 private:
  // A group's codes, a byte each.
  static const uint8_t* unpacked(const uint8_t* codes, uint8_t* room) {
    if constexpr (BITS == 8) return codes;
    typedef uint8_t Bytes __attribute__((vector_size(STEP)));
    for (int load = 0; load < Form::LOADS; ++load) {
      Bytes both;
      std::memcpy(&both, codes + load * STEP, sizeof both);
      const Bytes first = both & uint8_t{0x0f}, second = both >> 4;
      std::memcpy(room + load * STEP, &first, sizeof first);
      std::memcpy(room + (Form::LOADS + load) * STEP, &second, sizeof second);
    }
    return room;
  }
};

struct TileBFloat16 : BFloat16Dots {
  static constexpr bool IS_TILED = true;
  static constexpr int MAX_ROWS = Tiles::ROWS, PANELS = Tiles::PANELS, STEPS = 16;

  static int64_t num_words(int64_t in) { return padded(num_steps(in), STEPS); }

  static void arrange(const uint16_t* input, int64_t in, int rows, int row, int32_t* words) {
    for (int64_t first = 0; first < num_words(in); first += STEPS)
      for (int64_t step = 0; step < STEPS; ++step)
        words[first * rows + row * STEPS + step] = word(input, in, 2 * (first + step));
  }

  template <typename Take>
  static void multiply(
      int rows, const int32_t* words, int64_t in, Weights weights, int64_t begin, int64_t end,
      const Take& take) {
    Tiles tiles(rows, STEPS);
    for (int64_t first = begin; first < end; first += PANELS) {
      Weights panels[PANELS];
      next_panels(weights, in, first, end, panels);
      tiles.clear();
      for (int64_t step = 0; step < num_steps(in); step += STEPS) {
        alignas(STEP) uint8_t room[PANELS][STEPS * STEP];
        Tiles::Weights pairs;
        for (int place = 0; place < PANELS; ++place)
          pairs[place] = whole(panels[place].panels, step, num_steps(in), room[place]);
        tiles.add_bfloat16(words + step * rows, STEPS, pairs);
      }
      alignas(STEP) int32_t bits[PANELS][Tiles::ROWS][OUTPUTS];
      alignas(STEP) float figures[PANELS][Tiles::ROWS][OUTPUTS];
      tiles.store(bits);
      std::memcpy(figures, bits, sizeof figures);
      take_panels(rows, first, end, figures, take);
    }
  }

 private:
  // A tile of steps, of which the last of a panel may be too few.
  static const uint8_t* whole(const uint8_t* panel, int64_t step, int64_t steps, uint8_t* room) {
    if (step + STEPS <= steps) return panel + step * STEP;
    std::memset(room, 0, STEPS * STEP);
    std::memcpy(room, panel + step * STEP, (steps - step) * STEP);
    return room;
  }
};

// With fewer rows reading the weights is all, which vectors of 64 bytes do as well.
template <int BITS>
struct ByTiles<Integers<BITS>> {
  typedef TileIntegers<BITS> Form;
  static constexpr int64_t LEAST_ROWS = 8;
};

template <>
struct ByTiles<BFloat16Dots> {
  typedef TileBFloat16 Form;
  static constexpr int64_t LEAST_ROWS = 1;
};

#endif  // STAGETREE_TILES

// Calls run<Form>() with the form of `Dots` for so many rows in this process.
template <typename Dots, typename Run>
void with_form(int64_t rows, const Run& run) {
#ifdef STAGETREE_TILES
  if (rows >= ByTiles<Dots>::LEAST_ROWS && Tiles::are_there())
    return run.template operator()<typename ByTiles<Dots>::Form>();
#endif
  run.template operator()<Dots>();
}

}  // namespace stagetree
