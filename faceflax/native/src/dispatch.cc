#include "dispatch.h"

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace faceflax {

// The build defines FACEFLAX_HAS_... for each translation unit isa_*.cc that it links.
extern const Kernels kSse42, kAvx2, kAvx512, kAmx, kNeon, kNative;

namespace {

constexpr const char* kNames[] = {"amx", "avx512", "avx2", "sse4.2", "neon"};  // the best first

#if defined(__x86_64__)

struct Cpu {
  unsigned one_c = 0, seven_b = 0, seven_d = 0, seven_one_a = 0;
  uint64_t saved = 0;  // the registers that the operating system saves

  Cpu() {
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d)) one_c = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
      seven_b = b, seven_d = d;
      if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) seven_one_a = a;
    }
    if (one_c >> 27 & 1) {  // OSXSAVE
      unsigned low, high;
      asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      saved = static_cast<uint64_t>(high) << 32 | low;
    }
  }
};

bool Has(const std::string& name) {
  static const Cpu cpu;
  const auto bits = [](unsigned word, std::initializer_list<int> wanted) {
    for (int bit : wanted) {
      if (!(word >> bit & 1)) return false;
    }
    return true;
  };
  const auto saves = [](uint64_t mask) { return (cpu.saved & mask) == mask; };
  if (name == "sse4.2") return bits(cpu.one_c, {0, 9, 19, 20, 23});  // SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT
  if (name == "avx2") return bits(cpu.one_c, {12, 28}) && bits(cpu.seven_b, {5}) && saves(0x6);    // FMA, AVX; AVX2
  if (name == "avx512") return Has("avx2") && bits(cpu.seven_b, {16, 17, 30, 31}) && saves(0xe6);  // F, DQ, BW, VL
  if (name == "amx") {  // AMX-BF16, AMX-TILE; AVX512-BF16
    return Has("avx512") && bits(cpu.seven_d, {22, 24}) && bits(cpu.seven_one_a, {5}) && saves(0x60000);
  }
  return false;
}

#elif defined(__aarch64__)
bool Has(const std::string& name) { return name == "neon"; }
#else
bool Has(const std::string&) { return false; }
#endif

const Kernels* Linked(const std::string& name) {
  const Kernels* const all[] = {
#ifdef FACEFLAX_HAS_AMX
      &kAmx,
#endif
#ifdef FACEFLAX_HAS_AVX512
      &kAvx512,
#endif
#ifdef FACEFLAX_HAS_AVX2
      &kAvx2,
#endif
#ifdef FACEFLAX_HAS_SSE42
      &kSse42,
#endif
#ifdef FACEFLAX_HAS_NEON
      &kNeon,
#endif
#ifdef FACEFLAX_HAS_NATIVE
      &kNative,
#endif
  };
  for (const Kernels* kernels : all) {
    if (name == kernels->name) return kernels;
  }
  return nullptr;
}

std::atomic<const Kernels*> active{nullptr};

}  // namespace

const Kernels* Active() {
  const Kernels* kernels = active.load(std::memory_order_acquire);
  std::string problem;
  return kernels || !Select("", &problem) ? kernels : active.load();
}

bool Select(const std::string& name, std::string* problem) {
  std::string usable;
  bool known = name.empty();
  for (const char* each : kNames) {
    known = known || name == each;
    const Kernels* kernels = Has(each) ? Linked(each) : nullptr;
    if (!kernels) continue;
    if (name.empty() || name == each) {
      active.store(kernels, std::memory_order_release);
      return true;
    }
    usable += usable.empty() ? each : std::string(", ") + each;
  }
  if (name.empty()) {
    *problem = "this processor has none of the instruction sets that the library is compiled for";
  } else {
    *problem =
        "FACEFLAX_ISA: '" + name + (known ? "' is not in this processor, or not in this library" : "' is unknown") +
        (usable.empty() ? "; leave it unset" : "; give one of: " + usable + ", or leave it unset for the best of them");
  }
  return false;
}

const TileKernels* Tiles() {
  const Kernels* kernels = Active();
  if (!kernels || !kernels->tiles) return nullptr;
#if defined(__linux__) && defined(__x86_64__)
  // Linux gives a process the tiles' state on request.
  static const bool permitted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
  return permitted ? kernels->tiles : nullptr;
#else
  return nullptr;
#endif
}

}  // namespace faceflax
