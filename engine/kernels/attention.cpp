// Attention of a tree's rows over the cache: softmax(query x keys) x values of what each row sees.
//
// A row sees its text, from the row of the cache where it begins to where its committed rows end, as
// far as a window reaches; of the few rows behind these it sees its own, which bits say. The rows of
// a text lie side by side, and no two texts share a block.
//
// The queries that read one head of the cache, of all rows and of all heads of its group, are one
// sequence, row by row; threads share out those of all heads alike. Keys pass by in tiles, with a
// running maximum and sum for each query (an "online" softmax), so that all that is in use stays
// in the first caches, whatever the length. A tile's keys are transposed into panels once for the
// block of queries that read them; then both products are the same chains of fused multiply-adds.
//
// The order of operations of a query depends on the keys that it sees alone: a tile ends where so
// many of them have passed, and not where their rows lie. So rows do not change one another's
// figures, to the bit, nor does it show whether a row's ancestors are nodes of a tree, among others,
// or have been committed. A tile that no query of the block sees would have added zeros.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "shims.h"
#include "vectors.h"

namespace stagetree::attention {
namespace {

using at::BFloat16;
using at::Tensor;
using stagetree::FloatVector;
using stagetree::in_every_lane;
using stagetree::LANES;
using stagetree::MAX_ROWS;
using stagetree::PANEL;
using stagetree::WordVector;

constexpr int64_t TILE = 128;       // keys
constexpr int64_t BLOCK = 48;       // queries that share a tile's transposed keys
constexpr int64_t CACHE_LINE = 16;  // floats
constexpr float HIDDEN = -std::numeric_limits<float>::infinity();

inline FloatVector load(const float* data) {
  FloatVector vector;
  std::memcpy(&vector, data, sizeof vector);
  return vector;
}

// Of bfloat16, whose bits are the upper half of a float's. (GCC 12 widens a vector in four steps.)
inline FloatVector load(const BFloat16* data) {
  typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t))));
  Halves halves;
  std::memcpy(&halves, data, sizeof halves);
#if defined(__AVX512F__)
  return (FloatVector)((WordVector)_mm512_cvtepu16_epi32((__m256i)halves) << 16);
#elif defined(__AVX2__)
  return (FloatVector)((WordVector)_mm256_cvtepu16_epi32((__m128i)halves) << 16);
#else
  return (FloatVector)(__builtin_convertvector(halves, WordVector) << 16);
#endif
}

inline void store(float* data, FloatVector vector) { std::memcpy(data, &vector, sizeof vector); }

inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// e to the power of x <= 0, within 1e-7 of it; zero below what a normal float32 holds.
inline FloatVector exponential(FloatVector x) {
  constexpr float SHIFT = 0x1.8p23f;  // what it is added to is rounded to whole numbers
  const FloatVector shifted = x * 0x1.715476p0f + SHIFT;
  const FloatVector whole = shifted - SHIFT;
  const FloatVector rest = x - whole * 0x1.62e4p-1f - whole * 0x1.7f7d1cp-20f;  // of ln 2, in two
  FloatVector power = rest * 1.9875691500e-4f + 1.3981999507e-3f;  // the polynomial of Cephes
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * (rest * rest) + rest + 1.0f;
  const FloatVector scaled = (FloatVector)((WordVector)power + ((WordVector)shifted << 23));
  return x < -87.0f ? FloatVector{} : scaled;
}

// Rows of floats, `stride` apart.
template <typename Float>
struct Matrix {
  Float* data;
  int64_t stride;

  Float* row(int64_t index) const { return data + index * stride; }
};

// Panel p of a right factor starts at p * stride; its rows are `step` apart.
struct Panels {
  const float* data;
  int64_t stride, step;
};

// output += left x right, for ROWS rows of `depth` and PANELS panels.
template <int ROWS, int PANELS>
inline void multiply_block(
    Matrix<const float> left, int64_t depth, Panels right, Matrix<float> output) {
  constexpr int WIDTH = 2 * PANELS;  // vectors
  FloatVector sums[ROWS][WIDTH] = {};
  for (int64_t k = 0; k < depth; ++k) {
    FloatVector factors[WIDTH];
    for (int i = 0; i < WIDTH; ++i)
      factors[i] = load(right.data + k * right.step + i / 2 * right.stride + i % 2 * LANES);
    for (int r = 0; r < ROWS; ++r) {
      const FloatVector x = in_every_lane(left.row(r)[k]);
      for (int i = 0; i < WIDTH; ++i) sums[r][i] += x * factors[i];
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int i = 0; i < WIDTH; ++i) {
      float* sum = output.row(r) + i * LANES;
      store(sum, load(sum) + sums[r][i]);
    }
  }
}

