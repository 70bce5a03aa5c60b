// Inference with whole networks: the C functions that faceflax/native/engine.py calls, without XLA.
//
// Calls return 0, or 1 with nothing computed; faceflax_problem() then says why. They may come from any number of
// threads at once, except that a network must not be in use when it is destroyed.

#ifndef FACEFLAX_NETWORK_H_
#define FACEFLAX_NETWORK_H_

#include <stdint.h>

#define FACEFLAX_API extern "C" __attribute__((visibility("default")))

// The layers' kinds and their weights, in C order:
enum FaceflaxKind {
  kFaceflaxConvolution,  // kernel [size, size, inputs, outputs], bias [outputs]; stride 1
  kFaceflaxSeparable,    // kernel [3, 3, inputs] depthwise, SAME; pointwise [inputs, outputs], bias
  kFaceflaxShortcut,     // kernel [inputs, outputs] and bias, of every second pixel both ways; for the next max-pool
  kFaceflaxMaxPool,      // none; 3x3, stride 2, SAME, plus the shortcut
  kFaceflaxAveragePool,  // none; 2x2, stride 2, SAME
  kFaceflaxHead,  // kernel [size, size, inputs, outputs] of size 1 or 3, SAME, and bias, then the mean over pixels
  kFaceflaxBlurredShortcut,  // as a shortcut, of pixels smoothed by (1, 2, 1) / 4 both ways, the edge repeated outwards
  kFaceflaxBlurredMaxPool,   // none; every second of the 3x3 maxima at all pixels, smoothed so, plus the shortcut
};

struct FaceflaxLayer {
  int32_t kind;
  int32_t relu;             // behind a convolution or a separable one
  int32_t same;             // whether a convolution is padded (SAME) or not (VALID)
  int32_t size;             // side of a kernel
  int64_t inputs, outputs;  // channels; of a pooling 0
  const float *kernel, *pointwise, *bias;
  int64_t kernel_count, pointwise_count, bias_count;  // how many numbers each has
};

struct FaceflaxNetwork;

// Images of one network, float32 [count, height, width, channels], and room for their logits [count, classes].
struct FaceflaxBatch {
  const FaceflaxNetwork* network;
  const float* images;
  int64_t count, height, width;
  float* logits;
};

// Checks the layers and keeps a packed copy of their weights.
FACEFLAX_API int faceflax_create(const FaceflaxLayer* layers, int64_t count, FaceflaxNetwork** network);
FACEFLAX_API void faceflax_destroy(FaceflaxNetwork* network);

// Evaluates several networks, each on images of its own, which all threads share.
FACEFLAX_API int faceflax_run(const FaceflaxBatch* batches, int64_t count);

// Evaluates a network and explains one class of each image, or the one with the highest logit if its target is -1, by
// guided backpropagation. `maps` has the images' shape. A network of images with other than 1 channel, 8, 16 or a
// multiple of 32 is refused; faceflax_explains says so beforehand.
FACEFLAX_API int faceflax_guided(const FaceflaxBatch* batch, const int32_t* targets, float* maps);
FACEFLAX_API int faceflax_explains(const FaceflaxNetwork* network);

// Why the calling thread's last call failed; until its next one.
FACEFLAX_API const char* faceflax_problem();

// Uses the instruction set of this name, or the best for an empty name, in networks made from now on and in all ops.
FACEFLAX_API int faceflax_select(const char* name);
FACEFLAX_API const char* faceflax_selected();  // its name, or null where the processor has none of the library's

FACEFLAX_API int faceflax_tiles();            // whether bfloat16 products can be computed here
FACEFLAX_API int faceflax_threads();          // how many threads calls share, or 0 where FACEFLAX_THREADS is wrong
FACEFLAX_API const char* faceflax_sources();  // a hash of the sources: which Python code fits

#endif  // FACEFLAX_NETWORK_H_
