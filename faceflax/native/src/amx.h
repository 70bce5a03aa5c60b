// Convolution of bfloat16 products on matrix tiles (Intel AMX), for training.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_AMX_H_
#define FACEFLAX_AMX_H_

#include <immintrin.h>
#include <stdlib.h>

#include "simd.h"

namespace faceflax {
namespace {

// Zeros, for as long as it lives; std::vector would be seen by the linker (kernels.h).
template <class V>
struct Heap {
  V* values;
  explicit Heap(Index count) : values(static_cast<V*>(calloc(count, sizeof(V)))) {
    if (!values) abort();
  }
  ~Heap() { free(values); }
  Heap(const Heap&) = delete;
  void operator=(const Heap&) = delete;
  V& operator[](Index i) { return values[i]; }
};

using Short = uint16_t;  // a bfloat16
constexpr Index kTile = 16, kChunk = 32, kTileSize = kTile * kChunk;

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
      : columns(g.out_width + g.kernel_width - 1),
        size(columns * (g.out_height + g.kernel_height - 1)),
        images(images),
        pixels(images * size) {
    length = (pixels + g.kernel_height * columns + 4 * kTile + kChunk) / kChunk * kChunk;
    if (length / kChunk % 2 == 0) length += kChunk;  // rows of this length then fall into different sets of the cache
  }

