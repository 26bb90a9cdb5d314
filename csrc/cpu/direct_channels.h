// Direct convolution of NHWC images, lanes along the result channels of a group.
//
//   y[o, k] = sum over c and taps of band[c, o, tap] w[c, tap, k]
//
// The register tiles are those of channel_tile.h. The source is a band (band.h), where step,
// dilation and border are only offsets; all phases of an input gradient share that of a task.
//
// Parallel over images, groups, blocks of lines, tiles of columns and parts of k. Every result is
// summed in the order of c, taps: neither batch nor threads show in it.
#pragma once
#include "channel_tile.h"
#include "epilogue.h"

namespace pyconv::PYCONV_TARGET {

// A pass as one correlation. The phases of an input gradient read overlapping pixels: their result
// o reads the positions from first + o on, whichever phase; the taps here are those positions.
PYCONV_INLINE Correlation all_phases(const ConvProblem& p, Pass pass) {
  Correlation q = correlation(p, pass);
  for (int a = 0; a < 3 && pass == Pass::bwd_data; ++a) {
    i64 low = 0, high = 0, count = 0;
    for (i64 t0 = 0; t0 < phase_count(p, pass, a); ++t0) {
      const AxisMap m = backward_axis(p, a, t0);
      const i64 end = m.first + (m.taps - 1) * m.tap_step;
      low = t0 ? min_of(low, min_of(m.first, end)) : min_of(m.first, end);
      high = t0 ? max_of(high, max_of(m.first, end)) : max_of(m.first, end);
      count = max_of(count, m.count);
    }
    q.axis[a].count = count;
    q.axis[a].first = low;
    q.axis[a].tap_step = 1;
    q.axis[a].taps = high - low + 1;
  }
  return q;
}

template <class T>
struct ChannelBlocks {
  Correlation whole;
  Band band;  // of a task
  i64 lines, line_blocks, columns, column_tiles;
  i64 vectors, part_vectors, parts;  // of result channels; of a task; tasks of a tile
  i64 table_bytes, band_elements;

  ChannelBlocks(const ConvProblem& p, Pass pass) : whole(all_phases(p, pass)) {
    const AxisMap &H = whole.axis[1], &W = whole.axis[2];
    // 512 KB of the band: with the weights of a part they stay in an L2 cache of 2 MB. (256 KB: 128
    // channels at stride 2 128 GFLOP/s a core, with 512 146.)
    constexpr i64 room = (512 << 10) / i64(sizeof(T));
    constexpr i64 some = 2 * channel_sums;
    columns = max_of<i64>(1, min_of(W.count, max_of(some, room * some / line_elements(1, some))));
    column_tiles = ceil_div(W.count, columns);
    columns = max_of<i64>(1, ceil_div(W.count, max_of<i64>(1, column_tiles)));
    lines = max_of<i64>(1, min_of(H.count, room));
    while (lines > 1 && line_elements(lines, columns) > room) lines = ceil_div(lines, 2);

    vectors = ceil_div(whole.result_channels, i64(lanes<T>));
    const i64 weights = whole.source_channels * p.taps() * lanes<T>;
    part_vectors = min_of(vectors, max_of<i64>(4, 2 * room / weights / 2 * 2));

    // Enough tasks for several threads, but none below about 2^21 products: neighbours fill the
    // same lines of the band again.
    const i64 planes = whole.n * whole.groups * whole.axis[0].count * column_tiles;
    const auto too_few = [&] {
      return planes * ceil_div(H.count, lines) * ceil_div(vectors, part_vectors) < 16;
    };
    while (lines > 1 && too_few() && lines * columns * weights * vectors > 1 << 22)
      lines = ceil_div(lines, 2);
    while (part_vectors > 2 && too_few() && lines * columns * weights * part_vectors > 1 << 22)
      part_vectors = round_up(ceil_div(part_vectors, 2), 2);
    parts = ceil_div(vectors, part_vectors);
    part_vectors = round_up(ceil_div(vectors, parts), 2);
    line_blocks = ceil_div(H.count, lines);
    if (line_blocks) lines = ceil_div(H.count, line_blocks);
    line_blocks = ceil_div(H.count, lines);

    band = band_of(lines, columns);
    band_elements = round_up(whole.source_channels * band.channel + lanes<T>, 16);
    table_bytes = round_up(p.taps() * i64(sizeof(i64)), 64);
  }

