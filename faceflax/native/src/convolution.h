// Convolutions, as small matrix products read in place.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_CONVOLUTION_H_
#define FACEFLAX_CONVOLUTION_H_

#include "simd.h"

namespace faceflax {
namespace {

// One generic micro-kernel does every convolution: of a row of the input, the values that a kernel row meets (kernel
// width x channels) lie side by side, so a convolution is a few small matrix products whose operands are read in place.
//
// acc[p][q] += sum over kernel rows and the k values of each, of a[p, row, k] * b[row, k, q].
template <int N, int Q, int P>
inline void Tile(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Vector<N> (&acc)[P][Q]) {
  for (Index r = 0; r < rows; ++r, a += row) {
    for (Index i = 0; i < k; ++i, b += N * Q) {
      Vector<N> weights[Q];
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) weights[q] = Load<N>(b + N * q);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const T value = a[p * pixel + i];
#pragma GCC unroll 16
        for (int q = 0; q < Q; ++q) acc[p][q] += value * weights[q];
      }
    }
  }
}

struct Epilogue {
  const T* bias;  // of the panel's outputs, or null
  const T* add;   // of the outputs' shape, or null
  bool relu;
};

template <int N, int Q, int P>
inline void Pixels(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Epilogue end, T* y,
                   Index outputs) {
  Vector<N> acc[P][Q];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) acc[p][q] = end.bias ? Load<N>(end.bias + N * q) : Vector<N>{};
  }
  Tile<N, Q, P>(a, pixel, row, rows, k, b, acc);
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      if (end.add) acc[p][q] += Load<N>(end.add + p * outputs + N * q);
      if (end.relu) acc[p][q] = acc[p][q] < 0 ? Vector<N>{} : acc[p][q];  // NaN stays NaN
      Store<N>(y + p * outputs + N * q, acc[p][q]);
    }
  }
}

// One panel of outputs for a row of `width` pixels. The last tile overlaps its neighbour where the width is no
// multiple.
template <int N, int Q>
void PanelRow(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Epilogue end, T* y, Index outputs,
              Index width) {
  constexpr int P = Clamp((kRegisters - Q - 1) / Q, 1, 12);
  Index w = 0;
  auto run = [&](auto pixels) {
    const Epilogue here{end.bias, end.add ? end.add + w * outputs : nullptr, end.relu};
    Pixels<N, Q, decltype(pixels)::value>(a + w * pixel, pixel, row, rows, k, b, here, y + w * outputs, outputs);
    w += decltype(pixels)::value;
  };
  while (width - w >= P) run(Constant<P>());
  if (w == width) return;
  if (width >= P) {
    w = width - P;
    run(Constant<P>());
    return;
  }
  while (width - w >= 4) run(Constant<4>());
  while (width - w >= 1) run(Constant<1>());
}

template <class F>
inline void WithPanel(Index panel, const F& f) {  // calls f(lanes, vectors) with constants for the panel's width
  constexpr int N = Min(kLanes, 8);
  if (panel == 8) return f(Constant<N>(), Constant<8 / N>());
  if (panel == 16) return f(Constant<kLanes>(), Constant<16 / kLanes>());
  if (panel == 32) return f(Constant<kLanes>(), Constant<32 / kLanes>());
  __builtin_trap();  // refused by all callers
}

// x is the first value of a padded image whose rows are `row` apart.
void ConvolvePadded(const Geometry& g, const T* x, Index row, const T* panels, const T* bias, const T* add, bool relu,
                    T* y) {
  const Index panel = PanelOf(g.outputs), size = g.kernel_height * g.kernel_width * g.inputs;
  WithPanel(panel, [&](auto n, auto q) {
    for (Index first = 0; first < g.outputs; first += panel, panels += size * panel) {
      for (Index h = 0; h < g.out_height; ++h) {
        const Index at = h * g.out_width * g.outputs + first;
        const Epilogue end{bias ? bias + first : nullptr, add ? add + at : nullptr, relu};
        PanelRow<decltype(n)::value, decltype(q)::value>(x + h * g.stride_height * row, g.stride_width * g.inputs, row,
                                                         g.kernel_height, g.kernel_width * g.inputs, panels, end,
                                                         y + at, g.outputs, g.out_width);
      }
    }
  });
}

