// One image is shared among the threads: a layer is cut into blocks of rows, and a block waits only for the blocks
// whose rows it reads. Blocks are taken in the order in which they are listed, in which each comes after those it waits
// for; so whoever waits, waits for a thread that is at work, and what is computed does not depend on the number of
// threads.

#include "detector.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "pack.h"
#include "parallel.h"
#include "status.h"
#include "weights.h"

namespace faceflax {

namespace {

constexpr Index kPatch = 4, kColours = 3, kNumbers = 15, kPacked = 16;
constexpr Index kMultiple = 32, kMostSide = 8192, kMostPixels = Index(1) << 24;  // of an input
constexpr Index kTogether = Index(1) << 18;  // pixels of the inputs whose layers are computed side by side
constexpr Index kWork = 700000;              // multiplications of a block, about: some 20 microseconds
constexpr double kFar = 1 << 24;             // how far from the image a region may be

struct DetectorLayer {
  FaceflaxDetectorKind kind;
  bool relu;
  Index from, add, inputs, outputs;
  Index stride;  // of its pixels, in the input's
  Panels panels;
  Values kernel, bias;

  Index cost() const {  // multiplications of a pixel, about
    if (kind == kDetectorPool || kind == kDetectorDoubledSum) return 4 * outputs;
    return inputs * (outputs + (kind == kDetectorSeparable ? 9 : 0));
  }
};

// The weights by which pixels of an image's row or column, those inside alone, make a pixel of the input.
struct Samples {
  Index first = 0, last = 0;  // pixels of the image that are met by any
  Index taps = 0;
  std::vector<int32_t> starts;  // from `first` on
  std::vector<T> weights;       // [count, taps]; the pixels' values are 0 to 255
  std::vector<T> totals;        // of the weights for values up to 1

  // `count` pixels cover `length` from `begin` on, in an image of `size` pixels. A pixel that covers more than one of
  // the image is their mean, by the part of each that it covers; else it is interpolated between two.
  Samples(double begin, double length, Index count, Index size) {
    const double step = length / count;
    const Index most = step >= 1 ? std::min<double>(std::ceil(step) + 1, size) : 2;
    struct Span {
      Index from = 0, taps = 0;
    };
    std::vector<Span> spans(count);
    std::vector<double> shares(count * most);
    first = size;
    for (Index i = 0; i < count; ++i) {
      Span& span = spans[i];
      double* share = shares.data() + i * most;
      if (step >= 1) {
        const double low = begin + i * step, high = begin + (i + 1) * step;
        span.from = std::clamp<double>(std::floor(low), 0, size);
        const Index to = std::clamp<double>(std::ceil(high), span.from, std::min(span.from + most, size));
        for (Index p = span.from; p < to; ++p) {
          share[span.taps++] = (std::min<double>(high, p + 1) - std::max<double>(low, p)) / step;
        }
      } else {
        const double middle = begin + (i + 0.5) * step - 0.5, at = std::floor(middle), part = middle - at;
        if (at < -1 || at >= size) continue;
        span.from = std::max<double>(at, 0);
        if (at >= 0) share[span.taps++] = 1 - part;
        if (at + 1 < size) share[span.taps++] = part;
      }
      if (span.taps == 0) continue;
      first = std::min(first, span.from);
      last = std::max(last, span.from + span.taps);
      taps = std::max(taps, span.taps);
    }
    if (taps == 0) first = last = 0;
    starts.resize(count);
    weights.resize(count * taps);
    totals.resize(count);
    for (Index i = 0; i < count; ++i) {  // as many taps for each, where they are inside
      const Index start = spans[i].taps == 0 ? 0 : std::min(spans[i].from, last - taps) - first;
      starts[i] = start;
      double total = 0;
      for (Index t = 0; t < spans[i].taps; ++t) {
        weights[i * taps + spans[i].from - first - start + t] = shares[i * most + t] / 127.5;
        total += shares[i * most + t];
      }
      totals[i] = total;
    }
  }
};

// Resizes a region of an image into the network's input, a row at a time. Outside the image it is mid-grey, 0.
class Source {
 public:
  Source(const uint8_t* image, Index height, Index width, Index stride, const FaceflaxRegion& region)
      : image_(image),
        stride_(stride),
        down_(region.top, region.height, region.rows, height),
        across_(region.left, region.width, region.columns, width),
        as_it_is_(region.left == 0 && region.width == region.columns && region.columns == width) {
    for (int32_t& start : across_.starts) start *= kColours;
    for (T& weight : across_.weights) weight *= T(127.5);  // the rows' sums are of values up to 1
  }