  Band band_of(i64 of_lines, i64 of_columns) const {
    const i64 results[3] = {1, of_lines, of_columns}, none[3] = {};
    const i64 taps[3] = {whole.axis[0].taps, whole.axis[1].taps, whole.axis[2].taps};
    return Band(whole, results, none, taps);
  }
  i64 line_elements(i64 of_lines, i64 of_columns) const {
    return whole.source_channels * band_of(of_lines, of_columns).channel;
  }

  i64 tasks() const {
    return whole.n * whole.groups * whole.axis[0].count * line_blocks * column_tiles * parts;
  }
  i64 group_weights(const ConvProblem& p) const {
    return vectors * lanes<T> * whole.source_channels * p.taps();
  }
  std::size_t scratch_bytes() const {
    return std::size_t(band_elements + channel_sums * lanes<T>) * sizeof(T);
  }
  std::size_t packed_bytes(const ConvProblem& p) const {
    return std::size_t(whole.groups * group_weights(p)) * sizeof(T);
  }
};

// Whether this kernel serves the pass.
template <class T>
PYCONV_INLINE bool channel_lanes_fit(const ConvProblem& p, Pass pass) {
  constexpr i64 most = (2 << 20) / i64(sizeof(T));  // of a band
  const bool forward = pass == Pass::fwd;
  const i64 k = forward ? p.k_per_group() : p.c_per_group();
  const i64 c = forward ? p.c_per_group() : p.k_per_group();
  if (pass == Pass::bwd_weight || p.layout == Layout::nchw) return false;
  // Lanes left empty cost more than turning sums: 20 of 32 36 GFLOP/s a core, turned 43.
  if (4 * k < 3 * round_up(k, lanes<T>)) return false;
  if (p.taps() > most_channel_taps || c > most / p.taps()) return false;
  if (!forward && p.border != Border::zeros) return false;  // border.h reads w as it is
  return ChannelBlocks<T>(p, pass).band_elements <= most;
}

// Weights as [group][two vectors of k][phase][c][tap][k].
template <class T>
void channel_lanes_pack(const ConvProblem& p, Pass pass, const void* weights, void* packed,
                        int threads) {
  const ChannelBlocks<T> blocks(p, pass);
  const Correlation& whole = blocks.whole;
  const i64 channels = whole.source_channels, taps = p.taps();
  struct {
    i64 first, apart;  // vectors, of channel 0 and from channel to channel
  } places[most_channel_taps];
  each_tapped_phase(p, pass, [&](const Correlation& q, i64 before) {
    i64 tap = 0;
    phase_taps(q, [&](i64 jd, i64 jh, i64 jw) {
      places[q.weight_tap(jd, jh, jw)] = {before * channels + tap++, q.taps()};
    });
  });
  parallel_for(whole.groups * blocks.vectors, threads, [&](i64 task, int) {
    const i64 v = task % blocks.vectors, group = task / blocks.vectors, pair = v / 2 * 2;
    const i64 width = min_of<i64>(2, blocks.vectors - pair) * lanes<T>, k = v * lanes<T>;
    const T* w =
        static_cast<const T*>(weights) + group * whole.weight_group + k * whole.weight_result;
    T* to = static_cast<T*>(packed) + group * blocks.group_weights(p) +
            pair * lanes<T> * channels * taps + (v - pair) * lanes<T>;
    const int rows = int(min_of<i64>(lanes<T>, whole.result_channels - k));
    // Channels that follow each other in w are one run of taps.
    const i64 run = whole.weight_source == taps ? channels : 1;
    T turned[lanes<T> * lanes<T>];
    for (i64 c0 = 0; c0 < channels; c0 += run)
      for (i64 i = 0, c = c0, tap = 0; i < run * taps; i += lanes<T>) {
        const i64 some = min_of<i64>(lanes<T>, run * taps - i);
        transpose_rows(w + c0 * whole.weight_source + i, whole.weight_result, rows, some, turned,
                       lanes<T>, lanes<T>);
        for (i64 e = 0; e < some; ++e) {
          store(to + (places[tap].first + c * places[tap].apart) * width,
                load(turned + e * lanes<T>));
          if (++tap == taps) tap = 0, ++c;
        }
      }
  });
}

// The taps of all phases, one phase after the other, as offsets in the band.
template <class T>
void list_phase_taps(const ConvProblem& p, Pass pass, const ChannelBlocks<T>& blocks, i64* to) {
  const BandAxis &D = blocks.band.axis[0], &H = blocks.band.axis[1], &W = blocks.band.axis[2];
  each_tapped_phase(p, pass, [&](const Correlation& q, i64) {
    const auto position = [&](int a, i64 j) PYCONV_ALWAYS {
      return pass == Pass::bwd_data ? q.axis[a].source(0, j) - blocks.whole.axis[a].first : j;
    };
    phase_taps(q, [&](i64 jd, i64 jh, i64 jw) {
      const i64 d = position(0, jd), h = position(1, jh), w = position(2, jw);
      const i64 row = (D.run_of(d) * D.length + D.shift_of(d)) * H.runs * H.length +
                      H.run_of(h) * H.length + H.shift_of(h);
      *to++ = W.run_of(w) * blocks.band.plane + row * blocks.band.row + W.shift_of(w);
    });
  });
}

// Results of one phase of a task.
template <class T>
struct ChannelLines {
  const Correlation& q;
  const Epilogue<T>& end;
  Ahead<T>& next;
  ChannelSum<T> sum;
  const T *band, *weights;  // of the first line; of the vectors of k
  i64 band_row, at, lines;  // `at`: of the first result
  T* tile;

