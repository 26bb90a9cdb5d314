// Direct convolution: few channels in a group, so that columns for a GEMM would cost more than the
// products.
//
//   forward, input gradient   a band of the source (band.h), then register tiles (direct_tile.h):
//                             rows of a band follow each other without gaps, so one run of vectors
//                             crosses narrow images, and what lies between two rows is dropped
//   weight gradient           direct_weight.h
//
// Parallel over images, groups, blocks of lines, tiles of columns and blocks of channels. Every
// result is summed in the order of boxes of taps, source channels, taps, whatever the tiles:
// neither batch nor threads show in it.
#pragma once
#include "border.h"
#include "direct_tile.h"
#include "direct_weight.h"
#include "epilogue.h"

namespace pyconv::PYCONV_TARGET {

// How a phase is cut into tasks and chunks; all sizes but the last of each are equal.
template <class T>
struct DirectBlocks {
  i64 rows, row_blocks;  // channels of a register tile; such tiles
  i64 task_blocks;       // of a task
  BandTiles tiles;
  i64 channels;    // source channels of a chunk
  int tile_lines;  // of sum_lines, or 0 for sum_taps
  bool flat;       // runs of vectors cross lines
  bool chunked;    // sums wait in scratch for the next chunk
  i64 sums_row, sums_line;
  Band band;  // of the first box, the largest
  i64 table_bytes, band_elements, sums_elements;

  explicit DirectBlocks(const Correlation& q) {
    row_blocks = ceil_div(q.result_channels, i64(direct_rows));
    rows = ceil_div(q.result_channels, row_blocks);
    row_blocks = ceil_div(q.result_channels, rows);
    // 16 KB of sums: with a row of the band for each tap they stay in an L1 cache.
    tiles = BandTiles(q, max_of<i64>(16 * 1024 / i64(sizeof(T)) / rows, 8 * lanes<T>));
    choose_tile(q);

    // Enough tasks for several threads, but none below about 2^17 products. (Boxes of taps are cut
    // before the batch is looked at: the order of the sums depends on them.)
    const AxisMap& H = q.axis[1];
    const i64 tasks = q.n * q.groups * q.axis[0].count * tiles.column_tiles;
    i64 lines = tiles.lines;
    while (lines > 1 && tasks * ceil_div(H.count, lines) < 16 &&
           lines * tiles.columns * q.depth() * q.result_channels > (1 << 17))
      lines = ceil_div(lines, 2);
    if (tile_lines) lines = round_up(lines, tile_lines);
    tiles.cut_lines(H, lines);

    band = tiles.box(q, 0);
    const i64 quarter_mb = (1 << 18) / i64(sizeof(T));
    channels = max_of<i64>(1, min_of(q.source_channels, quarter_mb / band.channel));
    band_elements = round_up(channels * band.channel + lanes<T> + tile_lines * band.row, 16);
    chunked = channels < q.source_channels || tiles.box_count() > 1;

    const Sweep across(true, band, tiles.lines, tiles.columns, lanes<T>);
    const Sweep by_line(false, band, tiles.lines, tiles.columns, lanes<T>);
    flat =
        !tile_lines && run_cost(across.vectors) <= double(tiles.lines) * run_cost(by_line.vectors);
    sums_line = flat ? band.row : by_line.vectors * lanes<T>;
    sums_row = flat ? across.vectors * lanes<T> : tiles.lines * sums_line;

    task_blocks = min_of<i64>(row_blocks, 8);
    while (task_blocks > 1 && tasks * tiles.line_blocks * ceil_div(row_blocks, task_blocks) < 16)
      task_blocks = ceil_div(task_blocks, 2);
    sums_elements = round_up((chunked ? task_blocks : 1) * rows * sums_row, 16);
    table_bytes = tile_lines ? list_lines(q, band, tile_lines, nullptr) * i64(sizeof(LineTap))
                             : tiles.box_taps() * i64(sizeof(Tap));
  }

  std::size_t scratch_bytes() const {
    return std::size_t(round_up(tiles.box_count() > 1 ? table_bytes : 0, 64)) +
           std::size_t(band_elements + sums_elements) * sizeof(T);
  }

 private:
  // Whole lines of one channel, if they fill their vectors and the filter has lines to share.
  void choose_tile(const Correlation& q) {
    tile_lines = 0;
    if (rows > 1 || tiles.box_count() > 1 || tiles.taps[1] == 1 || tiles.box_taps() > 128) return;
    const i64 vectors = ceil_div(tiles.columns, lanes<T>);
    const Band box = tiles.box(q, 0);
    if (box.axis[1].by_tap || 2 * vectors * lanes<T> > 3 * box.row) return;
    tile_lines = vectors <= tile_sums / 8 ? 8 : 4;
  }

