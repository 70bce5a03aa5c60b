// The networks' layers as CPU kernels, called from XLA through its foreign function interface.
//
// Arrays are NHWC and dense. One generic micro-kernel (`Tile`) does every convolution: of a row of the input, the values
// that a kernel row meets (kernel width x channels) lie side by side, so a convolution is a few small matrix products
// whose operands are read where they are. Weights come packed as panels [outputs / n, kernel size x inputs, n] of
// n = min(outputs, 32) outputs. Work is split by image; an image's activations stay in the cache of one core.
//
// REAL is float; the tests also build the file with -DDOUBLE, to compare gradients closely.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

#ifdef DOUBLE
#define REAL double
#else
#define REAL float
#endif

#if !defined(DOUBLE) && defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

namespace ffi = xla::ffi;
using T = REAL;
constexpr auto kType = sizeof(T) == 4 ? ffi::F32 : ffi::F64;
using Array = ffi::Buffer<kType>;
using Result = ffi::Result<Array>;
using Index = int64_t;

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif
constexpr int kLanes = kBytes / sizeof(T);

template <int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef T loose __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <int N>
using Vector = typename VectorOf<N>::type;

template <int N>
inline Vector<N> Load(const T* p) { return *reinterpret_cast<const typename VectorOf<N>::loose*>(p); }
template <int N>
inline void Store(T* p, Vector<N> v) { *reinterpret_cast<typename VectorOf<N>::loose*>(p) = v; }
template <int N>
inline Vector<N> Fill(T x) { return x - Vector<N>{}; }

// Runs body(0) .. body(tasks - 1) on the pool and on the caller. The caller takes tasks too, so that it never waits for
// a thread that is not already at work: nested or concurrent calls cannot block one another.
template <class Body>
void Parallel(ffi::ThreadPool& pool, Index tasks, const Body& body) {
  struct State {
    std::atomic<Index> next{0}, done{0};
    Index tasks;
    const Body* body;
    void Work() {
      for (Index i; (i = next.fetch_add(1)) < tasks; done.fetch_add(1)) (*body)(i);
    }
  };
  auto state = std::make_shared<State>();
  state->tasks = tasks;
  state->body = &body;
  const Index helpers = std::min<Index>(pool.num_threads(), tasks) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule([state] { state->Work(); });
  state->Work();
  while (state->done.load() < tasks) std::this_thread::yield();
}

// Memory of the calling thread that outlives a call: fresh pages for every call would cost more than the arithmetic.
// It starts on a cache line; vectors that straddle two cost twice.
T* Scratch(size_t slot, Index size) {
  struct alignas(64) Line { T values[64 / sizeof(T)]; };
  static thread_local std::vector<std::vector<Line>> slots;
  if (slots.size() <= slot) slots.resize(slot + 1);
  const size_t lines = size * sizeof(T) / sizeof(Line) + 1;
  if (slots[slot].size() < lines) slots[slot].resize(lines);
  return slots[slot].data()->values;
}

// ---- Convolution ----------------------------------------------------------------------------------------------------

struct Geometry {  // of one image
  Index height, width, inputs;               // input
  Index kernel_height, kernel_width;
  Index stride_height, stride_width, low;    // `low` zeros before the first row and column; as many as needed after
  Index out_height, out_width, outputs;

  Index panel() const { return std::min<Index>(outputs, 32); }
  Index size() const { return kernel_height * kernel_width * inputs; }
};

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
      if (end.relu) acc[p][q] = acc[p][q] < 0 ? Vector<N>{} : acc[p][q];  // NaN stays NaN
      Store<N>(y + p * outputs + N * q, acc[p][q]);
    }
  }
}

// One panel of outputs for a row of `width` pixels. The last tile overlaps its neighbour where the width is no multiple.
template <int N, int Q>
void PanelRow(const T* a, Index pixel, Index row, Index rows, Index k, const T* b, Epilogue end, T* y, Index outputs,
              Index width) {
  constexpr int P = std::clamp((kRegisters - Q - 1) / Q, 1, 12);
  Index w = 0;
  auto run = [&](auto pixels) {
    Pixels<N, Q, decltype(pixels)::value>(a + w * pixel, pixel, row, rows, k, b, end, y + w * outputs, outputs);
    w += decltype(pixels)::value;
  };
  while (width - w >= P) run(std::integral_constant<int, P>());
  if (w == width) return;
  if (width >= P) {
    w = width - P;
    run(std::integral_constant<int, P>());
    return;
  }
  while (width - w >= 4) run(std::integral_constant<int, 4>());
  while (width - w >= 1) run(std::integral_constant<int, 1>());
}

template <class F>
inline void WithPanel(Index panel, const F& f) {  // calls f(lanes, vectors) with constants for the panel's width
  constexpr int N = std::min(kLanes, 8);
  if (panel == 8) f(std::integral_constant<int, N>(), std::integral_constant<int, 8 / N>());
  if (panel == 16) f(std::integral_constant<int, kLanes>(), std::integral_constant<int, 16 / kLanes>());
  if (panel == 32) f(std::integral_constant<int, kLanes>(), std::integral_constant<int, 32 / kLanes>());
}

// x is the first value of a padded image whose rows are `row` apart.
void ConvolvePadded(const Geometry& g, const T* x, Index row, const T* panels, const T* bias, bool relu, T* y) {
  WithPanel(g.panel(), [&](auto n, auto q) {
    for (Index first = 0; first < g.outputs; first += g.panel(), panels += g.size() * g.panel()) {
      const Epilogue end{bias ? bias + first : nullptr, relu};
      for (Index h = 0; h < g.out_height; ++h) {
        PanelRow<decltype(n)::value, decltype(q)::value>(
            x + h * g.stride_height * row, g.stride_width * g.inputs, row, g.kernel_height, g.kernel_width * g.inputs,
            panels, end, y + h * g.out_width * g.outputs + first, g.outputs, g.out_width);
      }
    }
  });
}

// Copies an image into a frame of zeros: `before` rows and columns first, then as many as the frame has left.
void Frame(const T* x, Index height, Index width, Index channels, Index before, Index rows, Index columns, T* y) {
  const Index row = columns * channels, left = before * channels;
  std::fill(y, y + before * row, T(0));
  for (Index h = 0; h < height; ++h) {
    T* line = y + (before + h) * row;
    std::fill(line, line + left, T(0));
    std::memcpy(line + left, x + h * width * channels, width * channels * sizeof(T));
    std::fill(line + left + width * channels, line + row, T(0));
  }
  if (rows > before + height) std::fill(y + (before + height) * row, y + rows * row, T(0));
}

