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

// y[i] = the sum of weights[t][i] * x[starts[i] + t * step] over `taps` pixels.
void WeighColumns(const T* x, const int32_t* starts, const T* weights, Index taps, Index step, Index width, T* y) {
  Zero(y, width);
  for (Index t = 0; t < taps; ++t, x += step, weights += width) {
    for (Index i = 0; i < width; ++i) y[i] += weights[i] * x[starts[i]];
  }
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