  // Cycles for one tap of a run: FMAs and loads go two a cycle, an FMA takes 4.
  double run_cost(i64 vectors) const {
    const i64 widest = direct_vectors(int(rows)), tiles = ceil_div(vectors, widest);
    const double width = double(vectors) / double(tiles);
    const double products = double(rows) * width / 2, loads = width + double(rows) / 2;
    return double(tiles) * max_of(4.0, max_of(products, loads));
  }
};

template <class T>
struct DirectTask {
  const ConvProblem& p;
  const Correlation& q;
  const DirectBlocks<T>& blocks;
  const Buffers& b;
  const void* table;  // of the only box, else nullptr

  void run(i64 task, char* scratch) const {
    const BandTiles& tiles = blocks.tiles;
    const i64 parts = ceil_div(blocks.row_blocks, blocks.task_blocks);
    const i64 block0 = task % parts * blocks.task_blocks;
    task /= parts;
    i64 at[3];
    at[2] = task % tiles.column_tiles * tiles.columns;
    task /= tiles.column_tiles;
    at[1] = task % tiles.line_blocks * tiles.lines;
    task /= tiles.line_blocks;
    at[0] = task % q.axis[0].count;
    task /= q.axis[0].count;
    const i64 group = task % q.groups, n = task / q.groups;
    const i64 results[3] = {1, min_of(tiles.lines, q.axis[1].count - at[1]),
                            min_of(tiles.columns, q.axis[2].count - at[2])};

    Tap* list = reinterpret_cast<Tap*>(scratch);
    T* band = reinterpret_cast<T*>(scratch + (table ? 0 : round_up(blocks.table_bytes, 64)));
    T* sums = band + blocks.band_elements;
    const T* images = static_cast<const T*>(b.a);
    const T* source = images + n * q.source.n + group * q.source_channels * q.source.c;
    const T* w = static_cast<const T*>(b.b) + group * q.weight_group;
    const Epilogue<T> end = epilogue<T>(p, q, b, group);
    const i64 offset = result_offset(q, {n, {at[0], at[1], at[2]}});
    const i64 block1 = min_of(blocks.row_blocks, block0 + blocks.task_blocks);
    const Sweep sweep(blocks.flat, blocks.band, results[1], results[2], lanes<T>);

    for (i64 i = 0; i < tiles.box_count(); ++i) {
      const Band box = table ? blocks.band : tiles.box(q, i);
      if (!table) box.list_taps(q, list);
      for (i64 c0 = 0; c0 < q.source_channels; c0 += blocks.channels) {
        const i64 channels = min_of(blocks.channels, q.source_channels - c0);
        const bool add = i > 0 || c0 > 0;
        const bool last = i + 1 == tiles.box_count() && c0 + channels == q.source_channels;
        fill_band(q, box, source + c0 * q.source.c, images + q.n * q.source.n, channels, at,
                  results, band);
        const T* weights = w + c0 * q.weight_source;
        if (blocks.tile_lines) {
          sum_one_channel(box, channels, band, weights, results, add, last, end, offset, sums);
          continue;
        }
        const TapSum<T> a{table ? static_cast<const Tap*>(table) : list,
                          box.axis[0].taps * box.axis[1].taps * box.axis[2].taps,
                          channels,
                          band,
                          box.channel,
                          q.weight_source,
                          q.weight_result,
                          blocks.sums_row,
                          add};
        for (i64 block = block0; block < block1; ++block) {
          const i64 channel = block * blocks.rows;
          const int rows = int(min_of(blocks.rows, q.result_channels - channel));
          T* to = sums + (blocks.chunked ? block - block0 : 0) * blocks.rows * blocks.sums_row;
          const T* from = weights + channel * q.weight_result;
          for (i64 line = 0; line < sweep.lines; ++line)
            sum_run<T, direct_rows>(a, rows, sweep.vectors, from, line * box.row,
                                    to + line * blocks.sums_line);
          for (int r = 0; last && r < rows; ++r)
            store_lines(end, channel + r, offset, results, to + r * blocks.sums_row);
        }
      }
    }
  }

