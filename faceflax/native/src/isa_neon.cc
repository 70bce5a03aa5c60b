// aarch64, of which NEON is a part.
// FLAGS:

#define FACEFLAX_TABLE kNeon
#include "table.h"
