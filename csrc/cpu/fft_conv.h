// Convolution by FFT, overlap-save on tiles (fft_tile.h, fft.h), for large filters:
//
//   out[row][col] = sum over depth of conj(left[depth][row]) right[depth][col], unit by unit
//
//   forward, input gradient   rows k, columns tiles, depth (c, outer taps): weights by tiles of x
//   weight gradient           rows k, columns (c, outer taps), depth tiles: tiles of dy by those of
//   x
//
// A stride s keeps every s-th result, or spreads dy; dilation spreads the filter. A task
// transforms a block of columns, multiplies a block of rows by it and transforms the results back,
// in chunks that fit its scratch: one parallel region, since beside another library's waiting
// threads each costs milliseconds. Sums are flushed every 32 steps of the depth, wherever chunks
// end. Where a result is not finite its tile is summed directly.
#pragma once
#include "border.h"
#include "epilogue.h"
#include "fft_product.h"

namespace pyconv::PYCONV_TARGET {

// Source position of the lowest tap of a result: the taps run downwards in an input gradient.
PYCONV_INLINE i64 lowest_source(const AxisMap& axis, i64 o) {
  return axis.source(o, axis.tap_step < 0 ? axis.taps - 1 : 0);
}
PYCONV_INLINE i64 tap_place(const AxisMap& axis, i64 j) {
  return tap_apart(axis) * (axis.tap_step < 0 ? axis.taps - 1 - j : j);
}

// One phase: what is transformed, and what becomes of the results.
template <class T>
struct FftPhase {
  const ConvProblem& p;
  const Correlation& q;
  const FftBlocks<T>& blocks;
  const Buffers& b;
  Fft<T> fft;
  T *twiddles, *spectra;                              // spectra: of the weights
  const T *x = nullptr, *w = nullptr, *dy = nullptr;  // w, dy: of one pass each

  // `packed`: twiddles of a line, then, of some passes, transformed weights.
  FftPhase(const ConvProblem& problem, const Correlation& phase, const FftBlocks<T>& cut,
           const Buffers& buffers, T* packed)
      : p(problem),
        q(phase),
        blocks(cut),
        b(buffers),
        fft{cut.tile.n1, cut.tile.n2, cut.tile.line ? packed : nullptr},
        twiddles(packed),
        spectra(packed + cut.twiddle_elements()) {}

  void make_twiddles() const {
    if (blocks.tile.line) line_twiddles(fft.n1, fft.n2, twiddles);
  }

  Pixel place(i64 index) const {
    const FftTile& tile = blocks.tile;
    Pixel at;
    for (int a = 2; a >= 0; --a) {
      at.o[a] = index % tile.tiles[a] * tile.results[a];
      index /= tile.tiles[a];
    }
    at.n = index;
    return at;
  }
  i64 results(const Pixel& at, int a) const {
    return min_of(blocks.tile.results[a], q.axis[a].count - at.o[a]);
  }
  // The outer taps of a depth step or column, and its channel.
  struct Outer {
    i64 c, jd, jh;
  };
  Outer outer(i64 index) const {
    const i64 h = blocks.tile.line ? q.axis[1].taps : 1, d = q.axis[0].taps;
    return {index / h / d, index / h % d, index % h};
  }

