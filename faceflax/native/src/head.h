// The last 3x3 convolution and the mean over pixels, and what only the way back needs.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_HEAD_H_
#define FACEFLAX_HEAD_H_

#include "simd.h"

namespace faceflax {
namespace {

// The last 3x3 convolution and the mean over pixels, in the other order: both are linear, and a mean is cheaper first.
void Head(const T* x, Index height, Index width, Index channels, const T* kernel, const T* bias, Index classes, T* y) {
  T* sums = Scratch(kPart, 9 * channels);
  Zero(sums, 9 * channels);
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, x += channels) {
      for (int t = 0; t < 9; ++t) {  // tap (i, j) meets this pixel from (h + 1 - i, w + 1 - j)
        const Index row = h + 1 - t / 3, column = w + 1 - t % 3;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        for (Index c = 0; c < channels; ++c) sums[t * channels + c] += x[c];
      }
    }
  }
  for (Index k = 0; k < classes; ++k, kernel += 9 * channels) {
    Vector<kLanes> total{};
    Index i = 0;
    for (; i + kLanes <= 9 * channels; i += kLanes) total += Load<kLanes>(kernel + i) * Load<kLanes>(sums + i);
    T sum = 0;
    for (; i < 9 * channels; ++i) sum += kernel[i] * sums[i];  // 8 channels and 16 lanes
    for (int n = 0; n < kLanes; ++n) sum += total[n];
    y[k] = bias[k] + sum / (height * width);
  }
}

// The gradient of a class's logit by the input of the head, the same for any input: each pixel has the taps that meet
// it.
void HeadGradient(const T* kernel, Index height, Index width, Index channels, T* d) {
  Zero(d, height * width * channels);
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, d += channels) {
      for (int t = 0; t < 9; ++t) {
        const Index row = h + 1 - t / 3, column = w + 1 - t % 3;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        for (Index c = 0; c < channels; ++c) d[c] += kernel[t * channels + c] / (height * width);
      }
    }
  }
}

// Guided backpropagation through a ReLU with output y: what is negative, or met a ReLU that was off, goes no further.
void Guide(const T* y, Index size, T* g) {
  for (Index i = 0; i < size; ++i) g[i] = y[i] > 0 && g[i] > 0 ? g[i] : T(0);
}

// Adds `part`, of every second pixel both ways, to the gradient of an image of height x width.
void Spread(const T* part, Index height, Index width, Index channels, T* g) {
  for (Index h = 0; h < height; h += 2) {
    for (Index w = 0; w < width; w += 2, part += channels) {
      T* to = g + (h * width + w) * channels;
      for (Index c = 0; c < channels; ++c) to[c] += part[c];
    }
  }
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_HEAD_H_
