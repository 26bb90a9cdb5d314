// Which padded positions read a pixel, where padding repeats pixels: the inverse of border_index.
#pragma once
#include "launch.cuh"

namespace pyconv::cuda {

// The pixel itself, then a run of positions before the image, then one behind it.
struct Readers {
  i64 pixel, before, before_count, after, after_count;

  __device__ i64 count() const { return 1 + before_count + after_count; }
  __device__ i64 at(i64 i) const {
    if (i == 0) return pixel;
    return i <= before_count ? before + i - 1 : after + i - 1 - before_count;
  }
};

__device__ inline Readers readers_of(const ConvProblem& p, int a, i64 i) {
  const i64 size = p.in[a], pad = p.pad[a], pad_after = p.pad_after[a];
  Readers r{i, 0, 0, 0, 0};
  if (p.border == Border::replicate) {
    if (i == 0) r.before = -pad, r.before_count = pad;
    if (i == size - 1) r.after = size, r.after_count = pad_after;
  } else if (p.border != Border::zeros) {
    switch (p.border) {
      case Border::reflect: r.before = -i, r.after = 2 * (size - 1) - i; break;
      case Border::symmetric: r.before = -1 - i, r.after = 2 * size - 1 - i; break;
      default: r.before = i - size, r.after = i + size;
    }
    r.before_count = r.before < 0 && r.before >= -pad;
    r.after_count = r.after >= size && r.after < size + pad_after;
  }
  return r;
}

}  // namespace pyconv::cuda
