// Weight gradient of NHWC images with lanes along the channels of dy: a GEMM that needs no columns.
//
//   dw[k, c, tap] = sum over images and pixels of dy[k, o] * x[c, i(o, tap)]
//
// A register tile is a run of (tap of a line, c), which are neighbours in memory, by vectors of k:
// each element of the run is broadcast from where it lies, so that a pixel costs its products and a
// few loads. x is read in place or, where there is padding or a task takes only some channels, from
// a copy of a few lines with the border around them; dy in place where it has whole vectors.
//
// Parallel over groups, blocks of k, blocks of c and parts of the pixels. The number of parts is
// fixed by the problem and their sums are added in order; tiles are flushed into the task's sums
// after each block of pixels, which bounds the rounding error of long sums.
#pragma once
#include "direct_tile.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// With 32 registers 6 rows x 4 vectors, 9 x 3, 14 x 2 (the rest hold operands): at most 0.58 loads
// for each FMA, of which a core issues two a cycle. One vector alone reads its rows as operands.
constexpr int channel_vectors = vector_registers == 32 ? 4 : 3;
constexpr int channel_rows(int vectors) {
  return vectors == 1 ? vector_registers / 4 * 3 : (vector_registers - 1 - vectors) / vectors;
}

// How one of the two operands lies: elements from pixel to pixel, line to line, image to image.
struct Walk {
  i64 pixel, line, image;
};

// What comes next in memory, asked for a little with every pixel: a burst of requests would keep
// the loads of a tile waiting.
struct Stream {
  std::uintptr_t at;
  std::uintptr_t step;  // bytes
};

struct PixelBox {
  Walk x, dy;
  i64 images, lines, pixels;
  Stream ahead[2];
};

// sums[rows[r] + .] += sum over a box of x[r] * dy[.]
template <class T, int ROWS, int VECTORS>
PYCONV_NOINLINE void sum_channels(PixelBox& box, const T* x, const T* dy, const i64* rows,
                                  T* sums) {
  Vec<T> tile[ROWS][VECTORS];
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] = Vec<T>{}; });
  });
  Stream first = box.ahead[0], second = box.ahead[1];
  for (i64 image = 0; image < box.images; ++image)
    for (i64 line = 0; line < box.lines; ++line) {
      const T* left = x + image * box.x.image + line * box.x.line;
      const T* right = dy + image * box.dy.image + line * box.dy.line;
      for (i64 i = box.pixels; i > 0; --i, left += box.x.pixel, right += box.dy.pixel) {
        __builtin_prefetch(reinterpret_cast<const void*>(first.at), 0, 2);
        __builtin_prefetch(reinterpret_cast<const void*>(second.at), 0, 2);
        first.at += first.step;
        second.at += second.step;
        Vec<T> k[VECTORS];
        unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { k[v] = load_once(right + v * lanes<T>); });
        unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
          const Vec<T> c = VECTORS > 1 ? once<T>(splat(left[r])) : splat(left[r]);
          unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS { tile[r][v] += c * k[v]; });
        });
      }
    }
  box.ahead[0].at = first.at;
  box.ahead[1].at = second.at;
  unrolled<ROWS>([&](auto r) PYCONV_ALWAYS {
    T* to = sums + rows[r];
    unrolled<VECTORS>([&](auto v) PYCONV_ALWAYS {
      store(to + v * lanes<T>, load(to + v * lanes<T>) + tile[r][v]);
    });
  });
}

template <class T>
using SumChannels = void (*)(PixelBox&, const T*, const T*, const i64*, T*);

template <class T, int VECTORS>
PYCONV_INLINE SumChannels<T> sum_channels_of(int rows) {
  SumChannels<T> found = nullptr;
  unrolled<channel_rows(VECTORS)>([&](auto r) PYCONV_ALWAYS {
    if (rows == r + 1) found = sum_channels<T, r + 1, VECTORS>;
  });
  return found;
}