  void Row(const Kernels& kernels, Index row, T* y) const {
    const Index count = across_.starts.size(), met = (across_.last - across_.first) * kColours;
    if (down_.taps == 0 || across_.taps == 0) {
      std::fill_n(y, count * kColours, T(0));
      return;
    }
    T* line = as_it_is_ ? y : Scratch(kNarrow, met + 1);
    kernels.weigh_rows(image_ + (down_.first + down_.starts[row]) * stride_ + across_.first * kColours, stride_, met,
                       down_.weights.data() + row * down_.taps, down_.taps, -down_.totals[row], line);
    if (as_it_is_) return;
    line[met] = 0;
    kernels.weigh_columns(line, across_.starts.data(), across_.weights.data(), across_.taps, count, y);
  }

 private:
  const uint8_t* image_;
  Index stride_;
  Samples down_, across_;
  bool as_it_is_;  // its columns need no weights
};

// A layer's output in one input.
struct Map {
  Index height, width, block;  // rows of a block
  Index done;                  // where its blocks' flags start
  T* y;
};

struct Input {
  Index rows, columns;
  const T* image;        // or null, and
  const Source* source;  // what makes it
  std::vector<Map> maps;
};

struct Block {
  const Input* input;
  Index layer, from, to;
};

}  // namespace

}  // namespace faceflax

using faceflax::Index;
using faceflax::T;

struct FaceflaxDetector {
  const faceflax::Kernels* kernels;
  std::vector<faceflax::DetectorLayer> layers;

  Index Places(Index rows, Index columns) const {
    Index places = 0;
    for (const faceflax::DetectorLayer& layer : layers) {
      if (layer.kind == kDetectorPlaces) places += (rows / layer.stride) * (columns / layer.stride);
    }
    return places;
  }

  // Computes all layers of some inputs, whose maps lie in the calling thread's memory until its next call. False if
  // memory ran out.
  bool Run(faceflax::ThreadPool& pool, std::vector<faceflax::Input>& inputs) const;

  // Computes rows of a layer.
  void Compute(const faceflax::Block& block) const;
};

