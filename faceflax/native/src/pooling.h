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

// The maximum of each pixel's 3x3 neighbourhood and, where wanted, which of the nine it was; as MaxPool, of every
// pixel.
template <int N>
void MaximaOf(const T* x, Index height, Index width, Index channels, T* y, T* winners) {
  for (Index h = 0; h < height; ++h) {
    const Index i0 = h == 0, i1 = h + 1 == height ? 2 : 3;
    for (Index w = 0; w < width; ++w) {
      const Index j0 = w == 0, j1 = w + 1 == width ? 2 : 3;
      const Index at = (h * width + w) * channels;
      for (Index c = 0; c < channels; c += N) {
        const T* corner = x + at + c - (width + 1) * channels;  // read from (i0, j0) on
        Vector<N> best = Load<N>(corner + (i0 * width + j0) * channels), winner = Fill<N>(3 * i0 + j0);
        for (Index i = i0; i < i1; ++i) {
          for (Index j = j0; j < j1; ++j) {
            const Vector<N> value = Load<N>(corner + (i * width + j) * channels);
            const auto larger = (value > best) | (value != value);
            best = larger ? value : best;
            if (winners) winner = larger ? Fill<N>(3 * i + j) : winner;
          }
        }
        Store<N>(y + at + c, best);
        if (winners) Store<N>(winners + at + c, winner);
      }
    }
  }
}

// The same without the winners: down the columns, then along the row.
template <int N>
void MaximaByRows(const T* x, Index height, Index width, Index channels, T* y) {
  const Index size = width * channels;
  T* row = Scratch(kRow, size);
  const auto larger = [](Vector<N> best, const T* from) {
    const Vector<N> value = Load<N>(from);
    return (value > best) | (value != value) ? value : best;
  };
  for (Index h = 0; h < height; ++h, y += size) {
    const T *middle = x + h * size, *above = h > 0 ? middle - size : middle,
            *below = h + 1 < height ? middle + size : middle;
    for (Index i = 0; i < size; i += N) Store<N>(row + i, larger(larger(Load<N>(middle + i), above + i), below + i));
    for (Index i = 0; i < size; i += N) {
      const T *at = row + i, *left = i < channels ? at : at - channels,
              *right = i + channels < size ? at + channels : at;
      Store<N>(y + i, larger(larger(Load<N>(at), left), right));
    }
  }
}

void Maxima(const T* x, Index height, Index width, Index channels, T* y, T* winners) {
  WithLanes(channels, [&](auto n) {
    if (winners) return MaximaOf<decltype(n)::value>(x, height, width, channels, y, winners);
    MaximaByRows<decltype(n)::value>(x, height, width, channels, y);
  });
}

void MaximaGradient(const T* winners, const T* g, Index height, Index width, Index channels, T* d) {
  Zero(d, height * width * channels);
  for (Index at = 0; at < height * width * channels; ++at) {
    const Index winner = static_cast<Index>(winners[at]);
    d[at + ((winner / 3 - 1) * width + winner % 3 - 1) * channels] += g[at];
  }
}

// The pixels that a blurred one is made of, the edge repeated outwards, and their weights, for the way back.
struct Blurred {
  Index pixels[9];
  T weights[9];

  Blurred(Index h, Index w, Index height, Index width) {
    for (Index t = 0; t < 9; ++t) {
      const Index i = t / 3 - 1, j = t % 3 - 1;
      pixels[t] = Clamp<Index>(2 * h + i, 0, height - 1) * width + Clamp<Index>(2 * w + j, 0, width - 1);
      weights[t] = T((2 - i * i) * (2 - j * j)) / 16;
    }
  }
};

// Every second pixel both ways, smoothed by (1, 2, 1) / 4 along both; plus `add`, where given.
template <int N>
void BlurOf(const T* x, Index height, Index width, Index channels, const T* add, T* y) {
  const Index size = width * channels;
  T* row = Scratch(kRow, size);
  const auto sum = [](const T* before, const T* middle, const T* after) {
    return (Load<N>(before) + 2 * Load<N>(middle) + Load<N>(after)) / 4;
  };
  for (Index h = 0; h < height; h += 2) {
    const T *middle = x + h * size, *above = h > 0 ? middle - size : middle,
            *below = h + 1 < height ? middle + size : middle;
    for (Index i = 0; i < size; i += N) Store<N>(row + i, sum(above + i, middle + i, below + i));
    for (Index w = 0; w < width; w += 2, y += channels) {
      const T *at = row + w * channels, *left = w > 0 ? at - channels : at, *right = w + 1 < width ? at + channels : at;
      for (Index c = 0; c < channels; c += N) {
        Vector<N> value = sum(left + c, at + c, right + c);
        if (add) value += Load<N>(add + c);
        Store<N>(y + c, value);
      }
      if (add) add += channels;
    }
  }
}

void Blur(const T* x, Index height, Index width, Index channels, const T* add, T* y) {
  WithLanes(channels, [&](auto n) { BlurOf<decltype(n)::value>(x, height, width, channels, add, y); });
}

// Adds to `d`.
void BlurGradient(const T* g, Index height, Index width, Index channels, T* d) {
  for (Index h = 0; 2 * h < height; ++h) {
    for (Index w = 0; 2 * w < width; ++w, g += channels) {
      const Blurred from(h, w, height, width);
      for (int t = 0; t < 9; ++t) {
        for (Index c = 0; c < channels; ++c) d[from.pixels[t] * channels + c] += g[c] * from.weights[t];
      }
    }
  }
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