  static Index ImagesAtOnce(const Geometry& g) { return Clamp<Index>(1024 / Frames(g, 1).size, 1, 16); }
};

inline void Narrow(const float* from, Index count, Short* to) {  // a multiple of 16
  for (Index i = 0; i < count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
  }
}

void FillFrames(const Frames& f, const float* x, Index height, Index width, Index channels, Index low, Short* to) {
  __builtin_memset(to, 0, f.length * channels * sizeof(Short));
  for (Index i = 0; i < f.images; ++i) {
    for (Index h = 0; h < height; ++h, x += width * channels) {
      Narrow(x, width * channels, to + (i * f.size + (low + h) * f.columns + low) * channels);
    }
  }
}

Short* NarrowScratch(int slot, Index size) { return reinterpret_cast<Short*>(Scratch(kNarrow + slot, (size + 1) / 2)); }

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

// How many chunks of 32 values a kernel has: neighbouring taps of 16 channels, or 32 channels of one tap.
Index Chunks(const Geometry& g) {
  const Index pixels = g.inputs == 16 ? 2 : 1;
  return g.kernel_height * ((g.kernel_width + pixels - 1) / pixels) * (pixels * g.inputs / kChunk);
}

// The distances of the chunks, in values of a framed image.
void ChunkSteps(const Geometry& g, Index* steps) {
  const Index columns = Frames(g, 1).columns, pixels = g.inputs == 16 ? 2 : 1;
  for (Index i = 0; i < g.kernel_height; ++i) {
    for (Index j = 0; j < g.kernel_width; j += pixels) {
      for (Index c = 0; c < g.inputs; c += kChunk) *steps++ = (i * columns + j) * g.inputs + c;
    }
  }
}

// A kernel [rows, columns, inputs, outputs] as [outputs / 16, chunks, 16, 16 pairs].
void PackKernel(const Geometry& g, const float* kernel, Short* packed) {
  const Index chunks = Chunks(g), count = chunks * kChunk * g.outputs;
  const Index pixels = g.inputs == 16 ? 2 : 1, across = (g.kernel_width + pixels - 1) / pixels;
  const Index each = pixels * g.inputs / kChunk;  // chunks of a place (i, j)
  Heap<float> rows(count);
  for (Index i = 0; i < g.kernel_height; ++i) {
    __builtin_memcpy(rows.values + i * across * each * kChunk * g.outputs,
                     kernel + i * g.kernel_width * g.inputs * g.outputs,
                     g.kernel_width * g.inputs * g.outputs * sizeof(float));
  }
  Heap<Short> narrow(count);
  Narrow(rows.values, count, narrow.values);
  for (Index o = 0; o < g.outputs; o += kTile) {
    for (Index r = 0; r < chunks * kTile; ++r) {
      const Short* pair = narrow.values + 2 * r * g.outputs + o;
      _mm512_storeu_si512(packed + (o * chunks + r) * 2 * kTile, Pair(pair, pair + g.outputs));
    }
  }
}

template <int M, int N>
void TileConvolution(const Geometry& g, const Frames& f, const Short* frames, const Short* packed, Index chunks,
                     const Index* steps, const int32_t* places, float* y) {
  alignas(64) float sums[M * N][kTile * kTile];
  float* c[M * N];
  for (int t = 0; t < M * N; ++t) c[t] = sums[t];
  for (Index o = 0; o < g.outputs; o += N * kTile) {
    for (Index p = 0; p < f.pixels; p += M * kTile) {
      const Short* a[M];
      for (int m = 0; m < M; ++m) a[m] = frames + (p + m * kTile) * g.inputs;
      TileProducts<M, N>(a, g.inputs, steps, packed + o * chunks * kChunk, kTile * chunks * kChunk, chunks, c, kTile,
                         false);
      for (Index i = 0; i < Min(M * kTile, f.pixels - p); ++i) {
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
void Places(const Geometry& g, const Frames& f, int32_t* places) {
  for (Index i = 0; i < f.length; ++i) places[i] = -1;
  int32_t place = 0;
  for (Index i = 0; i < f.images; ++i) {
    for (Index h = 0; h < g.out_height; ++h) {
      for (Index w = 0; w < g.out_width; ++w) places[i * f.size + h * f.columns + w] = place++;
    }
  }
}

// Adds some images' share of the kernel's gradient: products over pixels, of the input's channels as rows of pixels
// with the cotangent's pairs of pixels.
template <int M, int N>
void TileGradient(const Geometry& g, const Frames& f, const Short* rows, const Short* pairs, float* d) {
  const Index chunks = (f.pixels + kChunk - 1) / kChunk, taps = g.kernel_height * g.kernel_width;
  const Index parts = g.inputs / kTile, units = taps * parts;
  Heap<Index> steps(chunks);
  for (Index k = 0; k < chunks; ++k) steps[k] = k * kChunk;
  constexpr Index kSome = 12;  // chunks whose operands, of all taps, stay in the first cache
  for (Index first = 0; first < chunks; first += kSome) {
    const Index some = Min(kSome, chunks - first);
    for (Index o = 0; o < g.outputs; o += N * kTile) {
      for (Index unit = 0; unit < units; unit += M) {
        const Short* a[M];
        float* c[M * N];
        for (int m = 0; m < M; ++m) {
          const Index u = Min(unit + m, units - 1);
          const Index tap = u % taps, part = u / taps;
          a[m] = rows + part * kTile * f.length + tap / g.kernel_width * f.columns + tap % g.kernel_width;
          for (int n = 0; n < N; ++n) c[m * N + n] = d + (tap * parts + part) * kTile * g.outputs + o + n * kTile;
        }
        const Short* b = pairs + (o / kTile * chunks + first) * kTileSize;
        const Index panel = chunks * kTileSize;
        if (unit + M <= units) {
          TileProducts<M, N>(a, f.length, steps.values + first, b, panel, some, c, g.outputs, true);
        } else {
          for (Index m = 0; m < units - unit; ++m) {
            TileProducts<1, N>(a + m, f.length, steps.values + first, b, panel, some, c + m * N, g.outputs, true);
          }
        }
      }
    }
  }
}

void TileGradientOf(const Geometry& g, Index images, const float* x, const float* cotangent, float* d) {
  const Frames f(g, images);
  Short* frames = NarrowScratch(0, f.length * Max(g.inputs, g.outputs));
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

Index ImagesAtOnce(const Geometry& g) { return Frames::ImagesAtOnce(g); }

void TileConvolve(const Geometry& g, Index images, const float* x, const Short* packed, float* y) {
  const Index chunks = Chunks(g);
  const Frames f(g, images);
  Heap<Index> steps(chunks);
  Heap<int32_t> places(f.length);
  ChunkSteps(g, steps.values);
  Places(g, f, places.values);
  Short* frames = NarrowScratch(0, f.length * g.inputs);
  FillFrames(f, x, g.height, g.width, g.inputs, g.low, frames);
  const TileState state;
  if (g.outputs == kTile) {
    TileConvolution<4, 1>(g, f, frames, packed, chunks, steps.values, places.values, y);
  } else {
    TileConvolution<2, 2>(g, f, frames, packed, chunks, steps.values, places.values, y);
  }
}

void TileConvolveGradient(const Geometry& g, Index images, const float* x, const float* cotangent, float* d) {
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  const TileState state;
  const Index some = ImagesAtOnce(g);
  for (Index i = 0; i < images; i += some) {
    TileGradientOf(g, Min(some, images - i), x + i * in, cotangent + i * out, d);
  }
}

constexpr TileKernels kTileKernels = {Chunks, ImagesAtOnce, PackKernel, TileConvolve, TileConvolveGradient};

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_AMX_H_
