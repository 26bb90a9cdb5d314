// im2col + blocked GEMM for all three passes: C[m, n] = sum over depth of A[m, .] B[., n].
//
//   forward, input gradient   A = weights, B = columns (NCHW: lanes run along pixels)
//                             A = columns, B = weights (NHWC: lanes run along channels)
//   weight gradient           the depth runs over the pixels of all images, see gemm_weight.h
//
// Parallel over groups x blocks of pixels x blocks of channels. NCHW: a task gathers its columns
// for a block of the depth at a time. NHWC: the micro-kernel reads pixels where they lie, through a
// table of pointers, one for each pixel and tap; with few channels they are gathered as well. The
// register tile is flushed into the task's sums after each block of the depth, which bounds the
// rounding error of long sums, and every element is summed in the same order wherever it lies:
// results depend on neither batch nor threads.
// Loops as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008;
// the table is that of Dukhan, "The indirect convolution algorithm", 2019.
#pragma once
#include "border.h"
#include "epilogue.h"
#include "gemm_tile.h"
#include "im2col.h"
#include "reduce.h"
#include "transpose.h"

namespace pyconv::PYCONV_TARGET {

// The right side's panel for a block of the depth: 48 floats * 160 are 30 KB, an L1 cache.
constexpr i64 panel_bytes = 30 * 1024;
template <class T>
constexpr i64 depth_block = panel_bytes / (tile_columns<T> * i64(sizeof(T))) / 16 * 16;
constexpr i64 most_pixels = 192;    // of a task
constexpr i64 most_channels = 512;  // of a task

// Few channels a tap make short loops: then columns are gathered.
PYCONV_INLINE bool reads_in_place(const Correlation& q) {
  return q.layout == Layout::nhwc && q.source_channels >= 16 && q.source_channels <= 1 << 16 &&
         q.taps() <= 1024;
}

// A side of `size`, its full vectors spread evenly over as few panels as there can be.
template <class T>
PYCONV_INLINE Side even_side(i64 size) {
  const i64 panels = max_of<i64>(1, ceil_div(size, tile_columns<T>));
  return {size, max_of<i64>(lanes<T>, round_up(ceil_div(size, panels), lanes<T>)), lanes<T>};
}

// The result channels of a group, as its weights are packed.
template <class T>
PYCONV_INLINE Side channel_side(const Correlation& q) {
  return q.layout == Layout::nhwc ? even_side<T>(q.result_channels)
                                  : row_side<T>(q.result_channels);
}

// How a phase is cut into tasks, and the depth into blocks.
template <class T>
struct GemmBlocks {
  bool channels_last, in_place;
  Side pixels, channels;  // of one task; the last ones may be smaller
  i64 pixel_blocks, channel_blocks;
  i64 steps, segments;  // of a block of the depth: segments of `steps` each
  i64 pitch;            // of the gathered columns

  PYCONV_INLINE const Side& rows() const { return channels_last ? pixels : channels; }
  PYCONV_INLINE const Side& vectors() const { return channels_last ? channels : pixels; }

  explicit GemmBlocks(const Correlation& q)
      : channels_last(q.layout == Layout::nhwc), in_place(reads_in_place(q)) {
    const Side all = channel_side<T>(q);
    const i64 pixel_width = channels_last ? tile_rows : tile_columns<T>;
    pixel_blocks = max_of<i64>(1, ceil_div(q.pixels(), round_up(most_pixels, pixel_width)));
    const i64 pixel_size =
        round_up(ceil_div(max_of<i64>(1, q.pixels()), pixel_blocks), pixel_width);
    pixel_blocks = ceil_div(q.pixels(), pixel_size);
    i64 panels = max_of<i64>(1, min_of(all.panels(), most_channels / all.width));
    // Few pixels: smaller blocks of channels until there is work for several threads.
    while (q.groups * pixel_blocks * ceil_div(all.panels(), panels) < 16 && panels > 1)
      panels = (panels + 1) / 2;
    channel_blocks = ceil_div(all.panels(), panels);
    const i64 channel_size = panels * all.width;
    pixels = channels_last ? row_side<T>(pixel_size) : column_side<T>(pixel_size);
    channels = {channel_size, all.width, all.round};
    const i64 c = q.source_channels, most = depth_block<T>;
    segments = in_place ? max_of<i64>(1, most / c) : 1;
    const i64 whole = in_place ? c : q.depth();
    steps = ceil_div(whole, ceil_div(whole, most));
    pitch = round_up(channels_last ? steps : pixel_size, lanes<T>) + lanes<T>;
  }

