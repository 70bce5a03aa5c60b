#include "network.h"

#include <algorithm>
#include <string>
#include <vector>

#include "dispatch.h"
#include "pack.h"
#include "parallel.h"
#include "status.h"
#include "weights.h"

#ifndef FACEFLAX_SOURCES
#error "the build defines FACEFLAX_SOURCES, the hash of the sources"
#endif

namespace faceflax {

thread_local std::string problem;

namespace {

constexpr Index kMostValues = Index(1) << 31;  // of an image's activations, so that no size overflows

struct Layer {
  FaceflaxKind kind;
  bool relu, same;
  Index size, inputs, outputs;
  Panels panels;       // of a convolution, a separable one's pointwise part, a shortcut
  Values kernel;       // depthwise [9, inputs]; of the head [outputs, size x size x inputs]
  Values bias;         // of a convolution of 8 outputs twice, for two pixels
  Panels back;         // kernels turned around, matrices transposed
  Values back_kernel;  // depthwise, turned around
  Values winograd;     // of a convolution that has that form

  Index low() const { return same ? (size - 1) / 2 : 0; }
  Index lost() const { return same ? 0 : size - 1; }
};

bool IsShortcut(int32_t kind) { return kind == kFaceflaxShortcut || kind == kFaceflaxBlurredShortcut; }
bool IsMaxPool(int32_t kind) { return kind == kFaceflaxMaxPool || kind == kFaceflaxBlurredMaxPool; }
bool IsPooling(int32_t kind) { return IsMaxPool(kind) || kind == kFaceflaxAveragePool; }

// A layer that was evaluated, for the way back.
struct Step {
  const Layer* layer;
  Index height, width, channels, out_height, out_width, outputs;  // its input and its output
  const T *y, *winners;
};

std::vector<T> Transposed(const T* matrix, Index rows, Index columns) {
  std::vector<T> result(rows * columns);
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < columns; ++c) result[c * rows + r] = matrix[r * columns + c];
  }
  return result;
}

// [size, size, inputs, outputs] as [size, size, outputs, inputs], both sides from the end.
std::vector<T> Turned(const T* kernel, Index size, Index inputs, Index outputs) {
  std::vector<T> result;
  for (Index tap = size * size - 1; tap >= 0; --tap) {
    const std::vector<T> part = Transposed(kernel + tap * inputs * outputs, inputs, outputs);
    result.insert(result.end(), part.begin(), part.end());
  }
  return result;
}

}  // namespace

}  // namespace faceflax

using faceflax::Index;
using faceflax::T;

struct FaceflaxNetwork {
  const faceflax::Kernels* kernels;
  std::vector<faceflax::Layer> layers;
  Index channels = 0, classes = 0;
  bool explains = false;

  // Why images of this size cannot be computed, or an empty string.
  std::string Fits(Index height, Index width) const {
    const std::string given = std::to_string(height) + "x" + std::to_string(width);
    const std::string tail = " pixels";
    Index rows = height, columns = width;
    if (height < 1 || width < 1 || height > 1 << 20 || width > 1 << 20) {
      return "images: " + given + tail + " is no size; give 1 to 1048576 rows and columns";
    }
    for (const faceflax::Layer& layer : layers) {
      if (rows * columns > faceflax::kMostValues / (8 * std::max(layer.inputs, layer.outputs))) {
        return "images: " + given + tail + " is too large for one image; make it smaller";
      }
      if (layer.kind == kFaceflaxConvolution) {
        rows -= layer.lost(), columns -= layer.lost();
        if (rows < 1 || columns < 1) return "images: " + given + tail + " is too small for the network; enlarge them";
      }
      if (faceflax::IsPooling(layer.kind)) {
        rows = (rows + 1) / 2, columns = (columns + 1) / 2;
      }
    }
    return "";
  }

  // Evaluates one image. With `steps`, each layer's output is kept and noted there.
  void Run(const T* x, Index height, Index width, T* logits, std::vector<faceflax::Step>* steps = nullptr) const;

  // Also explains one class, or the one with the highest logit if `target` is -1.
  void Explain(const T* image, Index height, Index width, Index target, T* logits, T* map) const;
};