template <int ROWS>
void multiply_rows(
    Matrix<const float> left, int64_t depth, Panels right, int64_t num_panels,
    Matrix<float> output) {
  constexpr int PANELS = ROWS == 1 ? 4 : ROWS <= 3 ? 2 : 1;
  const auto rest = [&](int64_t p) {
    return Panels{right.data + p * right.stride, right.stride, right.step};
  };
  int64_t p = 0;
  for (; p + PANELS <= num_panels; p += PANELS)
    multiply_block<ROWS, PANELS>(left, depth, rest(p), {output.data + p * PANEL, output.stride});
  for (; p < num_panels; ++p)
    multiply_block<ROWS, 1>(left, depth, rest(p), {output.data + p * PANEL, output.stride});
}

template <int... INDICES>
constexpr auto row_kernels(std::integer_sequence<int, INDICES...>) {
  return std::array{&multiply_rows<INDICES + 1>...};
}

constexpr auto MULTIPLY = row_kernels(std::make_integer_sequence<int, MAX_ROWS>());

// Of two vectors: the lanes of `low` where a lane's number lacks the bit DISTANCE and those of
// `high` DISTANCE lanes below elsewhere; or (UPPER) what that leaves over.
template <int DISTANCE, bool UPPER, int... I>
inline FloatVector exchange(FloatVector low, FloatVector high, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(
      low, high, ((I & DISTANCE ? LANES + I - DISTANCE : I) + (UPPER ? DISTANCE : 0))...);
}

// Exchanges ever smaller blocks across the diagonal.
template <int DISTANCE = LANES / 2>
inline void transpose(FloatVector (&square)[LANES]) {
  constexpr auto lanes = std::make_integer_sequence<int, LANES>();
  for (int i = 0; i < LANES; ++i) {
    if (i & DISTANCE) continue;
    const FloatVector low = square[i], high = square[i + DISTANCE];
    square[i] = exchange<DISTANCE, false>(low, high, lanes);
    square[i + DISTANCE] = exchange<DISTANCE, true>(low, high, lanes);
  }
  if constexpr (DISTANCE > 1) transpose<DISTANCE / 2>(square);
}

// Transposes LANES keys into half a panel.
template <typename Kept>
void pack_lanes(const std::array<const Kept*, LANES>& keys, int64_t size, float* panel) {
  int64_t k = 0;
  for (; k + LANES <= size; k += LANES) {
    FloatVector square[LANES];
    for (int i = 0; i < LANES; ++i) square[i] = load(keys[i] + k);
    transpose(square);
    for (int i = 0; i < LANES; ++i) store(panel + (k + i) * PANEL, square[i]);
  }
  for (; k < size; ++k)
    for (int i = 0; i < LANES; ++i) panel[k * PANEL + i] = keys[i][k];
}

// The last panel is filled up with copies of the last key, which the scores' mask hides.
template <typename Kept>
void pack_keys(Matrix<const Kept> keys, int64_t count, int64_t size, float* panels) {
  const int64_t padded = round_up(count, PANEL);
  for (int64_t first = 0; first < padded; first += LANES) {
    std::array<const Kept*, LANES> lanes;
    for (int i = 0; i < LANES; ++i) lanes[i] = keys.row(std::min(first + i, count - 1));
    pack_lanes(lanes, size, panels + first / PANEL * PANEL * size + first % PANEL);
  }
}

// The running softmax of one query.
struct Running {
  float maximum = std::numeric_limits<float>::lowest();  // finite: nothing is inf - inf
  FloatVector sum = {};
};

template <int DISTANCE = LANES / 2, int... I>
inline float largest_lane(FloatVector vector, std::integer_sequence<int, I...> lanes) {
  const FloatVector other = __builtin_shufflevector(vector, vector, (I ^ DISTANCE)...);
  vector = vector > other ? vector : other;
  if constexpr (DISTANCE == 1)
    return vector[0];
  else
    return largest_lane<DISTANCE / 2>(vector, lanes);
}

