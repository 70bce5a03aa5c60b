// What a detector does beside convolutions and pooling: images resized by sums of weighted pixels, and coarse maps
// added to finer ones.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_RESIZE_H_
#define FACEFLAX_RESIZE_H_

#include "simd.h"

namespace faceflax {
namespace {

// y[i] = offset + the sum of weights[t] * x[t * row + i] over `taps` rows. Two rows at a time, for fewer sums in
// memory.
void WeighRows(const uint8_t* __restrict x, Index row, Index width, const T* weights, Index taps, T offset,
               T* __restrict y) {
  for (Index i = 0; i < width; ++i) y[i] = offset + weights[0] * x[i];
  Index t = 1;
  for (; t + 1 < taps; t += 2) {
    const uint8_t *first = x + t * row, *second = first + row;
    for (Index i = 0; i < width; ++i) y[i] += weights[t] * first[i] + weights[t + 1] * second[i];
  }
  if (t < taps) {
    for (Index i = 0; i < width; ++i) y[i] += weights[t] * x[t * row + i];
  }
}

// Pixels of three colours, each the sum of `taps` ones of x, the first at starts[i], by weights[i * taps + t]. Four
// values are computed at once: the fourth, for which x has one value more, is where the next pixel's first belongs.
void WeighColumns(const T* x, const int32_t* starts, const T* weights, Index taps, Index count, T* y) {
  const auto pixel = [&](Index i) {
    const T *from = x + starts[i], *own = weights + i * taps;
    Vector<4> sum = own[0] * Load<4>(from);
    for (Index t = 1; t < taps; ++t) sum += own[t] * Load<4>(from + 3 * t);
    return sum;
  };
  for (Index i = 0; i < count - 1; ++i) Store<4>(y + 3 * i, pixel(i));
  const Vector<4> last = pixel(count - 1);
  for (Index c = 0; c < 3; ++c) y[3 * (count - 1) + c] = last[c];
}

// A row of `width` pixels of a map, and of one half as fine whose pixels count twice.
void AddDoubled(const T* fine, const T* coarse, Index width, Index channels, T* y) {
  WithLanes(channels, [&](auto n) {
    constexpr int N = decltype(n)::value;
    for (Index w = 0; w < width; ++w, fine += channels, y += channels) {
      const T* add = coarse + w / 2 * channels;
      for (Index c = 0; c < channels; c += N) Store<N>(y + c, Load<N>(fine + c) + Load<N>(add + c));
    }
  });
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_RESIZE_H_
