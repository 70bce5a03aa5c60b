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
// acc[p][q] += sum over kernel rows and the k values of each, of a[p, row, k] * b[row, k, q]; rows of b are `panel`
// apart. Every third pixel has a pointer of its own: from it a processor reaches the next two by an index, and there
// are registers for no more pointers.
template <int N, int Q, int P>
inline void Tile(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Index panel,
                 Vector<N> (&acc)[P][Q]) {
  constexpr int G = (P + 2) / 3;
  for (Index r = 0; r < rows; ++r, a += row) {
    const T* from[G];
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) from[g] = a + 3 * g * pixel;
#pragma GCC unroll 4
    for (Index i = 0; i < k; ++i, b += panel) {
      Vector<N> weights[Q];
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) weights[q] = Load<N>(b + N * q);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const T value = from[p / 3][p % 3 * pixel + i];
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
inline void Pixels(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Index panel, Epilogue end, T* y,
                   Index outputs) {
  Vector<N> acc[P][Q];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) acc[p][q] = end.bias ? Load<N>(end.bias + N * q) : Vector<N>{};
  }
  Tile<N, Q, P>(a, pixel, row, rows, k, b, panel, acc);
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

// Vectors of outputs that a tile has: few, so that more pixels share each vector of weights.
constexpr int kVectors = kRegisters == 32 && kBytes == 16 ? 4 : 2;

// How many pixels a tile of Q vectors has at most.
template <int Q>
constexpr int kPixels = Clamp((kRegisters - Q - 1) / Q, 1, 12);

template <class F>
inline void WithPixels(Index pixels, const F& f) {  // calls f(pixels) with a constant
  switch (pixels) {
    case 1:
      return f(Constant<1>());
    case 2:
      return f(Constant<2>());
    case 3:
      return f(Constant<3>());
    case 4:
      return f(Constant<4>());
    case 5:
      return f(Constant<5>());
    case 6:
      return f(Constant<6>());
    case 7:
      return f(Constant<7>());
    case 8:
      return f(Constant<8>());
    case 9:
      return f(Constant<9>());
    case 10:
      return f(Constant<10>());
    case 11:
      return f(Constant<11>());
    case 12:
      return f(Constant<12>());
  }
}

// Q vectors of outputs for a row of `width` pixels, in as few tiles as can be, all of one size. The last one overlaps
// its neighbour where the width is no multiple.
template <int N, int Q>
void PanelRow(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Index panel, Epilogue end, T* y,
              Index outputs, Index width) {
  const Index tiles = (width + kPixels<Q> - 1) / kPixels<Q>;
  WithPixels((width + tiles - 1) / tiles, [&](auto pixels) {
    constexpr int P = Min(decltype(pixels)::value, kPixels<Q>);
    for (Index t = 0; t < tiles; ++t) {
      const Index w = Min(t * P, width - P), at = w * outputs;
      const Epilogue here{end.bias, end.add ? end.add + at : nullptr, end.relu};
      Pixels<N, Q, P>(a + w * pixel, pixel, row, rows, k, b, panel, here, y + at, outputs);
    }
  });
}

template <class F>
inline void WithPanel(Index panel, const F& f) {  // calls f(lanes, vectors of a tile) with constants for the panel
  constexpr int N = Min(kLanes, 8);
  if (panel == 8) return f(Constant<N>(), Constant<8 / N>());
  if (panel == 16) return f(Constant<kLanes>(), Constant<Min(16 / kLanes, kVectors)>());
  if (panel == 32) return f(Constant<kLanes>(), Constant<Min(32 / kLanes, kVectors)>());
  __builtin_trap();  // refused by all callers
}

// x is the first value of a padded image whose rows are `row` apart.
void ConvolvePadded(const Geometry& g, const T* x, Index row, const T* panels, const T* bias, const T* add, bool relu,
                    T* y) {
  const Index panel = PanelOf(g.outputs), size = g.kernel_height * g.kernel_width * g.inputs;
  WithPanel(panel, [&](auto n, auto q) {
    constexpr int N = decltype(n)::value, Q = decltype(q)::value;
    for (Index first = 0; first < g.outputs; first += N * Q) {
      const T* b = panels + first / panel * panel * size + first % panel;
      for (Index h = 0; h < g.out_height; ++h) {
        const Index at = h * g.out_width * g.outputs + first;
        const Epilogue end{bias ? bias + first : nullptr, add ? add + at : nullptr, relu};
        PanelRow<N, Q>(x + h * g.stride_height * row, g.stride_width * g.inputs, row, g.kernel_height,
                       g.kernel_width * g.inputs, b, panel, end, y + at, g.outputs, g.out_width);
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

// Whether no value is infinite or NaN.
bool Finite(const T* x, Index size) {
  constexpr int kSums = 4;
  Vector<kLanes> sums[kSums] = {};  // of zeros, and of NaN where a value is not finite
  Index i = 0;
  for (; i + kSums * kLanes <= size; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) {
      const Vector<kLanes> v = Load<kLanes>(x + i + s * kLanes);
      sums[s] += v - v;
    }
  }
  const Vector<kLanes> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  T sum = 0;
  for (int n = 0; n < kLanes; ++n) sum += all[n];
  for (; i < size; ++i) sum += x[i] - x[i];
  return sum == 0;
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
        for (Index first = 0; first < g.outputs; first += N * Q) {
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