namespace faceflax {

namespace {

const char* KindName(int32_t kind) {
  const char* names[] = {"convolution",  "separable", "shortcut",         "max_pool",
                         "average_pool", "head",      "blurred_shortcut", "blurred_max_pool"};
  return kind >= kFaceflaxConvolution && kind <= kFaceflaxBlurredMaxPool ? names[kind] : nullptr;
}

// Why a layer cannot be computed after layers whose output has `channels` channels (0: it is the first), or "".
std::string Check(const FaceflaxLayer& layer, Index channels) {
  if (!KindName(layer.kind)) {
    return "kind: " + std::to_string(layer.kind) + " is unknown; give one of 0 to " +
           std::to_string(kFaceflaxBlurredMaxPool);
  }
  const bool pooling = IsPooling(layer.kind);
  const bool convolution = layer.kind == kFaceflaxConvolution, separable = layer.kind == kFaceflaxSeparable;
  if (layer.relu != 0 && !(layer.relu == 1 && (convolution || separable))) {
    return "relu: " + std::to_string(layer.relu) + " is not possible for this kind; only convolutions may have 1";
  }
  if (layer.same != 1 && !(layer.same == 0 && convolution)) {
    return "same: " + std::to_string(layer.same) + " is not possible for this kind; only a convolution may be VALID";
  }
  const auto weights = [](const char* name, const float* values, Index given, Index wanted) -> std::string {
    if (given != wanted || (given > 0 && !values)) {
      return std::string(name) + ": " + (given > 0 && !values ? "null" : std::to_string(given) + " numbers") +
             " where the layer's sizes ask for " + std::to_string(wanted) + "; give an array of that many";
    }
    return "";
  };
  if (pooling) {
    if (channels == 0) return "kind: a pooling cannot come first; give a convolution before it";
    if (!Vectors(channels))
      return "inputs: " + std::to_string(channels) + " channels cannot be pooled; give 8, 16 or 32 k";
    if (layer.inputs || layer.outputs) return "inputs: a pooling has the channels of the layer before it; give 0";
    for (const auto& wrong : {weights("kernel", layer.kernel, layer.kernel_count, 0),
                              weights("pointwise", layer.pointwise, layer.pointwise_count, 0),
                              weights("bias", layer.bias, layer.bias_count, 0)}) {
      if (!wrong.empty()) return wrong;
    }
    return "";
  }
  constexpr Index most = 1 << 16;
  if (layer.inputs < 1 || layer.inputs > most || (channels > 0 && layer.inputs != channels)) {
    return "inputs: " + std::to_string(layer.inputs) + " channels where the layer before gives " +
           (channels > 0 ? std::to_string(channels) : "1 to 65536") + "; make them agree";
  }
  if (layer.outputs < 1 || layer.outputs > most || (layer.kind != kFaceflaxHead && !Vectors(layer.outputs))) {
    return "outputs: " + std::to_string(layer.outputs) + " channels cannot be computed; give " +
           (layer.kind == kFaceflaxHead ? "1 to 65536" : "8, 16 or a multiple of 32");
  }
  if ((separable || layer.kind == kFaceflaxBlurredShortcut) && !Vectors(layer.inputs)) {
    return "inputs: " + std::to_string(layer.inputs) + " channels of a " +
           (separable ? "separable convolution" : "blurred shortcut") + " cannot be computed; " +
           "give 8, 16 or a multiple of 32";
  }
  const bool head = layer.kind == kFaceflaxHead;
  const Index size = convolution || (head && layer.size == 1) ? layer.size : IsShortcut(layer.kind) ? 1 : 3;
  if (size < 1 || size > 64 || layer.size != size) {
    return "size: a kernel of " + std::to_string(layer.size) + " pixels a side is not possible for this kind; give " +
           (convolution ? "1 to 64"
            : head      ? "1 or 3"
                        : std::to_string(size));
  }
  const Index kernel = size * size * layer.inputs * (separable ? 1 : layer.outputs);
  for (const auto& wrong :
       {weights("kernel", layer.kernel, layer.kernel_count, kernel),
        weights("pointwise", layer.pointwise, layer.pointwise_count, separable ? layer.inputs * layer.outputs : 0),
        weights("bias", layer.bias, layer.bias_count, layer.outputs)}) {
    if (!wrong.empty()) return wrong;
  }
  return "";
}

// Why the list is no network, or "".
std::string Check(const FaceflaxLayer* layers, Index count) {
  if (!layers || count < 1) return "layers: none; give at least a head";
  Index channels = 0, shortcut = 0;  // channels of a shortcut that waits for its max-pool
  for (Index i = 0; i < count; ++i) {
    const FaceflaxLayer& layer = layers[i];
    std::string wrong = Check(layer, channels);
    if (wrong.empty() && (layer.kind == kFaceflaxHead) != (i == count - 1)) {
      wrong = "kind: a head must be the last layer, and only that; move it there";
    }
    if (wrong.empty() && shortcut > 0) {
      if (IsShortcut(layer.kind) || layer.kind == kFaceflaxHead || layer.kind == kFaceflaxAveragePool ||
          (layer.kind == kFaceflaxConvolution && !layer.same && layer.size > 1)) {
        wrong = "kind: not possible between a shortcut and its max-pool; only what keeps the image's size is";
      } else if (IsMaxPool(layer.kind) && shortcut != channels) {
        wrong = "inputs: " + std::to_string(channels) + " channels where the shortcut gives " +
                std::to_string(shortcut) + "; make them agree";
      }
    }
    if (!wrong.empty()) {
      const char* name = KindName(layer.kind);
      return "layers[" + std::to_string(i) + "]" + (name ? std::string(" (") + name + ")" : "") + "." + wrong;
    }
    if (IsShortcut(layer.kind)) {
      shortcut = layer.outputs;
      if (channels == 0) channels = layer.inputs;
    } else if (IsMaxPool(layer.kind)) {
      shortcut = 0;
    } else if (layer.kind != kFaceflaxAveragePool) {
      channels = layer.outputs;
    }
  }
  return "";
}

// Whether a layer that can be computed can be differentiated by its input.
bool WayBack(const FaceflaxLayer& layer) {
  if (layer.kind == kFaceflaxConvolution) return Outputs(layer.inputs, 1);
  return !IsShortcut(layer.kind) || Vectors(layer.inputs);
}

Layer Packed(const FaceflaxLayer& from, Index channels, bool back) {
  Layer layer{static_cast<FaceflaxKind>(from.kind),
              from.relu != 0,
              from.same != 0,
              from.size,
              channels,
              channels,
              {},
              {},
              {},
              {},
              {},
              {}};
  if (from.outputs > 0) layer.outputs = from.outputs;
  const Index inputs = layer.inputs, outputs = layer.outputs, size = layer.size;
  switch (layer.kind) {
    case kFaceflaxConvolution: {
      layer.panels = Panels(from.kernel, size, size, inputs, outputs);
      if (WinogradTakes(size, inputs, outputs)) layer.winograd = WinogradPanels(from.kernel, inputs, outputs);
      layer.bias = Values(2 * outputs);
      std::copy_n(from.bias, outputs, layer.bias.data());
      std::copy_n(from.bias, outputs, layer.bias.data() + outputs);
      if (back) layer.back = Panels(Turned(from.kernel, size, inputs, outputs).data(), size, size, outputs, inputs);
      break;
    }
    case kFaceflaxSeparable: {
      layer.kernel = Values(from.kernel, 9 * inputs);
      layer.panels = Panels(from.pointwise, 1, 1, inputs, outputs);
      layer.bias = Values(from.bias, outputs);
      if (back) {
        layer.back_kernel = Values(Turned(from.kernel, 3, inputs, 1).data(), 9 * inputs);
        layer.back = Panels(Transposed(from.pointwise, inputs, outputs).data(), 1, 1, outputs, inputs);
      }
      break;
    }
    case kFaceflaxShortcut:
    case kFaceflaxBlurredShortcut:
      layer.panels = Panels(from.kernel, 1, 1, inputs, outputs);
      layer.bias = Values(from.bias, outputs);
      if (back) layer.back = Panels(Transposed(from.kernel, inputs, outputs).data(), 1, 1, outputs, inputs);
      break;
    case kFaceflaxMaxPool:
    case kFaceflaxBlurredMaxPool:
    case kFaceflaxAveragePool:
      break;
    case kFaceflaxHead:
      layer.kernel =
          Values(Transposed(from.kernel, size * size * inputs, outputs).data(), size * size * inputs * outputs);
      layer.bias = Values(from.bias, outputs);
      break;
  }
  return layer;
}

// Why a batch cannot be computed, or "".
std::string Check(const FaceflaxBatch& batch) {
  if (!batch.network) return "network: null; create it first";
  if (batch.count < 0) return "images: a count of " + std::to_string(batch.count) + "; give 0 or more";
  if (batch.count > 0 && (!batch.images || !batch.logits)) return "images: null, or no room for logits; give both";
  return batch.network->Fits(batch.height, batch.width);
}

}  // namespace

}  // namespace faceflax