  // Columns, or the table and the zeros that it points to outside the image.
  i64 column_bytes(const Correlation& q) const {
    const i64 bytes =
        in_place ? pixels.size * q.taps() * i64(sizeof(void*)) + q.source_channels * i64(sizeof(T))
                 : (channels_last ? pixels.size : steps) * pitch * i64(sizeof(T));
    return round_up(bytes, 64) + 64;
  }
};

template <class T>
i64 packed_group_elements(const Correlation& q) {
  return channel_side<T>(q).total() * q.depth();
}

// The border's gradients read w as it is: a copy of it then ends the packed weights.
PYCONV_INLINE i64 copied_weights(const ConvProblem& p, Pass pass) {
  const bool copied = pass == Pass::bwd_data && p.border != Border::zeros;
  return copied ? p.k * p.c_per_group() * p.taps() : 0;
}

template <class T>
std::size_t gemm_packed_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) return 0;
  i64 elements = copied_weights(p, pass);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase)
    elements += p.groups * packed_group_elements<T>(correlation(p, pass, phase));
  return std::size_t(elements) * sizeof(T);
}

// Rows of w become columns faster by squares, all taps together and source channels as they lie;
// not where lanes are neighbours in w already, nor in panels of 8 rows. (One Sapphire Rapids core,
// 512 to 512 channels of 3x3 on one image of 7x7, NHWC: 3.16 ms, now 2.50; input gradient 3.21 and
// 2.95. In NCHW the input gradient took 9.4 ms instead of 6.7.)
constexpr i64 turned_rows = 64;
PYCONV_INLINE bool turns_rows(const Correlation& q, i64 all) {
  return all <= turned_rows && q.weight_result > 1 && (all == 1 || q.layout == Layout::nhwc);
}

// One panel: `valid` results of the `stored`; `all` taps a channel in w.
template <class T>
void pack_turned(const Correlation& q, i64 all, const T* w, i64 valid, i64 stored, T* out) {
  i64 tap_of[turned_rows];
  for (i64 raw = 0; raw < all; ++raw) tap_of[raw] = -1;
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  for (i64 tap = 0; tap < q.taps(); ++tap)
    tap_of[q.weight_tap(tap / W.taps / H.taps, tap / W.taps % H.taps, tap % W.taps)] = tap;
  const i64 channels = q.source_channels;
  const i64 together = q.weight_source == all ? turned_rows / all : 1;
  T turned[turned_rows * tile_columns<T>];
  for (i64 c0 = 0; c0 < channels; c0 += together) {
    const i64 some = min_of(together, channels - c0);
    T* to = all == 1 ? out + c0 * stored : turned;
    for (i64 r = 0; r < stored; r += lanes<T>)
      transpose_rows(w + c0 * q.weight_source + min_of(r, valid - 1) * q.weight_result,
                     q.weight_result, int(max_of<i64>(0, min_of<i64>(lanes<T>, valid - r))),
                     some * all, to + r, stored, int(min_of<i64>(lanes<T>, stored - r)));
    for (i64 c = 0; c < some && all > 1; ++c)
      for (i64 raw = 0; raw < all; ++raw) {
        const i64 tap = tap_of[raw];
        if (tap < 0) continue;
        __builtin_memcpy(out + (tap * channels + c0 + c) * stored,
                         turned + (c * all + raw) * stored, std::size_t(stored) * sizeof(T));
      }
  }
}

// Weights as panels [panel][depth][width], every group of every phase after the other.
template <class T>
void gemm_pack(const ConvProblem& p, Pass pass, const void* weights, void* packed, int threads) {
  const T* w = static_cast<const T*>(weights);
  T* to = static_cast<T*>(packed);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    const bool channels_last = p.layout == Layout::nhwc;
    const Side side = channel_side<T>(q);
    const i64 depth = q.depth(), taps = q.taps(), group_elements = packed_group_elements<T>(q);
    parallel_for(q.groups * side.panels(), threads, [&](i64 task, int) {
      const i64 group = task / side.panels(), panel = task % side.panels();
      const i64 valid = side.valid(panel), stored = side.stored(panel);
      const T* from = w + group * q.weight_group + panel * side.width * q.weight_result;
      T* out = to + group * group_elements + panel * side.width * depth;
      if (turns_rows(q, p.taps())) return pack_turned(q, p.taps(), from, valid, stored, out);
      for (i64 tap = 0; tap < taps; ++tap) {
        const i64 jw = tap % q.axis[2].taps, rest = tap / q.axis[2].taps;
        const T* at = from + q.weight_tap(rest / q.axis[1].taps, rest % q.axis[1].taps, jw);
        for (i64 c = 0; c < q.source_channels; ++c) {
          const i64 k = channels_last ? tap * q.source_channels + c : c * taps + tap;
          T* row = out + k * stored;
          for (i64 i = 0; i < valid; ++i) row[i] = at[c * q.weight_source + i * q.weight_result];
          for (i64 i = valid; i < stored; ++i) row[i] = T(0);
        }
      }
    });
    to += q.groups * group_elements;
  }
  __builtin_memcpy(to, w, std::size_t(copied_weights(p, pass)) * sizeof(T));
}

