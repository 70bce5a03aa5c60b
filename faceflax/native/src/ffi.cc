// The layers as operations that XLA calls, for training and attribution. Every handler checks what it is given before
// it computes anything: shapes that the kernels do not have are an error.

#include "xla/ffi/api/ffi.h"

#include <cmath>
#include <string>
#include <vector>

#include "dispatch.h"
#include "pack.h"
#include "parallel.h"

namespace faceflax {

namespace {

namespace ffi = xla::ffi;
constexpr auto kType = sizeof(T) == 4 ? ffi::F32 : ffi::F64;
using Array = ffi::Buffer<kType>;
using Result = ffi::Result<Array>;

ffi::Error Refuse(const std::string& why) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "faceflax kernels: " + why);
}

ffi::Error Finished(bool done) {
  return done ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "faceflax kernels: no memory");
}

#define FACEFLAX_CHECK(condition, why) \
  if (!(condition)) return Refuse(why)

bool Images(const Array& a) { return a.dimensions().size() == 4; }
bool Images(Result& a) { return Images(*a); }
Index Dimension(const Array& a, int i) { return a.dimensions()[i]; }
Index Dimension(Result& a, int i) { return a->dimensions()[i]; }

template <class A, class B>
bool SameShape(A& a, B& b) {
  if (!Images(a) || !Images(b)) return false;
  for (int i = 0; i < 4; ++i) {
    if (Dimension(a, i) != Dimension(b, i)) return false;
  }
  return true;
}

bool Channel(const Array& a, Index channels) { return static_cast<Index>(a.element_count()) == channels; }
bool Channel(Result& a, Index channels) { return Channel(*a, channels); }

const char kShapes[] = "the arguments' shapes do not fit together";
const char kChannels[] = "the number of channels is not 8, 16 or a multiple of 32";
const char kProcessor[] = "this processor has none of the library's instruction sets";

// A sum over images is taken in this many parts, whatever the number of threads, so that it does not depend on it.
Index Parts(Index images, Index size) { return std::min(images, std::clamp<Index>((Index(1) << 20) / size, 4, 16)); }

template <class Body>  // body(first, end, sum) adds those images' share
bool SumOverParts(ffi::ThreadPool& pool, Index images, Index size, T* total, const Body& body) {
  const Index parts = Parts(images, size);
  std::vector<T> sums(parts * size, T(0));
  const bool done = Parallel(pool, parts, [&](Index part) {
    body(part * images / parts, (part + 1) * images / parts, sums.data() + part * size);
  });
  std::fill(total, total + size, T(0));
  for (Index part = 0; part < parts; ++part) {
    for (Index i = 0; i < size; ++i) total[i] += sums[part * size + i];
  }
  return done;
}

template <class Body>  // body(image, sum)
bool SumOverImages(ffi::ThreadPool& pool, Index images, Index size, T* total, const Body& body) {
  return SumOverParts(pool, images, size, total, [&](Index first, Index end, T* sum) {
    for (Index i = first; i < end; ++i) body(i, sum);
  });
}

// The geometry of a convolution of x by a kernel [rows, columns, inputs, outputs] that gives y; false where they do not
// fit together, or the kernels do not have it.
template <class X, class Y, class K>
bool GeometryOf(X& x, K& kernel, Y& y, Index stride, Index low, Geometry* g) {
  if (!Images(x) || !Images(kernel) || !Images(y) || stride < 1 || low < 0) return false;
  *g = {Dimension(x, 1),      Dimension(x, 2), Dimension(x, 3), Dimension(kernel, 0),
        Dimension(kernel, 1), stride,          stride,          low,
        Dimension(y, 1),      Dimension(y, 2), Dimension(y, 3)};
  const auto inside = [&](Index size, Index kernel, Index out) {  // every window starts on the image or its `low` zeros
    return size >= 1 && kernel >= 1 && low < kernel && out >= 1 && (out - 1) * stride < size + low;
  };
  return Dimension(x, 0) == Dimension(y, 0) && Dimension(kernel, 2) == g->inputs && g->inputs >= 1 &&
         Dimension(kernel, 3) == g->outputs && inside(g->height, g->kernel_height, g->out_height) &&
         inside(g->width, g->kernel_width, g->out_width);
}