// An image as the kernel reads it: itself where nothing is padded, else a padded copy in this thread's scratch.
const T* Padded(const Geometry& g, const T* x, Index* row) {
  const Index rows = (g.out_height - 1) * g.stride_height + g.kernel_height;
  const Index columns = (g.out_width - 1) * g.stride_width + g.kernel_width;
  *row = g.width * g.inputs;
  if (g.low == 0 && rows <= g.height && columns <= g.width) return x;
  const Index all_rows = std::max(rows, g.low + g.height), all_columns = std::max(columns, g.low + g.width);
  *row = all_columns * g.inputs;
  T* frame = Scratch(0, all_rows * *row);
  Frame(x, g.height, g.width, g.inputs, g.low, all_rows, all_columns, frame);
  return frame;
}

void Convolve(Geometry g, const T* x, const T* panels, const T* bias, bool relu, T* y) {
  if (g.kernel_height == 1 && g.kernel_width == 1 && g.stride_width == 1) {  // one long row
    g.width = g.out_width = g.height * g.width;
    g.height = g.out_height = 1;
  }
  Index row;
  const T* frame = Padded(g, x, &row);
  ConvolvePadded(g, frame, row, panels, bias, relu, y);
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
  WithPanel(g.panel(), [&](auto n, auto q) {
    constexpr int N = decltype(n)::value, Q = decltype(q)::value;
    constexpr int K = std::clamp((kRegisters - Q - 1) / Q, 1, 12);
    for (Index h = 0; h < g.out_height; ++h) {
      const T* out = cotangent + h * g.out_width * g.outputs;
      for (Index i = 0; i < g.kernel_height; ++i) {
        const T* a = frame + (h * g.stride_height + i) * row;
        T* to = d + i * k * g.outputs;
        for (Index first = 0; first < g.outputs; first += g.panel()) {
          Index v = 0;
          auto run = [&](auto values) {
            constexpr int V = decltype(values)::value;
            GradientTile<N, Q, V>(a + v, pixel, out + first, g.outputs, g.out_width, to + v * g.outputs + first);
            v += V;
          };
          while (k - v >= K) run(std::integral_constant<int, K>());
          while (k - v >= 4) run(std::integral_constant<int, 4>());
          while (k - v >= 1) run(std::integral_constant<int, 1>());
        }
      }
    }
  });
}

// ---- Depthwise 3x3, SAME --------------------------------------------------------------------------------------------

// A block of N lanes of a depthwise convolution: N channels from `first`, or, with fewer channels than lanes, all channels
// of several pixels. Its inner pixels, [begin, end) in values of a row, have both neighbours; with `edges` it has the
// first and the last pixel too.
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
      f(std::integral_constant<int, kLanes>(), Block{c, channels, channels + c, end + c, true});
    }
  } else {  // 8 channels, 16 lanes: two pixels a vector, then the odd one and the edges
    const Index begin = std::max(channels, channels + (end - channels) / kLanes * kLanes);
    f(std::integral_constant<int, kLanes>(), Block{0, kLanes, channels, begin, false});
    f(std::integral_constant<int, std::min(kLanes, 8)>(), Block{0, channels, begin, end, true});
  }
}

// Rows [from, to) of the depthwise convolution of one image.
void Depthwise(const T* x, Index height, Index width, Index channels, const T* kernel, Index from, Index to, T* out) {
  const Index row = width * channels;
  T* zeros = Scratch(1, row);
  std::fill(zeros, zeros + row, T(0));
  Blocks(width, channels, [&](auto lanes, Block block) {
    constexpr int N = decltype(lanes)::value;
    Vector<N> k[9];
    for (int t = 0; t < 9; ++t) {
      T taps[N];
      for (int n = 0; n < N; ++n) taps[n] = kernel[t * channels + block.first + n % std::min<Index>(channels, N)];
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
  T* zeros = Scratch(1, row);
  std::fill(zeros, zeros + row, T(0));
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
      for (int n = 0; n < N; ++n) d[t * channels + block.first + n % std::min<Index>(channels, N)] += acc[t][n];
    }
  });
}

// ---- Max pooling 3x3, stride 2, SAME --------------------------------------------------------------------------------

inline Index PadBefore(Index size) { return (((size + 1) / 2 - 1) * 2 + 3 - size) / 2; }