  void read_tile(const T* channel, const Pixel& at, const Outer& tap, T* to) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    const FftTile& tile = blocks.tile;
    const i64 d = border_index(D.source(at.o[0], tap.jd), D.source_size, q.border);
    const i64 top = tile.line ? H.source(at.o[1], tap.jh) : lowest_source(H, at.o[1]);
    const i64 left = lowest_source(W, at.o[2]);
    const i64 high =
        tile.line ? 1 : (results(at, 1) - 1) * H.step + tap_apart(H) * (H.taps - 1) + 1;
    const i64 wide = (results(at, 2) - 1) * W.step + tap_apart(W) * (W.taps - 1) + 1;
    const T* image = channel + at.n * q.source.n + tap.c * q.source.c + d * q.source.axis[0];
    for (i64 i = 0; i < tile.size[1]; ++i, to += tile.size[2]) {
      for (i64 e = 0; e < tile.size[2]; e += lanes<T>) store(to + e, Vec<T>{});
      const i64 h = i < high ? border_position(top + i, H.source_size, q.border) : -1;
      if (d < 0 || h < 0) continue;
      const T* row = image + h * q.source.axis[1];
      if (q.source.axis[2] != 1 || q.border != Border::zeros) {
        gather_row(row, q.source.axis[2], W.source_size, left, 1, wide, q.border, to);
        continue;
      }
      const i64 first = max_of<i64>(0, -left), last = min_of(wide, W.source_size - left);
      for (i64 e = first; e < last; e += lanes<T>) {
        const int some = int(min_of<i64>(lanes<T>, last - e));
        store_first(to + e, load_first(row + left + e, some), some);
      }
    }
  }

  void read_gradient(const T* channel, const Strides& y, const Pixel& at, T* to) const {
    const FftTile& tile = blocks.tile;
    for (i64 i = 0; i < 2 * tile.points(); ++i) to[i] = T(0);
    const T* from = channel + at.n * y.n + at.o[0] * y.axis[0];
    for (i64 h = 0; h < results(at, 1); ++h) {
      const T* row = from + (at.o[1] + h) * y.axis[1] + at.o[2] * y.axis[2];
      T* line = to + h * q.axis[1].step * tile.size[2];
      for (i64 i = 0; i < results(at, 2); ++i) line[i * q.axis[2].step] = row[i * y.axis[2]];
    }
  }

  // body(place in the tile, offset in the filter) for every tap that is transformed.
  template <class Body>
  void for_each_tap(const Outer& tap, Body&& body) const {
    const bool line = blocks.tile.line;
    const AxisMap &H = q.axis[1], &W = q.axis[2];
    for (i64 jh = line ? tap.jh : 0; jh < (line ? tap.jh + 1 : H.taps); ++jh)
      for (i64 jw = 0; jw < W.taps; ++jw)
        body((line ? 0 : tap_place(H, jh) * blocks.tile.size[2]) + tap_place(W, jw),
             tap.c * q.weight_source + q.weight_tap(tap.jd, jh, jw));
  }

  void read_filter(const T* filter, const Outer& tap, T* to) const {
    for (i64 i = 0; i < 2 * blocks.tile.points(); ++i) to[i] = T(0);
    for_each_tap(tap, [&](i64 at, i64 from) { to[at] = filter[from]; });
  }