float largest(const float* data, int64_t count) {
  FloatVector most = load(data);
  for (int64_t k = LANES; k < count; k += LANES) {
    const FloatVector next = load(data + k);
    most = most > next ? most : next;
  }
  return largest_lane(most, std::make_integer_sequence<int, LANES>());
}

// Turns the scores of a tile into weights, and brings what was summed so far to their scale.
void soften(float* scores, int64_t count, Running& running, float* mixed, int64_t value_size) {
  const float maximum = std::max(running.maximum, largest(scores, count));
  if (maximum > running.maximum) {
    const FloatVector shrink = exponential(in_every_lane(running.maximum - maximum));
    for (int64_t k = 0; k < value_size; k += LANES) store(mixed + k, load(mixed + k) * shrink);
    running.sum *= shrink;
    running.maximum = maximum;
  }
  FloatVector sum = running.sum;
  for (int64_t k = 0; k < count; k += LANES) {
    const FloatVector weights = exponential(load(scores + k) - maximum);
    store(scores + k, weights);
    sum += weights;
  }
  running.sum = sum;
}

// A tensor (1, heads, rows, size) whose rows are contiguous.
template <typename Kept>
struct Heads {
  const Kept* data;
  int64_t head_stride, row_stride;

  explicit Heads(const Tensor& tensor)
      : data(tensor.const_data_ptr<Kept>()),
        head_stride(tensor.stride(1)),
        row_stride(tensor.stride(2)) {}

  Matrix<const Kept> rows(int64_t head, int64_t first) const {
    return {data + head * head_stride + first * row_stride, row_stride};
  }
};

// A matrix of whole numbers, its rows `columns` long.
struct Numbers {
  const int64_t* data;
  int64_t columns;

  explicit Numbers(const Tensor& tensor)
      : data(tensor.const_data_ptr<int64_t>()), columns(tensor.size(1)) {}

  int64_t at(int64_t row, int64_t column) const { return data[row * columns + column]; }
};

// What each row of a pass stands on, by the rows of `places`.
enum Place : int64_t { POSITION, FIRST, PREFIX };

// Who sees whom among consecutive rows of one text. Rows of the cache count from where it begins;
// those from `prefix` on are the tree's.
struct Sight {
  int64_t top, end;            // rows of the pass
  int64_t first, prefix, length;
  std::vector<int64_t> reach;  // of the prefix, by row: what is before it is out of the window
  // Of each row, the columns behind the prefix that it sees, and its place of the first of them.
  std::vector<std::vector<int32_t>> seen;
  std::vector<int64_t> rank;

  Sight(
      const Numbers& places, int64_t top, int64_t end, const Tensor& visible, int64_t window)
      : top(top),
        end(end),
        first(places.at(FIRST, top)),
        prefix(places.at(PREFIX, top) - first) {
    const int64_t num_bytes = visible.size(1);
    const uint8_t* bits = visible.const_data_ptr<uint8_t>() + top * num_bytes;
    std::vector<uint8_t> any(num_bytes);
    for (int64_t row = 0; row < end - top; ++row) {
      for (int64_t i = 0; i < num_bytes; ++i) any[i] |= bits[row * num_bytes + i];
      const int64_t begin = places.at(POSITION, top + row) - window + 1;
      reach.push_back(window ? std::clamp<int64_t>(begin, 0, prefix) : 0);
    }
    int64_t columns = 8 * num_bytes;
    while (columns > 0 && !(any[(columns - 1) / 8] >> (columns - 1) % 8 & 1)) --columns;
    length = prefix + columns;
    for (int64_t row = 0; row < end - top; ++row) {
      std::vector<int32_t> own;
      own.reserve(columns);
      for (int64_t i = 0; i < (columns + 7) / 8; ++i)
        for (unsigned byte = bits[row * num_bytes + i]; byte; byte &= byte - 1)
          own.push_back(8 * i + __builtin_ctz(byte));
      // It sees itself last; what a window hides comes before the others.
      const int64_t last = places.at(POSITION, top + row), count = own.size();
      rank.push_back(window ? std::max(prefix, last + 1 - count) : prefix);
      seen.push_back(std::move(own));
    }
  }