// Writes the maximum of each window (plus `add`, where given) and, where wanted, which of the nine it was: the first in
// row-major order among equals. NaN comes through.
template <int N>
void MaxPool(const T* x, Index height, Index width, Index channels, const T* add, T* y, T* winners) {
  const Index out_height = (height + 1) / 2, out_width = (width + 1) / 2;
  const Index top = PadBefore(height), left = PadBefore(width);
  for (Index h = 0; h < out_height; ++h) {
    for (Index w = 0; w < out_width; ++w) {
      const Index i0 = std::max<Index>(0, top - 2 * h), i1 = std::min<Index>(3, height + top - 2 * h);
      const Index j0 = std::max<Index>(0, left - 2 * w), j1 = std::min<Index>(3, width + left - 2 * w);
      const T* corner = x + ((2 * h - top) * width + 2 * w - left) * channels;
      const Index at = (h * out_width + w) * channels;
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
  std::fill(d, d + height * width * channels, T(0));
  for (Index h = 0; h < out_height; ++h) {
    for (Index w = 0; w < out_width; ++w) {
      const Index i0 = std::max<Index>(0, top - 2 * h), i1 = std::min<Index>(3, height + top - 2 * h);
      const Index j0 = std::max<Index>(0, left - 2 * w), j1 = std::min<Index>(3, width + left - 2 * w);
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

template <class F>
inline void WithLanes(Index channels, const F& f) {  // channels are a multiple of 8
  if (channels % kLanes == 0) return f(std::integral_constant<int, kLanes>());
  f(std::integral_constant<int, std::min(kLanes, 8)>());
}

void Pool(const T* x, Index height, Index width, Index channels, const T* add, T* y, T* winners) {
  WithLanes(channels, [&](auto n) { MaxPool<decltype(n)::value>(x, height, width, channels, add, y, winners); });
}

// ---- Batch normalisation over images and pixels, with an optional ReLU behind it ------------------------------------

// Mean and sum of squared deviations of each channel of one image, in two passes over what the cache holds.
template <int N>
void Moments(const T* x, Index pixels, Index channels, T* mean, T* squares) {
  for (Index c = 0; c < channels; c += N) {
    Vector<N> sum{}, square{};
    for (Index p = 0; p < pixels; ++p) sum += Load<N>(x + p * channels + c);
    const Vector<N> centre = sum / static_cast<T>(pixels);
    for (Index p = 0; p < pixels; ++p) {
      const Vector<N> deviation = Load<N>(x + p * channels + c) - centre;
      square += deviation * deviation;
    }
    Store<N>(mean + c, centre);
    Store<N>(squares + c, square);
  }
}

template <int N>
void Normalise(const T* x, Index pixels, Index channels, const T* factor, const T* offset, bool relu, T* y) {
  for (Index p = 0; p < pixels; ++p) {
    for (Index c = 0; c < channels; c += N) {
      Vector<N> value = Load<N>(x + p * channels + c) * Load<N>(factor + c) + Load<N>(offset + c);
      if (relu) value = value < 0 ? Vector<N>{} : value;  // NaN stays NaN
      Store<N>(y + p * channels + c, value);
    }
  }
}

// The cotangent behind the ReLU: zero where the normalised value was not positive.
template <int N>
inline Vector<N> Behind(Vector<N> x, Vector<N> g, Vector<N> factor, Vector<N> offset, bool relu) {
  return relu ? (x * factor + offset > 0 ? g : Vector<N>{}) : g;
}

// ---- FFI: training ops ----------------------------------------------------------------------------------------------

Index Dimension(const Array& a, int i) { return a.dimensions()[i]; }
Index Dimension(Result& a, int i) { return a->dimensions()[i]; }

// A sum over images is taken in this many parts, whatever the number of threads, so that it does not depend on it.
Index Parts(Index images, Index size) {
  return std::min(images, std::clamp<Index>((Index(1) << 20) / size, 4, 16));
}

template <class Body>  // body(first, end, sum) adds those images' share
void SumOverParts(ffi::ThreadPool& pool, Index images, Index size, T* total, const Body& body) {
  const Index parts = Parts(images, size);
  std::vector<T> sums(parts * size, T(0));
  Parallel(pool, parts, [&](Index part) {
    body(part * images / parts, (part + 1) * images / parts, sums.data() + part * size);
  });
  std::fill(total, total + size, T(0));
  for (Index part = 0; part < parts; ++part) {
    for (Index i = 0; i < size; ++i) total[i] += sums[part * size + i];
  }
}

template <class Body>  // body(image, sum)
void SumOverImages(ffi::ThreadPool& pool, Index images, Index size, T* total, const Body& body) {
  SumOverParts(pool, images, size, total, [&](Index first, Index end, T* sum) {
    for (Index i = first; i < end; ++i) body(i, sum);
  });
}

Geometry GeometryOf(const Array& x, Index kernel_height, Index kernel_width, Index stride_height, Index stride_width,
                    Index low, Index out_height, Index out_width, Index outputs) {
  return {Dimension(x, 1), Dimension(x, 2), Dimension(x, 3), kernel_height, kernel_width, stride_height,
          stride_width,    low,             out_height,      out_width,     outputs};
}

ffi::Error ConvolveCall(ffi::ThreadPool pool, Array x, Array panels, Result y, Index kernel_height, Index kernel_width,
                        Index stride_height, Index stride_width, Index low) {
  const Geometry g = GeometryOf(x, kernel_height, kernel_width, stride_height, stride_width, low, Dimension(y, 1),
                                Dimension(y, 2), Dimension(y, 3));
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  Parallel(pool, Dimension(x, 0), [&](Index i) {
    Convolve(g, x.typed_data() + i * in, panels.typed_data(), nullptr, false, y->typed_data() + i * out);
  });
  return ffi::Error::Success();
}

ffi::Error ConvolveGradientCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d, Index kernel_height,
                                Index kernel_width, Index stride_height, Index stride_width, Index low) {
  const Geometry g = GeometryOf(x, kernel_height, kernel_width, stride_height, stride_width, low,
                                Dimension(cotangent, 1), Dimension(cotangent, 2), Dimension(cotangent, 3));
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  SumOverImages(pool, Dimension(x, 0), g.size() * g.outputs, d->typed_data(), [&](Index i, T* sum) {
    ConvolveGradient(g, x.typed_data() + i * in, cotangent.typed_data() + i * out, sum);
  });
  return ffi::Error::Success();
}

// ---- Convolution of bfloat16 products on matrix tiles (Intel AMX), for training --------------------------------------

#if TILES

using Short = uint16_t;  // a bfloat16
constexpr Index kTile = 16, kChunk = 32, kTileSize = kTile * kChunk;

bool TilesPermitted() {  // Linux gives a process the tiles' state on request
  static const bool permitted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
  return permitted;
}

struct TileState {  // eight tiles of 16 rows of 64 bytes, while it lives
  TileState() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int i = 0; i < 8; ++i) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    asm volatile("" ::: "memory");
    _tile_loadconfig(&shapes);
  }
  ~TileState() { _tile_release(); }
};

// c[m * N + n] (16 x 16, rows `to` apart) = the sum over chunks of a[m] (16 rows `row` apart, of 32 values from
// steps[chunk] on) times b[n] (`panel` apart; a chunk is 16 rows of 16 outputs' pairs), onto c itself if `add`.
template <int M, int N>
void TileProducts(const Short* const* a, Index row, const Index* steps, const Short* b, Index panel, Index chunks,
                  float* const* c, Index to, bool add) {
  static_assert(N <= 2 && M * N <= 4);
  const Index across = row * sizeof(Short), down = to * sizeof(float);
  asm volatile("" ::: "memory");  // GCC's tile loads do not say that they read
  if (add) {
    _tile_loadd(0, c[0], down);
    if constexpr (M * N > 1) _tile_loadd(1, c[1], down);
    if constexpr (M * N > 2) _tile_loadd(2, c[2], down);
    if constexpr (M * N > 3) _tile_loadd(3, c[3], down);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (Index k = 0; k < chunks; ++k, b += kTileSize) {
    const Index step = steps[k];
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a[0] + step, across);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (N == 2) {
      _tile_loadd(7, b + panel, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (M == 2) {
        _tile_loadd(5, a[1] + step, across);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    } else {
      if constexpr (M > 1) {
        _tile_loadd(5, a[1] + step, across);
        _tile_dpbf16ps(1, 5, 6);
      }
      if constexpr (M > 2) {
        _tile_loadd(4, a[2] + step, across);
        _tile_dpbf16ps(2, 4, 6);
      }
      if constexpr (M > 3) {
        _tile_loadd(5, a[3] + step, across);
        _tile_dpbf16ps(3, 5, 6);
      }
    }
  }
  _tile_stored(0, c[0], down);
  if constexpr (M * N > 1) _tile_stored(1, c[1], down);
  if constexpr (M * N > 2) _tile_stored(2, c[2], down);
  if constexpr (M * N > 3) _tile_stored(3, c[3], down);
  asm volatile("" ::: "memory");
}

// Images side by side in frames of zeros, whose pixels are then one long row: an output pixel lies where its window
// starts, a kernel's tap is a distance in that row, and pixels at which no output lies are computed and dropped.
struct Frames {
  Index columns, size, images, pixels, length;  // `length`: pixels, what tiles read beyond them, and the largest tap

  Frames(const Geometry& g, Index images)
      : columns(g.out_width + g.kernel_width - 1), size(columns * (g.out_height + g.kernel_height - 1)),
        images(images), pixels(images * size) {
    length = (pixels + g.kernel_height * columns + 4 * kTile + kChunk) / kChunk * kChunk;
    if (length / kChunk % 2 == 0) length += kChunk;  // rows of this length then fall into different sets of the cache
  }

  static Index ImagesAtOnce(const Geometry& g) { return std::clamp<Index>(1024 / Frames(g, 1).size, 1, 16); }
};

inline void Narrow(const float* from, Index count, Short* to) {  // a multiple of 16
  for (Index i = 0; i < count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
  }
}

void FillFrames(const Frames& f, const float* x, Index height, Index width, Index channels, Index low, Short* to) {
  std::memset(to, 0, f.length * channels * sizeof(Short));
  for (Index i = 0; i < f.images; ++i) {
    for (Index h = 0; h < height; ++h, x += width * channels) {
      Narrow(x, width * channels, to + (i * f.size + (low + h) * f.columns + low) * channels);
    }
  }
}

// Memory of the calling thread, as Scratch.
Short* NarrowScratch(int slot, Index size) {
  struct alignas(64) Line { Short values[32]; };
  static thread_local std::vector<Line> slots[3];
  const size_t lines = size / 32 + 1;
  if (slots[slot].size() < lines) slots[slot].resize(lines);
  return slots[slot].data()->values;
}

// Two pixels' 16 channels, channel by channel.
inline __m512i Pair(const Short* even, const Short* odd) {
  const __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  const __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

// Rows of 16 values of 32 bits become columns.
inline void Transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// The distances, in values of a framed image, of a kernel's chunks of 32: neighbouring taps of 16 channels, or 32
// channels of one tap.
std::vector<Index> ChunkSteps(const Geometry& g) {
  const Index columns = Frames(g, 1).columns, pixels = g.inputs == 16 ? 2 : 1;
  std::vector<Index> steps;
  for (Index i = 0; i < g.kernel_height; ++i) {
    for (Index j = 0; j < g.kernel_width; j += pixels) {
      for (Index c = 0; c < g.inputs; c += kChunk) steps.push_back((i * columns + j) * g.inputs + c);
    }
  }
  return steps;
}

// A kernel [rows, columns, inputs, outputs] as [outputs / 16, chunks, 16, 16 pairs].
std::vector<Short> PackKernel(const Geometry& g, const float* kernel, Index chunks) {
  const Index pixels = g.inputs == 16 ? 2 : 1, across = (g.kernel_width + pixels - 1) / pixels;
  const Index each = pixels * g.inputs / kChunk;  // chunks of a place (i, j)
  std::vector<float> rows(chunks * kChunk * g.outputs, 0.0f);
  for (Index i = 0; i < g.kernel_height; ++i) {
    std::memcpy(rows.data() + i * across * each * kChunk * g.outputs,
                kernel + i * g.kernel_width * g.inputs * g.outputs,
                g.kernel_width * g.inputs * g.outputs * sizeof(float));
  }
  std::vector<Short> narrow(rows.size()), packed(rows.size());
  Narrow(rows.data(), rows.size(), narrow.data());
  for (Index o = 0; o < g.outputs; o += kTile) {
    for (Index r = 0; r < chunks * kTile; ++r) {
      const Short* pair = narrow.data() + 2 * r * g.outputs + o;
      _mm512_storeu_si512(packed.data() + (o * chunks + r) * 2 * kTile, Pair(pair, pair + g.outputs));
    }
  }
  return packed;
}

template <int M, int N>
void TileConvolution(const Geometry& g, const Frames& f, const Short* frames, const Short* packed,
                     const std::vector<Index>& steps, const std::vector<int32_t>& places, float* y) {
  alignas(64) float sums[M * N][kTile * kTile];
  float* c[M * N];
  for (int t = 0; t < M * N; ++t) c[t] = sums[t];
  const Index chunks = steps.size();
  for (Index o = 0; o < g.outputs; o += N * kTile) {
    for (Index p = 0; p < f.pixels; p += M * kTile) {
      const Short* a[M];
      for (int m = 0; m < M; ++m) a[m] = frames + (p + m * kTile) * g.inputs;
      TileProducts<M, N>(a, g.inputs, steps.data(), packed + o * chunks * kChunk, kTile * chunks * kChunk, chunks, c,
                         kTile, false);
      for (Index i = 0; i < std::min(M * kTile, f.pixels - p); ++i) {
        const Index place = places[p + i];
        if (place < 0) continue;
        for (int n = 0; n < N; ++n) {
          _mm512_storeu_ps(y + place * g.outputs + o + n * kTile,
                           _mm512_load_ps(sums[i / kTile * N + n] + i % kTile * kTile));
        }
      }
    }
  }
}

// Where in the output each pixel of the frames goes, or -1.
std::vector<int32_t> Places(const Geometry& g, const Frames& f) {
  std::vector<int32_t> places(f.length, -1);
  int32_t place = 0;
  for (Index i = 0; i < f.images; ++i) {
    for (Index h = 0; h < g.out_height; ++h) {
      for (Index w = 0; w < g.out_width; ++w) places[i * f.size + h * f.columns + w] = place++;
    }
  }
  return places;
}

// Adds some images' share of the kernel's gradient: products over pixels, of the input's channels as rows of pixels
// with the cotangent's pairs of pixels.
template <int M, int N>
void TileGradient(const Geometry& g, const Frames& f, const Short* rows, const Short* pairs, float* d) {
  const Index chunks = (f.pixels + kChunk - 1) / kChunk, taps = g.kernel_height * g.kernel_width;
  const Index parts = g.inputs / kTile, units = taps * parts;
  std::vector<Index> steps(chunks);
  for (Index k = 0; k < chunks; ++k) steps[k] = k * kChunk;
  constexpr Index kSome = 12;  // chunks whose operands, of all taps, stay in the first cache
  for (Index first = 0; first < chunks; first += kSome) {
    const Index some = std::min(kSome, chunks - first);
    for (Index o = 0; o < g.outputs; o += N * kTile) {
      for (Index unit = 0; unit < units; unit += M) {
        const Short* a[M];
        float* c[M * N];
        for (int m = 0; m < M; ++m) {
          const Index u = std::min(unit + m, units - 1);
          const Index tap = u % taps, part = u / taps;
          a[m] = rows + part * kTile * f.length + tap / g.kernel_width * f.columns + tap % g.kernel_width;
          for (int n = 0; n < N; ++n) c[m * N + n] = d + (tap * parts + part) * kTile * g.outputs + o + n * kTile;
        }
        const Short* b = pairs + (o / kTile * chunks + first) * kTileSize;
        const Index panel = chunks * kTileSize;
        if (unit + M <= units) {
          TileProducts<M, N>(a, f.length, steps.data() + first, b, panel, some, c, g.outputs, true);
        } else {
          for (Index m = 0; m < units - unit; ++m) {
            TileProducts<1, N>(a + m, f.length, steps.data() + first, b, panel, some, c + m * N, g.outputs, true);
          }
        }
      }
    }
  }
}

void TileGradientOf(const Geometry& g, Index images, const float* x, const float* cotangent, float* d) {
  const Frames f(g, images);
  Short* frames = NarrowScratch(0, f.length * std::max(g.inputs, g.outputs));
  Short* rows = NarrowScratch(1, f.length * g.inputs);
  Short* pairs = NarrowScratch(2, f.length * g.outputs);
  FillFrames(f, x, g.height, g.width, g.inputs, g.low, frames);
  for (Index p = 0; p < f.length; p += kChunk) {
    for (Index c = 0; c < g.inputs; c += kTile) {
      __m512i block[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        const Short* even = frames + (p + 2 * r) * g.inputs + c;
        block[r] = Pair(even, even + g.inputs);
      }
      Transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) _mm512_storeu_si512(rows + (c + r) * f.length + p, block[r]);
    }
  }
  FillFrames(f, cotangent, g.out_height, g.out_width, g.outputs, 0, frames);
  const Index chunks = (f.pixels + kChunk - 1) / kChunk;
  for (Index o = 0; o < g.outputs; o += kTile) {
    for (Index r = 0; r < chunks * kTile; ++r) {
      const Short* even = frames + 2 * r * g.outputs + o;
      _mm512_storeu_si512(pairs + (o * chunks + r) * kChunk, Pair(even, even + g.outputs));
    }
  }
  if (g.outputs == kTile) TileGradient<4, 1>(g, f, rows, pairs, d);
  else TileGradient<2, 2>(g, f, rows, pairs, d);
}

ffi::Error TileConvolve(ffi::ThreadPool& pool, const Geometry& g, Index images, const float* x, const float* kernel,
                        float* y) {
  const std::vector<Index> steps = ChunkSteps(g);
  const std::vector<Short> packed = PackKernel(g, kernel, steps.size());
  const Index some = std::min(images, Frames::ImagesAtOnce(g));
  const std::vector<int32_t> places = Places(g, Frames(g, some));
  Parallel(pool, (images + some - 1) / some, [&](Index task) {
    const Index first = task * some;
    const Frames f(g, std::min(some, images - first));
    Short* frames = NarrowScratch(0, f.length * g.inputs);
    FillFrames(f, x + first * g.height * g.width * g.inputs, g.height, g.width, g.inputs, g.low, frames);
    float* to = y + first * g.out_height * g.out_width * g.outputs;
    const TileState state;
    if (g.outputs == kTile) TileConvolution<4, 1>(g, f, frames, packed.data(), steps, places, to);
    else TileConvolution<2, 2>(g, f, frames, packed.data(), steps, places, to);
  });
  return ffi::Error::Success();
}

ffi::Error TileConvolveGradient(ffi::ThreadPool& pool, const Geometry& g, Index images, const float* x,
                                const float* cotangent, float* d) {
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  SumOverParts(pool, images, g.size() * g.outputs, d, [&](Index first, Index end, float* sum) {
    const TileState state;
    const Index some = Frames::ImagesAtOnce(g);
    for (Index i = first; i < end; i += some) {
      TileGradientOf(g, std::min(some, end - i), x + i * in, cotangent + i * out, sum);
    }
  });
  return ffi::Error::Success();
}

#endif

ffi::Error ConvolveNarrowCall(ffi::ThreadPool pool, Array x, Array kernel, Result y, Index low) {
#if TILES
  const Geometry g = GeometryOf(x, Dimension(kernel, 0), Dimension(kernel, 1), 1, 1, low, Dimension(y, 1),
                                Dimension(y, 2), Dimension(y, 3));
  return TileConvolve(pool, g, Dimension(x, 0), x.typed_data(), kernel.typed_data(), y->typed_data());
#else
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "bfloat16 products need a processor with AMX");
#endif
}

ffi::Error ConvolveGradientNarrowCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d, Index low) {
#if TILES
  const Geometry g = GeometryOf(x, Dimension(d, 0), Dimension(d, 1), 1, 1, low, Dimension(cotangent, 1),
                                Dimension(cotangent, 2), Dimension(cotangent, 3));
  return TileConvolveGradient(pool, g, Dimension(x, 0), x.typed_data(), cotangent.typed_data(), d->typed_data());
#else
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "bfloat16 products need a processor with AMX");
#endif
}

ffi::Error DepthwiseCall(ffi::ThreadPool pool, Array x, Array kernel, Result y) {
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index size = height * width * channels;
  Parallel(pool, Dimension(x, 0), [&](Index i) {
    Depthwise(x.typed_data() + i * size, height, width, channels, kernel.typed_data(), 0, height,
              y->typed_data() + i * size);
  });
  return ffi::Error::Success();
}

ffi::Error DepthwiseGradientCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d) {
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index size = height * width * channels;
  SumOverImages(pool, Dimension(x, 0), 9 * channels, d->typed_data(), [&](Index i, T* sum) {
    DepthwiseGradient(x.typed_data() + i * size, cotangent.typed_data() + i * size, height, width, channels, sum);
  });
  return ffi::Error::Success();
}

