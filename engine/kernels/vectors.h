// Vectors of the machine that this is compiled on, by the extension that GCC and Clang share.

#pragma once

#include <cstdint>

namespace stagetree {

#if defined(__AVX512F__)
constexpr int LANES = 16, NUM_REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, NUM_REGISTERS = 16;
#else  // NEON, and whatever else has vectors of 128 bits
constexpr int LANES = 4, NUM_REGISTERS = 32;
#endif

typedef float FloatVector __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t WordVector __attribute__((vector_size(LANES * sizeof(uint32_t))));

constexpr int64_t PANEL = 2 * LANES;  // columns of a right factor that lie together
constexpr int MAX_ROWS = NUM_REGISTERS >= 32 ? 12 : 6;  // accumulators fill registers

inline FloatVector in_every_lane(float x) { return x - FloatVector{}; }

}  // namespace stagetree
