// Which tables this machine can run. A line each here and in CMakeLists.txt adds an instruction
// set.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "plan.h"

namespace pyconv {

#define PYCONV_DECLARE(name)          \
  namespace name {                    \
  extern const Kernels kernels_table; \
  }
#if defined(__x86_64__)
PYCONV_DECLARE(avx512)
PYCONV_DECLARE(avx2)
#endif
PYCONV_DECLARE(baseline)

namespace {

struct Tables {
  const Kernels* table[4];
  int count = 0;

  Tables() {
#if defined(__x86_64__)
    __builtin_cpu_init();  // asks the processor and (xgetbv) the operating system
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      table[count++] = &avx512::kernels_table;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      table[count++] = &avx2::kernels_table;
    if (__builtin_cpu_supports("sse4.2")) table[count++] = &baseline::kernels_table;
#else
    table[count++] = &baseline::kernels_table;
#endif
  }
};

const Tables& tables() {
  static const Tables all;
  return all;
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* find(const std::string& name, const std::string& who) {
  std::string names;
  for (int i = 0; i < tables().count; ++i) {
    if (name == tables().table[i]->name) return tables().table[i];
    names += (i ? ", " : "") + std::string(tables().table[i]->name);
  }
  throw ValueError(who + " (=\"" + name + "\") is not an instruction set this machine runs (" +
                   names + ")");
}

}  // namespace

int target_count() {
  return tables().count;
}

const Kernels& target(int i) {
  return *tables().table[i];
}

const Kernels& current_target() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (table) return *table;
  const char* name = std::getenv("PYCONV_TARGET");
  if (tables().count == 0) throw ValueError("pyconv needs a processor with SSE4.2 (x86-64-v2)");
  table = name && *name ? find(name, "PYCONV_TARGET") : tables().table[0];
  chosen.store(table, std::memory_order_relaxed);
  return *table;
}

void set_target(const char* name) {
  chosen.store(find(name, "target"), std::memory_order_relaxed);
}

}  // namespace pyconv
