// Max pooling 3x3 and average pooling 2x2, stride 2, SAME.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_POOLING_H_
#define FACEFLAX_POOLING_H_

#include "simd.h"

namespace faceflax {
namespace {

inline Index PadBefore(Index size) { return (((size + 1) / 2 - 1) * 2 + 3 - size) / 2; }

// Writes the maximum of each window (plus `add`, where given) and, where wanted, which of the nine it was: the first in
// row-major order among equals. NaN comes through. Rows [from, to) of the output; `add`, `y` and `winners` start there.
template <int N>
void MaxPool(const T* x, Index height, Index width, Index channels, const T* add, Index from, Index to, T* y,
             T* winners) {
  const Index out_width = (width + 1) / 2;
  const Index top = PadBefore(height), left = PadBefore(width);
  for (Index h = from; h < to; ++h) {
    for (Index w = 0; w < out_width; ++w) {
      const Index i0 = Max<Index>(0, top - 2 * h), i1 = Min<Index>(3, height + top - 2 * h);
      const Index j0 = Max<Index>(0, left - 2 * w), j1 = Min<Index>(3, width + left - 2 * w);
      const T* corner = x + ((2 * h - top) * width + 2 * w - left) * channels;
      const Index at = ((h - from) * out_width + w) * channels;
      for (Index c = 0; c < channels; c += N) {
        Vector<N> best = Load<N>(corner + (i0 * width + j0) * channels + c), winner = Fill<N>(3 * i0 + j0);
        auto meet = [&](Index i, Index j) {
          const Vector<N> value = Load<N>(corner + (i * width + j) * channels + c);
          const auto larger = (value > best) | (value != value);
          best = larger ? value : best;
          if (winners) winner = larger ? Fill<N>(3 * i + j) : winner;
        };
        if (i1 - i0 == 3 && j1 - j0 == 3) {
#pragma GCC unroll 8
          for (int t = 1; t < 9; ++t) meet(t / 3, t % 3);
        } else {
          for (Index i = i0; i < i1; ++i) {
            for (Index j = j0; j < j1; ++j) meet(i, j);
          }
        }
        if (add) best += Load<N>(add + at + c);
        Store<N>(y + at + c, best);
        if (winners) Store<N>(winners + at + c, winner);
      }
    }
  }
}

template <int N>
void MaxPoolGradient(const T* winners, const T* g, Index height, Index width, Index channels, T* d) {
  const Index out_height = (height + 1) / 2, out_width = (width + 1) / 2;
  const Index top = PadBefore(height), left = PadBefore(width);
  Zero(d, height * width * channels);
  for (Index h = 0; h < out_height; ++h) {
    for (Index w = 0; w < out_width; ++w) {
      const Index i0 = Max<Index>(0, top - 2 * h), i1 = Min<Index>(3, height + top - 2 * h);
      const Index j0 = Max<Index>(0, left - 2 * w), j1 = Min<Index>(3, width + left - 2 * w);
      T* corner = d + ((2 * h - top) * width + 2 * w - left) * channels;
      const Index at = (h * out_width + w) * channels;
      for (Index c = 0; c < channels; c += N) {
        const Vector<N> winner = Load<N>(winners + at + c), cotangent = Load<N>(g + at + c);
        for (Index i = i0; i < i1; ++i) {
          for (Index j = j0; j < j1; ++j) {
            T* to = corner + (i * width + j) * channels + c;
            Store<N>(to, Load<N>(to) + (winner == Fill<N>(3 * i + j) ? cotangent : Vector<N>{}));
          }
        }
      }
    }
  }
}

void Pool(const T* x, Index height, Index width, Index channels, const T* add, Index from, Index to, T* y, T* winners) {
  WithLanes(channels,
            [&](auto n) { MaxPool<decltype(n)::value>(x, height, width, channels, add, from, to, y, winners); });
}

void PoolGradient(const T* winners, const T* g, Index height, Index width, Index channels, T* d) {
  WithLanes(channels, [&](auto n) { MaxPoolGradient<decltype(n)::value>(winners, g, height, width, channels, d); });
}

void AveragePool(const T* x, Index height, Index width, Index channels, T* y) {
  for (Index h = 0; h < height; h += 2) {
    for (Index w = 0; w < width; w += 2, y += channels) {
      const T* corner = x + (h * width + w) * channels;
      for (Index c = 0; c < channels; ++c) {
        T sum = corner[c];
        if (w + 1 < width) sum += corner[channels + c];
        if (h + 1 < height) sum += corner[width * channels + c];
        if (h + 1 < height && w + 1 < width) sum += corner[(width + 1) * channels + c];
        y[c] = sum / 4;
      }
    }
  }
}

void AveragePoolGradient(const T* g, Index height, Index width, Index channels, T* d) {
  const Index out_width = (width + 1) / 2;
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, d += channels) {
      const T* from = g + (h / 2 * out_width + w / 2) * channels;
      for (Index c = 0; c < channels; ++c) d[c] = from[c] / 4;
    }
  }
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_POOLING_H_