template <class T>
PYCONV_NOINLINE SumChannels<T> sum_channels_of(int rows, int vectors) {
  SumChannels<T> found = nullptr;
  unrolled<channel_vectors>([&](auto v) PYCONV_ALWAYS {
    if (vectors == v + 1) found = sum_channels_of<T, v + 1>(rows);
  });
  return found;
}

template <class T>
struct ChannelWeight {
  Correlation q;
  const T *dy, *x;
  int vectors;                   // of a panel of k
  i64 k, channels;               // of a task; k is whole panels
  i64 k_blocks, channel_blocks;  // tasks of a group
  i64 images, lines, columns;    // of a block of pixels; an "image" is one of the results of D
  i64 image_blocks, line_blocks, column_blocks;
  i64 parts, part_blocks;
  bool x_in_place, dy_in_place;
  i64 x_pitch;  // of pixels in a copy
  // Of a copy of x along H and W: source positions from element to element, elements from result to
  // result, elements. (A single tap skips what lies between its steps.)
  i64 apart[3], step[3], length[3];

  // Its sums and its copies must fit in 16 MB.
  static PYCONV_INLINE bool fits(const Correlation& q) {
    const ChannelWeight w(q, nullptr, nullptr);
    return q.taps() <= 1024 && w.scratch_elements() <= (16 << 20) / i64(sizeof(T));
  }

  ChannelWeight(const Correlation& of, const T* gradient, const T* source)
      : q(without_rows(of)), dy(gradient), x(source) {
    const i64 all = ceil_div(q.result_channels, lanes<T>);
    i64 panels = ceil_div(all, i64(channel_vectors));
    vectors = int(ceil_div(all, panels));
    panels = ceil_div(all, i64(vectors));
    const i64 width = vectors * lanes<T>;
    k_blocks = ceil_div(panels * width, 256);
    k = ceil_div(panels, k_blocks) * width;
    k_blocks = ceil_div(panels * width, k);
    channels = max_of<i64>(1, (1 << 18) / i64(sizeof(T)) / (q.taps() * k));  // 256 KB of sums
    channel_blocks = ceil_div(q.source_channels, min_of(channels, q.source_channels));
    channels = ceil_div(q.source_channels, channel_blocks);
    channel_blocks = ceil_div(q.source_channels, channels);

    // 32 KB of a panel of dy: an L1 cache keeps it beside a run of x.
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 most = (32 << 10) / width / i64(sizeof(T));
    column_blocks = ceil_div(W.count, most + most / 2);
    columns = ceil_div(W.count, column_blocks);
    column_blocks = ceil_div(W.count, columns);
    lines = max_of<i64>(1, min_of(H.count, most / columns));
    line_blocks = ceil_div(H.count, lines);
    lines = ceil_div(H.count, line_blocks);
    line_blocks = ceil_div(H.count, lines);
    x_pitch = channels + (scattered(channels) ? lanes<T> : 0);
    x_in_place = q.layout == Layout::nhwc && !scattered(q.source.axis[2]);
    for (const AxisMap& a : q.axis)
      x_in_place = x_in_place && a.first >= 0 && a.source(a.count - 1, a.taps - 1) < a.source_size;
    dy_in_place = q.layout == Layout::nhwc && q.result_channels % lanes<T> == 0;
    const bool whole = line_blocks == 1 && column_blocks == 1 && !(x_in_place && D.count > 1);
    images = whole ? min_of(max_of<i64>(1, most / (lines * columns)), q.n * D.count) : 1;
    images = max_of<i64>(1, images);
    image_blocks = ceil_div(q.n * D.count, images);
    const i64 results[3] = {1, lines, columns};
    for (int a = 0; a < 3; ++a) {
      const AxisMap& m = q.axis[a];
      apart[a] = a == 0 ? m.tap_step : m.taps == 1 ? m.step : 1;  // of D the planes of its taps
      step[a] = m.step / apart[a];
      length[a] = reach(a, results[a]);
    }

    const i64 tasks = q.groups * k_blocks * channel_blocks;
    const i64 blocks = image_blocks * line_blocks * column_blocks;
    const i64 filter_bytes = q.groups * q.weight_group * i64(sizeof(T));
    parts = max_of<i64>(1, min_of(min_of(16 / tasks, (8 << 20) / filter_bytes), blocks));
    part_blocks = max_of<i64>(1, ceil_div(blocks, parts));
    parts = max_of<i64>(1, ceil_div(blocks, part_blocks));
  }