// Copies an image into a frame of zeros: `before` rows and columns first, then as many as the frame has left.
void Frame(const T* x, Index height, Index width, Index channels, Index before, Index rows, Index columns, T* y) {
  const Index row = columns * channels, left = before * channels;
  Zero(y, before * row);
  for (Index h = 0; h < height; ++h) {
    T* line = y + (before + h) * row;
    Zero(line, left);
    __builtin_memcpy(line + left, x + h * width * channels, width * channels * sizeof(T));
    Zero(line + left + width * channels, row - left - width * channels);
  }
  if (rows > before + height) Zero(y + (before + height) * row, (rows - before - height) * row);
}

// An image as the kernel reads it: itself where nothing is padded, else a padded copy in this thread's scratch.
const T* Padded(const Geometry& g, const T* x, Index* row) {
  const Index rows = (g.out_height - 1) * g.stride_height + g.kernel_height;
  const Index columns = (g.out_width - 1) * g.stride_width + g.kernel_width;
  *row = g.width * g.inputs;
  if (g.low == 0 && rows <= g.height && columns <= g.width) return x;
  const Index all_rows = Max(rows, g.low + g.height), all_columns = Max(columns, g.low + g.width);
  *row = all_columns * g.inputs;
  T* frame = Scratch(kPadded, all_rows * *row);
  Frame(x, g.height, g.width, g.inputs, g.low, all_rows, all_columns, frame);
  return frame;
}

// `add`, where given, has the output's shape and is added to it before the ReLU.
void Convolve(Geometry g, const T* x, const T* panels, const T* bias, const T* add, bool relu, T* y) {
  if (g.kernel_height == 1 && g.kernel_width == 1 && g.stride_width == 1) {  // one long row
    g.width = g.out_width = g.height * g.width;
    g.height = g.out_height = 1;
  }
  Index row;
  const T* frame = Padded(g, x, &row);
  ConvolvePadded(g, frame, row, panels, bias, add, relu, y);
}

// Adds an image's share of the kernel's gradient, [kernel size, outputs]: products of K values with a panel of outputs
// are summed over a row of pixels in registers.
template <int N, int Q, int K>
inline void GradientTile(const T* a, Index pixel, const T* g, Index outputs, Index width, T* d) {
  Vector<N> acc[K][Q];
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) acc[k][q] = Load<N>(d + k * outputs + N * q);
  }
  for (Index w = 0; w < width; ++w, a += pixel, g += outputs) {
    Vector<N> cotangent[Q];
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) cotangent[q] = Load<N>(g + N * q);
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) acc[k][q] += a[k] * cotangent[q];
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) Store<N>(d + k * outputs + N * q, acc[k][q]);
  }
}

void ConvolveGradient(Geometry g, const T* x, const T* cotangent, T* d) {
  if (g.kernel_height == 1 && g.kernel_width == 1 && g.stride_width == 1) {
    g.width = g.out_width = g.height * g.width;
    g.height = g.out_height = 1;
  }
  Index row;
  const T* frame = Padded(g, x, &row);
  const Index k = g.kernel_width * g.inputs, pixel = g.stride_width * g.inputs;
  const Index panel = PanelOf(g.outputs);
  WithPanel(panel, [&](auto n, auto q) {
    constexpr int N = decltype(n)::value, Q = decltype(q)::value;
    constexpr int K = Clamp((kRegisters - Q - 1) / Q, 1, 12);
    for (Index h = 0; h < g.out_height; ++h) {
      const T* out = cotangent + h * g.out_width * g.outputs;
      for (Index i = 0; i < g.kernel_height; ++i) {
        const T* a = frame + (h * g.stride_height + i) * row;
        T* to = d + i * k * g.outputs;
        for (Index first = 0; first < g.outputs; first += panel) {
          Index v = 0;
          auto run = [&](auto values) {
            constexpr int V = decltype(values)::value;
            GradientTile<N, Q, V>(a + v, pixel, out + first, g.outputs, g.out_width, to + v * g.outputs + first);
            v += V;
          };
          while (k - v >= K) run(Constant<K>());
          while (k - v >= 4) run(Constant<4>());
          while (k - v >= 1) run(Constant<1>());
        }
      }
    }
  });
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_CONVOLUTION_H_