void FaceflaxNetwork::Run(const T* x, Index height, Index width, T* logits, std::vector<faceflax::Step>* steps) const {
  using namespace faceflax;
  const T* shortcut = nullptr;
  int side = 0, kept = kKept;
  const auto output = [&](Index size) { return Scratch(steps ? kept++ : kSide + (side ^= 1), size); };
  for (const Layer& layer : layers) {
    const Index channels = layer.inputs, outputs = layer.outputs;
    Step step{&layer, height, width, channels, (height + 1) / 2, (width + 1) / 2, outputs, x, nullptr};
    switch (layer.kind) {
      case kFaceflaxConvolution: {
        const Geometry g{height,
                         width,
                         channels,
                         layer.size,
                         layer.size,
                         1,
                         1,
                         layer.low(),
                         height - layer.lost(),
                         width - layer.lost(),
                         outputs};
        const Index pixels = PixelsFolded(g);
        T* y = output(g.out_height * g.out_width * outputs);
        // Winograd's sums make infinities to NaN.
        if (WinogradTakes(layer.size, channels, outputs) && WinogradPays(g) &&
            kernels->finite(x, height * width * channels)) {
          kernels->winograd(g, x, layer.winograd.data(), layer.bias.data(), layer.relu, y);
        } else {
          ConvolveFolded(*kernels, g, pixels, x, layer.panels.of(pixels), layer.bias.data(), layer.relu, y);
        }
        x = y, height = g.out_height, width = g.out_width;
        break;
      }
      case kFaceflaxSeparable: {
        T* y = output(height * width * outputs);
        const Index some = std::clamp<Index>(4096 / (width * channels), 1, height);  // rows that fit the first cache
        T* part = Scratch(kPart, some * width * channels);
        for (Index h = 0; h < height; h += some) {
          const Index to = std::min(h + some, height);
          kernels->depthwise(x, height, width, channels, layer.kernel.data(), h, to, part);
          kernels->convolve(Pointwise((to - h) * width, channels, outputs), part, layer.panels.of(1), layer.bias.data(),
                            nullptr, layer.relu, y + h * width * outputs);
        }
        x = y;
        break;
      }
      case kFaceflaxShortcut: {
        const Geometry g{height, width, channels, 1, 1, 2, 2, 0, step.out_height, step.out_width, outputs};
        T* y = Scratch(kShortcut, g.out_height * g.out_width * outputs);
        kernels->convolve(g, x, layer.panels.of(1), layer.bias.data(), nullptr, false, y);
        shortcut = y;
        break;
      }
      case kFaceflaxBlurredShortcut: {
        T* part = Scratch(kPart, step.out_height * step.out_width * channels);
        kernels->blur(x, height, width, channels, nullptr, part);
        T* y = Scratch(kShortcut, step.out_height * step.out_width * outputs);
        kernels->convolve(Pointwise(step.out_height * step.out_width, channels, outputs), part, layer.panels.of(1),
                          layer.bias.data(), nullptr, false, y);
        shortcut = y;
        break;
      }
      case kFaceflaxBlurredMaxPool: {
        T* part = Scratch(kPart, height * width * channels);
        T* winners = steps ? output(height * width * channels) : nullptr;
        kernels->maxima(x, height, width, channels, part, winners);
        T* y = output(step.out_height * step.out_width * channels);
        kernels->blur(part, height, width, channels, shortcut, y);
        x = y, height = step.out_height, width = step.out_width;
        shortcut = nullptr;
        step.winners = winners;
        break;
      }
      case kFaceflaxMaxPool: {
        const Index size = step.out_height * step.out_width * channels;
        T* y = output(size);
        T* winners = steps ? output(size) : nullptr;
        kernels->max_pool(x, height, width, channels, shortcut, 0, step.out_height, y, winners);
        x = y, height = step.out_height, width = step.out_width;
        shortcut = nullptr;
        step.winners = winners;
        break;
      }
      case kFaceflaxAveragePool: {
        T* y = output(step.out_height * step.out_width * channels);
        kernels->average_pool(x, height, width, channels, y);
        x = y, height = step.out_height, width = step.out_width;
        break;
      }
      case kFaceflaxHead:
        kernels->head(x, height, width, channels, layer.size, layer.kernel.data(), layer.bias.data(), classes, logits);
        break;
    }
    if (!steps) continue;
    if (!IsShortcut(layer.kind)) step.out_height = height, step.out_width = width;
    step.y = x;
    steps->push_back(step);
  }
}