ffi::Error MaxPoolCall(ffi::ThreadPool pool, Array x, Result y, Result winners) {
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index in = height * width * channels, out = Dimension(y, 1) * Dimension(y, 2) * channels;
  Parallel(pool, Dimension(x, 0), [&](Index i) {
    Pool(x.typed_data() + i * in, height, width, channels, nullptr, y->typed_data() + i * out,
         winners->typed_data() + i * out);
  });
  return ffi::Error::Success();
}

ffi::Error MaxPoolGradientCall(ffi::ThreadPool pool, Array winners, Array cotangent, Result d) {
  const Index height = Dimension(d, 1), width = Dimension(d, 2), channels = Dimension(d, 3);
  const Index in = height * width * channels, out = Dimension(winners, 1) * Dimension(winners, 2) * channels;
  Parallel(pool, Dimension(winners, 0), [&](Index i) {
    WithLanes(channels, [&](auto n) {
      MaxPoolGradient<decltype(n)::value>(winners.typed_data() + i * out, cotangent.typed_data() + i * out, height,
                                          width, channels, d->typed_data() + i * in);
    });
  });
  return ffi::Error::Success();
}

ffi::Error BatchNormCall(ffi::ThreadPool pool, Array x, Array scale, Array bias, Result y, Result mean, Result variance,
                         double epsilon, bool relu) {
  const Index images = Dimension(x, 0), pixels = Dimension(x, 1) * Dimension(x, 2), channels = Dimension(x, 3);
  std::vector<T> moments(2 * images * channels), factor(channels), offset(channels);
  Parallel(pool, images, [&](Index i) {
    WithLanes(channels, [&](auto n) {
      T* at = moments.data() + 2 * i * channels;
      Moments<decltype(n)::value>(x.typed_data() + i * pixels * channels, pixels, channels, at, at + channels);
    });
  });
  for (Index c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (Index i = 0; i < images; ++i) sum += moments[2 * i * channels + c];
    const double centre = sum / images;
    for (Index i = 0; i < images; ++i) {
      const double shift = moments[2 * i * channels + c] - centre;
      squares += moments[(2 * i + 1) * channels + c] + pixels * shift * shift;
    }
    const double spread = squares / (images * pixels);
    mean->typed_data()[c] = centre;
    variance->typed_data()[c] = spread;
    factor[c] = scale.typed_data()[c] / std::sqrt(spread + epsilon);
    offset[c] = bias.typed_data()[c] - centre * factor[c];
  }
  Parallel(pool, images, [&](Index i) {
    WithLanes(channels, [&](auto n) {
      Normalise<decltype(n)::value>(x.typed_data() + i * pixels * channels, pixels, channels, factor.data(),
                                    offset.data(), relu, y->typed_data() + i * pixels * channels);
    });
  });
  return ffi::Error::Success();
}