  // Without anything to add, lines go straight to the result.
  void sum_one_channel(const Band& box, i64 channels, const T* band, const T* w,
                       const i64 (&results)[3], bool add, bool last, const Epilogue<T>& end,
                       i64 offset, T* sums) const {
    const i64 line_step = q.axis[1].result_step * q.result.axis[1];
    const bool at_once = !blocks.chunked && plain(end);
    LineSum<T> a{static_cast<const LineTap*>(table),
                 blocks.table_bytes / i64(sizeof(LineTap)),
                 channels,
                 band,
                 box.channel,
                 q.weight_source,
                 at_once ? line_step : blocks.sums_line,
                 0,
                 add};
    T* to = at_once ? end.out + offset : sums;
    for (i64 line = 0; line < results[1]; line += blocks.tile_lines) {
      a.lines = int(min_of<i64>(blocks.tile_lines, results[1] - line));
      sum_line_block(a, blocks.tile_lines, w, line * box.row, results[2], to + line * a.sums_line);
    }
    if (last && !at_once) store_lines(end, 0, offset, results, sums);
  }

  bool plain(const Epilogue<T>& end) const {
    return !end.bias && !end.residual && end.activation == Activation::none &&
           q.axis[2].result_step * q.result.axis[2] == 1;
  }

  void store_lines(const Epilogue<T>& end, i64 channel, i64 offset, const i64 (&results)[3],
                   const T* sums) const {
    const i64 step = q.axis[2].result_step * q.result.axis[2];
    const i64 line_step = q.axis[1].result_step * q.result.axis[1];
    offset += channel * q.result.c;
    const bool copies = plain(end);
    for (i64 line = 0; line < results[1]; ++line) {
      if (copies)
        copy_line(sums, end.out + offset, results[2]);
      else
        end.store_pixels(sums, channel, offset, step, results[2]);
      sums += blocks.sums_line;
      offset += line_step;
    }
  }

  static PYCONV_INLINE void copy_line(const T* from, T* to, i64 count) {
    i64 i = 0;
    for (; i + lanes<T> <= count; i += lanes<T>) store(to + i, load(from + i));
    if (i < count) store_first(to + i, load(from + i), int(count - i));
  }
};

template <class T>
void direct_phase(const ConvProblem& p, const Correlation& q, const Buffers& b) {
  if (q.pixels() == 0) return;
  const DirectBlocks<T> blocks(q);
  const bool one_box = blocks.tiles.box_count() == 1;
  if (blocks.tile_lines)
    list_lines(q, blocks.band, blocks.tile_lines, reinterpret_cast<LineTap*>(b.shared));
  else if (one_box)
    blocks.band.list_taps(q, reinterpret_cast<Tap*>(b.shared));
  const DirectTask<T> tasks{p, q, blocks, b, one_box ? b.shared : nullptr};
  const i64 count = q.n * q.groups * q.axis[0].count * blocks.tiles.line_blocks *
                    blocks.tiles.column_tiles * ceil_div(blocks.row_blocks, blocks.task_blocks);
  // A task of a small image takes as long as handing it out.
  const i64 some = max_of<i64>(1, min_of<i64>(16, count / (8 * b.threads)));
  parallel_for(ceil_div(count, some), b.threads, [&](i64 first, int thread) {
    for (i64 task = first * some; task < min_of(count, (first + 1) * some); ++task)
      tasks.run(task, b.scratch + std::size_t(thread) * b.scratch_bytes);
  });
}

template <class T>
std::size_t direct_scratch_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight)
    return DirectWeightBlocks<T>(correlation(p, Pass::fwd)).scratch_bytes();
  std::size_t most = 0;
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    if (q.pixels() > 0) most = max_of(most, DirectBlocks<T>(q).scratch_bytes());
  }
  return most;
}

// The table of taps, or the weight gradient's parts.
template <class T>
std::size_t direct_shared_bytes(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight) {
    const i64 parts = DirectWeightBlocks<T>(correlation(p, Pass::fwd)).parts;
    return parts > 1 ? std::size_t(parts * p.k * p.c_per_group() * p.taps()) * sizeof(T) : 0;
  }
  i64 most = 0;
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase) {
    const Correlation q = correlation(p, pass, phase);
    if (q.pixels() > 0) most = max_of(most, DirectBlocks<T>(q).table_bytes);
  }
  return std::size_t(most);
}

template <class T>
void direct(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::bwd_weight) return direct_bwd_weight<T>(p, b);
  for_each_phase<T>(p, pass, b, [&](const Correlation& q) { direct_phase<T>(p, q, b); });
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const T*>(b.a), static_cast<const T*>(b.b),
                         static_cast<T*>(b.out), b.threads);
}

}  // namespace pyconv::PYCONV_TARGET
