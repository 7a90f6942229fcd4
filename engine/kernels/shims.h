// What passes that torch has compiled call in the place of an operator (`library.shims`): by torch's own
// way, through its lists and its dispatch, a call takes a microsecond more, dozens of times a pass.
//
// The names, and the order of what is given, are torch's: a list is where it begins and how long it is,
// what may be missing a pointer to it or none, and places for the outputs are the last. What a kernel
// throws goes through.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdarg>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace stagetree::shims {

inline std::vector<at::Tensor> list_of(at::Tensor* const* given, int64_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (int64_t each = 0; each < count; ++each) list.push_back(*given[each]);
  return list;
}

inline std::optional<at::Tensor> if_any(at::Tensor* const* given) {
  return given ? std::optional(**given) : std::nullopt;
}

inline int32_t hand_out(at::Tensor&& output, at::Tensor** to) {
  *to = new at::Tensor(std::move(output));
  return 0;
}

// One after another, to as many at::Tensor**.
inline void hand_out(std::vector<at::Tensor>&& outputs, va_list to) {
  for (at::Tensor& each : outputs) hand_out(std::move(each), va_arg(to, at::Tensor**));
}

}  // namespace stagetree::shims