ffi::Error BatchNormGradientCall(ffi::ThreadPool pool, Array x, Array scale, Array bias, Array mean, Array variance,
                                 Array cotangent, Result dx, Result dscale, Result dbias, double epsilon, bool relu) {
  const Index images = Dimension(x, 0), pixels = Dimension(x, 1) * Dimension(x, 2), channels = Dimension(x, 3);
  const T count = images * pixels;
  std::vector<T> rows(8 * channels), sums(2 * channels);
  T *factor = rows.data(), *offset = factor + channels, *slope = offset + channels, *constant = slope + channels;
  for (Index c = 0; c < channels; ++c) {
    factor[c] = scale.typed_data()[c] / std::sqrt(variance.typed_data()[c] + epsilon);
    offset[c] = bias.typed_data()[c] - mean.typed_data()[c] * factor[c];
  }
  // Sums of the cotangent and of its product with the centred input.
  SumOverImages(pool, images, 2 * channels, sums.data(), [&](Index i, T* sum) {
    WithLanes(channels, [&](auto n) {
      constexpr int N = decltype(n)::value;
      const Index start = i * pixels * channels;
      for (Index c = 0; c < channels; c += N) {
        const Vector<N> f = Load<N>(factor + c), o = Load<N>(offset + c), m = Load<N>(mean.typed_data() + c);
        Vector<N> plain{}, product{};
        for (Index l = start + c; l < start + pixels * channels; l += channels) {
          const Vector<N> value = Load<N>(x.typed_data() + l);
          const Vector<N> g = Behind<N>(value, Load<N>(cotangent.typed_data() + l), f, o, relu);
          plain += g;
          product += g * (value - m);
        }
        Store<N>(sum + c, Load<N>(sum + c) + plain);
        Store<N>(sum + channels + c, Load<N>(sum + channels + c) + product);
      }
    });
  });
  for (Index c = 0; c < channels; ++c) {
    const double inverse = 1 / std::sqrt(variance.typed_data()[c] + epsilon);
    dbias->typed_data()[c] = sums[c];
    dscale->typed_data()[c] = sums[channels + c] * inverse;
    slope[c] = -factor[c] * inverse * inverse * sums[channels + c] / count;
    constant[c] = -factor[c] * sums[c] / count - slope[c] * mean.typed_data()[c];
  }
  Parallel(pool, images, [&](Index i) {
    WithLanes(channels, [&](auto n) {
      constexpr int N = decltype(n)::value;
      for (Index p = i * pixels; p < (i + 1) * pixels; ++p) {
        for (Index c = 0; c < channels; c += N) {
          const Vector<N> value = Load<N>(x.typed_data() + p * channels + c), f = Load<N>(factor + c);
          const Vector<N> g = Behind<N>(value, Load<N>(cotangent.typed_data() + p * channels + c), f,
                                        Load<N>(offset + c), relu);
          Store<N>(dx->typed_data() + p * channels + c, g * f + value * Load<N>(slope + c) + Load<N>(constant + c));
        }
      }
    });
  });
  return ffi::Error::Success();
}

