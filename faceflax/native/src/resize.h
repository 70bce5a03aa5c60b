// What a detector does beside convolutions and pooling: images resized by sums of weighted pixels, and coarse maps
// added to finer ones.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_RESIZE_H_
#define FACEFLAX_RESIZE_H_

#include "simd.h"

namespace faceflax {
namespace {

// y[i] = offset + the sum of weights[t] * x[t * row + i] over `taps` rows.
template <int N>
inline void WeighPixels(const uint8_t* x, Index row, const T* weights, Index taps, T offset, T* y) {
  typedef uint8_t Bytes __attribute__((vector_size(N)));
  Vector<N> sum = Fill<N>(offset);
  for (Index t = 0; t < taps; ++t) {
    Bytes pixels;
    __builtin_memcpy(&pixels, x + t * row, N);
    sum += weights[t] * __builtin_convertvector(pixels, Vector<N>);
  }
  Store<N>(y, sum);
}

void WeighRows(const uint8_t* x, Index row, Index width, const T* weights, Index taps, T offset, T* y) {
  Index i = 0;
  for (; i + kLanes <= width; i += kLanes) WeighPixels<kLanes>(x + i, row, weights, taps, offset, y + i);
  for (; i < width; ++i) WeighPixels<1>(x + i, row, weights, taps, offset, y + i);
}

// y[c] = the sum of weights[t][c] * x[starts[c] + t] over `taps` pixels.
void WeighColumns(const T* x, const int32_t* starts, const T* weights, Index taps, Index columns, T* y) {
  Zero(y, columns);
  for (Index t = 0; t < taps; ++t, weights += columns) {
    for (Index c = 0; c < columns; ++c) y[c] += weights[c] * x[starts[c] + t];
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
