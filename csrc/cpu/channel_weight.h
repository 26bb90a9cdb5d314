// Weight gradient with lanes along the channels of dy: a GEMM that needs no columns.
//
//   dw[k, c, tap] = sum over images and pixels of dy[k, o] * x[c, i(o, tap)]
//
// A register tile is a run of (tap of a line, c), which are neighbours in memory, by vectors of k:
// each element of the run is broadcast from where it lies, so that a pixel costs its products and a
// few loads. x is read in place or, where there is padding or a task takes only some channels, from
// a copy of a few lines with the border around them; dy in place where it has whole vectors. From
// NCHW both are copied, pixels turned into channels.
//
// Parallel over groups, blocks of k, blocks of c and parts of the pixels. The number of parts is
// fixed by the problem and their sums are added in order; tiles are flushed into the task's sums
// after each block of pixels, which bounds the rounding error of long sums.
#pragma once
#include "channel_weight_tile.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

template <class T>
struct ChannelWeight {
  Correlation q;
  const T *dy, *x;
  bool turned;                   // x and dy have changed places
  int vectors;                   // of a panel of k
  i64 k, channels;               // of a task; k is whole panels
  i64 k_blocks, channel_blocks;  // tasks of a group
  i64 images, lines, columns;    // of a block of pixels; an "image" is one of the results of D
  i64 image_blocks, line_blocks, column_blocks;
  i64 parts, part_blocks;
  // Vectors of dy that cross cache lines, as in most arrays of NumPy, are copied where 256 products
  // or more are made of each, 128 where pixels are scattered: dilated 256 to 256 at 28x28 204 to
  // 270 GFLOP/s (264 aligned), 1x1 from 1024 to 256 at 14x14 204 to 250; but the stem of 147
  // products 271 to 237. The plan does not know where dy will be.
  bool x_in_place, dy_in_place;
  i64 dy_elements;  // of such a copy
  i64 x_pitch;      // of pixels in a copy
  // Of a copy of x along H and W: source positions from element to element, elements from result to
  // result, elements. (A single tap skips what lies between its steps.)
  i64 apart[3], step[3], length[3];

  // Its sums and its copies must fit in 16 MB.
  static PYCONV_INLINE bool fits(const Correlation& q) {
    const ChannelWeight w(q, nullptr, nullptr);
    return q.taps() <= 1024 && w.scratch_elements() <= (16 << 20) / i64(sizeof(T));
  }

  ChannelWeight(const Correlation& of, const T* gradient, const T* source)
      : q(without_rows(of)), dy(gradient), x(source), turned(turns(q)) {
    if (turned) {
      dy = source;
      x = gradient;
      q = turn(q);
    }
    const i64 all = ceil_div(q.result_channels, lanes<T>);
    i64 panels = ceil_div(all, i64(channel_vectors));
    vectors = int(ceil_div(all, panels));
    panels = ceil_div(all, i64(vectors));
    const i64 width = vectors * lanes<T>;
    // At most 128 by 256 channels and 160 KB of sums, where they do not lie in dw. (256 by 256 and
    // 256 KB: 5 to 40 % slower for one image of 128 channels and more. But a 1x1 filter from 24 to
    // 144 channels lost a quarter where k was cut: what it reads once should be read in one piece.)
    k_blocks = ceil_div(panels * width, q.taps() == 1 ? 256 : 128);
    k = ceil_div(panels, k_blocks) * width;
    k_blocks = ceil_div(panels * width, k);
    channels = max_of<i64>(1, ((turned ? 1024 : 160) << 10) / i64(sizeof(T)) / (q.taps() * k));
    channel_blocks = ceil_div(q.source_channels, min_of<i64>(channels, turned ? 1024 : 256));
    if (channel_blocks > 1) channel_blocks = round_up(channel_blocks, 2);  // for two threads
    channels = ceil_div(q.source_channels, channel_blocks);
    if (channel_blocks > 1 && channels > 16) channels = round_up(channels, 8);
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
    x_in_place =
        !pixels_first(q.source, q.source_channels) && (turned || !scattered(q.source.axis[2]));
    for (const AxisMap& a : q.axis)
      x_in_place = x_in_place && a.first >= 0 && a.source(a.count - 1, a.taps - 1) < a.source_size;
    const bool whole_vectors = q.layout == Layout::nhwc && q.result_channels % lanes<T> == 0;
    const bool copy_pays = channels * q.taps() >= (scattered(q.result.axis[2]) ? 128 : 256);
    const bool aligned = reinterpret_cast<std::size_t>(dy) % (lanes<T> * sizeof(T)) == 0;
    dy_in_place = whole_vectors && (aligned || !copy_pays);
    const bool whole = line_blocks == 1 && column_blocks == 1 && !(x_in_place && D.count > 1);
    images = whole ? min_of(max_of<i64>(1, most / (lines * columns)), q.n * D.count) : 1;
    images = max_of<i64>(1, images);
    image_blocks = ceil_div(q.n * D.count, images);
    dy_elements = whole_vectors && !copy_pays ? 0 : images * lines * columns * k;
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
    // A part of fewer than four blocks costs more to add than it saves. (One image, 1x1: 256 to 512
    // at 28x28 239 GFLOP/s with 3 parts, 275 with one; 1024 to 256 at 14x14 152 in 7 tasks of 2
    // parts, 233 in 8 of one.)
    parts = min_of(ceil_div(i64(12), tasks), (8 << 20) / filter_bytes);
    parts = min_of(parts, max_of<i64>(tasks == 1 ? 2 : 1, blocks / 4));
    parts = max_of<i64>(1, min_of(parts, blocks));
    part_blocks = max_of<i64>(1, ceil_div(blocks, parts));
    parts = max_of<i64>(1, ceil_div(blocks, part_blocks));
  }