  // A row of results, tap by tap.
  PYCONV_NOINLINE void sum_row(const T* source, const T* filter, const Pixel& at, i64 count,
                               T* sums) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    T line[fft_points];
    for (i64 e = 0; e < count; ++e) sums[e] = T(0);
    for (i64 c = 0; c < q.source_channels; ++c)
      for (i64 jd = 0; jd < D.taps; ++jd)
        for (i64 jh = 0; jh < H.taps; ++jh) {
          const i64 d = border_index(D.source(at.o[0], jd), D.source_size, q.border);
          const i64 h = border_index(H.source(at.o[1], jh), H.source_size, q.border);
          if (d < 0 || h < 0) continue;
          const T* row = source + at.n * q.source.n + c * q.source.c + d * q.source.axis[0] +
                         h * q.source.axis[1];
          for (i64 jw = 0; jw < W.taps; ++jw) {
            gather_row(row, q.source.axis[2], W.source_size, W.source(at.o[2], jw), W.step, count,
                       q.border, line);
            const T weight = filter[c * q.weight_source + q.weight_tap(jd, jh, jw)];
            for (i64 e = 0; e < count; ++e) sums[e] += weight * line[e];
          }
        }
  }

  // One weight, over all images.
  PYCONV_NOINLINE T sum_weight(const T* source, const T* gradient, const Strides& y,
                               const i64 (&tap)[3]) const {
    const AxisMap &D = q.axis[0], &H = q.axis[1], &W = q.axis[2];
    T sum = 0, line[64];
    for (i64 n = 0; n < q.n; ++n)
      for (i64 od = 0; od < D.count; ++od)
        for (i64 oh = 0; oh < H.count; ++oh) {
          const i64 d = border_index(D.source(od, tap[0]), D.source_size, q.border);
          const i64 h = border_index(H.source(oh, tap[1]), H.source_size, q.border);
          if (d < 0 || h < 0) continue;
          const T* row = source + n * q.source.n + d * q.source.axis[0] + h * q.source.axis[1];
          const T* from = gradient + n * y.n + od * y.axis[0] + oh * y.axis[1];
          for (i64 o = 0; o < W.count; o += 64) {
            const i64 count = min_of<i64>(64, W.count - o);
            gather_row(row, q.source.axis[2], W.source_size, W.source(o, tap[2]), W.step, count,
                       q.border, line);
            for (i64 e = 0; e < count; ++e) sum += line[e] * from[(o + e) * y.axis[2]];
          }
        }
    return sum;
  }

  void store_results(const Epilogue<T>& end, const T* source, i64 k, const Pixel& tile,
                     T* results_of) const {
    const i64 high = results(tile, 1), wide = results(tile, 2), apart = q.axis[2].step;
    const T* filter = w + k * q.weight_result;
    const i64 row = blocks.tile.size[2] * q.axis[1].step;
    const bool finite = all_finite(results_of, high, wide, row);
    for (i64 i = 0; i < high; ++i) {
      T* sums = results_of + i * row;
      Pixel at = tile;
      at.o[1] += i;
      if (!finite)
        sum_row(source, filter, at, wide, sums);
      else if (apart > 1)
        for (i64 e = 1; e < wide; ++e) sums[e] = sums[e * apart];
      end.store_pixels(sums, k, result_offset(q, at) + k * q.result.c,
                       q.axis[2].result_step * q.result.axis[2], wide);
    }
  }

  // Vectors of rows that hold results, with what lies between and beside: 0 times NaN is NaN.
  bool all_finite(const T* from, i64 high, i64 wide, i64 row) const {
    Vec<T> bad{};
    for (i64 i = 0; i < high; ++i)
      for (i64 e = 0; e <= (wide - 1) * q.axis[2].step; e += lanes<T>)
        bad += load(from + i * row + e) * T(0);
    return sum_lanes<T>(bad) == 0;
  }

  void store_weights(const T* source, const T* gradient, const Strides& y, const Outer& tap,
                     const T* tile, T* dw) const {
    const bool line = blocks.tile.line;
    T bad = 0;
    for_each_tap(tap, [&](i64 at, i64 to) {
      dw[to] = tile[at];
      bad += tile[at] * T(0);
    });
    if (bad == 0) return;
    for (i64 jh = line ? tap.jh : 0; jh < (line ? tap.jh + 1 : q.axis[1].taps); ++jh)
      for (i64 jw = 0; jw < q.axis[2].taps; ++jw)
        dw[tap.c * q.weight_source + q.weight_tap(tap.jd, jh, jw)] =
            sum_weight(source + tap.c * q.source.c, gradient, y, {tap.jd, jh, jw});
  }

  void run(i64 task, T* memory) const {
    const FftBlocks<T>& s = blocks;
    const i64 r_first = task % s.row_blocks() * s.row_block;
    const i64 r_last = min_of(s.rows, r_first + s.row_block);
    const i64 c0 = task / s.row_blocks() % s.column_blocks() * s.column_block;
    const i64 group = task / s.row_blocks() / s.column_blocks();
    const i64 columns = min_of(s.column_block, s.columns - c0);
    const bool gradient = s.weight_gradient;
    const T* source = x + group * q.source_channels * q.source.c;
    const Strides y = dense_strides(p.layout, p.k, p.out);
    const T* from = gradient ? dy + group * q.result_channels * y.c : nullptr;
    const Epilogue<T> end = epilogue<T>(p, q, b, group);
    T* dw = static_cast<T*>(b.out) + group * q.weight_group;

    const Spectra<T> right{memory, s.apart(s.depth_chunk * s.column_block), columns * unit<T>};
    memory += s.right_elements();
    Spectra<T> left{memory, s.apart(s.depth_chunk * s.row_chunk), s.row_chunk * unit<T>};
    memory += s.left_elements();
    const Spectra<T> out{memory, s.apart(s.row_chunk * s.column_block), columns * unit<T>};
    FftBuffers<T> tile;
    for (i64 r0 = r_first; r0 < r_last; r0 += s.row_chunk) {
      const i64 rows = min_of(s.row_chunk, r_last - r0);
      i64 d0 = 0;
      do {
        const i64 depth = min_of(s.depth_chunk, s.depth - d0);
        for (i64 d = 0; d < depth && (r0 == r_first || depth < s.depth); ++d)
          for (i64 c = 0; c < columns; ++c) {
            read_tile(source, place(gradient ? d0 + d : c0 + c), outer(gradient ? c0 + c : d0 + d),
                      tile.x);
            fft.forward(tile, right.at(d, c), right.apart);
          }
        for (i64 d = 0; d < depth && gradient; ++d)
          for (i64 r = 0; r < rows; ++r) {
            read_gradient(from + (r0 + r) * y.c, y, place(d0 + d), tile.x);
            fft.forward(tile, left.at(d, r), left.apart);
          }
        if (!gradient)
          left = {spectra + group * s.group_elements() + (d0 * s.rows + r0) * unit<T>,
                  s.apart(s.rows * s.depth), s.rows * unit<T>};
        for (i64 f = 0; f < s.units; ++f)
          multiply_spectra(rows, columns, depth, left, right, out, f, d0 > 0);
        d0 += s.depth_chunk;
      } while (d0 < s.depth);
      for (i64 r = 0; r < rows; ++r)
        for (i64 c = 0; c < columns; ++c) {
          const i64 k = r0 + r;
          fft.inverse(out.at(r, c), out.apart, tile);
          if (gradient)
            store_weights(source, from + k * y.c, y, outer(c0 + c), tile.x,
                          dw + k * q.weight_result);
          else
            store_results(end, source, k, place(c0 + c), tile.x);
        }
    }
  }
};