// Where a panel of pixels goes: its first result, and how far apart the others are if all are
// evenly spaced (0 if not).
struct Place {
  i64 offset, apart;
};

// How many pixels from `pixel` on are evenly spaced in the result.
PYCONV_INLINE i64 even_run(const Correlation& q, i64 pixel) {
  const bool channels_last = q.layout == Layout::nhwc;
  const i64 image = q.image_pixels();
  if (q.axis[2].result_step != 1 ||
      (channels_last ? q.result.n : q.result.c) != image * q.result.axis[2])
    return q.axis[2].count - pixel % q.axis[2].count;
  return channels_last ? q.pixels() - pixel : image - pixel % image;
}

// One task: a block of pixels by a block of channels of one group.
template <class T>
struct GemmTask {
  const Correlation& q;
  const GemmBlocks<T>& blocks;
  Side pixels, channels;
  i64 pixel0, channel0;
  const T *source, *end;  // the group's first channel; the end of all images
  const T* weights;       // of the task's first channel
  T *columns, *sums;
  Place places[most_pixels / 4 + 1];  // a panel has at least 4 pixels

  PYCONV_INLINE const Side& rows() const { return blocks.channels_last ? pixels : channels; }
  PYCONV_INLINE const Side& vectors() const { return blocks.channels_last ? channels : pixels; }
  PYCONV_INLINE const T** table() const { return reinterpret_cast<const T**>(columns); }

  void find_places() {
    const i64 apart = q.axis[2].result_step * q.result.axis[2];
    for (i64 i = 0; i < pixels.panels(); ++i) {
      const i64 first = pixel0 + i * pixels.width;
      places[i] = {result_offset(q, pixel_at(q, first)),
                   even_run(q, first) >= pixels.valid(i) ? apart : 0};
    }
  }

  // table()[tap * pixels + pixel]: where the pixel's channels begin for that tap.
  void fill_table() {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    T* zeros = reinterpret_cast<T*>(table() + blocks.pixels.size * q.taps());
    for (i64 c = 0; c < q.source_channels; ++c) zeros[c] = T(0);
    for (i64 done = 0; done < pixels.size;) {
      const Pixel at = pixel_at(q, pixel0 + done);
      const i64 length = min_of(W.count - at.o[2], pixels.size - done);
      const T** to = table() + done;
      for (i64 jd = 0; jd < D.taps; ++jd)
        for (i64 jh = 0; jh < H.taps; ++jh)
          for (i64 jw = 0; jw < W.taps; ++jw, to += pixels.size) {
            const i64 d = border_index(D.source(at.o[0], jd), D.source_size, q.border);
            const i64 h = border_index(H.source(at.o[1], jh), H.source_size, q.border);
            const T* row = source + at.n * q.source.n;
            if (d >= 0 && h >= 0) row += d * q.source.axis[0] + h * q.source.axis[1];
            for (i64 i = 0; i < length; ++i) {
              const i64 w = border_index(W.source(at.o[2] + i, jw), W.source_size, q.border);
              to[i] = d < 0 || h < 0 || w < 0 ? zeros : row + w * q.source.axis[2];
            }
          }
      done += length;
    }
  }

  // All tiles for the block of the depth that begins at k0; returns where it ends.
  i64 multiply_from(i64 k0, const Epilogue<T>& ending) {
    const i64 depth = q.depth(), c0 = k0 % q.source_channels;
    const i64 steps = min_of(blocks.steps, blocks.in_place ? q.source_channels - c0 : depth - k0);
    const i64 segments = min_of(blocks.segments, (depth - k0) / steps), k1 = k0 + steps * segments;
    const bool last = k1 == depth;
    if (!blocks.in_place)
      gather_columns<T>(q, {source, end, k0, k1, pixel0, pixels.size, columns, blocks.pitch});
    for (i64 j = 0; j < vectors().panels(); ++j) {
      const i64 stored = vectors().stored(j);
      const Right<T> right =
          blocks.channels_last
              ? Right<T>{weights + j * channels.width * depth + k0 * stored, stored}
              : Right<T>{columns + j * pixels.width, blocks.pitch};
      for (i64 i = 0; i < rows().panels(); ++i) {
        const T* from[tile_rows];
        Left<T> left{from, 0, segments, 0, 1};
        const i64 count = rows().valid(i);
        if (blocks.in_place) {
          left = {table() + k0 / q.source_channels * pixels.size + i * tile_rows, pixels.size,
                  segments, c0, 1};
        } else if (blocks.channels_last) {
          for (i64 r = 0; r < tile_rows; ++r)
            from[r] = columns + (i * tile_rows + min_of(r, count - 1)) * blocks.pitch;
        } else {
          const T* panel = weights + i * tile_rows * depth + k0 * count;
          for (i64 r = 0; r < tile_rows; ++r) from[r] = panel + min_of(r, count - 1);
          left.step = count;
        }
        T* tile = sums + (j * rows().panels() + i) * tile_rows * tile_columns<T>;
        Target<T> target{k0 > 0 ? tile : nullptr, tile, stored};
        const Place& place = places[blocks.channels_last ? i : j];
        const bool direct = last && ending.plain() && vectors().valid(j) == stored && place.apart &&
                            (blocks.channels_last || place.apart == 1);
        if (direct) {
          const i64 channel = channel0 + (blocks.channels_last ? j : i) * channels.width;
          target.to = ending.out + place.offset + channel * q.result.c;
          target.step = blocks.channels_last ? place.apart : q.result.c;
        }
        multiply<T>(int(count), int(stored / lanes<T>), steps, left, right, target);
        if (last && !direct) finish(tile, i, j, ending);
        if (j == 0) prefetch_rows(i + 2, c0, steps);
      }
    }
    return k1;
  }

