// How a C function says why it failed. Compiled for any processor.

#ifndef FACEFLAX_STATUS_H_
#define FACEFLAX_STATUS_H_

#include <new>
#include <string>
#include <utility>

namespace faceflax {

extern thread_local std::string problem;  // of the calling thread's last call

inline int Refuse(std::string why) {
  problem = std::move(why);
  return 1;
}

// Runs a call's body; nothing may leave it but a status.
template <class Body>
int Guarded(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Refuse("memory: too little for this call; give fewer or smaller images");
  }
}

}  // namespace faceflax

#endif  // FACEFLAX_STATUS_H_
