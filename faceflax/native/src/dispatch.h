// Which instruction set computes: the best that both this library and the processor have, or a lower one on request.

#ifndef FACEFLAX_DISPATCH_H_
#define FACEFLAX_DISPATCH_H_

#include <string>

#include "kernels.h"

namespace faceflax {

// The kernels in use, or null where the processor has no instruction set of this library's.
const Kernels* Active();

// Makes the set of this name the one in use, or the best one for an empty name. False, with a line that says why.
bool Select(const std::string& name, std::string* problem);

// Tile kernels, where the set in use has them and the operating system lets this process use the tiles; else null.
const TileKernels* Tiles();

}  // namespace faceflax

#endif  // FACEFLAX_DISPATCH_H_