  // What to add to a row's scores of these keys of the prefix.
  void write(int64_t row, int64_t start, int64_t count, float* scores) const {
    const int64_t hidden = std::clamp<int64_t>(reach[row] - start, 0, count);
    std::fill_n(scores, hidden, HIDDEN);
    std::fill(scores + hidden, scores + count, 0.0f);
  }

  // Whether a row sees any of these keys of the prefix.
  bool sees(int64_t row, int64_t start, int64_t count) const { return reach[row] < start + count; }
};

// A text of a pass: who sees whom, and its rows of the cache.
struct Text {
  Sight sight;
  Tensor keys, values;
};

// Read and written as they are.
using Queries = std::variant<Heads<float>, Heads<BFloat16>>;
using Outputs = std::variant<float*, BFloat16*>;

struct Problem {
  Queries query;
  std::vector<Text> texts;
  int64_t kv_heads, group, rows, size, value_size;
  float scale, softcap;  // 0: none
  const float* sinks;    // by head, or null
  Outputs output;

  int64_t padded_value_size() const { return round_up(value_size, PANEL); }
};

// Memory that a thread keeps from call to call.
struct Scratch {
  struct alignas(CACHE_LINE * sizeof(float)) Line {
    float values[CACHE_LINE];
  };
  std::vector<Line> queries, keys, values, mixed, scores;

  static float* sized(std::vector<Line>& lines, int64_t count) {
    const size_t needed = count / CACHE_LINE + 1;
    if (lines.size() < needed) lines.resize(needed);
    return lines.data()->values;
  }
};

// Consecutive queries of one text and one head of the cache: query i is head i % group of its group
// in row i / group. The cache is read as it is kept, in float32 or bfloat16.
template <typename Kept>
class Block {
 public:
  Block(
      const Problem& problem, const Text& text, int64_t kv_head, int64_t first, int64_t count,
      Scratch& scratch)
      : problem_(problem),
        sight_(text.sight),
        text_keys_(text.keys),
        text_values_(text.values),
        kv_head_(kv_head),
        first_(first),
        count_(count),
        queries_(Scratch::sized(scratch.queries, BLOCK * problem.size)),
        keys_(Scratch::sized(scratch.keys, TILE * problem.size)),
        mixed_(Scratch::sized(scratch.mixed, BLOCK * problem.padded_value_size())),
        scratch_(scratch) {}

  void attend() {
    read_queries();
    std::fill_n(mixed_, count_ * problem_.padded_value_size(), 0.0f);
    for (int64_t i = 0; problem_.sinks && i < count_; ++i) {
      running_[i].maximum = problem_.sinks[head(i)];
      running_[i].sum[0] = 1;
    }
    const int64_t whole = sight_.prefix / TILE * TILE;
    for (int64_t start = 0; start < whole; start += TILE)
      if (!is_hidden(start, TILE)) attend_tile(start, TILE);
    attend_rest(whole);
    write_output();
  }

 private:
  int64_t row(int64_t index) const { return (first_ + index) / problem_.group; }
  int64_t head(int64_t index) const {
    return kv_head_ * problem_.group + (first_ + index) % problem_.group;
  }

  void read_queries() {
    const auto read = [&](const auto& heads) {
      for (int64_t i = 0; i < count_; ++i) {
        const auto* query = heads.rows(head(i), row(i)).data;
        float* copy = queries_ + i * problem_.size;
        for (int64_t k = 0; k < problem_.size; ++k) copy[k] = float(query[k]) * problem_.scale;
      }
    };
    std::visit(read, problem_.query);
  }

  // No query of the block sees any of these keys.
  bool is_hidden(int64_t start, int64_t count) const {
    for (int64_t r = row(0); r <= row(count_ - 1); ++r)
      if (sight_.sees(r - sight_.top, start, count)) return false;
    return true;
  }

