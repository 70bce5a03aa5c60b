// Makes this translation unit's table; FACEFLAX_TABLE names it.

#include "batch_norm.h"
#include "convolution.h"
#include "depthwise.h"
#include "head.h"
#include "pooling.h"
#include "resize.h"
#include "winograd.h"

#if !defined(DOUBLE) && defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include "amx.h"
#define FACEFLAX_TILES &kTileKernels
#define FACEFLAX_SET "amx"
#else
#define FACEFLAX_TILES nullptr
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FACEFLAX_SET "avx512"
#elif defined(__AVX2__) && defined(__FMA__)
#define FACEFLAX_SET "avx2"
#elif defined(__SSE4_2__)
#define FACEFLAX_SET "sse4.2"
#elif defined(__aarch64__)
#define FACEFLAX_SET "neon"
#else
#define FACEFLAX_SET "baseline"
#endif
#endif

namespace faceflax {

extern const Kernels FACEFLAX_TABLE;
const Kernels FACEFLAX_TABLE = {FACEFLAX_SET,
                                Finite,
                                Convolve,
                                Winograd,
                                ConvolveGradient,
                                Depthwise,
                                DepthwiseGradient,
                                Pool,
                                PoolGradient,
                                AveragePool,
                                AveragePoolGradient,
                                Maxima,
                                MaximaGradient,
                                Blur,
                                BlurGradient,
                                Moments,
                                Normalise,
                                NormaliseSums,
                                NormaliseGradient,
                                Head,
                                HeadGradient,
                                Guide,
                                Spread,
                                AddDoubled,
                                WeighRows,
                                WeighColumns,
                                FACEFLAX_TILES};

}  // namespace faceflax