  // A 1x1 filter in NHWC: x and dy change places, so that lanes run along the channels of x and the
  // sums lie as dw does. It serves few channels to many (64 to 256 at 56x56, one image 198 to 256
  // GFLOP/s; 256 to 512 lost 12 %), and few pixels, whose sums would take longer to turn than to
  // make (one image, 320 to 1280 at 7x7 97 to 213; 576 to 96 at 14x14 lost 20 %).
  static PYCONV_INLINE bool turns(const Correlation& q) {
    for (const AxisMap& a : q.axis)
      if (a.taps > 1 || a.first != 0 || a.source(a.count - 1, 0) >= a.source_size) return false;
    const i64 c = q.source_channels;
    const bool few_channels = c <= 128 && q.result_channels >= 2 * c;
    const bool few_pixels = q.pixels() <= 256 && q.result_channels >= 128;
    return q.layout == Layout::nhwc && c % lanes<T> == 0 && (few_channels || few_pixels);
  }
  static PYCONV_INLINE Correlation turn(Correlation q) {
    const Strides source = q.source;
    const i64 channels = q.source_channels, weight = q.weight_source;
    q.source = q.result, q.result = source;
    q.source_channels = q.result_channels, q.result_channels = channels;
    q.weight_source = q.weight_result, q.weight_result = weight;
    for (int a = 0; a < 3; ++a) {
      q.result.axis[a] *= q.axis[a].step;
      q.axis[a].source_size = q.axis[a].count;
      q.axis[a].step = 1;
    }
    return q;
  }

  // Whether neighbours in memory are pixels, not channels.
  static PYCONV_INLINE bool pixels_first(const Strides& s, i64 channels) {
    return s.c != 1 && channels > 1;
  }
  // Whether pixels lie so far apart that those of a block share few sets of an L1 cache: a copy of
  // x then gains 8 to 10 % (1x1 from 256 and 1024 channels), one of dy nothing.
  static PYCONV_INLINE bool scattered(i64 pixel) { return pixel * i64(sizeof(T)) % 1024 == 0; }

  // Elements of a copy that so many results along an axis need.
  PYCONV_INLINE i64 reach(int a, i64 results) const {
    const AxisMap& m = q.axis[a];
    return a == 0 ? m.taps : (results - 1) * step[a] + (m.taps - 1) * m.tap_step + 1;
  }
  i64 sums_elements() const { return turned ? 0 : channels * q.taps() * k; }
  i64 x_elements() const {  // and a vector, which a copy may write too much
    if (x_in_place) return 0;
    return round_up(images * length[0] * length[1] * length[2] * x_pitch + lanes<T>, 16);
  }
  i64 scratch_elements() const {
    return sums_elements() + x_elements() + dy_elements +
           round_up(channels * q.taps() * i64(sizeof(i64) / sizeof(T)), 16);
  }

