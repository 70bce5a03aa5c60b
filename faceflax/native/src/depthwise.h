// Depthwise 3x3 convolution, SAME.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_DEPTHWISE_H_
#define FACEFLAX_DEPTHWISE_H_

#include "simd.h"

namespace faceflax {
namespace {

// A block of N lanes of a depthwise convolution: N channels from `first`, or, with fewer channels than lanes, all
// channels of several pixels. Its inner pixels, [begin, end) in values of a row, have both neighbours; with `edges` it
// has the first and the last pixel too.
struct Block {
  Index first, step, begin, end;
  bool edges;
};

// Calls f(lanes, block) for the blocks that make up a row.
template <class F>
inline void Blocks(Index width, Index channels, const F& f) {
  const Index end = (width - 1) * channels;
  if (channels % kLanes == 0) {
    for (Index c = 0; c < channels; c += kLanes) {
      f(Constant<kLanes>(), Block{c, channels, channels + c, end + c, true});
    }
  } else {  // 8 channels, 16 lanes: two pixels a vector, then the odd one and the edges
    const Index begin = Max(channels, channels + (end - channels) / kLanes * kLanes);
    f(Constant<kLanes>(), Block{0, kLanes, channels, begin, false});
    f(Constant<Min(kLanes, 8)>(), Block{0, channels, begin, end, true});
  }
}

// Rows [from, to) of the depthwise convolution of one image.
void Depthwise(const T* x, Index height, Index width, Index channels, const T* kernel, Index from, Index to, T* out) {
  const Index row = width * channels;
  T* zeros = Scratch(kZeros, row);
  if (from == 0 || to == height) Zero(zeros, row);
  Blocks(width, channels, [&](auto lanes, Block block) {
    constexpr int N = decltype(lanes)::value;
    Vector<N> k[9];
    for (int t = 0; t < 9; ++t) {
      T taps[N];
      for (int n = 0; n < N; ++n) taps[n] = kernel[t * channels + block.first + n % Min<Index>(channels, N)];
      k[t] = Load<N>(taps);
    }
    T* y = out;
    for (Index h = from; h < to; ++h, y += row) {
      const T* above = h > 0 ? x + (h - 1) * row : zeros;
      const T* here = x + h * row;
      const T* below = h + 1 < height ? x + (h + 1) * row : zeros;
      auto column = [&](Index l, int j) {
        return Load<N>(above + l) * k[j] + Load<N>(here + l) * k[3 + j] + Load<N>(below + l) * k[6 + j];
      };
      for (Index l = block.begin; l < block.end; l += block.step) {
        Store<N>(y + l, column(l - channels, 0) + column(l, 1) + column(l + channels, 2));
      }
      if (!block.edges) continue;
      const Index first = block.first, last = row - channels + first;
      if (width == 1) {
        Store<N>(y + first, column(first, 1));
      } else {
        Store<N>(y + first, column(first, 1) + column(first + channels, 2));
        Store<N>(y + last, column(last - channels, 0) + column(last, 1));
      }
    }
  });
}

// Adds an image's share of the depthwise kernel's gradient, [9, channels].
void DepthwiseGradient(const T* x, const T* cotangent, Index height, Index width, Index channels, T* d) {
  const Index row = width * channels;
  T* zeros = Scratch(kZeros, row);
  Zero(zeros, row);
  Blocks(width, channels, [&](auto lanes, Block block) {
    constexpr int N = decltype(lanes)::value;
    Vector<N> acc[9] = {};
    for (Index h = 0; h < height; ++h) {
      const T* g = cotangent + h * row;
      const T* rows[3] = {h > 0 ? x + (h - 1) * row : zeros, x + h * row, h + 1 < height ? x + (h + 1) * row : zeros};
      for (Index l = block.begin; l < block.end; l += block.step) {
        const Vector<N> value = Load<N>(g + l);
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t) acc[t] += Load<N>(rows[t / 3] + l + (t % 3 - 1) * channels) * value;
      }
      if (!block.edges) continue;
      const Index first = block.first, last = row - channels + first;
      for (int i = 0; i < 3; ++i) {
        acc[3 * i + 1] += Load<N>(rows[i] + first) * Load<N>(g + first);
        if (width == 1) continue;
        acc[3 * i + 2] += Load<N>(rows[i] + first + channels) * Load<N>(g + first);
        acc[3 * i] += Load<N>(rows[i] + last - channels) * Load<N>(g + last);
        acc[3 * i + 1] += Load<N>(rows[i] + last) * Load<N>(g + last);
      }
    }
    for (int t = 0; t < 9; ++t) {
      for (int n = 0; n < N; ++n) d[t * channels + block.first + n % Min<Index>(channels, N)] += acc[t][n];
    }
  });
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_DEPTHWISE_H_