  // One or two vectors of channels.
  template <int VECTORS>
  void run(i64 channel, i64 columns) const {
    const ColumnRuns cut(columns, VECTORS);
    strip<VECTORS>(channel, 0, cut.pixels, cut.runs);
    if (cut.rest) strip<VECTORS>(channel, cut.runs * cut.pixels, cut.rest, 1);
  }

 private:
  template <int VECTORS>
  void strip(i64 channel, i64 column, i64 pixels, i64 runs) const {
    constexpr i64 width = VECTORS * lanes<T>;
    const i64 channels = min_of(width, q.result_channels - channel);
    const i64 step = q.axis[2].result_step * q.result.axis[2];
    const i64 line_step = q.axis[1].result_step * q.result.axis[1];
    const bool stores = end.plain() && channels == width;
    const i64 most = channel_runs_of(int(pixels), VECTORS);
    PixelRuns<T> to{{}, {}, stores ? step : width};
    i64 places[channel_runs], count = 0;
    for (i64 line = 0; line < lines; ++line)
      for (i64 run = 0; run < runs; ++run) {
        const i64 o = column + run * pixels;
        to.from[count] = band + line * band_row + o;
        places[count] = at + line * line_step + o * step;
        to.to[count] = stores ? end.out + places[count] + channel : tile + count * pixels * width;
        if (++count < most && (line + 1 < lines || run + 1 < runs)) continue;
        sum_pixels_of<T, VECTORS>(count, pixels)(sum, to, weights);
        next.fetch();
        for (i64 i = 0; i < count && !stores; ++i)
          end.store_channels(tile + i * pixels * width, width, channel, places[i] + channel, step,
                             channels, pixels);
        count = 0;
      }
  }
};

// A task: results of a group of an image, and the vectors of k from `first` on.
struct ChannelPlace {
  i64 n, group, first;
  i64 at[3], results[3];
};

template <class T>
struct ChannelTask {
  const ConvProblem& p;
  Pass pass;
  const ChannelBlocks<T>& blocks;
  const Buffers& b;

