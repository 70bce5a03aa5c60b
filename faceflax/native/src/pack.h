// The rule by which neighbouring pixels make a vector, and kernels in the order in which the convolution reads them.

#ifndef FACEFLAX_PACK_H_
#define FACEFLAX_PACK_H_

#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace faceflax {

// Whether the convolution kernel can compute this many outputs a pixel.
inline bool Outputs(Index outputs, Index stride) { return Vectors(outputs) || (outputs == 1 && stride == 1); }

// How many neighbouring pixels of the output a convolution computes together, as channels, where one has fewer than a
// vector: eight of one channel, two of eight where the row has an even number of them.
inline Index PixelsFolded(const Geometry& g) {
  if (g.outputs == 1) return 8;
  return g.outputs == 8 && g.kernel_width > 1 && g.stride_width == 1 && g.out_width % 2 == 0 ? 2 : 1;
}

// The convolution that computes `pixels` pixels as channels. Its last vector of a row may have pixels too many.
inline Geometry Folded(Geometry g, Index pixels) {
  g.kernel_width += pixels - 1;
  g.stride_width *= pixels;
  g.out_width = (g.out_width + pixels - 1) / pixels;
  g.outputs *= pixels;
  return g;
}

inline Index PackedSize(Index rows, Index columns, Index inputs, Index outputs, Index pixels) {
  return rows * (columns + pixels - 1) * inputs * outputs * pixels;
}

// Packs a kernel [rows, columns, inputs, outputs] as panels, for `pixels` pixels together.
inline void Pack(const T* kernel, Index rows, Index columns, Index inputs, Index outputs, Index pixels, T* to) {
  const Index panel = PanelOf(outputs * pixels), size = rows * (columns + pixels - 1) * inputs;
  if (pixels == 1) {
    for (Index first = 0; first < outputs; first += panel) {
      for (Index k = 0; k < size; ++k, to += panel) std::memcpy(to, kernel + k * outputs + first, panel * sizeof(T));
    }
    return;
  }
  std::fill(to, to + size * panel, T(0));  // one panel: at most 16 channels
  for (Index i = 0; i < rows; ++i) {
    for (Index p = 0; p < pixels; ++p) {
      for (Index k = 0; k < columns * inputs; ++k) {
        T* at = to + ((i * (columns + pixels - 1) + p) * inputs + k) * panel + p * outputs;
        std::memcpy(at, kernel + (i * columns * inputs + k) * outputs, outputs * sizeof(T));
      }
    }
  }
}

// ConvolveFolded of what is not finite: pixel by pixel, with the first one's part of the panels.
inline void ConvolvePlain(const Geometry& g, Index pixels, const T* x, const T* panels, const T* bias, bool relu,
                          T* y) {
  const Index panel = g.outputs * pixels, columns = g.kernel_width + pixels - 1;
  for (Index h = 0; h < g.out_height; ++h) {
    for (Index w = 0; w < g.out_width; ++w, y += g.outputs) {
      for (Index o = 0; o < g.outputs; ++o) y[o] = bias ? bias[o] : T(0);
      for (Index tap = 0; tap < g.kernel_height * g.kernel_width; ++tap) {
        const Index i = tap / g.kernel_width, j = tap % g.kernel_width;
        const Index row = h * g.stride_height + i - g.low, column = w * g.stride_width + j - g.low;
        if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
        const T* from = x + (row * g.width + column) * g.inputs;
        const T* weights = panels + (i * columns + j) * g.inputs * panel;
        for (Index c = 0; c < g.inputs; ++c, weights += panel) {
          for (Index o = 0; o < g.outputs; ++o) y[o] += from[c] * weights[o];
        }
      }
      for (Index o = 0; relu && o < g.outputs; ++o) y[o] = y[o] < 0 ? T(0) : y[o];
    }
  }
}

// Convolves one image; `panels` and `bias` (or null) are for `pixels` pixels together. Those meet each other's values
// with weights of 0, which make NaN of infinity and of NaN, and ReLU keeps that: an image with such values, which the
// smaller one of input and output tells, is convolved plainly.
inline void ConvolveFolded(const Kernels& kernels, const Geometry& g, Index pixels, const T* x, const T* panels,
                           const T* bias, bool relu, T* y) {
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  if (pixels > 1 && in < out && !kernels.finite(x, in)) return ConvolvePlain(g, pixels, x, panels, bias, relu, y);
  const Geometry folded = Folded(g, pixels);
  const Index row = folded.out_width * folded.outputs, wanted = g.out_width * g.outputs;
  if (row == wanted) {
    kernels.convolve(folded, x, panels, bias, nullptr, relu, y);
  } else {
    T* wide = Scratch(kWide, folded.out_height * row);
    kernels.convolve(folded, x, panels, bias, nullptr, relu, wide);
    for (Index h = 0; h < g.out_height; ++h) std::copy_n(wide + h * row, wanted, y + h * wanted);
  }
  if (pixels > 1 && in >= out && !kernels.finite(y, out)) ConvolvePlain(g, pixels, x, panels, bias, relu, y);
}

}  // namespace faceflax

#endif  // FACEFLAX_PACK_H_