  // Whether pixels lie so far apart that those of a block share few sets of an L1 cache.
  static PYCONV_INLINE bool scattered(i64 pixel) { return pixel * i64(sizeof(T)) % 1024 == 0; }

  // Elements of a copy that so many results along an axis need.
  PYCONV_INLINE i64 reach(int a, i64 results) const {
    const AxisMap& m = q.axis[a];
    return a == 0 ? m.taps : (results - 1) * step[a] + (m.taps - 1) * m.tap_step + 1;
  }
  i64 sums_elements() const { return channels * q.taps() * k; }
  i64 x_elements() const {  // and a vector, which a copy may write too much
    if (x_in_place) return 0;
    return round_up(images * length[0] * length[1] * length[2] * x_pitch + lanes<T>, 16);
  }
  i64 dy_elements() const { return dy_in_place ? 0 : images * lines * columns * k; }
  i64 scratch_elements() const {
    return sums_elements() + x_elements() + dy_elements() +
           round_up(channels * q.taps() * i64(sizeof(i64) / sizeof(T)), 16);
  }
  std::size_t scratch_bytes() const { return std::size_t(scratch_elements()) * sizeof(T); }
  std::size_t shared_bytes() const {
    return parts > 1 ? std::size_t(parts * q.groups * q.weight_group) * sizeof(T) : 0;
  }