namespace faceflax {

namespace {

const char* KindName(int32_t kind) {
  const char* names[] = {"patches", "separable", "pointwise", "max_pool", "doubled_sum", "places"};
  return kind >= kDetectorPatches && kind <= kDetectorPlaces ? names[kind] : nullptr;
}

// Rows [low, high) of its inputs that a layer reads for rows [from, to) of its own.
struct Reach {
  Index layer, low, high;
};
template <class F>
void Reads(const DetectorLayer& layer, const Block& block, const F& f) {
  if (layer.from >= 0) {
    const Index height = block.input->maps[layer.from].height;
    const Index around = layer.kind == kDetectorSeparable ? 1 : 0, times = layer.kind == kDetectorPool ? 2 : 1;
    const Index more = layer.kind == kDetectorPool ? 1 : around;
    f(Reach{layer.from, std::max<Index>(block.from * times - around, 0), std::min(block.to * times + more, height)});
  }
  if (layer.add >= 0) {
    const bool doubled = layer.kind == kDetectorDoubledSum;
    f(Reach{layer.add, doubled ? block.from / 2 : block.from, doubled ? (block.to + 1) / 2 : block.to});
  }
}

// Why a layer cannot be computed after the ones before it, or "".
std::string Check(const FaceflaxDetectorLayer& layer, Index index, const std::vector<DetectorLayer>& before) {
  if (!KindName(layer.kind)) {
    return "kind: " + std::to_string(layer.kind) + " is unknown; give one of 0 to " + std::to_string(kDetectorPlaces);
  }
  const bool patches = layer.kind == kDetectorPatches, unit = layer.kind == kDetectorSeparable;
  const bool pointwise = layer.kind == kDetectorPointwise, places = layer.kind == kDetectorPlaces;
  const bool pool = layer.kind == kDetectorPool, sum = layer.kind == kDetectorDoubledSum;
  if (layer.relu != 0 && !(layer.relu == 1 && (patches || unit || pointwise))) {
    return "relu: " + std::to_string(layer.relu) + " is not possible for this kind; give 0";
  }
  const auto earlier = [&](const char* name, Index given, bool wanted) -> std::string {
    const bool map = given >= 0 && given < index && before[given].kind != kDetectorPlaces;
    if (wanted ? map : given == -1) return "";
    return std::string(name) + ": " + std::to_string(given) + " where this layer needs " +
           (wanted ? "an earlier layer that gives a map" : "none, which is -1") + "; make them agree";
  };
  std::string wrong = earlier("from", layer.from, !patches);
  if (wrong.empty()) wrong = earlier("add", layer.add, sum || (unit && layer.add != -1));
  if (!wrong.empty()) return wrong;
  const Index channels = patches ? kPatch * kPatch * kColours : before[layer.from].outputs;
  const Index stride = patches ? kPatch : before[layer.from].stride;
  if (layer.inputs != channels) {
    return "inputs: " + std::to_string(layer.inputs) + " channels where there are " + std::to_string(channels) +
           "; make them agree";
  }
  if (places ? layer.outputs != kPacked : layer.outputs > 1 << 12 || !Vectors(layer.outputs)) {
    return "outputs: " + std::to_string(layer.outputs) + " channels cannot be computed; give " +
           (places ? std::to_string(kPacked) : "8, 16 or a multiple of 32 up to 4096");
  }
  if ((pool || sum) && layer.outputs != channels) {
    return "outputs: " + std::to_string(layer.outputs) + " channels of " + std::to_string(channels) + "; give as many";
  }
  if (pool && stride * 2 > kMultiple) return "kind: the map is too coarse to be pooled; leave the layer out";
  if (layer.add >= 0 &&
      (before[layer.add].outputs != layer.outputs || before[layer.add].stride != stride * (1 + sum))) {
    return "add: layer " + std::to_string(layer.add) + " has another shape; give one of as many channels" +
           (sum ? ", half as fine" : "");
  }
  const auto weights = [](const char* name, const float* values, Index given, Index wanted) -> std::string {
    if (given == wanted && (given == 0 || values)) return "";
    return std::string(name) + ": " + (given > 0 && !values ? "null" : std::to_string(given) + " numbers") +
           " where the layer's sizes ask for " + std::to_string(wanted) + "; give an array of that many";
  };
  const Index matrix = channels * layer.outputs, none = pool || sum;
  for (const auto& each : {weights("kernel", layer.kernel, layer.kernel_count,
                                   none   ? 0
                                   : unit ? 9 * channels
                                          : matrix),
                           weights("pointwise", layer.pointwise, layer.pointwise_count, unit ? matrix : 0),
                           weights("bias", layer.bias, layer.bias_count, none ? 0 : layer.outputs)}) {
    if (!each.empty()) return each;
  }
  return "";
}

DetectorLayer Packed(const FaceflaxDetectorLayer& from, const std::vector<DetectorLayer>& before) {
  DetectorLayer layer{static_cast<FaceflaxDetectorKind>(from.kind),
                      from.relu != 0,
                      from.from,
                      from.add,
                      from.inputs,
                      from.outputs,
                      kPatch,
                      {},
                      {},
                      {}};
  if (from.from >= 0) layer.stride = before[from.from].stride * (from.kind == kDetectorPool ? 2 : 1);
  if (from.bias_count == 0) return layer;
  layer.bias = Values(from.bias, from.outputs);
  switch (layer.kind) {
    case kDetectorPatches:
      layer.panels = Panels(from.kernel, kPatch, kPatch, kColours, from.outputs);
      break;
    case kDetectorSeparable:
      layer.kernel = Values(from.kernel, 9 * from.inputs);
      layer.panels = Panels(from.pointwise, 1, 1, from.inputs, from.outputs);
      break;
    default:
      layer.panels = Panels(from.kernel, 1, 1, from.inputs, from.outputs);
  }
  return layer;
}

// Why the network cannot take inputs of this size, or "".
std::string Fits(Index rows, Index columns) {
  if (rows >= kMultiple && columns >= kMultiple && rows <= kMostSide && columns <= kMostSide && rows % kMultiple == 0 &&
      columns % kMultiple == 0 && rows * columns <= kMostPixels) {
    return "";
  }
  return std::to_string(rows) + "x" + std::to_string(columns) +
         " pixels cannot be the network's input; give multiples of 32 up to 8192, at most 16777216 pixels";
}

struct Face {
  double left, top, width, height, score;
  double points[10];
  Index region, place;
};

// Adds the faces that an input's maps tell of.
void Decode(const FaceflaxDetector& detector, const Input& input, const FaceflaxRegion& region, Index number,
            double min_score, std::vector<Face>& faces) {
  const double x_scale = region.width / region.columns, y_scale = region.height / region.rows;
  const double low = min_score - 1e-6;  // a score's own rounding is less
  const double least = low > 0 ? std::log(low / (1 - low)) : -HUGE_VAL;
  Index place = 0;
  for (size_t l = 0; l < detector.layers.size(); ++l) {
    if (detector.layers[l].kind != kDetectorPlaces) continue;
    const Map& map = input.maps[l];
    const double stride = detector.layers[l].stride;
    const T* y = map.y;
    for (Index h = 0; h < map.height; ++h) {
      for (Index w = 0; w < map.width; ++w, y += kPacked, ++place) {
        if (!(y[0] >= least)) continue;
        const double score = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(y[0]))));
        if (!(score >= min_score)) continue;
        const double x = (w + 0.5) * stride, v = (h + 0.5) * stride;
        Face face;
        face.width = stride * std::exp(std::clamp<double>(y[3], -4, 6)) * x_scale;
        face.height = stride * std::exp(std::clamp<double>(y[4], -4, 6)) * y_scale;
        face.left = region.left + (x + y[1] * stride) * x_scale - face.width / 2;
        face.top = region.top + (v + y[2] * stride) * y_scale - face.height / 2;
        face.score = score;
        bool finite = std::isfinite(face.left + face.top + face.width + face.height);
        for (int i = 0; i < 5; ++i) {
          face.points[2 * i] = region.left + (x + y[5 + 2 * i] * stride) * x_scale;
          face.points[2 * i + 1] = region.top + (v + y[6 + 2 * i] * stride) * y_scale;
          finite = finite && std::isfinite(face.points[2 * i] + face.points[2 * i + 1]);
        }
        face.region = number, face.place = place;
        if (finite) faces.push_back(face);
      }
    }
  }
}

