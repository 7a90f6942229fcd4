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

// Lets what lies behind these weights be on its way. With many rows a processor's own guesses come too
// late, and arithmetic waits for memory; with few there is nothing but memory to wait for.
template <int ROWS>
inline void fetch_ahead(const void* weights) {
  constexpr int BYTES = 2048;
  if constexpr (ROWS >= 8) __builtin_prefetch(static_cast<const char*>(weights) + BYTES);
}

inline FloatVector in_every_lane(float x) { return x - FloatVector{}; }

}  // namespace stagetree
