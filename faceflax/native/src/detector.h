// Face detection: the C functions that faceflax/native/detector.py calls. What network.h says of calls holds here too.

#ifndef FACEFLAX_DETECTOR_H_
#define FACEFLAX_DETECTOR_H_

#include "network.h"

// The layers' kinds and their weights, in C order:
enum FaceflaxDetectorKind {
  kDetectorPatches,     // kernel [48, outputs] and bias, of patches of 4x4 pixels of the image
  kDetectorSeparable,   // kernel [3, 3, inputs] depthwise, SAME; pointwise [inputs, outputs], bias; plus `add`
  kDetectorPointwise,   // kernel [inputs, outputs] and bias
  kDetectorPool,        // none; maximum of 3x3, stride 2, SAME
  kDetectorDoubledSum,  // none; plus `add`, half as fine, each of whose pixels counts for 2x2
  kDetectorPlaces,      // kernel [inputs, 16] and bias: what the network says of each place, and a number unused
};

struct FaceflaxDetectorLayer {
  int32_t kind;
  int32_t relu;             // behind patches, a separable convolution with its sum, or a pointwise one
  int64_t from, add;        // the layers that it reads, earlier ones; -1 for the image, or for nothing to add
  int64_t inputs, outputs;  // channels; patches have 48 inputs
  const float *kernel, *pointwise, *bias;
  int64_t kernel_count, pointwise_count, bias_count;  // how many numbers each has
};

struct FaceflaxDetector;

// A part of an image, in pixels, that is searched; it may reach beyond it. It is resized to the network's input.
struct FaceflaxRegion {
  double left, top, width, height;
  int64_t rows, columns;  // multiples of 32
};

// Checks the layers and keeps a packed copy of their weights.
FACEFLAX_API int faceflax_detector_create(const FaceflaxDetectorLayer* layers, int64_t count,
                                          FaceflaxDetector** detector);
FACEFLAX_API void faceflax_detector_destroy(FaceflaxDetector* detector);

// How many places the network looks at in an input of this size, or -1 for a size that it cannot take.
FACEFLAX_API int64_t faceflax_detector_places(const FaceflaxDetector* detector, int64_t rows, int64_t columns);

// What the network says of images [count, rows, columns, 3] in [-1, 1]: 15 numbers of each place.
FACEFLAX_API int faceflax_detector_outputs(const FaceflaxDetector* detector, const float* images, int64_t count,
                                           int64_t rows, int64_t columns, float* outputs);

// Finds faces in regions of an image [height, width, 3] whose rows are `stride` bytes apart. `faces` has room for
// `max_faces` of 16 numbers: left, top, width and height of the box in pixels of the image, score, x and y of five
// landmarks, and the number of the region; the best score comes first. `found` is how many there are.
FACEFLAX_API int faceflax_detect(const FaceflaxDetector* detector, const uint8_t* image, int64_t height, int64_t width,
                                 int64_t stride, const FaceflaxRegion* regions, int64_t count, double min_score,
                                 double max_overlap, int64_t max_faces, float* faces, int64_t* found);

#endif  // FACEFLAX_DETECTOR_H_
