// Vectors of the instruction set that this translation unit is compiled for.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_SIMD_H_
#define FACEFLAX_SIMD_H_

#include "kernels.h"

namespace faceflax {
namespace {

template <int V>
struct Constant {
  static constexpr int value = V;
};

template <class V>
constexpr V Min(V a, V b) {
  return b < a ? b : a;
}
template <class V>
constexpr V Max(V a, V b) {
  return a < b ? b : a;
}
template <class V>
constexpr V Clamp(V v, V low, V high) {
  return Min(Max(v, low), high);
}

inline void Zero(T* to, Index count) { __builtin_memset(to, 0, count * sizeof(T)); }

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif
constexpr int kLanes = kBytes / sizeof(T);

template <int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef T loose __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <int N>
using Vector = typename VectorOf<N>::type;

template <int N>
inline Vector<N> Load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<N>::loose*>(p);
}
template <int N>
inline void Store(T* p, Vector<N> v) {
  *reinterpret_cast<typename VectorOf<N>::loose*>(p) = v;
}
template <int N>
inline Vector<N> Fill(T x) {
  return x - Vector<N>{};
}

template <class F>
inline void WithLanes(Index channels, const F& f) {  // calls f(lanes) with the most that divide `channels`
  if (channels % kLanes == 0) return f(Constant<kLanes>());
  if (channels % 8 != 0) __builtin_trap();  // refused by all callers
  f(Constant<Min(kLanes, 8)>());
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_SIMD_H_
