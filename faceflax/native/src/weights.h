// Weights as a network keeps them. Compiled for any processor.

#ifndef FACEFLAX_WEIGHTS_H_
#define FACEFLAX_WEIGHTS_H_

#include <algorithm>
#include <vector>

#include "pack.h"

namespace faceflax {

// Numbers from the start of a cache line on.
class Values {
 public:
  Values() = default;
  explicit Values(Index count) : lines_(count * sizeof(T) / sizeof(Line) + 1) {}
  Values(const T* from, Index count) : Values(count) { std::copy_n(from, count, data()); }
  T* data() { return lines_.data()->values; }
  const T* data() const { return lines_.data()->values; }

 private:
  struct alignas(64) Line {
    T values[64 / sizeof(T)];
  };
  std::vector<Line> lines_;
};

// A kernel packed for one pixel, and for as many as the folding rule may ask for.
struct Panels {
  Values one, several;

  Panels() = default;
  Panels(const T* kernel, Index rows, Index columns, Index inputs, Index outputs) {
    if (outputs >= 8) {
      one = Values(PackedSize(rows, columns, inputs, outputs, 1));
      Pack(kernel, rows, columns, inputs, outputs, 1, one.data());
    }
    const Index pixels = outputs == 1 ? 8 : outputs == 8 ? 2 : 1;
    if (pixels > 1) {
      several = Values(PackedSize(rows, columns, inputs, outputs, pixels));
      Pack(kernel, rows, columns, inputs, outputs, pixels, several.data());
    }
  }
  const T* of(Index pixels) const { return (pixels == 1 ? one : several).data(); }
};

// Whether Winograd's form, see winograd.h, is the faster one of a 3x3 convolution: there are enough channels to pay for
// the transforms, and enough tiles to share what is read of the weights, of which there are more.
inline bool WinogradTakes(Index size, Index inputs, Index outputs) {
  return size == 3 && inputs % 32 == 0 && outputs % 32 == 0;
}
inline bool WinogradPays(const Geometry& g) { return (g.out_height + 1) / 2 * ((g.out_width + 1) / 2) >= 8; }

// A kernel [3, 3, inputs, outputs] as 16 matrices, packed.
inline Values WinogradPanels(const T* kernel, Index inputs, Index outputs) {
  constexpr double kFilter[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  const Index size = inputs * outputs;
  Values panels(16 * size);
  std::vector<T> matrix(size);
  for (Index position = 0; position < 16; ++position) {
    const double *down = kFilter[position / 4], *across = kFilter[position % 4];
    for (Index k = 0; k < size; ++k) {
      double sum = 0;
      for (Index tap = 0; tap < 9; ++tap) sum += down[tap / 3] * across[tap % 3] * kernel[tap * size + k];
      matrix[k] = static_cast<T>(sum);
    }
    Pack(matrix.data(), 1, 1, inputs, outputs, 1, panels.data() + position * size);
  }
  return panels;
}

// A 1x1 convolution.
inline Geometry Pointwise(Index pixels, Index inputs, Index outputs) {
  return {1, pixels, inputs, 1, 1, 1, 1, 0, 1, pixels, outputs};
}

}  // namespace faceflax

#endif  // FACEFLAX_WEIGHTS_H_