  ChannelPlace place(i64 task) const {
    const Correlation& q = blocks.whole;
    ChannelPlace to;
    to.first = task % blocks.parts * blocks.part_vectors;
    task /= blocks.parts;
    to.at[2] = task % blocks.column_tiles * blocks.columns;
    task /= blocks.column_tiles;
    to.at[1] = task % blocks.line_blocks * blocks.lines;
    task /= blocks.line_blocks;
    to.at[0] = task % q.axis[0].count;
    task /= q.axis[0].count;
    to.n = task / q.groups;
    to.group = task % q.groups;
    to.results[0] = 1;
    to.results[1] = min_of(blocks.lines, q.axis[1].count - to.at[1]);
    to.results[2] = min_of(blocks.columns, q.axis[2].count - to.at[2]);
    return to;
  }

  const T* source(const ChannelPlace& to) const {
    const Correlation& q = blocks.whole;
    return static_cast<const T*>(b.a) + to.n * q.source.n +
           to.group * q.source_channels * q.source.c;
  }

  Ahead<T> ahead(i64 task) const {
    if (task >= blocks.tasks() || blocks.column_tiles > 1) return {};
    const ChannelPlace to = place(task);
    const i64 sums = to.results[1] * to.results[2] * blocks.part_vectors;
    return ahead_of(blocks.whole, source(to), 1, to.at, to.results, ceil_div(sums, channel_sums));
  }

  void run(const ChannelPlace& to, char* scratch, Ahead<T> next) const {
    const Correlation& whole = blocks.whole;
    const i64 channels = whole.source_channels;
    T* band = reinterpret_cast<T*>(scratch);
    fill_band(whole, blocks.band, source(to), channels, to.at, to.results, band);

    const T* weights = static_cast<const T*>(b.packed) + to.group * blocks.group_weights(p);
    each_tapped_phase(p, pass, [&](const Correlation& q, i64 before) PYCONV_ALWAYS {
      const i64 columns = min_of(to.results[2], q.axis[2].count - to.at[2]);
      if (to.at[0] >= q.axis[0].count || columns <= 0) return;
      const Epilogue<T> end = epilogue<T>(p, q, b, to.group);
      ChannelLines<T> lines{q,
                            end,
                            next,
                            {reinterpret_cast<const i64*>(b.shared) + before, q.taps(), channels,
                             blocks.band.channel},
                            band,
                            weights,
                            blocks.band.row,
                            result_offset(q, {to.n, {to.at[0], to.at[1], to.at[2]}}),
                            min_of(to.results[1], q.axis[1].count - to.at[1]),
                            band + blocks.band_elements};
      for (i64 v = to.first; v < min_of(blocks.vectors, to.first + blocks.part_vectors); v += 2) {
        const i64 pair = min_of<i64>(2, blocks.vectors - v);
        lines.weights = weights + (v * p.taps() + pair * before) * channels * lanes<T>;
        if (pair == 2)
          lines.template run<2>(v * lanes<T>, columns);
        else
          lines.template run<1>(v * lanes<T>, columns);
      }
    });
  }
};

template <class T>
void channel_lanes(const ConvProblem& p, Pass pass, const Buffers& b) {
  const ChannelBlocks<T> blocks(p, pass);
  list_phase_taps(p, pass, blocks, reinterpret_cast<i64*>(b.shared));
  finish_untapped<T>(p, pass, b);
  const ChannelTask<T> task{p, pass, blocks, b};
  parallel_for(blocks.tasks(), b.threads, [&](i64 index, int thread) {
    task.run(task.place(index), b.scratch + std::size_t(thread) * b.scratch_bytes,
             task.ahead(index + b.threads));
  });
}

}  // namespace pyconv::PYCONV_TARGET