double Overlap(const Face& a, const Face& b) {
  const double width = std::min(a.left + a.width, b.left + b.width) - std::max(a.left, b.left);
  const double height = std::min(a.top + a.height, b.top + b.height) - std::max(a.top, b.top);
  if (width <= 0 || height <= 0) return 0;
  const double common = width * height;
  return common / (a.width * a.height + b.width * b.height - common);
}

// Keeps the best of the faces that overlap.
std::vector<Face> Best(std::vector<Face> faces, double max_overlap, Index max_faces) {
  std::sort(faces.begin(), faces.end(), [](const Face& a, const Face& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.region != b.region ? a.region < b.region : a.place < b.place;
  });
  std::vector<Face> kept;
  for (const Face& face : faces) {
    if (static_cast<Index>(kept.size()) >= max_faces) break;
    const auto overlaps = [&](const Face& other) { return Overlap(face, other) > max_overlap; };
    if (std::none_of(kept.begin(), kept.end(), overlaps)) kept.push_back(face);
  }
  return kept;
}

inline void Wait(const std::atomic<bool>& done) {
  for (int spins = 0; !done.load(std::memory_order_acquire); ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

}  // namespace

}  // namespace faceflax

void FaceflaxDetector::Compute(const faceflax::Block& block) const {
  using namespace faceflax;
  const DetectorLayer& layer = layers[block.layer];
  const Map& map = block.input->maps[block.layer];
  const Index rows = block.to - block.from, size = map.width * layer.outputs;
  T* y = map.y + block.from * size;
  const auto row_of = [&](Index which, Index row) {
    const Map& other = block.input->maps[which];
    return other.y + row * other.width * layers[which].outputs;
  };
  switch (layer.kind) {
    case kDetectorPatches: {
      const Index columns = block.input->columns, row = columns * kColours;
      const Geometry g{kPatch, columns, kColours, kPatch, kPatch, kPatch, kPatch, 0, 1, map.width, layer.outputs};
      for (Index h = block.from; h < block.to; ++h, y += size) {
        const T* x = block.input->image + h * kPatch * row;
        if (!block.input->image) {
          T* strip = Scratch(kPart, kPatch * row);
          for (Index i = 0; i < kPatch; ++i) block.input->source->Row(*kernels, h * kPatch + i, strip + i * row);
          x = strip;
        }
        kernels->convolve(g, x, layer.panels.of(1), layer.bias.data(), nullptr, layer.relu, y);
      }
      break;
    }
    case kDetectorSeparable: {
      const Index some = std::clamp<Index>(4096 / (map.width * layer.inputs), 1, rows);  // that fit the first cache
      T* part = Scratch(kPart, some * map.width * layer.inputs);
      for (Index h = block.from; h < block.to; h += some) {
        const Index to = std::min(h + some, block.to);
        kernels->depthwise(row_of(layer.from, 0), map.height, map.width, layer.inputs, layer.kernel.data(), h, to,
                           part);
        kernels->convolve(Pointwise((to - h) * map.width, layer.inputs, layer.outputs), part, layer.panels.of(1),
                          layer.bias.data(), layer.add < 0 ? nullptr : row_of(layer.add, h), layer.relu,
                          map.y + h * size);
      }
      break;
    }
    case kDetectorPointwise:
    case kDetectorPlaces:
      kernels->convolve(Pointwise(rows * map.width, layer.inputs, layer.outputs), row_of(layer.from, block.from),
                        layer.panels.of(1), layer.bias.data(), nullptr, layer.relu, y);
      break;
    case kDetectorPool: {
      const Map& from = block.input->maps[layer.from];
      kernels->max_pool(from.y, from.height, from.width, layer.outputs, nullptr, block.from, block.to, y, nullptr);
      break;
    }
    case kDetectorDoubledSum:
      for (Index h = block.from; h < block.to; ++h, y += size) {
        kernels->add_doubled(row_of(layer.from, h), row_of(layer.add, h / 2), map.width, layer.outputs, y);
      }
      break;
  }
}