// ---- FFI: whole networks, for inference -----------------------------------------------------------------------------

// A network is a list of layers, each a code and its numbers; runtime/program.py writes it and says what they mean.
enum Layer : Index { kConvolution, kSeparable, kShortcut, kMaxPool, kAveragePool, kHead };

struct Network {
  const Index *layer, *end;
  std::vector<const T*> weights;
  const T* images;
  Index height, width, channels, classes;
  T* logits;
};

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

// The last 3x3 convolution and the mean over pixels, in the other order: both are linear, and a mean is cheaper first.
void Head(const T* x, Index height, Index width, Index channels, const T* kernel, const T* bias, Index classes, T* y) {
  T* sums = Scratch(5, 9 * channels);
  std::fill(sums, sums + 9 * channels, T(0));
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
    for (Index i = 0; i < 9 * channels; i += kLanes) total += Load<kLanes>(kernel + i) * Load<kLanes>(sums + i);
    T sum = 0;
    for (int n = 0; n < kLanes; ++n) sum += total[n];
    y[k] = bias[k] + sum / (height * width);
  }
}

// A layer that was evaluated, for the way back.
struct Step {
  Index layer, height, width, channels, out_height, out_width, outputs;  // its input and its output
  Index kernel, low;                                                       // of a convolution: side, zeros before
  bool relu;
  const T *y, *winners;
};