// body(blocks, transforms, twiddles and transformed weights) of every phase.
template <class T, class Body>
PYCONV_INLINE void for_each_spectrum(const ConvProblem& p, Pass pass, Body&& body) {
  i64 at = 0;
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    const FftBlocks<T> blocks(q, false);
    body(q, blocks, at);
    at += blocks.twiddle_elements() + q.groups * blocks.group_elements();
  }
}

// The kernel as a table sees it. Packed: every phase's twiddles and transforms, then a copy of w.
template <class T>
struct FftConvolution {
  static const char* refuse(const ConvProblem& p, Pass pass) {
    const bool gradient = pass == Pass::bwd_weight;
    double bytes = 0;
    for (i64 phase = 0; phase < (gradient ? 1 : phase_count(p, pass)); ++phase) {
      const Correlation q = correlation(p, gradient ? Pass::fwd : pass, phase);
      const FftTile tile = fft_tile(q);
      if (tile.points() == 0) return "the filter does not fit a tile of 64x64 or a line of 4096";
      bytes += 2.0 * sizeof(T) * double(tile.points()) * double(q.groups) *
               double(q.result_channels) * double(q.source_channels) *
               double(fft_outer_taps(q, tile));
    }
    if (!gradient && bytes > double(fft_weights)) return "its weights would take over 1 GB";
    return nullptr;
  }

  static std::size_t packed_bytes(const ConvProblem& p, Pass pass) {
    if (pass == Pass::bwd_weight) return 0;
    i64 elements = filter_elements(p);
    for_each_spectrum<T>(p, pass, [&](const Correlation& q, const FftBlocks<T>& blocks, i64) {
      elements += blocks.twiddle_elements() + q.groups * blocks.group_elements();
    });
    return std::size_t(elements) * sizeof(T);
  }

