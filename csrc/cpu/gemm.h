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
#include "gemm_pack.h"
#include "im2col.h"
#include "reduce.h"

namespace pyconv::PYCONV_TARGET {

// The right side's panel for a block of the depth: 48 floats * 160 are 30 KB, an L1 cache.
constexpr i64 panel_bytes = 30 * 1024;
template <class T>
constexpr i64 depth_block = panel_bytes / (tile_columns<T> * i64(sizeof(T))) / 16 * 16;
// Of a task; half of it where there are few: weights are fetched once for all of them.
constexpr i64 most_pixels = 384;
constexpr i64 most_channels = 512;
// Weights of so many elements stay in an L1 cache: then the tiles of a panel of pixels follow each
// other, and what lies together is read and written together.
constexpr i64 row_weights = 6 * 1024;

// Few channels a tap make short loops: then columns are gathered.
PYCONV_INLINE bool reads_in_place(const Correlation& q) {
  return q.layout == Layout::nhwc && q.source_channels >= 16 && q.source_channels <= 1 << 16 &&
         q.taps() <= 1024;
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
    const i64 pixel_width = channels_last ? rows_beside(all.width / lanes<T>) : tile_columns<T>;
    const i64 most_size = q.pixels() < 16 * most_pixels ? most_pixels / 2 : most_pixels;
    pixel_blocks = max_of<i64>(1, ceil_div(q.pixels(), most_size));
    if (pixel_blocks > 1) pixel_blocks = round_up(pixel_blocks, 2);  // for two threads
    const i64 pixel_size =
        round_up(ceil_div(max_of<i64>(1, q.pixels()), pixel_blocks), pixel_width);
    pixel_blocks = ceil_div(q.pixels(), pixel_size);
    i64 panels = max_of<i64>(1, min_of(all.panels(), most_channels / all.width));
    // Few pixels: smaller blocks of channels until there is work for several threads.
    while (q.groups * pixel_blocks * ceil_div(all.panels(), panels) < 16 && panels > 1)
      panels = (panels + 1) / 2;
    channel_blocks = ceil_div(all.panels(), panels);
    const i64 channel_size = panels * all.width;
    pixels = channels_last ? Side{pixel_size, pixel_width, 1} : column_side<T>(pixel_size);
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

// One task: a block of pixels by a block of channels of one group.
template <class T>
struct GemmTask {
  const Correlation& q;
  const GemmBlocks<T>& blocks;
  Side pixels, channels;
  i64 pixel0, channel0;
  const T *source, *end;  // the group's first channel; the end of all images
  const T* weights;       // of the task's first channel, all phases
  i64 depth;              // of these
  i64 before;             // of earlier phases
  T *columns, *sums;
  i64 places[most_pixels];  // of the pixels in the result

  PYCONV_INLINE const Side& rows() const { return blocks.channels_last ? pixels : channels; }
  PYCONV_INLINE const Side& vectors() const { return blocks.channels_last ? channels : pixels; }
  PYCONV_INLINE const T** table() const { return reinterpret_cast<const T**>(columns); }

  i64 apart() const { return q.axis[2].result_step * q.result.axis[2]; }

  void find_places() {
    for (i64 done = 0; done < pixels.size;) {
      const Pixel at = pixel_at(q, pixel0 + done);
      const i64 length = min_of(q.axis[2].count - at.o[2], pixels.size - done);
      const i64 first = result_offset(q, at);
      for (i64 i = 0; i < length; ++i) places[done + i] = first + i * apart();
      done += length;
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

  PYCONV_INLINE const T* weights_at(i64 channel, i64 stored, i64 k) const {
    return weights + channel * depth + (before + k) * stored;
  }

  // All tiles for the block of the depth that begins at k0; returns where it ends.
  i64 multiply_from(i64 k0, const Epilogue<T>& ending) {
    const i64 left = q.depth() - k0, c0 = k0 % q.source_channels;
    const i64 steps = min_of(blocks.steps, blocks.in_place ? q.source_channels - c0 : left);
    const i64 segments = min_of(blocks.segments, left / steps), k1 = k0 + steps * segments;
    const bool last = k1 == q.depth();
    if (!blocks.in_place)
      gather_columns<T>(q, {source, end, k0, k1, pixel0, pixels.size, columns, blocks.pitch});
    const i64 across = vectors().panels(), down = rows().panels();
    const bool by_rows =
        blocks.channels_last && across * vectors().width * (k1 - k0) <= row_weights;
    for (i64 t = 0; t < across * down; ++t) {
      const i64 j = by_rows ? t % across : t / down, i = by_rows ? t / across : t % down;
      const i64 stored = vectors().stored(j), count = rows().valid(i), width = rows().width;
      const Right<T> right = blocks.channels_last
                                 ? Right<T>{weights_at(j * channels.width, stored, k0), stored}
                                 : Right<T>{columns + j * pixels.width, blocks.pitch};
      const T* from[most_tile_rows];
      Left<T> left{from, 0, segments, 0, 1};
      if (blocks.in_place) {
        left = {table() + k0 / q.source_channels * pixels.size + i * width, pixels.size, segments,
                c0, 1};
      } else if (blocks.channels_last) {
        for (i64 r = 0; r < count; ++r) from[r] = columns + (i * width + r) * blocks.pitch;
      } else {
        const T* panel = weights_at(i * width, count, k0);
        for (i64 r = 0; r < count; ++r) from[r] = panel + r;
        left.step = count;
      }
      T* tile = sums + (j * down + i) * tile_sums * lanes<T>;
      Target<T> target{k0 > 0 ? tile : nullptr, tile, stored};
      const bool whole = last && ends_in_tile(target, i, j, ending);
      multiply<T>(int(count), int(stored / lanes<T>), steps, left, right, target);
      if (last && !whole) finish(tile, i, j, ending);
      if (j == 0 && !by_rows) prefetch_rows(i + 2, c0, steps);
    }
    return k1;
  }

  // Whether the tile's results can leave the micro-kernel finished: then `target` says how.
  PYCONV_INLINE bool ends_in_tile(Target<T>& target, i64 i, i64 j,
                                  const Epilogue<T>& ending) const {
    const bool channels_last = blocks.channels_last;
    const i64 channel = channel0 + (channels_last ? j : i) * channels.width;
    const i64* at = places + (channels_last ? i : j) * pixels.width;
    const Activation kind = ending.activation;
    if (kind != Activation::none && kind != Activation::relu && kind != Activation::relu6)
      return false;
    const i64 valid = vectors().valid(j);
    if (!channels_last && at[valid - 1] - at[0] != valid - 1) return false;
    const i64 first = channel * q.result.c + (channels_last ? 0 : at[0]);
    target.to = ending.out + first;
    target.step = q.result.c;
    target.places = channels_last ? at : nullptr;
    target.last = int(valid - vectors().stored(j)) + lanes<T>;
    if (ending.bias) (channels_last ? target.column_bias : target.row_bias) = ending.bias + channel;
    if (ending.residual) target.residual = ending.residual + first;
    target.activation = kind;
    return true;
  }

  // A 1x1 filter uses a pixel's channels too briefly for the hardware to run ahead of it.
  PYCONV_INLINE void prefetch_rows(i64 i, i64 c0, i64 steps) const {
    if (!blocks.in_place || q.taps() > 1) return;
    for (i64 r = i * pixels.width; r < min_of((i + 1) * pixels.width, pixels.size); ++r)
      for (i64 c = 0; c < steps; c += 64 / i64(sizeof(T)))
        __builtin_prefetch(table()[r] + c0 + c, 0, 2);
  }

  PYCONV_NOINLINE void finish(const T* tile, i64 i, i64 j, const Epilogue<T>& ending) const {
    const bool channels_last = blocks.channels_last;
    const i64 panel = channels_last ? i : j, stored = vectors().stored(j);
    const i64 channel = channel0 + (channels_last ? j : i) * channels.width;
    const i64* at = places + panel * pixels.width;
    for (i64 done = 0, run = 1; done < pixels.valid(panel); done += run, run = 1) {
      if (channels_last) {
        ending.store_channels(tile + done * stored, channel, at[done] + channel, channels.valid(j));
        continue;
      }
      while (done + run < pixels.valid(panel) && at[done + run] - at[done + run - 1] == apart())
        ++run;
      for (i64 r = 0; r < channels.valid(i); ++r)
        ending.store_pixels(tile + r * stored + done, channel + r,
                            at[done] + (channel + r) * q.result.c, apart(), run);
    }
  }
};

// One phase of a forward pass or an input gradient.
template <class T>
struct GemmPhase {
  const ConvProblem& p;
  const Buffers& b;
  Correlation q;
  GemmBlocks<T> blocks;
  i64 before;  // depth of earlier phases

  GemmPhase(const ConvProblem& problem, const Correlation& phase, i64 taps_before,
            const Buffers& buffers)
      : p(problem),
        b(buffers),
        q(without_rows(phase)),
        blocks(q),
        before(taps_before * q.source_channels) {}

  i64 scratch_elements() const {
    return blocks.column_bytes(q) / i64(sizeof(T)) +
           sums_elements<T>(blocks.rows(), blocks.vectors());
  }

  // The block of pixels from `pixel0` on, by up to `channels` result channels from channel0 on.
  void run(i64 group, i64 pixel0, i64 channel0, i64 channels, const T* weights, T* scratch) const {
    const T* source = static_cast<const T*>(b.a);
    GemmTask<T> t{q,
                  blocks,
                  blocks.pixels,
                  blocks.channels,
                  pixel0,
                  channel0,
                  source + group * q.source_channels * q.source.c,
                  source + q.n * q.source.n,
                  weights,
                  q.source_channels * p.taps(),
                  before,
                  scratch,
                  scratch + blocks.column_bytes(q) / i64(sizeof(T)),
                  {}};
    t.pixels.size = min_of(t.pixels.size, q.pixels() - pixel0);
    t.channels.size = min_of(channels, q.result_channels - channel0);
    t.find_places();
    if (blocks.in_place) t.fill_table();
    const Epilogue<T> ending = epilogue<T>(p, q, b, group);
    for (i64 k0 = 0; k0 < q.depth();) k0 = t.multiply_from(k0, ending);
  }
};

template <class T>
PYCONV_INLINE T* gemm_scratch(const Buffers& b, int thread) {
  return reinterpret_cast<T*>(b.scratch + thread * b.scratch_bytes);
}

// All phases, with packed weights.
template <class T>
void gemm_by_phase(const ConvProblem& p, Pass pass, const Buffers& b) {
  const PackedWeights<T> weights(p, correlation(p, pass));
  each_tapped_phase(p, pass, [&](const Correlation& q, i64 taps_before) {
    const GemmPhase<T> phase(p, q, taps_before, b);
    const GemmBlocks<T>& blocks = phase.blocks;
    parallel_for(q.groups * blocks.pixel_blocks * blocks.channel_blocks, b.threads,
                 [&](i64 task, int thread) {
                   const i64 channel0 = task % blocks.channel_blocks * blocks.channels.size;
                   const i64 block = task / blocks.channel_blocks;
                   const i64 group = block / blocks.pixel_blocks;
                   phase.run(group, block % blocks.pixel_blocks * blocks.pixels.size, channel0,
                             blocks.channels.size,
                             static_cast<const T*>(b.packed) + weights.at(group, channel0),
                             gemm_scratch<T>(b, thread));
                 });
  });
}

// So few pixels that what weights cost is their way from memory: a task packs a panel of them in
// its scratch and uses it for all phases.
template <class T>
void gemm_by_panel(const ConvProblem& p, Pass pass, const Buffers& b) {
  const PackedWeights<T> weights(p, correlation(p, pass));
  const i64 panels = weights.side.panels(), width = weights.side.width;
  parallel_for(p.groups * panels, b.threads, [&](i64 task, int thread) {
    const i64 group = task / panels, channel = task % panels * width;
    T* panel = gemm_scratch<T>(b, thread);
    pack_panel(p, pass, static_cast<const T*>(b.b), group, channel, panel);
    each_tapped_phase(p, pass, [&](const Correlation& q, i64 taps_before) {
      const GemmPhase<T> phase(p, q, taps_before, b);
      for (i64 pixel = 0; pixel < phase.q.pixels(); pixel += phase.blocks.pixels.size)
        phase.run(group, pixel, channel, width, panel, panel + width * weights.depth);
    });
  });
}

// Whether a plain call packs its weights by panels, as they are used.
template <class T>
PYCONV_INLINE bool packs_by_panel(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight || p.layout == Layout::nchw) return false;
  const Correlation q = correlation(p, pass);
  const PackedWeights<T> weights(p, q);
  return reads_in_place(q) && q.pixels() <= most_pixels &&
         weights.side.width * weights.depth * i64(sizeof(T)) <= 1 << 20;
}

template <class T>
bool gemm_packs(const ConvProblem& p, Pass pass) {
  return !packs_by_panel<T>(p, pass);
}

}  // namespace pyconv::PYCONV_TARGET
