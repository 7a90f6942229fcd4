// Choosing tokens on the host: the likeliest of a row, the random bits of a few, and all of it in one
// call, which is what `engine.ranking` does step by step and gives the same tokens. It is a few
// microseconds' work for which libraries take hundreds: they sort what need not be sorted, make the
// noise of a whole vocabulary, and are called a dozen times.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "vectors.h"

namespace stagetree::choosing {
namespace {

using at::Tensor;

constexpr float NEVER = -std::numeric_limits<float>::infinity();

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
  float floor = NEVER;
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

// Gumbel's of 64 bits, as `engine.noise.gumbel` has it.
inline float gumbel(uint64_t bits) {
  const double v = ((double)(bits >> 12) + 0.5) * 0x1p-52;
  return (float)-std::log(-std::log1p(-v));
}

// No less than that, since -log1p(-v) is no less than v, and in a moment: v is above 2^-(n + 1) if n
// bits before the first one are zero.
inline float most_gumbel(uint64_t bits) { return 0.6932f * (std::countl_zero(bits | 0x800) + 1); }
constexpr float MOST_GUMBEL = 0.6932f * 53;

// The row to choose for, and the rule by which: `Rule` in choosing.py, whose names these are.
struct Place {
  const float* row;
  int64_t size, position, seed, top_k;
  double top_p;
  float temperature, min_p;
};

// The best so far, by the score under the noise; of equal ones that which came first.
struct Best {
  const Place& place;
  int64_t token;
  float score = NEVER;