  // Lines of one image of x, `c` channels from `from` on, with the border around them.
  void copy_x(const T* from, const i64 (&at)[3], const i64 (&results)[3], i64 c, T* to) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 pixel = q.source.axis[2];
    const T* end = x + q.n * q.source.n;
    const RowRun run(W.source_size, W.source(at[2], 0), apart[2], reach(2, results[2]));
    for (i64 jd = 0; jd < D.taps;
         ++jd, to += (length[1] - reach(1, results[1])) * length[2] * x_pitch)
      for (i64 i = 0; i < reach(1, results[1]); ++i, to += length[2] * x_pitch) {
        const i64 d = border_index(D.source(at[0], jd), D.source_size, q.border);
        const i64 h = border_index(H.source(at[1], 0) + i * apart[1], H.source_size, q.border);
        if (d < 0 || h < 0) {
          zero_run(run.count * x_pitch, to);
          continue;
        }
        const T* row = from + d * q.source.axis[0] + h * q.source.axis[1];
        zero_run(run.low * x_pitch, to);
        if (run.low < run.high) {
          const T* inside = row + (run.first + run.low * apart[2]) * pixel;
          const i64 some = run.high - run.low;
          if (c == pixel && c == x_pitch && apart[2] == 1)
            copy_run(inside, 1, some * c, end, to + run.low * c);
          else
            for (i64 e = 0; e < some; ++e)
              copy_run(inside + e * apart[2] * pixel, 1, c, end, to + (run.low + e) * x_pitch);
        }
        zero_run((run.count - run.high) * x_pitch, to + run.high * x_pitch);
        if (q.border == Border::zeros) continue;
        for (i64 e = 0; e < run.count; ++e) {
          if (e >= run.low && e < run.high) continue;
          const i64 w = border_index(run.first + e * run.step, W.source_size, q.border);
          for (i64 l = 0; l < c; ++l) to[e * x_pitch + l] = w < 0 ? T(0) : row[w * pixel + l];
        }
      }
  }

  // Results of one image as panels of vectors, [panel][pixel][vectors], `panel` elements apart.
  void copy_dy(const T* from, const i64 (&results)[3], i64 count, i64 panel, T* to) const {
    const i64 width = vectors * lanes<T>;
    for (i64 first = 0; first < count; first += width, to += panel) {
      const i64 some = min_of(width, count - first);
      T* pixel = to;
      for (i64 line = 0; line < results[1]; ++line) {
        const T* at = from + first + line * q.result.axis[1];
        for (i64 i = 0; i < results[2]; ++i, pixel += width, at += q.result.axis[2])
          for (i64 v = 0; v < width; v += lanes<T>)
            store(pixel + v, some - v >= lanes<T>
                                 ? load(at + v)
                                 : load_first(at + v, int(max_of<i64>(0, some - v))));
      }
    }
  }

  void run(i64 task, char* scratch, T* out) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 part = task % parts;
    task /= parts;
    const i64 c0 = task % channel_blocks * channels;
    task /= channel_blocks;
    const i64 k0 = task % k_blocks * k, group = task / k_blocks;
    const i64 some_k = min_of(k, q.result_channels - k0);
    const i64 c = min_of(channels, q.source_channels - c0), taps = q.taps();
    const i64 width = vectors * lanes<T>;

    i64* rows = reinterpret_cast<i64*>(scratch);
    T* sums = reinterpret_cast<T*>(scratch) +
              round_up(channels * taps * i64(sizeof(i64) / sizeof(T)), 16);
    T* x_copy = sums + sums_elements();
    T* dy_copy = x_copy + x_elements();
    zero_run(c * taps * k, sums);
    i64* row = rows;
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh)
        for (i64 jw = 0; jw < W.taps; ++jw)
          for (i64 e = 0; e < c; ++e) *row++ = (e * taps + q.weight_tap(jd, jh, jw)) * k;

    const T* source = x + (group * q.source_channels + c0) * q.source.c;
    const T* gradient = dy + (group * q.result_channels + k0) * q.result.c;
    const i64 pitch = x_in_place ? q.source.axis[2] : x_pitch;
    const bool together = pitch == c && W.tap_step == 1;
    const i64 length_of_run = together ? W.taps * c : c, runs = together ? 1 : W.taps;
    const i64 most_rows = channel_rows(vectors);
    const i64 tile = ceil_div(length_of_run, ceil_div(length_of_run, most_rows));
    const i64 line = length[2] * x_pitch, plane = length[1] * line;
    PixelBox box;
    i64 of_tap[3];
    if (x_in_place) {
      box.x = {W.step * q.source.axis[2], H.step * q.source.axis[1], q.source.n};
      for (int a = 0; a < 3; ++a) of_tap[a] = q.axis[a].tap_step * q.source.axis[a];
    } else {
      box.x = {step[2] * x_pitch, step[1] * line, length[0] * plane};
      of_tap[0] = plane, of_tap[1] = H.tap_step * line, of_tap[2] = W.tap_step * x_pitch;
    }
    const i64 last = min_of(image_blocks * line_blocks * column_blocks, (part + 1) * part_blocks);
    for (i64 block = part * part_blocks; block < last; ++block) {
      const i64 image = block / column_blocks / line_blocks * images;
      i64 at[3] = {0, block / column_blocks % line_blocks * lines, block % column_blocks * columns};
      const i64 results[3] = {1, min_of(lines, H.count - at[1]), min_of(columns, W.count - at[2])};
      box.images = min_of(images, q.n * D.count - image);
      box.lines = results[1], box.pixels = results[2];
      const T *left = x_copy, *right = dy_copy;
      i64 panel = width;
      if (dy_in_place) {
        box.dy = {q.result.axis[2], q.result.axis[1], q.result.n / D.count};
        right = gradient + image * box.dy.image + at[1] * box.dy.line + at[2] * box.dy.pixel;
      } else {
        const i64 pixels = results[1] * results[2];
        box.dy = {width, results[2] * width, pixels * width};
        panel = images * pixels * width;
      }
      for (i64 i = 0; i < box.images; ++i) {
        const i64 n = (image + i) / D.count;
        at[0] = (image + i) % D.count;
        if (!dy_in_place)
          copy_dy(gradient + n * q.result.n + at[0] * q.result.axis[0] + at[1] * q.result.axis[1] +
                      at[2] * q.result.axis[2],
                  results, some_k, panel, dy_copy + i * box.dy.image);
        const T* from = source + n * q.source.n;
        if (!x_in_place)
          copy_x(from, at, results, c, x_copy + i * box.x.image);
        else if (i == 0)
          left = from + D.source(at[0], 0) * q.source.axis[0] +
                 H.source(at[1], 0) * q.source.axis[1] + W.source(at[2], 0) * q.source.axis[2];
      }
      // The next block follows this one in memory where a task takes all channels.
      const i64 tiles =
          ceil_div(some_k, width) * D.taps * H.taps * runs * ceil_div(length_of_run, tile);
      const i64 steps = tiles * box.images * box.lines * box.pixels;
      const auto stream = [&](const T* end, i64 elements) {
        return Stream{reinterpret_cast<std::uintptr_t>(end),
                      std::uintptr_t(elements * i64(sizeof(T)) / steps)};
      };
      box.ahead[0] = box.ahead[1] = stream(right, 0);
      if (dy_in_place && some_k == q.result.axis[2]) {
        const i64 elements = box.images * box.lines * box.pixels * some_k;
        box.ahead[0] = stream(right + elements, elements);
      }
      if (x_in_place && c == q.source.axis[2]) {
        const i64 elements = box.images * box.lines * W.step * H.step * box.pixels * c;
        box.ahead[1] = stream(left + elements, elements);
      }
      for (i64 k1 = 0; k1 < some_k; k1 += width, right += panel) {
        const int some = int(min_of<i64>(vectors, ceil_div(some_k - k1, lanes<T>)));
        const SumChannels<T> whole = sum_channels_of<T>(int(tile), some);
        const SumChannels<T> rest = sum_channels_of<T>(int(length_of_run % tile), some);
        const i64* to = rows;
        for (i64 jd = 0; jd < D.taps; ++jd)
          for (i64 jh = 0; jh < H.taps; ++jh)
            for (i64 jw = 0; jw < runs; ++jw) {
              const T* from = left + jd * of_tap[0] + jh * of_tap[1] + jw * of_tap[2];
              for (i64 r = 0; r < length_of_run; r += tile) {
                const i64 count = min_of(tile, length_of_run - r);
                (count == tile ? whole : rest)(box, from + r, right, to, sums + k1);
                to += count;
              }
            }
      }
    }

    T* to = out + part * q.groups * q.weight_group + group * q.weight_group + k0 * q.weight_result +
            c0 * q.weight_source;
    for (i64 r = 0; r < c * taps; r += lanes<T>)
      transpose_rows(sums + r * k, k, int(min_of<i64>(lanes<T>, c * taps - r)), some_k, to + r,
                     q.weight_result);
  }

  void run(const Buffers& b) const {
    T* dw = static_cast<T*>(b.out);
    T* partial = parts > 1 ? reinterpret_cast<T*>(b.shared) : dw;
    parallel_for(q.groups * k_blocks * channel_blocks * parts, b.threads,
                 [&](i64 task, int thread) {
                   run(task, b.scratch + std::size_t(thread) * b.scratch_bytes, partial);
                 });
    if (parts > 1) add_parts(partial, parts, q.groups * q.weight_group, dw, b.threads);
  }
};

}  // namespace pyconv::PYCONV_TARGET
