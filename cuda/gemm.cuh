// What implicit GEMMs share: where a source element lies, of which a filter place and a pixel place
// each know half, and how blocks are numbered.
#pragma once
#include "direct.cuh"

namespace pyconv::cuda {

// Half of a source element's place, and the place in the other array that goes with it.
struct Place {
  i64 other, source, at[3];
};

// Of source channel and tap `index` of a group; other: in w.
__device__ inline Place filter_place(const Correlation& q, i64 index) {
  i64 c = 0, j[3];
  if (q.layout == Layout::nhwc) c = take(index, q.source_channels);
  for (int a = 2; a >= 0; --a) j[a] = take(index, q.axis[a].taps);
  if (q.layout == Layout::nchw) c = index;
  Place place{c * q.weight_source + q.weight_tap(j[0], j[1], j[2]), c * q.source.c, {}};
  for (int a = 0; a < 3; ++a) place.at[a] = j[a] * q.axis[a].tap_step;
  return place;
}

// Of result pixel `index` of a phase; other: in the result, or in dy.
__device__ inline Place pixel_place(const Correlation& q, i64 index) {
  Place place{0, 0, {}};
  for (int a = 2; a >= 0; --a) {
    const AxisMap& axis = q.axis[a];
    const i64 o = take(index, axis.count);
    place.other += (axis.result_first + o * axis.result_step) * q.result.axis[a];
    place.at[a] = axis.first + o * axis.step;
  }
  place.other += index * q.result.n;
  place.source = index * q.source.n;
  return place;
}

// What the gather needs of a Correlation, in registers.
template <class T>
struct Source {
  const T* from;
  i64 size[3], stride[3];
  Border border;

  // -1: a zero of the padding.
  __device__ i64 offset(const Place& a, const Place& b) const {
    i64 offset = a.source + b.source;
    for (int axis = 0; axis < 3; ++axis) {
      i64 i = a.at[axis] + b.at[axis];
      if (i < 0 || i >= size[axis]) {
        if (border == Border::zeros) return -1;
        i = border_index(i, size[axis], border);
      }
      offset += i * stride[axis];
    }
    return offset;
  }
  __device__ T load(const Place& a, const Place& b) const {
    const i64 at = offset(a, b);
    return at < 0 ? T(0) : from[at];
  }
};

template <class T>
__device__ inline Source<T> source_of(const Correlation& q, const T* group) {
  return {group,
          {q.axis[0].source_size, q.axis[1].source_size, q.axis[2].source_size},
          {q.source.axis[0], q.source.axis[1], q.source.axis[2]},
          q.border};
}

// Blocks count, fastest first: row tiles, column tiles, groups, splits; then phases.
struct Grid {
  i64 phase_blocks, row_tiles, column_tiles, split_steps, filters;
};

}  // namespace pyconv::cuda