// A kernel as the convolution of `pixels` pixels together reads it.
class PackedKernel {
 public:
  PackedKernel(const T* kernel, const Geometry& g, Index pixels) : panels_(kernel) {
    if (pixels == 1 && g.outputs <= 32) return;  // the panel is the kernel as it is
    memory_.resize(PackedSize(g.kernel_height, g.kernel_width, g.inputs, g.outputs, pixels) + 64 / sizeof(T));
    T* start = memory_.data();
    while (reinterpret_cast<uintptr_t>(start) % 64) ++start;  // vectors that straddle two cache lines cost twice
    Pack(kernel, g.kernel_height, g.kernel_width, g.inputs, g.outputs, pixels, start);
    panels_ = start;
  }
  PackedKernel(const PackedKernel&) = delete;
  void operator=(const PackedKernel&) = delete;
  const T* panels() const { return panels_; }

 private:
  std::vector<T> memory_;
  const T* panels_;
};

ffi::Error ConvolveCall(ffi::ThreadPool pool, Array x, Array kernel, Result y, Index stride, Index low) {
  Geometry g;
  FACEFLAX_CHECK(GeometryOf(x, kernel, y, stride, low, &g), kShapes);
  FACEFLAX_CHECK(Outputs(g.outputs, stride), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index pixels = PixelsFolded(g);
  const PackedKernel packed(kernel.typed_data(), g, pixels);
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  return Finished(Parallel(pool, Dimension(x, 0), [&](Index i) {
    ConvolveFolded(*kernels, g, pixels, x.typed_data() + i * in, packed.panels(), nullptr, false,
                   y->typed_data() + i * out);
  }));
}

ffi::Error ConvolveGradientCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d, Index stride, Index low) {
  Geometry g;
  FACEFLAX_CHECK(GeometryOf(x, d, cotangent, stride, low, &g), kShapes);
  FACEFLAX_CHECK(Vectors(g.outputs), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  const Index size = g.kernel_height * g.kernel_width * g.inputs * g.outputs;
  return Finished(SumOverImages(pool, Dimension(x, 0), size, d->typed_data(), [&](Index i, T* sum) {
    kernels->convolve_gradient(g, x.typed_data() + i * in, cotangent.typed_data() + i * out, sum);
  }));
}

// ---- Products of bfloat16 numbers, summed in float32 ----------------------------------------------------------------
// Tiles too multiply neighbouring pixels' values by 0: images that are not finite are convolved without them.

#ifndef DOUBLE
const char kTiles[] = "products of bfloat16 numbers need a processor with AMX";
const char kNarrowChannels[] = "the number of channels is not 16 or a multiple of 32";

bool NarrowChannels(Index channels) { return channels == 16 || (channels > 0 && channels % 32 == 0); }

ffi::Error ConvolveNarrowCall(ffi::ThreadPool pool, Array x, Array kernel, Result y, Index low) {
  Geometry g;
  FACEFLAX_CHECK(GeometryOf(x, kernel, y, 1, low, &g), kShapes);
  FACEFLAX_CHECK(NarrowChannels(g.inputs) && NarrowChannels(g.outputs), kNarrowChannels);
  const TileKernels* tiles = Tiles();
  FACEFLAX_CHECK(tiles, kTiles);
  const Kernels* kernels = Active();
  std::vector<uint16_t> packed(tiles->chunks(g) * 32 * g.outputs);
  tiles->pack(g, kernel.typed_data(), packed.data());
  const Index images = Dimension(x, 0), some = std::min(images, tiles->images_at_once(g));
  if (images == 0) return ffi::Error::Success();
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  return Finished(Parallel(pool, (images + some - 1) / some, [&](Index task) {
    const Index first = task * some, count = std::min(some, images - first);
    const T* from = x.typed_data() + first * in;
    T* to = y->typed_data() + first * out;
    if (kernels->finite(from, count * in)) return tiles->convolve(g, count, from, packed.data(), to);
    const PackedKernel whole(kernel.typed_data(), g, 1);
    for (Index i = 0; i < count; ++i, from += in, to += out) {
      if (kernels->finite(from, in)) tiles->convolve(g, 1, from, packed.data(), to);
      else ConvolveFolded(*kernels, g, 1, from, whole.panels(), nullptr, false, to);
    }
  }));
}

ffi::Error ConvolveGradientNarrowCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d, Index low) {
  Geometry g;
  FACEFLAX_CHECK(GeometryOf(x, d, cotangent, 1, low, &g), kShapes);
  FACEFLAX_CHECK(NarrowChannels(g.inputs) && NarrowChannels(g.outputs), kNarrowChannels);
  const TileKernels* tiles = Tiles();
  FACEFLAX_CHECK(tiles, kTiles);
  const Kernels* kernels = Active();
  const Index in = g.height * g.width * g.inputs, out = g.out_height * g.out_width * g.outputs;
  const Index size = g.kernel_height * g.kernel_width * g.inputs * g.outputs;
  return Finished(SumOverParts(pool, Dimension(x, 0), size, d->typed_data(), [&](Index first, Index end, T* sum) {
    const T *from = x.typed_data() + first * in, *by = cotangent.typed_data() + first * out;
    if (kernels->finite(from, (end - first) * in)) return tiles->convolve_gradient(g, end - first, from, by, sum);
    for (Index i = 0; i < end - first; ++i) kernels->convolve_gradient(g, from + i * in, by + i * out, sum);
  }));
}
#endif