void FaceflaxNetwork::Explain(const T* image, Index height, Index width, Index target, T* logits, T* map) const {
  using namespace faceflax;
  std::vector<Step> steps;
  steps.reserve(layers.size());
  Run(image, height, width, logits, &steps);
  if (target < 0) target = std::max_element(logits, logits + classes) - logits;
  T* g = nullptr;
  T* pooled = nullptr;  // the gradient of the sum that the last max-pool's shortcut is part of
  int side = 0;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const Layer& layer = *step->layer;
    const Index size = step->height * step->width * step->channels;
    const Index out_size = step->out_height * step->out_width * step->outputs;
    if (layer.relu) kernels->guide(step->y, out_size, g);
    if (IsShortcut(layer.kind)) {  // its share is added to g, which is the gradient by its input
      T* part = Scratch(kPart, step->out_height * step->out_width * step->channels);
      kernels->convolve(Pointwise(step->out_height * step->out_width, step->outputs, step->channels), pooled,
                        layer.back.of(1), nullptr, nullptr, false, part);
      (layer.kind == kFaceflaxShortcut ? kernels->spread : kernels->blur_gradient)(part, step->height, step->width,
                                                                                   step->channels, g);
      continue;
    }
    T* d = Scratch(kSide + (side ^= 1), size);
    switch (layer.kind) {
      case kFaceflaxHead:
        kernels->head_gradient(layer.kernel.data() + target * layer.size * layer.size * step->channels, step->height,
                               step->width, step->channels, layer.size, d);
        break;
      case kFaceflaxMaxPool:
        pooled = Scratch(kShortcut, out_size);
        std::copy(g, g + out_size, pooled);
        kernels->max_pool_gradient(step->winners, g, step->height, step->width, step->channels, d);
        break;
      case kFaceflaxBlurredMaxPool: {
        pooled = Scratch(kShortcut, out_size);
        std::copy(g, g + out_size, pooled);
        T* part = Scratch(kPart, size);
        std::fill_n(part, size, T(0));
        kernels->blur_gradient(g, step->height, step->width, step->channels, part);
        kernels->maxima_gradient(step->winners, part, step->height, step->width, step->channels, d);
        break;
      }
      case kFaceflaxAveragePool:
        kernels->average_pool_gradient(g, step->height, step->width, step->channels, d);
        break;
      case kFaceflaxSeparable: {
        T* part = Scratch(kPart, size);
        kernels->convolve(Pointwise(step->height * step->width, step->outputs, step->channels), g, layer.back.of(1),
                          nullptr, nullptr, false, part);
        kernels->depthwise(part, step->height, step->width, step->channels, layer.back_kernel.data(), 0, step->height,
                           d);
        break;
      }
      case kFaceflaxConvolution: {
        const Geometry back{step->out_height,
                            step->out_width,
                            step->outputs,
                            layer.size,
                            layer.size,
                            1,
                            1,
                            layer.size - 1 - layer.low(),
                            step->height,
                            step->width,
                            step->channels};
        const Index pixels = PixelsFolded(back);
        ConvolveFolded(*kernels, back, pixels, g, layer.back.of(pixels), nullptr, false, d);
        break;
      }
      case kFaceflaxShortcut:
      case kFaceflaxBlurredShortcut:
        break;
    }
    g = d;
  }
  std::copy_n(g, height * width * channels, map);
}

