// 3x3 convolutions of many channels by Winograd's minimal filtering: 16 products instead of 36 for 2x2 outputs. Lavin
// and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_WINOGRAD_H_
#define FACEFLAX_WINOGRAD_H_

#include "convolution.h"

namespace faceflax {
namespace {

constexpr Index kTransformed = 1 << 16;  // values of transformed inputs and outputs at once, some of the second cache

// Tiles of 4x4 pixels, 2 apart, of all channels: each of their 16 combinations for all tiles of a row, `apart` from the
// next one.
void TransformInput(const T* x, Index row, Index channels, Index tiles, Index apart, T* to) {
  for (Index w = 0; w < tiles; ++w, x += 2 * channels, to += channels) {
    for (Index c = 0; c < channels; c += kLanes) {
      Vector<kLanes> d[4][4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const T* at = x + i * row + c;
        const Vector<kLanes> v[4] = {Load<kLanes>(at), Load<kLanes>(at + channels), Load<kLanes>(at + 2 * channels),
                                     Load<kLanes>(at + 3 * channels)};
        d[i][0] = v[0] - v[2], d[i][1] = v[1] + v[2], d[i][2] = v[2] - v[1], d[i][3] = v[1] - v[3];
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        T* at = to + j * apart + c;
        Store<kLanes>(at, d[0][j] - d[2][j]);
        Store<kLanes>(at + 4 * apart, d[1][j] + d[2][j]);
        Store<kLanes>(at + 8 * apart, d[2][j] - d[1][j]);
        Store<kLanes>(at + 12 * apart, d[1][j] - d[3][j]);
      }
    }
  }
}

// The way back: 2x2 outputs of each tile, of which `rows` and a row's first `width` pixels are wanted.
void TransformOutput(const T* from, Index apart, Index channels, Index tiles, const T* bias, bool relu, Index rows,
                     Index width, T* y) {
  for (Index w = 0; w < tiles; ++w, from += channels) {
    const Index columns = Min<Index>(2, width - 2 * w);
    for (Index c = 0; c < channels; c += kLanes) {
      Vector<kLanes> s[4][2];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const T* at = from + 4 * i * apart + c;
        const Vector<kLanes> m[4] = {Load<kLanes>(at), Load<kLanes>(at + apart), Load<kLanes>(at + 2 * apart),
                                     Load<kLanes>(at + 3 * apart)};
        s[i][0] = m[0] + m[1] + m[2], s[i][1] = m[1] - m[2] - m[3];
      }
      const Vector<kLanes> start = Load<kLanes>(bias + c);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        Vector<kLanes> top = s[0][j] + s[1][j] + s[2][j] + start, low = s[1][j] - s[2][j] - s[3][j] + start;
        if (relu) top = top < 0 ? Vector<kLanes>{} : top, low = low < 0 ? Vector<kLanes>{} : low;
        if (j >= columns) break;
        Store<kLanes>(y + (2 * w + j) * channels + c, top);
        if (rows > 1) Store<kLanes>(y + (width + 2 * w + j) * channels + c, low);
      }
    }
  }
}

// `panels` are those of 16 matrices [inputs, outputs], one after the other; both numbers are multiples of 32.
void Winograd(Geometry g, const T* x, const T* panels, const T* bias, bool relu, T* y) {
  const Index height = g.out_height, width = g.out_width;
  const Index down = (height + 1) / 2, across = (width + 1) / 2;
  g.out_height = 2 * down, g.out_width = 2 * across;
  Index row;
  const T* frame = Padded(g, x, &row);
  const Index some = Clamp<Index>(kTransformed / (16 * across * (g.inputs + g.outputs)), 1, down);  // rows of tiles
  // A cache line more, or all 16 would fall into the same few sets of the cache.
  const Index in = some * across * g.inputs + 16, out = some * across * g.outputs + 16;
  T* inputs = Scratch(kPart, 16 * (in + out));
  T* outputs = inputs + 16 * in;
  for (Index first = 0; first < down; first += some) {
    const Index rows = Min(some, down - first), tiles = rows * across;
    for (Index r = 0; r < rows; ++r) {
      TransformInput(frame + 2 * (first + r) * row, row, g.inputs, across, in, inputs + r * across * g.inputs);
    }
    for (Index i = 0; i < 16; ++i) {
      const Geometry product{1, tiles, g.inputs, 1, 1, 1, 1, 0, 1, tiles, g.outputs};
      ConvolvePadded(product, inputs + i * in, 0, panels + i * g.inputs * g.outputs, nullptr, nullptr, false,
                     outputs + i * out);
    }
    for (Index r = 0; r < rows; ++r) {
      const Index h = 2 * (first + r);
      TransformOutput(outputs + r * across * g.outputs, out, g.outputs, across, bias, relu, height - h, width,
                      y + h * width * g.outputs);
    }
  }
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_WINOGRAD_H_
