// parallel_for: the only file that knows OpenMP.
//
// Results never depend on the number of threads: a task computes the same numbers whoever runs it,
// and no sum is split by thread. Bodies must not throw (a kernel gets checked sizes and its
// scratch).
#pragma once
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "vec.h"

namespace pyconv::PYCONV_TARGET {

// body(task, thread) for every task in [0, tasks), in chunks handed out as threads become free: the
// cores of a shared machine seldom run equally fast.
template <class Body>
PYCONV_INLINE void parallel_for(i64 tasks, int threads, Body&& body) {
#if defined(_OPENMP)
  if (threads > 1 && tasks > 1) {
    const int team = int(min_of<i64>(threads, tasks));
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (i64 task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
    return;
  }
#endif
  (void)threads;
  for (i64 task = 0; task < tasks; ++task) body(task, 0);
}

}  // namespace pyconv::PYCONV_TARGET