// Evaluates a network for one image. With `steps`, each layer's output is kept and noted there.
void Run(const Network& network, Index image, std::vector<Step>* steps = nullptr) {
  Index height = network.height, width = network.width, channels = network.channels;
  const T* x = network.images + image * height * width * channels;
  const T* shortcut = nullptr;
  auto weight = network.weights.begin();
  int side = 0;
  size_t kept = 6;  // slots behind those that the layers work in
  auto output = [&](Index size) { return steps ? Scratch(kept++, size) : Scratch(2 + (side ^= 1), size); };
  for (const Index* layer = network.layer; layer < network.end;) {
    Step step{*layer++, height, width, channels, (height + 1) / 2, (width + 1) / 2, channels, 0, 0, false, x, nullptr};
    switch (step.layer) {
      case kConvolution: {
        const Index rows = *layer++, columns = *layer++, stride = *layer++, low = *layer++, outputs = *layer++;
        step.kernel = rows, step.low = low, step.relu = *layer++;
        const Geometry g{height, width,  channels, rows, columns, 1, stride, low, height + 2 * low - rows + 1,
                         (width + 2 * low - columns) / stride + 1, outputs};
        T* y = output(g.out_height * g.out_width * outputs);
        Convolve(g, x, weight[0], weight[1], step.relu, y);
        weight += 2;
        x = y, height = g.out_height, width = g.out_width * stride, channels = outputs / stride;
        break;
      }
      case kSeparable: {
        const Index outputs = *layer++;
        step.relu = *layer++;
        T* y = output(height * width * outputs);
        const Index some = std::clamp<Index>(4096 / (width * channels), 1, height);  // rows that fit the first cache
        T* part = Scratch(5, some * width * channels);
        for (Index h = 0; h < height; h += some) {
          const Index to = std::min(h + some, height);
          Depthwise(x, height, width, channels, weight[0], h, to, part);
          const Geometry g{1, (to - h) * width, channels, 1, 1, 1, 1, 0, 1, (to - h) * width, outputs};
          Convolve(g, part, weight[1], weight[2], step.relu, y + h * width * outputs);
        }
        weight += 3;
        x = y, channels = outputs;
        break;
      }
      case kShortcut: {
        step.outputs = *layer++;
        const Geometry g{height, width, channels, 1, 1, 2, 2, 0, step.out_height, step.out_width, step.outputs};
        T* y = Scratch(4, g.out_height * g.out_width * step.outputs);
        Convolve(g, x, weight[0], weight[1], false, y);
        weight += 2;
        shortcut = y;
        break;
      }
      case kMaxPool: {
        const Index size = step.out_height * step.out_width * channels;
        T* y = output(size);
        T* winners = steps ? output(size) : nullptr;
        Pool(x, height, width, channels, shortcut, y, winners);
        x = y, height = step.out_height, width = step.out_width;
        step.winners = winners;
        break;
      }
      case kAveragePool: {
        T* y = output(step.out_height * step.out_width * channels);
        AveragePool(x, height, width, channels, y);
        x = y, height = step.out_height, width = step.out_width;
        break;
      }
      case kHead:
        Head(x, height, width, channels, weight[0], weight[1], network.classes,
             network.logits + image * network.classes);
        weight += 2;
        break;
    }
    if (!steps) continue;
    if (step.layer != kShortcut) step.out_height = height, step.out_width = width, step.outputs = channels;
    step.y = x;
    steps->push_back(step);
  }
}