  // Lines of one image of x, `c` channels from `from` on, with the border around them.
  void copy_x(const T* from, const i64 (&at)[3], const i64 (&results)[3], i64 c, T* to) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const i64 pixel = q.source.axis[2];
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
          copy_pixels(inside, apart[2] * pixel, run.high - run.low, c, to + run.low * x_pitch);
        }
        zero_run((run.count - run.high) * x_pitch, to + run.high * x_pitch);
        if (q.border == Border::zeros) continue;
        for (i64 e = 0; e < run.count; ++e) {
          if (e >= run.low && e < run.high) continue;
          const i64 w = border_index(run.first + e * run.step, W.source_size, q.border);
          for (i64 l = 0; w >= 0 && l < c; ++l)
            to[e * x_pitch + l] = row[w * pixel + l * q.source.c];
        }
      }
  }

  // Pixels `step` elements apart, `c` channels of each.
  PYCONV_INLINE void copy_pixels(const T* from, i64 step, i64 count, i64 c, T* to) const {
    const T* end = x + q.n * q.source.n;
    if (!pixels_first(q.source, q.source_channels)) {
      if (step == c && c == x_pitch) return copy_run(from, 1, count * c, end, to);
      for (i64 e = 0; e < count; ++e) copy_run(from + e * step, 1, c, end, to + e * x_pitch);
    } else if (step == 1) {
      for (i64 l = 0; l < c; l += lanes<T>)
        transpose_rows(from + l * q.source.c, q.source.c, int(min_of<i64>(lanes<T>, c - l)), count,
                       to + l, x_pitch);
    } else {
      for (i64 e = 0; e < count; ++e)
        for (i64 l = 0; l < c; ++l) to[e * x_pitch + l] = from[e * step + l * q.source.c];
    }
  }

  // Results of one image as panels of vectors, [panel][pixel][vectors], `panel` elements apart.
  void copy_dy(const T* from, const i64 (&results)[3], i64 count, i64 panel, T* to) const {
    const i64 width = vectors * lanes<T>;
    for (i64 first = 0; first < count; first += width, to += panel) {
      const i64 some = min_of(width, count - first);
      T* pixel = to;
      for (i64 line = 0; line < results[1]; ++line) {
        const T* at = from + first * q.result.c + line * q.result.axis[1];
        if (q.result.c != 1) {
          i64 run = results[2];
          if (run == q.result.axis[1]) run *= results[1], line = results[1];
          for (i64 v = 0; v < some; v += lanes<T>)
            transpose_rows(at + v * q.result.c, q.result.c, int(min_of<i64>(lanes<T>, some - v)),
                           run, pixel + v, width, lanes<T>);
          pixel += run * width;
          continue;
        }
        for (i64 i = 0; i < results[2]; ++i, pixel += width, at += q.result.axis[2])
          for (i64 v = 0; v < some; v += lanes<T>)
            store(pixel + v,
                  some - v >= lanes<T> ? load(at + v) : load_first(at + v, int(some - v)));
      }
    }
  }

  // A block of pixels, its image `i`.
  struct Block {
    i64 n, images;
    i64 at[3], results[3];
  };
  Block place(i64 block, i64 i = 0) const {
    const i64 D = q.axis[0].count, image = block / column_blocks / line_blocks * images + i;
    Block b{image / D, min_of(images, q.n * D - image), {image % D}, {1}};
    b.at[1] = block / column_blocks % line_blocks * lines;
    b.at[2] = block % column_blocks * columns;
    b.results[1] = min_of(lines, q.axis[1].count - b.at[1]);
    b.results[2] = min_of(columns, q.axis[2].count - b.at[2]);
    return b;
  }
  static PYCONV_INLINE i64 offset(const Strides& s, const Block& b) {
    return b.n * s.n + b.at[0] * s.axis[0] + b.at[1] * s.axis[1] + b.at[2] * s.axis[2];
  }

  // What a block of NCHW will copy: a few lines of every channel. (12 to 40 % at 56 x 56 and
  // above.)
  void list_ahead(i64 block, const T* gradient, i64 some_k, const T* source, i64 c, i64 tiles,
                  Ahead<T> (&next)[2]) const {
    const Block b = place(block);
    const AxisMap &H = q.axis[1], &W = q.axis[2];
    const i64 h = max_of<i64>(0, H.source(b.at[1], 0)), w = max_of<i64>(0, W.source(b.at[2], 0));
    const i64 rest = (H.source_size - h) * q.source.axis[1] - w;
    if (h >= H.source_size || rest <= 0) return;
    const auto size = [&](const Strides& s, i64 high, i64 wide) {
      return b.results[1] > 1 ? high * s.axis[1] : wide;
    };
    next[0] = {gradient + offset(q.result, b), size(q.result, b.results[1], b.results[2]),
               q.result.c, some_k, tiles};
    next[1] = {source + b.n * q.source.n + h * q.source.axis[1] + w,
               min_of(rest, size(q.source, b.results[1] * H.step, b.results[2] * W.step)),
               q.source.c, c, tiles};
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
    T* own = reinterpret_cast<T*>(scratch) +
             round_up(channels * taps * i64(sizeof(i64) / sizeof(T)), 16);
    T* x_copy = own + sums_elements();
    T* to = out + part * q.groups * q.weight_group + group * q.weight_group + k0 * q.weight_result +
            c0 * q.weight_source;
    T* sums = turned ? to : own;  // lanes of a row are neighbours there
    const i64 sums_row = turned ? q.weight_source : k;
    T* dy_copy = x_copy + x_elements();
    i64* row = rows;
    for (i64 jd = 0; jd < D.taps; ++jd)
      for (i64 jh = 0; jh < H.taps; ++jh)
        for (i64 jw = 0; jw < W.taps; ++jw)
          for (i64 e = 0; e < c; ++e) *row++ = (e * taps + q.weight_tap(jd, jh, jw)) * sums_row;

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
    for (i64 r = 0; r < c * taps && q.n == 0; ++r) zero_run(some_k, sums + r * sums_row);
    const i64 last = min_of(image_blocks * line_blocks * column_blocks, (part + 1) * part_blocks);
    for (i64 block = part * part_blocks; block < last; ++block) {
      const Block at = place(block);
      const i64 pixels = at.results[1] * at.results[2];
      box.images = at.images, box.lines = at.results[1], box.pixels = at.results[2];
      box.add = block > part * part_blocks;
      const T *left = x_copy, *right = dy_copy;
      i64 panel = width;
      if (dy_in_place) {
        box.dy = {q.result.axis[2], q.result.axis[1], q.result.n / D.count};
        right = gradient + offset(q.result, at);
      } else {
        box.dy = {width, at.results[2] * width, pixels * width};
        panel = at.images * pixels * width;
      }
      for (i64 i = 0; i < at.images; ++i) {
        const Block one = place(block, i);
        if (!dy_in_place)
          copy_dy(gradient + offset(q.result, one), one.results, some_k, panel,
                  dy_copy + i * box.dy.image);
        if (!x_in_place)
          copy_x(source + one.n * q.source.n, one.at, one.results, c, x_copy + i * box.x.image);
      }
      if (x_in_place)
        left = source + at.n * q.source.n + D.source(at.at[0], 0) * q.source.axis[0] +
               H.source(at.at[1], 0) * q.source.axis[1] + W.source(at.at[2], 0) * q.source.axis[2];

      // What lies in place continues in memory where a task takes all channels.
      const i64 tiles =
          ceil_div(some_k, width) * D.taps * H.taps * runs * ceil_div(length_of_run, tile);
      const auto stream = [&](const T* from, bool all, i64 elements) {
        const i64 bytes = all ? elements * i64(sizeof(T)) : 0;
        return Stream{reinterpret_cast<std::size_t>(from) + std::size_t(bytes),
                      std::size_t(bytes / (tiles * at.images * pixels))};
      };
      box.ahead[0] =
          stream(gradient + offset(q.result, at), q.result.c == 1 && some_k == q.result.axis[2],
                 at.images * pixels * some_k);
      box.ahead[1] = stream(left, x_in_place && c == q.source.axis[2],
                            at.images * pixels * W.step * H.step * c);
      Ahead<T> next[2];
      if (q.layout == Layout::nchw && block + 1 < last)
        list_ahead(block + 1, gradient, some_k, source, c, tiles, next);
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
                next[0].fetch();
                next[1].fetch();
              }
            }
      }
    }

    for (i64 r = 0; r < c * taps && !turned; r += lanes<T>)
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