// ---- Depthwise convolution and pooling ------------------------------------------------------------------------------

ffi::Error DepthwiseCall(ffi::ThreadPool pool, Array x, Array kernel, Result y) {
  FACEFLAX_CHECK(SameShape(x, y) && Channel(kernel, 9 * Dimension(x, 3)), kShapes);
  FACEFLAX_CHECK(Vectors(Dimension(x, 3)), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index size = height * width * channels;
  if (size == 0) return ffi::Error::Success();
  return Finished(Parallel(pool, Dimension(x, 0), [&](Index i) {
    kernels->depthwise(x.typed_data() + i * size, height, width, channels, kernel.typed_data(), 0, height,
                       y->typed_data() + i * size);
  }));
}

ffi::Error DepthwiseGradientCall(ffi::ThreadPool pool, Array x, Array cotangent, Result d) {
  FACEFLAX_CHECK(SameShape(x, cotangent) && Channel(d, 9 * Dimension(x, 3)), kShapes);
  FACEFLAX_CHECK(Vectors(Dimension(x, 3)), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index size = height * width * channels, images = size > 0 ? Dimension(x, 0) : 0;
  return Finished(SumOverImages(pool, images, 9 * channels, d->typed_data(), [&](Index i, T* sum) {
    kernels->depthwise_gradient(x.typed_data() + i * size, cotangent.typed_data() + i * size, height, width, channels,
                                sum);
  }));
}

// Whether y are images of x pooled by 2.
template <class X, class Y>
bool Halved(X& x, Y& y) {
  return Images(x) && Images(y) && Dimension(x, 0) == Dimension(y, 0) && Dimension(x, 3) == Dimension(y, 3) &&
         (Dimension(x, 1) + 1) / 2 == Dimension(y, 1) && (Dimension(x, 2) + 1) / 2 == Dimension(y, 2);
}

ffi::Error MaxPoolCall(ffi::ThreadPool pool, Array x, Result y, Result winners) {
  FACEFLAX_CHECK(Halved(x, y) && SameShape(y, winners), kShapes);
  FACEFLAX_CHECK(Vectors(Dimension(x, 3)), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index height = Dimension(x, 1), width = Dimension(x, 2), channels = Dimension(x, 3);
  const Index in = height * width * channels, out = Dimension(y, 1) * Dimension(y, 2) * channels;
  return Finished(Parallel(pool, Dimension(x, 0), [&](Index i) {
    kernels->max_pool(x.typed_data() + i * in, height, width, channels, nullptr, 0, (height + 1) / 2,
                      y->typed_data() + i * out, winners->typed_data() + i * out);
  }));
}

ffi::Error MaxPoolGradientCall(ffi::ThreadPool pool, Array winners, Array cotangent, Result d) {
  FACEFLAX_CHECK(Halved(d, cotangent) && SameShape(winners, cotangent), kShapes);
  FACEFLAX_CHECK(Vectors(Dimension(d, 3)), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const Index height = Dimension(d, 1), width = Dimension(d, 2), channels = Dimension(d, 3);
  const Index in = height * width * channels, out = Dimension(winners, 1) * Dimension(winners, 2) * channels;
  return Finished(Parallel(pool, Dimension(winners, 0), [&](Index i) {
    kernels->max_pool_gradient(winners.typed_data() + i * out, cotangent.typed_data() + i * out, height, width,
                               channels, d->typed_data() + i * in);
  }));
}

// ---- Batch normalisation --------------------------------------------------------------------------------------------

ffi::Error BatchNormCall(ffi::ThreadPool pool, Array x, Array scale, Array bias, Result y, Result mean, Result variance,
                         double epsilon, bool relu) {
  FACEFLAX_CHECK(SameShape(x, y), kShapes);
  const Index images = Dimension(x, 0), pixels = Dimension(x, 1) * Dimension(x, 2), channels = Dimension(x, 3);
  FACEFLAX_CHECK(images * pixels > 0 && Channel(scale, channels) && Channel(bias, channels) &&
                     Channel(mean, channels) && Channel(variance, channels),
                 kShapes);
  FACEFLAX_CHECK(Vectors(channels), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  std::vector<T> moments(2 * images * channels), factor(channels), offset(channels);
  const bool measured = Parallel(pool, images, [&](Index i) {
    T* at = moments.data() + 2 * i * channels;
    kernels->moments(x.typed_data() + i * pixels * channels, pixels, channels, at, at + channels);
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
  const bool normalised = Parallel(pool, images, [&](Index i) {
    kernels->normalise(x.typed_data() + i * pixels * channels, pixels, channels, factor.data(), offset.data(), relu,
                       y->typed_data() + i * pixels * channels);
  });
  return Finished(measured && normalised);
}

ffi::Error BatchNormGradientCall(ffi::ThreadPool pool, Array x, Array scale, Array bias, Array mean, Array variance,
                                 Array cotangent, Result dx, Result dscale, Result dbias, double epsilon, bool relu) {
  FACEFLAX_CHECK(SameShape(x, dx) && SameShape(x, cotangent), kShapes);
  const Index images = Dimension(x, 0), pixels = Dimension(x, 1) * Dimension(x, 2), channels = Dimension(x, 3);
  FACEFLAX_CHECK(images * pixels > 0 && Channel(scale, channels) && Channel(bias, channels) &&
                     Channel(mean, channels) && Channel(variance, channels) && Channel(dscale, channels) &&
                     Channel(dbias, channels),
                 kShapes);
  FACEFLAX_CHECK(Vectors(channels), kChannels);
  const Kernels* kernels = Active();
  FACEFLAX_CHECK(kernels, kProcessor);
  const T count = images * pixels;
  std::vector<T> rows(4 * channels), sums(2 * channels);
  T *factor = rows.data(), *offset = factor + channels, *slope = offset + channels, *constant = slope + channels;
  for (Index c = 0; c < channels; ++c) {
    factor[c] = scale.typed_data()[c] / std::sqrt(variance.typed_data()[c] + epsilon);
    offset[c] = bias.typed_data()[c] - mean.typed_data()[c] * factor[c];
  }
  const bool summed = SumOverImages(pool, images, 2 * channels, sums.data(), [&](Index i, T* sum) {
    const Index start = i * pixels * channels;
    kernels->normalise_sums(x.typed_data() + start, cotangent.typed_data() + start, pixels, channels, factor, offset,
                            mean.typed_data(), relu, sum);
  });
  for (Index c = 0; c < channels; ++c) {
    const double inverse = 1 / std::sqrt(variance.typed_data()[c] + epsilon);
    dbias->typed_data()[c] = sums[c];
    dscale->typed_data()[c] = sums[channels + c] * inverse;
    slope[c] = -factor[c] * inverse * inverse * sums[channels + c] / count;
    constant[c] = -factor[c] * sums[c] / count - slope[c] * mean.typed_data()[c];
  }
  const bool spread = Parallel(pool, images, [&](Index i) {
    const Index start = i * pixels * channels;
    kernels->normalise_gradient(x.typed_data() + start, cotangent.typed_data() + start, pixels, channels, factor,
                                offset, slope, constant, relu, dx->typed_data() + start);
  });
  return Finished(summed && spread);
}

}  // namespace

}  // namespace faceflax

using namespace faceflax;

#define CALL ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve, ConvolveCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("stride").Attr<Index>("low"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_gradient, ConvolveGradientCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("stride").Attr<Index>("low"));
#ifndef DOUBLE
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_narrow, ConvolveNarrowCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("low"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_gradient_narrow, ConvolveGradientNarrowCall,
                              CALL.Arg<Array>().Arg<Array>().Ret<Array>().Attr<Index>("low"));
#endif
XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise, DepthwiseCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(depthwise_gradient, DepthwiseGradientCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool, MaxPoolCall, CALL.Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_gradient, MaxPoolGradientCall, CALL.Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm, BatchNormCall,
                              CALL.Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<double>("epsilon")
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(batch_norm_gradient, BatchNormGradientCall,
                              CALL.Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<double>("epsilon")
                                  .Attr<bool>("relu"));
#pragma GCC visibility pop
