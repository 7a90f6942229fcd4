// What choosing a token asks of a row of logits on the host: its likeliest tokens, and the random
// bits of a few of them. Both are a fraction of a microsecond's work that libraries take tens for:
// one sorts what need not be sorted, the other makes the bits of the whole vocabulary.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

namespace stagetree::choosing {
namespace {

using at::Tensor;

struct Entry {
  float value;
  int64_t token;
};

// The likelier first, of equal ones the lower token; what is no number comes before all.
inline bool before(const Entry& a, const Entry& b) {
  if (std::isnan(a.value) != std::isnan(b.value)) return std::isnan(a.value);
  if (a.value != b.value && !std::isnan(a.value)) return a.value > b.value;
  return a.token < b.token;
}

// Leave the first `count` of them, the last of which is at the end.
inline void thin_out(std::vector<Entry>& kept, int64_t count) {
  std::nth_element(kept.begin(), kept.begin() + (count - 1), kept.end(), before);
  kept.resize(count);
}

constexpr int64_t BLOCK = 64;

// Whatever does not exceed the last of `count` tokens kept so far is passed over by blocks.
void likeliest_of_row(const float* row, int64_t size, int64_t count, std::vector<Entry>& kept) {
  kept.clear();
  float floor = -std::numeric_limits<float>::infinity();
  bool is_full = false;
  for (int64_t start = 0; start < size; start += BLOCK) {
    const int64_t end = std::min(start + BLOCK, size);
    if (is_full) {
      unsigned exceeding = 0;
      for (int64_t token = start; token < end; ++token) exceeding |= !(row[token] <= floor);
      if (!exceeding) continue;
    }
    for (int64_t token = start; token < end; ++token) {
      if (is_full && row[token] <= floor) continue;
      kept.push_back({row[token], token});
      if ((int64_t)kept.size() == 2 * count) {
        thin_out(kept, count);
        floor = kept.back().value;
        is_full = true;
      }
    }
  }
  if ((int64_t)kept.size() > count) thin_out(kept, count);
  std::sort(kept.begin(), kept.end(), before);
}

std::tuple<Tensor, Tensor> likeliest(const Tensor& logits, int64_t count) {
  TORCH_CHECK(
      logits.dim() == 2 && logits.scalar_type() == at::kFloat && logits.stride(1) == 1 &&
          count >= 1 && count <= logits.size(1),
      "likeliest wants float32 rows of at least ", count, " tokens");
  const int64_t rows = logits.size(0);
  Tensor values = at::empty({rows, count}, logits.options());
  Tensor tokens = at::empty({rows, count}, logits.options().dtype(at::kLong));
  std::vector<Entry> kept;
  kept.reserve(2 * count);
  for (int64_t row = 0; row < rows; ++row) {
    likeliest_of_row(
        logits.const_data_ptr<float>() + row * logits.stride(0), logits.size(1), count, kept);
    float* value = values.mutable_data_ptr<float>() + row * count;
    int64_t* token = tokens.mutable_data_ptr<int64_t>() + row * count;
    for (const Entry& entry : kept) *value++ = entry.value, *token++ = entry.token;
  }
  return {values, tokens};
}

struct Block {
  uint64_t words[4];
};

// Philox-4x64-10 (Salmon et al., SC 2011) of the counter (block, position, 0, 0), key (seed, 0).
inline Block philox(uint64_t seed, uint64_t block, uint64_t position) {
  uint64_t c0 = block, c1 = position, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const auto product0 = (unsigned __int128)0xD2E7470EE14C6C93u * c0;
    const auto product1 = (unsigned __int128)0xCA5A826395121157u * c2;
    c0 = (uint64_t)(product1 >> 64) ^ c1 ^ k0;
    c1 = (uint64_t)product1;
    c2 = (uint64_t)(product0 >> 64) ^ c3 ^ k1;
    c3 = (uint64_t)product0;
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  return {{c0, c1, c2, c3}};
}

Tensor random_bits(int64_t seed, int64_t position, const Tensor& tokens) {
  TORCH_CHECK(
      tokens.scalar_type() == at::kLong && tokens.is_contiguous(),
      "random_bits wants token ids in a row");
  Tensor bits = at::empty(tokens.sizes(), tokens.options());
  const int64_t* token = tokens.const_data_ptr<int64_t>();
  int64_t* word = bits.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens.numel(); ++i) {
    const Block block = philox((uint64_t)seed, 1 + (uint64_t)token[i] / 4, (uint64_t)position);
    word[i] = (int64_t)block.words[token[i] % 4];
  }
  return bits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def("likeliest(Tensor logits, int count) -> (Tensor, Tensor)");
  library.def("random_bits(int seed, int position, Tensor tokens) -> Tensor");
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) {
  library.impl("likeliest", likeliest);
  library.impl("random_bits", random_bits);
}

}  // namespace stagetree::choosing
