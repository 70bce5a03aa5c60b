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

// A 1x1 convolution.
inline Geometry Pointwise(Index pixels, Index inputs, Index outputs) {
  return {1, pixels, inputs, 1, 1, 1, 1, 0, 1, pixels, outputs};
}

}  // namespace faceflax

#endif  // FACEFLAX_WEIGHTS_H_