  void consider(float scaled, int64_t candidate, uint64_t bits) {
    if (scaled + most_gumbel(bits) <= score) return;
    const float noisy = scaled + gumbel(bits);
    if (noisy > score) score = noisy, token = candidate;
  }
};

inline Block bits_of_four(const Place& place, int64_t token) {
  return philox((uint64_t)place.seed, 1 + (uint64_t)token / 4, (uint64_t)place.position);
}

inline FloatVector vector_at(const float* figures) {
  FloatVector vector;
  std::memcpy(&vector, figures, sizeof vector);
  return vector;
}

constexpr int64_t STRETCH = 16 * LANES;

// The first of the highest; what is no number is higher than all.
int64_t greedy(const Place& place) {
  const float *row = place.row, *end = row + place.size, *rest = row;
  const float *where = row, *where_ends = end;
  float best = NEVER;
  FloatVector zeros{};  // no longer if any is infinite or no number
  for (; end - rest >= STRETCH; rest += STRETCH) {
    FloatVector highest = vector_at(rest), others = vector_at(rest + LANES);
    zeros += highest * 0.0f + others * 0.0f;
    for (int64_t at = 2 * LANES; at < STRETCH; at += 2 * LANES) {
      const FloatVector one = vector_at(rest + at), other = vector_at(rest + at + LANES);
      highest = one > highest ? one : highest;
      others = other > others ? other : others;
      zeros += one * 0.0f + other * 0.0f;
    }
    highest = others > highest ? others : highest;
    float most = highest[0];
    for (int lane = 1; lane < LANES; ++lane) most = std::max(most, highest[lane]);
    if (most > best) best = most, where = rest, where_ends = rest + STRETCH;
  }
  bool is_odd = false;
  for (int lane = 0; lane < LANES; ++lane) is_odd |= zeros[lane] != 0.0f;
  for (const float* last = rest; last < end; ++last) {
    is_odd |= !std::isfinite(*last);
    if (*last > best) best = *last, where = last, where_ends = end;
  }
  if (is_odd) {
    const float* odd = std::find_if(row, end, [](float logit) { return std::isnan(logit); });
    return (odd < end ? odd : std::max_element(row, end)) - row;
  }
  return std::find(where, where_ends, best) - row;
}

// Shares of tokens are counted in whole parts of the best one's, e to its distance from the best, so
// that their sums are exact in whatever order: `engine.filters.parts`.
constexpr double PARTS = 0x1p34;
constexpr double ROUNDING = 0x1.8p52;  // added and taken away it rounds to a whole number

inline double parts(float distance) { return std::exp((double)distance) * PARTS + ROUNDING - ROUNDING; }

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Words __attribute__((vector_size(64)));

// The same of several. A distance of -40 has no part any more.
inline Doubles parts(Floats distances) {
  Doubles x = __builtin_convertvector(distances, Doubles);
  x = x < -40.0 ? Doubles{} - 40.0 : x;
  const Doubles shifted = x * 0x1.71547652b82fep+0 + ROUNDING, n = shifted - ROUNDING;
  const Doubles r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  Doubles sum = Doubles{} + 1.0 / 479001600;  // 1 / 12!, and the series of e to r goes on so
  for (const double coefficient :
       {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
        1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
    sum = sum * r + coefficient;
  const Words exponents = (Words)shifted << 52;
  return (Doubles)((Words)sum + exponents) * PARTS + ROUNDING - ROUNDING;
}

// Those of all tokens of a row together whose scores are above one.
double total_above(const Place& place, float best, float floor) {
  constexpr int WIDTH = sizeof(Floats) / sizeof(float);
  if (!std::isfinite(best)) return std::numeric_limits<double>::quiet_NaN();
  Doubles sums{};
  int64_t start = 0;
  for (; start + WIDTH <= place.size; start += WIDTH) {
    Floats logits;
    std::memcpy(&logits, place.row + start, sizeof logits);
    const Floats scores = logits / place.temperature;
    const auto above = scores > floor;
    int32_t any = 0;
    for (int lane = 0; lane < WIDTH; ++lane) any |= above[lane];
    if (any) sums += (Doubles)((Words)parts(scores - best) & __builtin_convertvector(above, Words));
  }
  double total = 0.0;
  for (int lane = 0; lane < WIDTH; ++lane) total += sums[lane];
  for (; start < place.size; ++start) {
    const float score = place.row[start] / place.temperature;
    if (score > floor) total += parts(score - best);
  }
  return total;
}

// How many of the likeliest tokens, with scores that fall, the filters keep. `whole` is the total of
// the row, once it has been needed.
int64_t num_kept(const Place& place, const std::vector<Entry>& likeliest, double& whole) {
  const auto end_at = [&](int64_t count, float least) {
    while (count > 0 && likeliest[count - 1].value < least) --count;
    return count;
  };
  const float best = likeliest[0].value;
  const bool is_narrowed = place.top_k < place.size;
  int64_t count = (int64_t)likeliest.size();
  if (is_narrowed) count = end_at(count, likeliest[std::min(place.top_k, count) - 1].value);
  if (place.top_p < 1.0) {
    double total = 0.0, before = 0.0;
    if (is_narrowed) {
      for (int64_t i = 0; i < count; ++i) total += parts(likeliest[i].value - best);
    } else {
      total = whole = whole < 0.0 ? total_above(place, best, NEVER) : whole;
    }
    int64_t num = 0;
    for (; num < count && before < place.top_p * total; ++num)
      before += parts(likeliest[num].value - best);
    count = end_at(count, likeliest[std::max<int64_t>(num, 1) - 1].value);
  }
  return end_at(count, best + place.min_p);
}

constexpr int64_t FIRST_WIDTH = 64, SPARE = 8, WIDER = 8;

// The likeliest tokens with their scores, and how many of them are kept: they are looked for among
// more and more, until all that may be kept are there. What is no number alone is, if there is any.
// None if they are not among the `most` likeliest.
std::optional<int64_t> filter(
    const Place& place, std::vector<Entry>& likeliest, double& whole, int64_t most) {
  const bool is_narrowed = place.top_k < place.size;
  for (int64_t width = is_narrowed ? place.top_k + SPARE : FIRST_WIDTH;; width *= WIDER) {
    if (width > most && most < place.size) return std::nullopt;
    width = std::min(width, place.size);
    likeliest_of_row(place.row, place.size, width, likeliest);
    if (std::isnan(likeliest[0].value)) return 1;
    for (Entry& entry : likeliest) entry.value /= place.temperature;
    const int64_t count = num_kept(place, likeliest, whole);
    const float last = likeliest.back().value;
    const bool is_tied = is_narrowed && last >= likeliest[std::min(place.top_k, width) - 1].value;
    if (width == place.size || last == NEVER || (count < width && !is_tied)) return count;
  }
}

// Of all tokens above a score the best one under the noise, the likelier of equals. That of `first`
// is what any other has to come up to: bits are made of those alone that any noise could make so good.
Entry noisiest_above(const Place& place, Entry first, float floor) {
  Entry best = first;
  float most = first.value + gumbel(bits_of_four(place, first.token).words[first.token % 4]);
  for (int64_t start = 0; start < place.size; start += 4) {
    const int64_t end = std::min(start + 4, place.size);
    float highest = NEVER;
    for (int64_t token = start; token < end; ++token) highest = std::max(highest, place.row[token]);
    highest /= place.temperature;
    if (!(highest > floor) || highest + MOST_GUMBEL < most) continue;
    const Block bits = bits_of_four(place, start);
    for (int64_t token = start; token < end; ++token) {
      const float score = place.row[token] / place.temperature;
      const uint64_t word = bits.words[token - start];
      if (!(score > floor) || score + most_gumbel(word) < most) continue;
      const float noisy = score + gumbel(word);
      if (noisy > most || (noisy == most && before({score, token}, best)))
        most = noisy, best = {score, token};
    }
  }
  return best;
}

// Of rows of which too many tokens are kept to be put in order. A token is kept if the shares of all
// above it do not reach top-p, which need be asked of nothing but the best under the noise: one or two
// in a row, since what is not kept is seldom the best.
int64_t widely_filtered(const Place& place, Entry likeliest, double whole) {
  for (float floor = NEVER;;) {
    const Entry best = noisiest_above(place, likeliest, floor);
    const bool is_first = best.token == likeliest.token;
    const bool has_share = place.top_p >= 1.0 ||
        total_above(place, likeliest.value, best.value) < place.top_p * whole;
    if (is_first || (has_share && best.value >= likeliest.value + place.min_p)) return best.token;
    floor = best.value;
  }
}

int64_t filtered(const Place& place, std::vector<Entry>& likeliest) {
  double whole = -1.0;
  const bool is_narrowed = place.top_k < place.size;
  const auto count = filter(place, likeliest, whole, is_narrowed ? place.size : FIRST_WIDTH);
  if (!count) return widely_filtered(place, likeliest[0], whole);
  Best best{place, likeliest[0].token};
  for (int64_t i = 0; i < *count; ++i) {
    const auto [scaled, token] = likeliest[i];
    best.consider(scaled, token, bits_of_four(place, token).words[token % 4]);
  }
  return best.token;
}

// Of all tokens. Bits are made of those alone that any noise could make the best.
int64_t unfiltered(const Place& place) {
  const int64_t likeliest = greedy(place);
  const float* row = place.row;
  if (std::isnan(row[likeliest])) return likeliest;
  // What any token has to come up to: a score just below that of the likeliest.
  const float scaled = row[likeliest] / place.temperature;
  const float noisy = scaled + gumbel(bits_of_four(place, likeliest).words[likeliest % 4]);
  Best best{place, 0, std::nextafter(noisy, NEVER)};
  for (int64_t start = 0; start < place.size; start += 4) {
    const int64_t end = std::min(start + 4, place.size);
    float highest = NEVER;
    for (int64_t token = start; token < end; ++token) highest = std::max(highest, row[token]);
    if (highest / place.temperature + MOST_GUMBEL <= best.score) continue;
    const Block bits = bits_of_four(place, start);
    for (int64_t token = start; token < end; ++token)
      best.consider(row[token] / place.temperature, token, bits.words[token - start]);
  }
  return best.token;
}

int64_t choose_one(const Place& place, std::vector<Entry>& likeliest) {
  if (place.temperature == 0.0f) return greedy(place);
  const bool is_filtered =
      place.top_k < place.size || place.top_p < 1.0 || place.min_p > NEVER;
  return is_filtered ? filtered(place, likeliest) : unfiltered(place);
}

constexpr int64_t GRAIN = 1 << 16;  // figures that are worth a thread

// Rows of logits, how each is to be sampled, and where.
std::vector<Place> places(
    const Tensor& logits, int64_t size, at::IntArrayRef rows, at::IntArrayRef positions,
    at::IntArrayRef seeds, at::ArrayRef<double> temperatures, at::IntArrayRef top_k,
    at::ArrayRef<double> top_p, at::ArrayRef<double> min_p) {
  const auto count = rows.size();
  TORCH_CHECK(
      logits.dim() == 2 && logits.scalar_type() == at::kFloat && logits.stride(1) == 1 &&
          0 < size && size <= logits.size(1),
      "tokens are chosen of float32 rows of at least ", size, " tokens");
  TORCH_CHECK(
      positions.size() == count && seeds.size() == count && temperatures.size() == count &&
          top_k.size() == count && top_p.size() == count && min_p.size() == count,
      "each row has a position and a rule");
  std::vector<Place> found;
  found.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    TORCH_CHECK(0 <= rows[i] && rows[i] < logits.size(0), "there is no row ", rows[i]);
    TORCH_CHECK(top_k[i] > 0, "a top-k of ", top_k[i], " keeps no token");
    found.push_back(
        {logits.const_data_ptr<float>() + rows[i] * logits.stride(0), size, positions[i], seeds[i],
         top_k[i], top_p[i], (float)temperatures[i], (float)min_p[i]});
  }
  return found;
}

template <typename Work>
void for_each_place(const std::vector<Place>& asked, const Work& work) {
  if (asked.empty()) return;
  const int64_t grain = std::max<int64_t>(1, GRAIN / asked[0].size);
  at::parallel_for(0, (int64_t)asked.size(), grain, [&](int64_t begin, int64_t end) {
    std::vector<Entry> likeliest;
    for (int64_t i = begin; i < end; ++i) work(i, asked[i], likeliest);
  });
}

std::vector<int64_t> choose(
    const Tensor& logits, int64_t size, at::IntArrayRef rows, at::IntArrayRef positions,
    at::IntArrayRef seeds, at::ArrayRef<double> temperatures, at::IntArrayRef top_k,
    at::ArrayRef<double> top_p, at::ArrayRef<double> min_p) {
  const auto asked =
      places(logits, size, rows, positions, seeds, temperatures, top_k, top_p, min_p);
  std::vector<int64_t> tokens(asked.size());
  for_each_place(asked, [&](int64_t i, const Place& place, std::vector<Entry>& likeliest) {
    tokens[i] = choose_one(place, likeliest);
  });
  return tokens;
}

// What the filters leave of rows, with the noise: (rows, most kept of any). Where a row has fewer,
// others of its likeliest follow, of which none can be chosen.
std::tuple<Tensor, Tensor> candidates(
    const Tensor& logits, int64_t size, at::IntArrayRef rows, at::IntArrayRef positions,
    at::IntArrayRef seeds, at::ArrayRef<double> temperatures, at::IntArrayRef top_k,
    at::ArrayRef<double> top_p, at::ArrayRef<double> min_p) {
  const auto asked =
      places(logits, size, rows, positions, seeds, temperatures, top_k, top_p, min_p);
  std::vector<std::vector<Entry>> found(asked.size());
  std::vector<int64_t> counts(asked.size());
  for_each_place(asked, [&](int64_t i, const Place& place, std::vector<Entry>& likeliest) {
    double whole = -1.0;
    counts[i] = *filter(place, likeliest, whole, place.size);
    found[i] = likeliest;
  });
  const int64_t width = asked.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
  Tensor scores = at::empty({(int64_t)asked.size(), width}, logits.options());
  Tensor ids = at::empty({(int64_t)asked.size(), width}, logits.options().dtype(at::kLong));
  float* const score = scores.mutable_data_ptr<float>();
  int64_t* const id = ids.mutable_data_ptr<int64_t>();
  for_each_place(asked, [&](int64_t i, const Place& place, std::vector<Entry>& likeliest) {
    if ((int64_t)found[i].size() < width) {
      likeliest_of_row(place.row, size, width, likeliest);
      for (int64_t j = found[i].size(); j < width; ++j) found[i].push_back(likeliest[j]);
    }
    for (int64_t j = 0; j < width; ++j) {
      const auto [scaled, token] = found[i][j];
      const bool is_kept = j < counts[i];
      id[i * width + j] = token;
      score[i * width + j] =
          is_kept ? scaled + gumbel(bits_of_four(place, token).words[token % 4]) : NEVER;
    }
  });
  return {scores, ids};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def("likeliest(Tensor logits, int count) -> (Tensor, Tensor)");
  library.def("random_bits(int seed, int position, Tensor tokens) -> Tensor");
#define ASKED                                                              \
  "(Tensor logits, int size, int[] rows, int[] positions, int[] seeds, " \
  "float[] temperatures, int[] top_k, float[] top_p, float[] min_p) -> "
  library.def("choose" ASKED "int[]");
  library.def("candidates" ASKED "(Tensor, Tensor)");
#undef ASKED
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) {
  library.impl("likeliest", likeliest);
  library.impl("random_bits", random_bits);
  library.impl("choose", choose);
  library.impl("candidates", candidates);
}

}  // namespace stagetree::choosing