  // The values of a tile, copied only if they are not floats, or their last panel would reach past a
  // row's end. With many queries they are fetched ahead, since products then read them panel by panel.
  Panels tile_values(int64_t start, int64_t count) {
    const int64_t size = problem_.value_size;
    if constexpr (std::is_same_v<Kept, float>) {
      const Matrix<const float> values = text_values_.rows(kv_head_, start);
      if (size == problem_.padded_value_size()) {
        for (int64_t i = 0; i < count && count_ >= MAX_ROWS; ++i)
          for (int64_t k = 0; k < size; k += CACHE_LINE) __builtin_prefetch(values.row(i) + k);
        return {values.data, PANEL, values.stride};
      }
    }
    return copied_values(start, count);
  }

  // Copies of values, in float32, whose rows are whole panels.
  Panels copied_values(int64_t start, int64_t count) {
    const Matrix<const Kept> values = text_values_.rows(kv_head_, start);
    const int64_t size = problem_.value_size, padded = problem_.padded_value_size();
    float* copies = Scratch::sized(scratch_.values, count * padded);
    for (int64_t i = 0; i < count; ++i) {
      const Kept* row = values.row(i);
      float* copy = copies + i * padded;
      int64_t k = 0;
      for (; k + LANES <= size; k += LANES) store(copy + k, load(row + k));
      for (; k < size; ++k) copy[k] = row[k];
      std::fill_n(copy + size, padded - size, 0.0f);
    }
    return {copies, PANEL, padded};
  }

  int64_t num_parts() const { return (count_ + MAX_ROWS - 1) / MAX_ROWS; }
  int64_t begin_of(int64_t part) const { return count_ * part / num_parts(); }

  // The rest of the prefix, from `start` on, and what is seen behind it.
  void attend_rest(int64_t start) {
    const int64_t text = sight_.prefix - start;
    int64_t columns = text;
    for (int64_t part = 0; part < num_parts(); ++part) columns = std::max(columns, columns_of(part, text));
    const int64_t stride = round_up(columns, TILE);
    float* scores = Scratch::sized(scratch_.scores, (count_ + MAX_ROWS) * stride);
    score_rest(start, columns, {scores, stride});
    Matrix<float> weights{scores + count_ * stride, stride};
    for (int64_t part = 0; part < num_parts(); ++part) {
      const int64_t top = begin_of(part), rows = begin_of(part + 1) - top, own = columns_of(part, text);
      int64_t most = 0;
      for (int64_t r = 0; r < rows; ++r) most = std::max(most, end_of_ranks(top + r) - start);
      for (int64_t first = 0; first < most; first += TILE) {
        std::array<Span, MAX_ROWS> spans;
        int64_t low = own, high = 0;
        for (int64_t r = 0; r < rows; ++r) {
          const auto& [hidden, prefixed, from, to, shift] = spans[r] = span(top + r, start, first, text);
          const std::vector<int32_t>& seen = sight_.seen[row(top + r) - sight_.top];
          if (hidden < prefixed) low = std::min(low, hidden), high = std::max(high, prefixed);
          if (from < to)
            low = std::min<int64_t>(low, text + seen[from]),
            high = std::max<int64_t>(high, text + seen[to - 1] + 1);
        }
        if (low >= high) continue;
        for (int64_t r = 0; r < rows; ++r)
          weigh(top + r, spans[r], text, scores + (top + r) * stride, weights.row(r), low, high);
        mix({weights.data + low, stride}, start + low, high - low, top, rows);
      }
    }
  }

  // The columns of which any query of a part may see one: `text` of the prefix, and what is behind it.
  int64_t columns_of(int64_t part, int64_t text) const {
    int64_t columns = text;
    for (int64_t query = begin_of(part); query < begin_of(part + 1); ++query) {
      const std::vector<int32_t>& seen = sight_.seen[row(query) - sight_.top];
      if (!seen.empty()) columns = std::max<int64_t>(columns, text + seen.back() + 1);
    }
    return columns;
  }

  // One more than the place of the last key that a query sees, among all of its text.
  int64_t end_of_ranks(int64_t query) const {
    const int64_t own = row(query) - sight_.top;
    return std::max<int64_t>(sight_.prefix, sight_.rank[own] + sight_.seen[own].size());
  }

