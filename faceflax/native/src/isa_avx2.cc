// x86-64-v3's vectors.
// FLAGS: -mavx2 -mfma

#define FACEFLAX_TABLE kAvx2
#include "table.h"