// The gradient of a class's logit by the input of the head, the same for any input: each pixel has the taps that meet it.
void HeadGradient(const T* kernel, Index height, Index width, Index channels, T* d) {
  std::fill(d, d + height * width * channels, T(0));
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

void AveragePoolGradient(const T* g, Index height, Index width, Index channels, T* d) {
  const Index out_width = (width + 1) / 2;
  for (Index h = 0; h < height; ++h) {
    for (Index w = 0; w < width; ++w, d += channels) {
      const T* from = g + (h / 2 * out_width + w / 2) * channels;
      for (Index c = 0; c < channels; ++c) d[c] = from[c] / 4;
    }
  }
}

// Guided backpropagation through a ReLU with output y: what is negative, or met a ReLU that was off, goes no further.
void Guide(const T* y, Index size, T* g) {
  for (Index i = 0; i < size; ++i) g[i] = y[i] > 0 && g[i] > 0 ? g[i] : T(0);
}

// Evaluates a network for one image and explains one class, or the one with the highest logit if `target` is -1, by
// guided backpropagation. `back` holds, layer by layer, the weights of the way back: kernels turned around, matrices
// transposed.
void Explain(const Network& network, const std::vector<const T*>& back, Index image, Index target, T* map) {
  std::vector<Step> steps;
  Run(network, image, &steps);
  const T* logits = network.logits + image * network.classes;
  if (target < 0) target = std::max_element(logits, logits + network.classes) - logits;
  const T* head = network.weights[network.weights.size() - 2];
  T* g = nullptr;
  T* pooled = nullptr;  // the gradient of the sum that the last max-pool's shortcut is part of
  int side = 0;
  auto weight = back.end();
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const Index size = step->height * step->width * step->channels;
    if (step->layer != kShortcut && step->relu) Guide(step->y, step->out_height * step->out_width * step->outputs, g);
    T* d = Scratch(2 + (side ^= 1), size + 8 * step->height);  // a row may end in the middle of a vector
    switch (step->layer) {
      case kHead:
        HeadGradient(head + target * 9 * step->channels, step->height, step->width, step->channels, d);
        break;
      case kMaxPool:
        pooled = Scratch(4, step->out_height * step->out_width * step->outputs);
        std::copy(g, g + step->out_height * step->out_width * step->outputs, pooled);
        WithLanes(step->channels, [&](auto n) {
          MaxPoolGradient<decltype(n)::value>(step->winners, g, step->height, step->width, step->channels, d);
        });
        break;
      case kAveragePool:
        AveragePoolGradient(g, step->height, step->width, step->channels, d);
        break;
      case kSeparable: {
        weight -= 2;
        T* part = Scratch(5, size);
        const Index pixels = step->height * step->width;
        Convolve({1, pixels, step->outputs, 1, 1, 1, 1, 0, 1, pixels, step->channels}, g, weight[1], nullptr, false, part);
        Depthwise(part, step->height, step->width, step->channels, weight[0], 0, step->height, d);
        break;
      }
      case kShortcut: {
        weight -= 1;
        side ^= 1;  // d is g: the shortcut's share is added to it
        const Index pixels = step->out_height * step->out_width;
        T* part = Scratch(5, pixels * step->channels);
        Convolve({1, pixels, step->outputs, 1, 1, 1, 1, 0, 1, pixels, step->channels}, pooled, weight[0], nullptr, false,
                 part);
        for (Index h = 0; h < step->out_height; ++h) {
          for (Index w = 0; w < step->out_width; ++w, part += step->channels) {
            T* to = g + (2 * h * step->width + 2 * w) * step->channels;
            for (Index c = 0; c < step->channels; ++c) to[c] += part[c];
          }
        }
        continue;
      }
      case kConvolution: {
        weight -= 1;
        const Index pixels = step->channels == 1 ? 8 : step->channels == 8 && step->width % 2 == 0 ? 2 : 1;
        const Index vectors = (step->width + pixels - 1) / pixels;
        Convolve({step->out_height, step->out_width, step->outputs, step->kernel, step->kernel + pixels - 1, 1, pixels,
                  step->kernel - 1 - step->low, step->height, vectors, pixels * step->channels},
                 g, weight[0], nullptr, false, d);
        const Index row = vectors * pixels * step->channels, wanted = step->width * step->channels;
        for (Index h = 1; row > wanted && h < step->height; ++h) std::copy_n(d + h * row, wanted, d + h * wanted);
        break;
      }
    }
    g = d;
  }
  std::copy_n(g, network.height * network.width * network.channels, map);
}

// Evaluates as many networks as there are results. Arguments: the images of each, then the weights of each in the order
// of its layers. `programs` holds, for each network, the length of its list, its number of weights, and the list.
ffi::Error NetworksCall(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                        ffi::Span<const Index> programs) {
  const size_t count = results.size();
  std::vector<Network> networks(count);
  std::vector<Index> first(count + 1, 0);
  const Index* program = programs.begin();
  size_t next = count;
  for (size_t n = 0; n < count; ++n) {
    const auto images = args.get<Array>(n).value();
    auto logits = results.get<Array>(n).value();
    Network& network = networks[n];
    network.images = images.typed_data();
    network.height = Dimension(images, 1), network.width = Dimension(images, 2), network.channels = Dimension(images, 3);
    network.classes = logits->dimensions()[1];
    network.logits = logits->typed_data();
    const Index length = *program++, weights = *program++;
    network.layer = program, network.end = program += length;
    for (Index i = 0; i < weights; ++i) network.weights.push_back(args.get<Array>(next++).value().typed_data());
    first[n + 1] = first[n] + Dimension(images, 0);
  }
  Parallel(pool, first[count], [&](Index task) {
    size_t n = 0;
    while (task >= first[n + 1]) ++n;
    Run(networks[n], task - first[n]);
  });
  return ffi::Error::Success();
}

// Explains images of one network. Arguments: the images, each one's class or -1, the weights of its layers, and those of
// the way back. `program` holds the network's number of weights and its list.
ffi::Error GuidedCall(ffi::ThreadPool pool, Array images, ffi::Buffer<ffi::S32> targets, ffi::RemainingArgs args,
                      Result logits, Result maps, ffi::Span<const Index> program) {
  Network network;
  network.images = images.typed_data();
  network.height = Dimension(images, 1), network.width = Dimension(images, 2), network.channels = Dimension(images, 3);
  network.classes = Dimension(logits, 1);
  network.logits = logits->typed_data();
  network.layer = program.begin() + 1, network.end = program.end();
  std::vector<const T*> back;
  for (size_t i = 0; i < args.size(); ++i) {
    const T* weights = args.get<Array>(i).value().typed_data();
    (static_cast<Index>(i) < *program.begin() ? network.weights : back).push_back(weights);
  }
  const Index size = network.height * network.width * network.channels;
  Parallel(pool, Dimension(images, 0), [&](Index i) {
    Explain(network, back, i, targets.typed_data()[i], maps->typed_data() + i * size);
  });
  return ffi::Error::Success();
}

}  // namespace

#define WINDOW Attr<Index>("kernel_height").Attr<Index>("kernel_width").Attr<Index>("stride_height") \
    .Attr<Index>("stride_width").Attr<Index>("low")
#define CALL ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve, ConvolveCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>().WINDOW);
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_gradient, ConvolveGradientCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().WINDOW);
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_narrow, ConvolveNarrowCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("low"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_gradient_narrow, ConvolveGradientNarrowCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("low"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise, DepthwiseCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise_gradient, DepthwiseGradientCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool, MaxPoolCall, CALL.Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_gradient, MaxPoolGradientCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm, BatchNormCall, CALL.Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>()
    .Ret<Array>().Ret<Array>().Attr<double>("epsilon").Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm_gradient, BatchNormGradientCall, CALL.Arg<Array>().Arg<Array>().Arg<Array>()
    .Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Attr<double>("epsilon")
    .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(networks, NetworksCall, CALL.RemainingArgs().RemainingRets()
    .Attr<ffi::Span<const Index>>("programs"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(guided, GuidedCall, CALL.Arg<Array>().Arg<ffi::Buffer<ffi::S32>>().RemainingArgs()
    .Ret<Array>().Ret<Array>().Attr<ffi::Span<const Index>>("program"));

extern "C" int tiles() {  // whether bfloat16 products can be computed here
#if TILES
  return TilesPermitted();
#else
  return 0;
#endif
}