  static void pack(const ConvProblem& p, Pass pass, const void* weights, void* packed,
                   int threads) {
    const T* w = static_cast<const T*>(weights);
    T* to = static_cast<T*>(packed);
    for_each_spectrum<T>(p, pass, [&](const Correlation& q, const FftBlocks<T>& blocks, i64 at) {
      const Buffers none{};
      const FftPhase<T> phase(p, q, blocks, none, to + at);
      phase.make_twiddles();
      const i64 rows = blocks.rows, depth = blocks.depth;
      // A task is a step of the depth: the units of its rows are neighbours.
      parallel_for(q.groups * depth, threads, [&](i64 task, int) {
        const i64 d = task % depth, group = task / depth;
        const auto tap = phase.outer(d);
        FftBuffers<T> tile;
        for (i64 r = 0; r < rows; ++r) {
          phase.read_filter(w + group * q.weight_group + r * q.weight_result, tap, tile.x);
          phase.fft.forward(
              tile, phase.spectra + group * blocks.group_elements() + (d * rows + r) * unit<T>,
              blocks.apart(rows * depth));
        }
      });
    });
    __builtin_memcpy(to + copy_offset(p, pass), w, std::size_t(filter_elements(p)) * sizeof(T));
  }

  static std::size_t scratch_bytes(const ConvProblem& p, Pass pass) {
    if (pass == Pass::bwd_weight)
      return FftBlocks<T>(correlation(p, Pass::fwd), true).scratch_bytes();
    std::size_t most = 0;
    for_each_spectrum<T>(p, pass, [&](const Correlation&, const FftBlocks<T>& blocks, i64) {
      most = max_of(most, blocks.scratch_bytes());
    });
    return most;
  }

  // The twiddles, where no packed weights hold them.
  static std::size_t shared_bytes(const ConvProblem& p, Pass pass) {
    if (pass != Pass::bwd_weight) return 0;
    const FftBlocks<T> blocks(correlation(p, Pass::fwd), true);
    return std::size_t(blocks.twiddle_elements()) * sizeof(T);
  }

  static void run(const ConvProblem& p, Pass pass, const Buffers& b) {
    const T *a = static_cast<const T*>(b.a), *second = static_cast<const T*>(b.b);
    if (pass == Pass::bwd_weight) {
      const Correlation q = correlation(p, Pass::fwd);
      const FftBlocks<T> blocks(q, true);
      FftPhase<T> phase(p, q, blocks, b, reinterpret_cast<T*>(b.shared));
      phase.make_twiddles();
      phase.x = second;
      phase.dy = a;
      return run_tasks(phase);
    }
    T* packed = static_cast<T*>(const_cast<void*>(b.packed));
    const T* w = packed + copy_offset(p, pass);
    for_each_phase<T>(p, pass, b, [&](const Correlation& q) {
      const FftBlocks<T> blocks(q, false);
      FftPhase<T> phase(p, q, blocks, b, packed);
      phase.x = a;
      phase.w = w;
      run_tasks(phase);
      packed += blocks.twiddle_elements() + q.groups * blocks.group_elements();
    });
    if (pass == Pass::bwd_data) add_border_gradients(p, a, w, static_cast<T*>(b.out), b.threads);
  }

 private:
  static i64 filter_elements(const ConvProblem& p) { return p.k * p.c_per_group() * p.taps(); }
  static i64 copy_offset(const ConvProblem& p, Pass pass) {
    return i64(packed_bytes(p, pass) / sizeof(T)) - filter_elements(p);
  }

  static void run_tasks(const FftPhase<T>& phase) {
    const Buffers& b = phase.b;
    parallel_for(phase.blocks.tasks(phase.q), b.threads, [&](i64 task, int thread) {
      phase.run(task, reinterpret_cast<T*>(b.scratch + std::size_t(thread) * b.scratch_bytes));
    });
  }
};

}  // namespace pyconv::PYCONV_TARGET
