// x86-64-v4's vectors.
// FLAGS: -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl

#define FACEFLAX_TABLE kAvx512
#include "table.h"