bool FaceflaxDetector::Run(faceflax::ThreadPool& pool, std::vector<faceflax::Input>& inputs) const {
  using namespace faceflax;
  Index values = 0, flags = 0;
  const auto aligned = [](Index size) { return (size + 15) / 16 * 16; };
  for (Input& input : inputs) {
    input.maps.clear();
    for (const DetectorLayer& layer : layers) {
      Map map{input.rows / layer.stride, input.columns / layer.stride, 0, flags, nullptr};
      map.block = std::clamp<Index>(kWork / (map.width * layer.cost()), 1, map.height);
      flags += (map.height + map.block - 1) / map.block;
      values += aligned(map.height * map.width * layer.outputs);
      input.maps.push_back(map);
    }
  }
  T* y = Scratch(kKept, values);
  for (Input& input : inputs) {
    for (size_t l = 0; l < layers.size(); ++l) {
      input.maps[l].y = y;
      y += aligned(input.maps[l].height * input.maps[l].width * layers[l].outputs);
    }
  }
  std::vector<Block> blocks;
  blocks.reserve(flags);
  for (Index l = 0; l < static_cast<Index>(layers.size()); ++l) {
    for (const Input& input : inputs) {
      const Map& map = input.maps[l];
      for (Index h = 0; h < map.height; h += map.block) {
        blocks.push_back({&input, l, h, std::min(h + map.block, map.height)});
      }
    }
  }
  const std::unique_ptr<std::atomic<bool>[]> done(new std::atomic<bool>[flags]());
  std::atomic<bool> failed{false};
  const bool whole = Parallel(pool, flags, [&](Index task) {
    const Block& block = blocks[task];
    Reads(layers[block.layer], block, [&](const Reach& reach) {
      const Map& map = block.input->maps[reach.layer];
      for (Index b = reach.low / map.block; b * map.block < reach.high; ++b) Wait(done[map.done + b]);
    });
    try {
      if (!failed) Compute(block);
    } catch (const std::bad_alloc&) {
      failed = true;  // and nobody may wait for this block
    }
    const Map& map = block.input->maps[block.layer];
    done[map.done + block.from / map.block].store(true, std::memory_order_release);
  });
  return whole && !failed;
}