  // A 1x1 filter uses a pixel's channels too briefly for the hardware to run ahead of it.
  PYCONV_INLINE void prefetch_rows(i64 i, i64 c0, i64 steps) const {
    if (!blocks.in_place || q.taps() > 1) return;
    for (i64 r = i * tile_rows; r < min_of((i + 1) * tile_rows, pixels.size); ++r)
      for (i64 c = 0; c < steps; c += 64 / i64(sizeof(T)))
        __builtin_prefetch(table()[r] + c0 + c, 0, 2);
  }

  void finish(const T* tile, i64 i, i64 j, const Epilogue<T>& ending) const {
    const bool channels_last = blocks.channels_last;
    const i64 panel = channels_last ? i : j, stored = vectors().stored(j);
    const i64 channel = channel0 + (channels_last ? j : i) * channels.width;
    const i64 apart = q.axis[2].result_step * q.result.axis[2];
    for (i64 done = 0; done < pixels.valid(panel);) {
      i64 run = pixels.valid(panel), offset = places[panel].offset;
      if (!places[panel].apart) {
        const i64 pixel = pixel0 + panel * pixels.width + done;
        run = min_of(run - done, even_run(q, pixel));
        offset = result_offset(q, pixel_at(q, pixel));
      }
      if (channels_last)
        for (i64 r = 0; r < run; ++r)
          ending.store_channels(tile + (done + r) * stored, channel, offset + r * apart + channel,
                                channels.valid(j));
      else
        for (i64 r = 0; r < channels.valid(i); ++r)
          ending.store_pixels(tile + r * stored + done, channel + r,
                              offset + (channel + r) * q.result.c, apart, run);
      done += run;
    }
  }
};

// One phase of a forward pass or an input gradient.
template <class T>
void gemm_phase(const ConvProblem& p, const Correlation& phase, const T* packed, const Buffers& b) {
  const Correlation q = without_rows(phase);
  const GemmBlocks<T> blocks(q);
  const i64 depth = q.depth(), group_elements = packed_group_elements<T>(q);
  const T* source = static_cast<const T*>(b.a);
  parallel_for(
      q.groups * blocks.pixel_blocks * blocks.channel_blocks, b.threads, [&](i64 task, int thread) {
        const i64 channel0 = task % blocks.channel_blocks * blocks.channels.size;
        const i64 pixel0 = task / blocks.channel_blocks % blocks.pixel_blocks * blocks.pixels.size;
        const i64 group = task / blocks.channel_blocks / blocks.pixel_blocks;
        char* scratch = b.scratch + thread * b.scratch_bytes;
        GemmTask<T> t{q,
                      blocks,
                      blocks.pixels,
                      blocks.channels,
                      pixel0,
                      channel0,
                      source + group * q.source_channels * q.source.c,
                      source + q.n * q.source.n,
                      packed + group * group_elements + channel0 * depth,
                      reinterpret_cast<T*>(scratch),
                      reinterpret_cast<T*>(scratch + blocks.column_bytes(q)),
                      {}};
        t.pixels.size = min_of(t.pixels.size, q.pixels() - pixel0);
        t.channels.size = min_of(t.channels.size, q.result_channels - channel0);
        t.find_places();
        if (blocks.in_place) t.fill_table();
        const Epilogue<T> ending = epilogue<T>(p, q, b, group);
        for (i64 k0 = 0; k0 < depth;) k0 = t.multiply_from(k0, ending);
      });
}

}  // namespace pyconv::PYCONV_TARGET