  // Scores of keys from `start` on, by query: of all that any query of its part may see.
  void score_rest(int64_t start, int64_t columns, Matrix<float> scores) {
    const int64_t text = sight_.prefix - start;
    for (int64_t first = 0; first < columns; first += TILE) {
      const int64_t most = std::min(TILE, columns - first);
      pack_keys(text_keys_.rows(kv_head_, start + first), most, problem_.size, keys_);
      for (int64_t part = 0; part < num_parts(); ++part) {
        const int64_t top = begin_of(part), rows = begin_of(part + 1) - top;
        const int64_t count = std::min(most, columns_of(part, text) - first);
        if (count <= 0) continue;
        const int64_t padded = round_up(count, PANEL);
        for (int64_t r = 0; r < rows; ++r) std::fill_n(scores.row(top + r) + first, padded, 0.0f);
        MULTIPLY[rows - 1](
            {queries_ + top * problem_.size, problem_.size}, problem_.size,
            {keys_, PANEL * problem_.size, PANEL}, padded / PANEL,
            {scores.row(top) + first, scores.stride});
        for (int64_t r = 0; problem_.softcap && r < rows; ++r)
          for (int64_t k = first; k < first + count; ++k) {
            float& score = scores.row(top + r)[k];
            score = problem_.softcap * std::tanh(score / problem_.softcap);
          }
      }
    }
  }

  // What a query sees of one tile, the keys of `TILE` places from `start + first` on: the columns
  // `hidden` to `prefixed` of the prefix, and those of its own keys `from` to `to` behind it, which
  // are `shift` further back in the tile than in their order.
  struct Span {
    int64_t hidden, prefixed, from, to, shift;
  };

  Span span(int64_t query, int64_t start, int64_t first, int64_t text) const {
    const int64_t own = row(query) - sight_.top, size = sight_.seen[own].size();
    const int64_t hidden = std::clamp<int64_t>(sight_.reach[own] - start, 0, text);
    const int64_t prefixed = first ? 0 : text;  // the rest of the prefix is less than a tile
    const int64_t shift = sight_.rank[own] - start - first;
    const int64_t from = std::max<int64_t>(0, -shift);
    const int64_t to = std::min<int64_t>(std::max(TILE - shift, from), size);
    return {hidden, std::max(hidden, prefixed), from, to, shift};
  }

  // The weights of one tile of a query by column, of those from `low` to `high`.
  void weigh(
      int64_t query, const Span& span, int64_t text, const float* scores, float* weights,
      int64_t low, int64_t high) {
    const std::vector<int32_t>& seen = sight_.seen[row(query) - sight_.top];
    const auto& [hidden, prefixed, from, to, shift] = span;
    alignas(FloatVector) float tile[TILE];
    std::fill_n(tile, TILE, HIDDEN);
    std::copy(scores + hidden, scores + prefixed, tile + hidden);
    // Those of a chain, unlike those of a tree, are side by side.
    const bool is_chain = from < to && seen[to - 1] - seen[from] == to - 1 - from;
    if (is_chain)
      std::copy_n(scores + text + seen[from], to - from, tile + shift + from);
    else
      for (int64_t i = from; i < to; ++i) tile[shift + i] = scores[text + seen[i]];
    std::fill(weights + low, weights + high, 0.0f);
    if (from >= to && hidden >= prefixed) return;
    const int64_t width = problem_.padded_value_size();
    soften(tile, TILE, running_[query], mixed_ + query * width, width);
    std::copy(tile + hidden, tile + prefixed, weights + hidden);
    if (is_chain)
      std::copy_n(tile + shift + from, to - from, weights + text + seen[from]);
    else
      for (int64_t i = from; i < to; ++i) weights[text + seen[i]] = tile[shift + i];
  }

  // Adds what these weights make of the values from `start` on.
  void mix(Matrix<const float> weights, int64_t start, int64_t count, int64_t top, int64_t rows) {
    const int64_t width = problem_.padded_value_size();
    MULTIPLY[rows - 1](
        weights, count, tile_values(start, count), width / PANEL, {mixed_ + top * width, width});
  }