using namespace faceflax;

int faceflax_detector_create(const FaceflaxDetectorLayer* layers, int64_t count, FaceflaxDetector** detector) {
  return Guarded([&] {
    if (!detector) return Refuse("detector: null; give a place for it");
    *detector = nullptr;
    if (!layers || count < 1) return Refuse("layers: none; give at least patches and places");
    if (!Active()) return Refuse("processor: it has none of the library's instruction sets; set FACEFLAX_NATIVE=0");
    auto made = std::make_unique<FaceflaxDetector>();
    made->kernels = Active();
    for (Index i = 0; i < count; ++i) {
      const std::string wrong = Check(layers[i], i, made->layers);
      if (!wrong.empty()) {
        const char* name = KindName(layers[i].kind);
        return Refuse("layers[" + std::to_string(i) + "]" + (name ? std::string(" (") + name + ")" : "") + "." + wrong);
      }
      made->layers.push_back(Packed(layers[i], made->layers));
    }
    if (made->Places(kMultiple, kMultiple) == 0) return Refuse("layers: none gives places; add one");
    *detector = made.release();
    return 0;
  });
}

void faceflax_detector_destroy(FaceflaxDetector* detector) { delete detector; }

int64_t faceflax_detector_places(const FaceflaxDetector* detector, int64_t rows, int64_t columns) {
  return detector && Fits(rows, columns).empty() ? detector->Places(rows, columns) : -1;
}

int faceflax_detector_outputs(const FaceflaxDetector* detector, const float* images, int64_t count, int64_t rows,
                              int64_t columns, float* outputs) {
  return Guarded([&] {
    if (!detector) return Refuse("detector: null; create it first");
    std::string wrong = Fits(rows, columns);
    if (!wrong.empty()) return Refuse("images: " + wrong);
    if (count < 0) return Refuse("images: a count of " + std::to_string(count) + "; give 0 or more");
    if (count > 0 && (!images || !outputs)) return Refuse("images: null, or no room for outputs; give both");
    ThreadPool* pool = ThreadPool::Get(&wrong);
    if (!pool) return Refuse(wrong);
    for (Index i = 0; i < count; ++i) {
      std::vector<Input> input{{rows, columns, images + i * rows * columns * kColours, nullptr, {}}};
      if (!detector->Run(*pool, input)) throw std::bad_alloc();
      for (size_t l = 0; l < detector->layers.size(); ++l) {
        if (detector->layers[l].kind != kDetectorPlaces) continue;
        const Map& map = input[0].maps[l];
        for (Index place = 0; place < map.height * map.width; ++place, outputs += kNumbers) {
          std::copy_n(map.y + place * kPacked, kNumbers, outputs);
        }
      }
    }
    return 0;
  });
}

