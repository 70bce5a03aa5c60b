// What the kernels of one instruction set offer to the code that is compiled for any processor.
//
// Every instruction set is one translation unit (isa_*.cc): it includes the kernels' headers (convolution.h, ...) and
// exports one table of functions, Kernels. Everything else (ffi.cc, network.cc) validates, splits the work among
// threads and calls through the table.
//
// One rule keeps such a library right: the linker merges the copies that translation units make of an inline function
// or of a template's instance with external linkage, and the one it keeps may be compiled for AVX-512. So the
// translation unit of an instruction set includes no header of the C++ standard library, has all its code in an unnamed
// namespace, and exports nothing but its table; tests/native looks at its symbols. The functions here that both sides
// share are static, and the structs have no member functions.
//
// T is float; the tests also build with -DDOUBLE, to compare gradients closely.

#ifndef FACEFLAX_KERNELS_H_
#define FACEFLAX_KERNELS_H_

#include <stdint.h>

namespace faceflax {

#ifdef DOUBLE
using T = double;
#else
using T = float;
#endif
using Index = int64_t;

// A convolution of one image. Arrays are NHWC and dense.
struct Geometry {
  Index height, width, inputs;  // input
  Index kernel_height, kernel_width;
  Index stride_height, stride_width, low;  // `low` zeros before the first row and column; as many as needed after
  Index out_height, out_width, outputs;
};

// Weights come packed as panels [outputs / n, kernel size x inputs, n] of n = min(outputs, 32) outputs.
static inline Index PanelOf(Index outputs) { return outputs < 32 ? outputs : 32; }

// The numbers of channels that fill vectors: what panels of outputs and the layers without weights can take.
static inline bool Vectors(Index channels) {
  return channels == 8 || channels == 16 || (channels > 0 && channels % 32 == 0);
}

// Memory of the calling thread that outlives a call, at least `size` values from the start of a cache line; undefined
// content, and gone with the next call for the same slot.
T* Scratch(int slot, Index size);

enum Slot { kPadded, kZeros, kSide, kOtherSide, kShortcut, kPart, kRow, kWide, kNarrow, kKept = kNarrow + 4 };

// Products of bfloat16 numbers on matrix tiles, for training; float32 alone.
struct TileKernels {
  Index (*chunks)(const Geometry& g);          // of 32 x outputs values that a packed kernel has
  Index (*images_at_once)(const Geometry& g);  // the most that a call of `convolve` should have
  void (*pack)(const Geometry& g, const float* kernel, uint16_t* packed);
  void (*convolve)(const Geometry& g, Index images, const float* x, const uint16_t* packed, float* y);
  void (*convolve_gradient)(const Geometry& g, Index images, const float* x, const float* cotangent, float* d);
};

// All of one image. Functions of a gradient by weights add to what `d` or `sum` holds.
struct Kernels {
  const char* name;
  bool (*finite)(const T* x, Index size);
  void (*convolve)(Geometry g, const T* x, const T* panels, const T* bias, const T* add, bool relu, T* y);
  void (*winograd)(Geometry g, const T* x, const T* panels, const T* bias, bool relu, T* y);
  void (*convolve_gradient)(Geometry g, const T* x, const T* cotangent, T* d);
  void (*depthwise)(const T* x, Index height, Index width, Index channels, const T* kernel, Index from, Index to, T* y);
  void (*depthwise_gradient)(const T* x, const T* cotangent, Index height, Index width, Index channels, T* d);
  void (*max_pool)(const T* x, Index height, Index width, Index channels, const T* add, Index from, Index to, T* y,
                   T* winners);
  void (*max_pool_gradient)(const T* winners, const T* g, Index height, Index width, Index channels, T* d);
  void (*average_pool)(const T* x, Index height, Index width, Index channels, T* y);
  void (*average_pool_gradient)(const T* g, Index height, Index width, Index channels, T* d);
  void (*maxima)(const T* x, Index height, Index width, Index channels, T* y, T* winners);
  void (*maxima_gradient)(const T* winners, const T* g, Index height, Index width, Index channels, T* d);
  void (*blur)(const T* x, Index height, Index width, Index channels, const T* add, T* y);
  void (*blur_gradient)(const T* g, Index height, Index width, Index channels, T* d);
  void (*moments)(const T* x, Index pixels, Index channels, T* mean, T* squares);
  void (*normalise)(const T* x, Index pixels, Index channels, const T* factor, const T* offset, bool relu, T* y);
  void (*normalise_sums)(const T* x, const T* cotangent, Index pixels, Index channels, const T* factor, const T* offset,
                         const T* mean, bool relu, T* sum);
  void (*normalise_gradient)(const T* x, const T* cotangent, Index pixels, Index channels, const T* factor,
                             const T* offset, const T* slope, const T* constant, bool relu, T* d);
  void (*head)(const T* x, Index height, Index width, Index channels, Index size, const T* kernel, const T* bias,
               Index classes, T* y);
  void (*head_gradient)(const T* kernel, Index height, Index width, Index channels, Index size, T* d);
  void (*guide)(const T* y, Index size, T* g);
  void (*spread)(const T* part, Index height, Index width, Index channels, T* g);
  void (*add_doubled)(const T* fine, const T* coarse, Index width, Index channels, T* y);
  void (*weigh_rows)(const uint8_t* x, Index row, Index width, const T* weights, Index taps, T offset, T* y);
  void (*weigh_columns)(const T* x, const int32_t* starts, const T* weights, Index taps, Index count, T* y);
  const TileKernels* tiles;  // or null
};

}  // namespace faceflax

#endif  // FACEFLAX_KERNELS_H_