using namespace faceflax;

int faceflax_create(const FaceflaxLayer* layers, int64_t count, FaceflaxNetwork** network) {
  return Guarded([&] {
    if (!network) return Refuse("network: null; give a place for it");
    *network = nullptr;
    std::string wrong = Check(layers, count);
    if (!wrong.empty()) return Refuse(wrong);
    if (!Active()) return Refuse("processor: it has none of the library's instruction sets; set FACEFLAX_NATIVE=0");
    auto made = std::make_unique<FaceflaxNetwork>();
    made->kernels = Active();
    made->channels = layers[0].inputs;
    made->classes = layers[count - 1].outputs;
    made->explains = std::all_of(layers, layers + count, WayBack);
    Index channels = made->channels;
    for (Index i = 0; i < count; ++i) {
      made->layers.push_back(Packed(layers[i], channels, made->explains));
      if (!IsShortcut(layers[i].kind)) channels = made->layers.back().outputs;
    }
    *network = made.release();
    return 0;
  });
}

void faceflax_destroy(FaceflaxNetwork* network) { delete network; }

int faceflax_run(const FaceflaxBatch* batches, int64_t count) {
  return Guarded([&] {
    if (count < 0 || (count > 0 && !batches)) return Refuse("batches: null; give an array of them");
    std::vector<Index> first(count + 1, 0);
    for (Index n = 0; n < count; ++n) {
      std::string wrong = Check(batches[n]);
      if (!wrong.empty()) return Refuse(wrong);
      first[n + 1] = first[n] + batches[n].count;
    }
    if (first[count] == 0) return 0;
    std::string wrong;
    ThreadPool* pool = ThreadPool::Get(&wrong);
    if (!pool) return Refuse(wrong);
    const bool done = Parallel(*pool, first[count], [&](Index task) {
      Index n = 0;
      while (task >= first[n + 1]) ++n;
      const FaceflaxBatch& batch = batches[n];
      const Index image = task - first[n];
      batch.network->Run(batch.images + image * batch.height * batch.width * batch.network->channels, batch.height,
                         batch.width, batch.logits + image * batch.network->classes);
    });
    if (!done) throw std::bad_alloc();
    return 0;
  });
}