  void attend_tile(int64_t start, int64_t count) {
    const int64_t size = problem_.size, width = problem_.padded_value_size();
    pack_keys(text_keys_.rows(kv_head_, start), count, size, keys_);
    const Panels values = tile_values(start, count);
    const int64_t padded = round_up(count, PANEL);
    alignas(FloatVector) float scores[MAX_ROWS * TILE];
    for (int64_t part = 0; part < num_parts(); ++part) {
      const int64_t top = begin_of(part), rows = begin_of(part + 1) - top;
      for (int64_t r = 0; r < rows; ++r) {
        if (problem_.softcap)
          std::fill_n(scores + r * TILE, padded, 0.0f);
        else
          mask_scores(top + r, start, count, scores + r * TILE);
      }
      float* mixed = mixed_ + top * width;
      const auto multiply = MULTIPLY[rows - 1];
      multiply(
          {queries_ + top * size, size}, size, {keys_, PANEL * size, PANEL}, padded / PANEL,
          {scores, TILE});
      if (problem_.softcap)
        for (int64_t r = 0; r < rows; ++r) cap(top + r, start, count, scores + r * TILE);
      for (int64_t r = 0; r < rows; ++r)
        soften(scores + r * TILE, padded, running_[top + r], mixed + r * width, width);
      multiply({scores, TILE}, count, values, width / PANEL, {mixed, width});
    }
  }

  // The product is added to this.
  void mask_scores(int64_t query, int64_t start, int64_t count, float* scores) const {
    sight_.write(row(query) - sight_.top, start, count, scores);
    std::fill(scores + count, scores + round_up(count, PANEL), HIDDEN);
  }

  // Only then comes the mask: a capped score is finite.
  void cap(int64_t query, int64_t start, int64_t count, float* scores) const {
    float mask[TILE];
    mask_scores(query, start, count, mask);
    for (int64_t k = 0; k < round_up(count, PANEL); ++k)
      scores[k] = problem_.softcap * std::tanh(scores[k] / problem_.softcap) + mask[k];
  }

  void write_output() const {
    const int64_t num_heads = problem_.kv_heads * problem_.group, size = problem_.value_size;
    for (int64_t i = 0; i < count_; ++i) {
      float sum = 0;
      for (int lane = 0; lane < LANES; ++lane) sum += running_[i].sum[lane];
      const float* mixed = mixed_ + i * problem_.padded_value_size();
      const auto write = [&](auto* output) {
        output += (row(i) * num_heads + head(i)) * size;
        for (int64_t k = 0; k < size; ++k) output[k] = mixed[k] / sum;
      };
      std::visit(write, problem_.output);
    }
  }

  const Problem& problem_;
  const Sight& sight_;
  const Heads<Kept> text_keys_, text_values_;
  const int64_t kv_head_, first_, count_;
  float *const queries_, *const keys_, *const mixed_;
  Scratch& scratch_;
  Running running_[BLOCK];
};

template <typename Kept>
void attend(const Problem& problem) {
  const int64_t queries = problem.rows * problem.group;
  int64_t most = 0;
  for (const Text& text : problem.texts) most = std::max(most, text.sight.length);
  const int64_t products = most * (problem.size + problem.value_size);
  // A thread is worth waking for some 100,000 products.
  const int64_t grain = 100000 / std::max<int64_t>(products, 1) + 1;
  at::parallel_for(0, problem.kv_heads * queries, grain, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t next; begin < end; begin = next) {
      const int64_t kv_head = begin / queries, first = begin % queries;
      const auto text = std::find_if(
          problem.texts.begin(), problem.texts.end(),
          [&](const Text& each) { return first < each.sight.end * problem.group; });
      const int64_t last = kv_head * queries + text->sight.end * problem.group;
      next = std::min({begin + BLOCK, last, end});
      Block<Kept>(problem, *text, kv_head, first, next - begin, scratch).attend();
    }
  });
}

