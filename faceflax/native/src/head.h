// The last convolution and the mean over pixels, and what only the way back needs.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_HEAD_H_
#define FACEFLAX_HEAD_H_

#include "simd.h"

namespace faceflax {
namespace {

// The last convolution, 1x1 or 3x3, and the mean over pixels, in the other order: both are linear, and a mean is
// cheaper first.
void Head(const T* x, Index height, Index width, Index channels, Index size, const T* kernel, const T* bias,
          Index classes, T* y) {
  const Index taps = size * size, low = size / 2;
  T* sums = Scratch(kPart, taps * channels);
  Zero(sums, taps * channels);
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, x += channels) {
      for (Index t = 0; t < taps; ++t) {  // tap (i, j) meets this pixel from (h + low - i, w + low - j)
        const Index row = h + low - t / size, column = w + low - t % size;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        for (Index c = 0; c < channels; ++c) sums[t * channels + c] += x[c];
      }
    }
  }
  for (Index k = 0; k < classes; ++k, kernel += taps * channels) {
    Vector<kLanes> total{};
    Index i = 0;
    for (; i + kLanes <= taps * channels; i += kLanes) total += Load<kLanes>(kernel + i) * Load<kLanes>(sums + i);
    T sum = 0;
    for (; i < taps * channels; ++i) sum += kernel[i] * sums[i];  // 8 channels and 16 lanes
    for (int n = 0; n < kLanes; ++n) sum += total[n];
    y[k] = bias[k] + sum / (height * width);
  }
}

// The gradient of a class's logit by the input of the head, the same for any input: each pixel has the taps that meet
// it.
void HeadGradient(const T* kernel, Index height, Index width, Index channels, Index size, T* d) {
  const Index low = size / 2;
  Zero(d, height * width * channels);
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, d += channels) {
      for (Index t = 0; t < size * size; ++t) {
        const Index row = h + low - t / size, column = w + low - t % size;
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
