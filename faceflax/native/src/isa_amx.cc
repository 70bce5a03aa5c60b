// AVX-512, and matrix tiles of bfloat16 products.
// FLAGS: -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mamx-tile -mamx-bf16

#define FACEFLAX_TABLE kAmx
#include "table.h"
