// Batch normalisation over images and pixels, with an optional ReLU behind it.
//
// For the translation unit of an instruction set alone; see kernels.h.

#ifndef FACEFLAX_BATCH_NORM_H_
#define FACEFLAX_BATCH_NORM_H_

#include "simd.h"

namespace faceflax {
namespace {

// Mean and sum of squared deviations of each channel of one image, in two passes over what the cache holds.
template <int N>
void MomentsOf(const T* x, Index pixels, Index channels, T* mean, T* squares) {
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
void NormaliseBy(const T* x, Index pixels, Index channels, const T* factor, const T* offset, bool relu, T* y) {
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

void Moments(const T* x, Index pixels, Index channels, T* mean, T* squares) {
  WithLanes(channels, [&](auto n) { MomentsOf<decltype(n)::value>(x, pixels, channels, mean, squares); });
}

void Normalise(const T* x, Index pixels, Index channels, const T* factor, const T* offset, bool relu, T* y) {
  WithLanes(channels, [&](auto n) { NormaliseBy<decltype(n)::value>(x, pixels, channels, factor, offset, relu, y); });
}

// Adds, for each channel, the sums of the cotangent and of its product with the centred input.
void NormaliseSums(const T* x, const T* cotangent, Index pixels, Index channels, const T* factor, const T* offset,
                   const T* mean, bool relu, T* sum) {
  WithLanes(channels, [&](auto n) {
    constexpr int N = decltype(n)::value;
    for (Index c = 0; c < channels; c += N) {
      const Vector<N> f = Load<N>(factor + c), o = Load<N>(offset + c), m = Load<N>(mean + c);
      Vector<N> plain{}, product{};
      for (Index l = c; l < pixels * channels; l += channels) {
        const Vector<N> value = Load<N>(x + l);
        const Vector<N> g = Behind<N>(value, Load<N>(cotangent + l), f, o, relu);
        plain += g;
        product += g * (value - m);
      }
      Store<N>(sum + c, Load<N>(sum + c) + plain);
      Store<N>(sum + channels + c, Load<N>(sum + channels + c) + product);
    }
  });
}

void NormaliseGradient(const T* x, const T* cotangent, Index pixels, Index channels, const T* factor, const T* offset,
                       const T* slope, const T* constant, bool relu, T* d) {
  WithLanes(channels, [&](auto n) {
    constexpr int N = decltype(n)::value;
    for (Index l = 0; l < pixels * channels; l += channels) {
      for (Index c = 0; c < channels; c += N) {
        const Vector<N> value = Load<N>(x + l + c), f = Load<N>(factor + c);
        const Vector<N> g = Behind<N>(value, Load<N>(cotangent + l + c), f, Load<N>(offset + c), relu);
        Store<N>(d + l + c, g * f + value * Load<N>(slope + c) + Load<N>(constant + c));
      }
    }
  });
}

}  // namespace
}  // namespace faceflax

#endif  // FACEFLAX_BATCH_NORM_H_