int faceflax_guided(const FaceflaxBatch* batch, const int32_t* targets, float* maps) {
  return Guarded([&] {
    if (!batch) return Refuse("batch: null; give one");
    std::string wrong = Check(*batch);
    if (!wrong.empty()) return Refuse(wrong);
    const FaceflaxNetwork& network = *batch->network;
    if (!network.explains) {
      return Refuse("network: the way back to images of " + std::to_string(network.channels) +
                    " channels cannot be computed; use the XLA form");
    }
    if (batch->count == 0) return 0;
    if (!targets || !maps) return Refuse("targets: null, or no room for maps; give both");
    for (Index i = 0; i < batch->count; ++i) {
      if (targets[i] < -1 || targets[i] >= network.classes) {
        return Refuse("targets: " + std::to_string(targets[i]) + " is no class; give 0 to " +
                      std::to_string(network.classes - 1) + ", or -1 for the highest logit");
      }
    }
    ThreadPool* pool = ThreadPool::Get(&wrong);
    if (!pool) return Refuse(wrong);
    const Index size = batch->height * batch->width * network.channels;
    const bool done = Parallel(*pool, batch->count, [&](Index i) {
      network.Explain(batch->images + i * size, batch->height, batch->width, targets[i],
                      batch->logits + i * network.classes, maps + i * size);
    });
    if (!done) throw std::bad_alloc();
    return 0;
  });
}

int faceflax_explains(const FaceflaxNetwork* network) { return network && network->explains; }

const char* faceflax_problem() { return problem.c_str(); }

int faceflax_select(const char* name) {
  return Guarded([&] {
    std::string wrong;
    return Select(name ? name : "", &wrong) ? 0 : Refuse(wrong);
  });
}

const char* faceflax_selected() { return Active() ? Active()->name : nullptr; }

int faceflax_tiles() { return Tiles() != nullptr; }

int faceflax_threads() {
  ThreadPool* pool = ThreadPool::Get(&problem);
  return pool ? pool->num_threads() : 0;
}

const char* faceflax_sources() { return FACEFLAX_SOURCES; }
