// x86-64-v2.
// FLAGS: -msse4.2 -mpopcnt

#define FACEFLAX_TABLE kSse42
#include "table.h"