Tensor with_contiguous_rows(const Tensor& given, at::ScalarType type) {
  const Tensor tensor = given.to(type);
  return tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

// The texts of a pass, each of consecutive rows.
std::vector<Text> texts_of(
    const Tensor& given_places, const Tensor& given_visible, int64_t window, const Tensor& keys,
    const Tensor& values, at::ScalarType type) {
  const Tensor places = given_places.contiguous(), visible = given_visible.contiguous();
  const Numbers numbers(places);
  const int64_t rows = numbers.columns, capacity = keys.size(2);
  std::vector<Text> texts;
  for (int64_t top = 0, end; top < rows; top = end) {
    const auto is_same = [&](int64_t row) {
      return numbers.at(FIRST, row) == numbers.at(FIRST, top) &&
          numbers.at(PREFIX, row) == numbers.at(PREFIX, top);
    };
    for (end = top + 1; end < rows && is_same(end);) ++end;
    Sight sight(numbers, top, end, visible, window);
    TORCH_CHECK(
        sight.first >= 0 && sight.prefix >= 0 && sight.first + sight.length <= capacity,
        sight.first + sight.length, " rows of a cache of ", capacity);
    // What no row of the text may see is neither read nor converted.
    const auto own = [&](const Tensor& cache) {
      return with_contiguous_rows(cache.narrow(2, sight.first, sight.length), type);
    };
    const Tensor own_keys = own(keys), own_values = own(values);
    texts.push_back({std::move(sight), own_keys, own_values});
  }
  return texts;
}

Tensor attention(
    const Tensor& given, const Tensor& keys, const Tensor& values, const Tensor& places,
    const Tensor& visible, int64_t window, double scale, double softcap,
    const std::optional<Tensor>& given_sinks) {
  TORCH_CHECK(
      given.dim() == 4 && keys.dim() == 4 && values.dim() == 4,
      "attention takes tensors of four dimensions");
  const int64_t heads = given.size(1), rows = given.size(2), size = given.size(3);
  const int64_t kv_heads = keys.size(1), capacity = keys.size(2), value_size = values.size(3);
  TORCH_CHECK(kv_heads > 0 && heads % kv_heads == 0, heads, " heads over ", kv_heads);
  TORCH_CHECK(
      given.size(0) == 1 && keys.sizes() == at::IntArrayRef({1, kv_heads, capacity, size}) &&
          values.sizes() == at::IntArrayRef({1, kv_heads, capacity, value_size}) &&
          visible.dim() == 2 && visible.size(0) == rows &&
          places.sizes() == at::IntArrayRef({3, rows}) &&
          (!given_sinks || given_sinks->numel() == heads),
      "shapes of attention differ: query ", given.sizes(), ", keys ", keys.sizes(), ", values ",
      values.sizes(), ", places ", places.sizes(), ", bits ", visible.sizes());
  // Other kinds of halves are converted; nobody keeps a cache in them here who is in a hurry.
  const auto is_short = [](const Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16; };
  const auto type_of = [](bool is_narrow) { return is_narrow ? at::kBFloat16 : at::kFloat; };
  const bool is_narrow = is_short(keys) && is_short(values), asks_narrow = is_short(given);
  const Tensor query = with_contiguous_rows(given, type_of(asks_narrow));
  const Tensor sinks = given_sinks ? given_sinks->to(at::kFloat).contiguous() : Tensor();
  Tensor output = at::empty({1, rows, heads, value_size}, query.options());
  const auto run = is_narrow ? attend<BFloat16> : attend<float>;
  run({
      .query = asks_narrow ? Queries(Heads<BFloat16>(query)) : Queries(Heads<float>(query)),
      .texts = texts_of(places, visible, window, keys, values, type_of(is_narrow)),
      .kv_heads = kv_heads,
      .group = heads / kv_heads,
      .rows = rows,
      .size = size,
      .value_size = value_size,
      .scale = static_cast<float>(scale),
      .softcap = static_cast<float>(softcap),
      .sinks = given_sinks ? sinks.const_data_ptr<float>() : nullptr,
      .output = asks_narrow ? Outputs(output.mutable_data_ptr<BFloat16>())
                            : Outputs(output.mutable_data_ptr<float>()),
  });
  return output.to(given.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(stagetree, library) {
  library.def(
      "attention(Tensor query, Tensor keys, Tensor values, Tensor places, Tensor visible, "
      "int window, float scale, float softcap, Tensor? sinks) -> Tensor");
}

TORCH_LIBRARY_IMPL(stagetree, CPU, library) { library.impl("attention", attention); }

extern "C" int32_t aoti_torch_cpu_attention(
    Tensor* query, Tensor* keys, Tensor* values, Tensor* places, Tensor* visible, int64_t window,
    double scale, double softcap, Tensor** sinks, Tensor** output) {
  const std::optional<Tensor> given = shims::if_any(sinks);
  return shims::hand_out(
      attention(*query, *keys, *values, *places, *visible, window, scale, softcap, given), output);
}

}  // namespace stagetree::attention
