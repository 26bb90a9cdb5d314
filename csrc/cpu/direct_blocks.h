// How direct convolution cuts a phase of a forward pass or an input gradient into tasks.
#pragma once
#include "direct_tile.h"

namespace pyconv::PYCONV_TARGET {

// Sizes of tasks and chunks; all but the last of each are equal.
template <class T>
struct DirectBlocks {
  i64 rows, row_blocks;  // channels of a register tile; such tiles
  i64 task_blocks;       // of a task
  BandTiles tiles;
  i64 channels;    // source channels of a chunk
  i64 planes;      // groups of images in a task
  int tile_lines;  // of sum_lines, or 0 for sum_taps
  bool flat;       // runs of vectors cross lines
  bool chunked;    // sums wait in scratch for the next chunk
  i64 sums_row, sums_line;
  Band band;  // of the first box, the largest
  i64 table_bytes, band_elements, sums_elements;

  // `beside`: blocks of the phase whose results lie between these, if they share tasks.
  explicit DirectBlocks(const Correlation& q, const DirectBlocks* beside = nullptr) {
    row_blocks = ceil_div(q.result_channels, i64(direct_rows));
    rows = ceil_div(q.result_channels, row_blocks);
    row_blocks = ceil_div(q.result_channels, rows);
    // 16 KB of sums: with a row of the band for each tap they stay in an L1 cache.
    tiles = BandTiles(q, max_of<i64>(16 * 1024 / i64(sizeof(T)) / rows, 8 * lanes<T>));
    if (beside) tiles.columns = beside->tiles.columns, tiles.lines = beside->tiles.lines;
    choose_tile(q);

    // Enough tasks for several threads, but none below about 2^17 products. (Boxes of taps are cut
    // before the batch is looked at: the order of the sums depends on them.)
    const AxisMap& H = q.axis[1];
    const i64 tasks = q.n * q.groups * q.axis[0].count * tiles.column_tiles;
    i64 lines = tiles.lines;
    while (!beside && lines > 1 && tasks * ceil_div(H.count, lines) < 16 &&
           lines * tiles.columns * q.depth() * q.result_channels > (1 << 17))
      lines = ceil_div(lines, 2);
    if (tile_lines) lines = round_up(lines, tile_lines);
    if (!beside) tiles.cut_lines(H, lines);

    band = tiles.box(q, 0);
    const i64 quarter_mb = (1 << 18) / i64(sizeof(T));
    channels = max_of<i64>(1, min_of(q.source_channels, quarter_mb / band.channel));
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
    // What a task costs beside its sums is shared by several small images, 16 KB of them.
    planes = q.layout == Layout::nchw && !chunked
                 ? min_of(16 * 1024 / (channels * band.channel * i64(sizeof(T))), tasks / 16)
                 : 1;
    // In NHWC as many groups as fill a vector of channels.
    if (q.layout == Layout::nhwc && !chunked && !tile_lines) {
      planes = lanes<T> / q.source_channels;
      while (planes > 1 && q.groups % planes) --planes;
    }
    planes = beside ? beside->planes : max_of<i64>(1, planes);
    band_elements =
        round_up(planes * channels * band.channel + lanes<T> + tile_lines * band.row, 16);
    sums_elements = round_up((chunked ? task_blocks : planes) * rows * sums_row, 16);
    table_bytes =
        tile_lines ? LineTables::bytes(band, tile_lines) : tiles.box_taps() * i64(sizeof(Tap));
    table_bytes = round_up(table_bytes, 64);
  }

  i64 tasks(const Correlation& q) const {
    return ceil_div(q.n * q.groups, planes) * q.axis[0].count * tiles.line_blocks *
           tiles.column_tiles * ceil_div(row_blocks, task_blocks);
  }
  std::size_t scratch_bytes() const {
    return std::size_t(tiles.box_count() > 1 ? table_bytes : 0) +
           std::size_t(band_elements + sums_elements) * sizeof(T);
  }

 private:
  // Whole lines of one channel, if the filter has lines to share and they do not leave so many
  // lanes empty that runs across lines are faster.
  void choose_tile(const Correlation& q) {
    tile_lines = 0;
    if (rows > 1 || tiles.box_count() > 1 || tiles.taps[1] == 1 || tiles.box_taps() > 256) return;
    const Band box = tiles.box(q, 0);
    if (!LineTables::fit(box)) return;
    const Sweep across(true, box, tiles.lines, tiles.columns, lanes<T>);
    const Sweep by_line(false, box, tiles.lines, tiles.columns, lanes<T>);
    if (3 * by_line.lines * by_line.vectors > 5 * across.vectors) return;
    tile_lines = lines_beside<T>(by_line.vectors);
  }

  // Cycles for one tap of a run: FMAs and loads go two a cycle, an FMA takes 4.
  double run_cost(i64 vectors) const {
    const i64 widest = direct_vectors(int(rows)), runs = ceil_div(vectors, widest);
    const double width = double(vectors) / double(runs);
    const double products = double(rows) * width / 2, loads = width + double(rows) / 2;
    return double(runs) * max_of(4.0, max_of(products, loads));
  }
};

}  // namespace pyconv::PYCONV_TARGET
