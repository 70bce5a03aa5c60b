// All that the compiling machine has; for a library that is built where it is used.
// FLAGS: -march=native

#define FACEFLAX_TABLE kNative
#include "table.h"