int faceflax_detect(const FaceflaxDetector* detector, const uint8_t* image, int64_t height, int64_t width,
                    int64_t stride, const FaceflaxRegion* regions, int64_t count, double min_score, double max_overlap,
                    int64_t max_faces, float* faces, int64_t* found) {
  return Guarded([&] {
    if (!detector) return Refuse("detector: null; create it first");
    if (!image) return Refuse("image: null; give one");
    if (height < 1 || width < 1 || height > 1 << 20 || width > 1 << 20) {
      return Refuse("image: " + std::to_string(height) + "x" + std::to_string(width) +
                    " pixels is no size; give 1 to 1048576 rows and columns");
    }
    if (stride < width * kColours)
      return Refuse("image: rows " + std::to_string(stride) + " bytes apart overlap; copy the image");
    if (count < 0 || (count > 0 && !regions)) return Refuse("regions: null; give an array of them");
    for (Index i = 0; i < count; ++i) {
      const FaceflaxRegion& region = regions[i];
      const std::string where = "regions[" + std::to_string(i) + "]";
      const auto near = [](double value) { return value >= -kFar && value <= kFar; };  // false for NaN
      if (!near(region.left) || !near(region.top) || !(region.width > 0 && region.width <= kFar) ||
          !(region.height > 0 && region.height <= kFar)) {
        return Refuse(where + ": " + std::to_string(region.width) + "x" + std::to_string(region.height) +
                      " pixels from " + std::to_string(region.left) + ", " + std::to_string(region.top) +
                      " are no part of an image; give finite numbers up to 16777216, a width and a height above 0");
      }
      const std::string wrong = Fits(region.rows, region.columns);
      if (!wrong.empty()) return Refuse(where + ": " + wrong);
    }
    if (!(min_score >= 0 && min_score <= 1)) {
      return Refuse("min_score: " + std::to_string(min_score) + " is no score; give 0 to 1");
    }
    if (!(max_overlap >= 0 && max_overlap <= 1)) {
      return Refuse("max_overlap: " + std::to_string(max_overlap) + " is no share; give 0 to 1");
    }
    if (max_faces < 0 || max_faces > 1 << 20 || !found || (max_faces > 0 && !faces)) {
      return Refuse("max_faces: " + std::to_string(max_faces) + " faces, or no room for them; give 0 to 1048576");
    }
    std::string wrong;
    ThreadPool* pool = ThreadPool::Get(&wrong);
    if (!pool) return Refuse(wrong);
    std::vector<Face> all;
    for (Index first = 0, next; first < count; first = next) {
      std::vector<Source> sources;
      Index pixels = 0;
      for (next = first; next < count; ++next) {
        const Index more = regions[next].rows * regions[next].columns;
        if (next > first && pixels + more > kTogether) break;
        pixels += more;
        sources.emplace_back(image, height, width, stride, regions[next]);
      }
      std::vector<Input> inputs;
      for (Index i = first; i < next; ++i) {
        inputs.push_back({regions[i].rows, regions[i].columns, nullptr, &sources[i - first], {}});
      }
      if (!detector->Run(*pool, inputs)) throw std::bad_alloc();
      for (Index i = first; i < next; ++i) Decode(*detector, inputs[i - first], regions[i], i, min_score, all);
    }
    const std::vector<Face> kept = Best(std::move(all), max_overlap, max_faces);
    for (const Face& face : kept) {
      const double numbers[] = {face.left, face.top, face.width, face.height, face.score};
      faces = std::copy(std::begin(numbers), std::end(numbers), faces);
      faces = std::copy(std::begin(face.points), std::end(face.points), faces);
      *faces++ = face.region;
    }
    *found = kept.size();
    return 0;
  });
}
