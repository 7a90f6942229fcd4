// AMX for a processor that has none: the instructions of tiles.h as Intel's manual describes them.
// A compiler includes it before everything else.

#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace emulated {

struct Shape {
  uint8_t palette, first_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

struct Tile {
  uint8_t row[16][64];
};

inline thread_local Shape shape;  // of palette 0: there are no tiles
inline thread_local Tile tiles[8];

inline void require(bool is_so) {
  if (!is_so) std::abort();  // where a processor would raise an exception
}

// Stands for a processor that has everything.
inline int ask(unsigned, unsigned, unsigned* a, unsigned* b, unsigned* c, unsigned* d) {
  *a = *b = *c = *d = ~0u;
  return 1;
}

// Stands for Linux, which lets everybody use tiles.
inline long permit(long, long, long) { return 0; }

inline void configure(const void* given) {
  std::memcpy(&shape, given, sizeof shape);
  require(shape.palette == 1 && shape.first_row == 0);
  for (int tile = 0; tile < 16; ++tile)
    require(tile < 8 ? shape.bytes[tile] <= 64 && shape.rows[tile] <= 16 : !shape.bytes[tile]);
  std::memset(tiles, 0, sizeof tiles);
}

inline void release() { shape = {}; }

inline void clear(int tile) {
  require(shape.palette && shape.rows[tile]);
  tiles[tile] = {};
}

inline void load(int tile, const void* from, int64_t stride) {
  clear(tile);
  for (int row = 0; row < shape.rows[tile]; ++row)
    std::memcpy(tiles[tile].row[row], (const char*)from + row * stride, shape.bytes[tile]);
}

inline void store(int tile, void* to, int64_t stride) {
  require(shape.palette && shape.rows[tile]);
  for (int row = 0; row < shape.rows[tile]; ++row)
    std::memcpy((char*)to + row * stride, tiles[tile].row[row], shape.bytes[tile]);
}

template <typename T>
T at(int tile, int row, int place) {
  T value;
  std::memcpy(&value, tiles[tile].row[row] + place * sizeof value, sizeof value);
  return value;
}

inline void require_fit(int sums, int left, int right) {
  require(shape.palette && shape.rows[sums] == shape.rows[left]);
  require(shape.bytes[left] / 4 == shape.rows[right] && shape.bytes[sums] == shape.bytes[right]);
}

inline void dot_integers(int sums, int left, int right) {
  require_fit(sums, left, right);
  for (int m = 0; m < shape.rows[sums]; ++m)
    for (int n = 0; n < shape.bytes[sums] / 4; ++n) {
      int32_t sum = at<int32_t>(sums, m, n);
      for (int k = 0; k < shape.bytes[left] / 4; ++k)
        for (int byte = 0; byte < 4; ++byte)
          sum += at<int8_t>(left, m, 4 * k + byte) * at<uint8_t>(right, k, 4 * n + byte);
      std::memcpy(tiles[sums].row[m] + 4 * n, &sum, sizeof sum);
    }
}

inline float widened(uint16_t half) {
  const uint32_t bits = uint32_t(half) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

inline void dot_bfloat16(int sums, int left, int right) {
  require_fit(sums, left, right);
  for (int m = 0; m < shape.rows[sums]; ++m)
    for (int n = 0; n < shape.bytes[sums] / 4; ++n) {
      float apart[2] = {};
      for (int k = 0; k < shape.bytes[left] / 4; ++k)
        for (int of = 0; of < 2; ++of)
          apart[of] = std::fma(
              widened(at<uint16_t>(left, m, 2 * k + of)), widened(at<uint16_t>(right, k, 2 * n + of)),
              apart[of]);
      const float sum = at<float>(sums, m, n) + (apart[0] + apart[1]);
      std::memcpy(tiles[sums].row[m] + 4 * n, &sum, sizeof sum);
    }
}

}  // namespace emulated

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::configure
#define _tile_release emulated::release
#define _tile_loadd emulated::load
#define _tile_stored emulated::store
#define _tile_zero emulated::clear
#define _tile_dpbsud emulated::dot_integers
#define _tile_dpbf16ps emulated::dot_bfloat16
#define __get_cpuid_count emulated::ask
#define syscall emulated::permit

#undef __AMX_TILE__
#undef __AMX_INT8__
#undef __AMX_BF16__
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
