// Direct convolution: few channels in a group, so that columns for a GEMM would cost more than the
// products.
//
//   forward, input gradient   a band of the source (band.h), then register tiles (direct_tile.h):
//                             rows of a band follow each other without gaps, so one run of vectors
//                             crosses narrow images, and what lies between two rows is dropped
//                             In NHWC, with a vector of result channels or more in a group, lanes
//                             run along these: direct_channels.h
//   weight gradient           direct_weight.h
//   depthwise in NHWC         depthwise.h
//
// Parallel over images, groups, blocks of lines, tiles of columns and blocks of channels. Every
// result is summed in the order of boxes of taps, source channels, taps, whatever the tiles:
// neither batch nor threads show in it.
#pragma once
#include "border.h"
#include "depthwise.h"
#include "direct_blocks.h"
#include "direct_channels.h"
#include "direct_weight.h"
#include "epilogue.h"

namespace pyconv::PYCONV_TARGET {

template <class T>
PYCONV_INLINE void copy_line(const T* from, T* to, i64 count) {
  i64 i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>) store(to + i, load(from + i));
  if (i < count) store_first(to + i, load(from + i), int(count - i));
}

// A tile of results of one or more planes (groups of images).
struct DirectPlace {
  i64 plane, planes, row_block;
  i64 at[3], results[3];
};

template <class T>
struct DirectPhase {
  const ConvProblem& p;
  const Correlation& q;
  const DirectBlocks<T>& blocks;
  const Buffers& b;
  char* table;  // of the only box, else nullptr
  LineTables lines;

  DirectPhase(const ConvProblem& problem, const Correlation& phase, const DirectBlocks<T>& cut,
              const Buffers& buffers, char* memory)
      : p(problem), q(phase), blocks(cut), b(buffers), table(nullptr) {
    if (blocks.tiles.box_count() > 1) return;
    table = memory;
    if (blocks.tile_lines)
      lines = LineTables(q, blocks.band, blocks.tile_lines, table);
    else
      blocks.band.list_taps(q, reinterpret_cast<Tap*>(table));
  }

  DirectPlace place(i64 task) const {
    const BandTiles& tiles = blocks.tiles;
    DirectPlace to;
    const i64 parts = ceil_div(blocks.row_blocks, blocks.task_blocks);
    to.row_block = task % parts * blocks.task_blocks;
    task /= parts;
    to.at[2] = task % tiles.column_tiles * tiles.columns;
    task /= tiles.column_tiles;
    to.at[1] = task % tiles.line_blocks * tiles.lines;
    task /= tiles.line_blocks;
    to.at[0] = task % q.axis[0].count;
    to.plane = task / q.axis[0].count * blocks.planes;
    to.planes = min_of(blocks.planes, q.n * q.groups - to.plane);
    to.results[0] = 1;
    to.results[1] = min_of(tiles.lines, q.axis[1].count - to.at[1]);
    to.results[2] = min_of(tiles.columns, q.axis[2].count - to.at[2]);
    return to;
  }

  Ahead<T> ahead(i64 task) const {
    if (task >= blocks.tasks(q) || q.layout == Layout::nhwc || blocks.chunked) return {};
    const DirectPlace to = place(task);
    const i64 sums = to.planes * blocks.task_blocks * blocks.rows * blocks.sums_row;
    const T* image = static_cast<const T*>(b.a) + to.plane * q.source_channels * q.source.c;
    return ahead_of(q, image, to.planes, to.at, to.results, ceil_div(sums, tile_sums * lanes<T>));
  }

  // Sums of a tile; stored, or left in `sums` (nullptr: in scratch): plane, channel, line.
  void run(const DirectPlace& to, char* scratch, T* sums, bool stores, Ahead<T> next = {}) const {
    const BandTiles& tiles = blocks.tiles;
    Tap* list = reinterpret_cast<Tap*>(table ? table : scratch);
    T* band = reinterpret_cast<T*>(scratch + (table ? 0 : blocks.table_bytes));
    if (!sums) sums = band + blocks.band_elements;
    const i64 n = to.plane / q.groups, group = to.plane % q.groups;
    const T* images = static_cast<const T*>(b.a);
    const T* source = images + n * q.source.n + group * q.source_channels * q.source.c;

    for (i64 i = 0; i < tiles.box_count(); ++i) {
      const Band box = table ? blocks.band : tiles.box(q, i);
      if (!table) box.list_taps(q, list);
      for (i64 c0 = 0; c0 < q.source_channels; c0 += blocks.channels) {
        const i64 channels = min_of(blocks.channels, q.source_channels - c0);
        const bool last = i + 1 == tiles.box_count() && c0 + channels == q.source_channels;
        fill_band(q, box, source + c0 * q.source.c, to.planes * channels, to.at, to.results, band);
        for (i64 plane = 0; plane < to.planes; ++plane) {
          T* const keep = sums + (blocks.chunked ? 0 : plane) * blocks.rows * blocks.sums_row;
          const T* from = band + plane * channels * box.channel;
          if (blocks.tile_lines)
            sum_channel(box, from, channels, c0, to, to.plane + plane, keep, stores, last);
          else
            sum_channels(box, list, from, channels, c0, i > 0 || c0 > 0, to, to.plane + plane, keep,
                         stores && last, next);
        }
      }
    }
  }

  bool copies(const Epilogue<T>& end) const {
    return !end.bias && !end.residual && end.activation == Activation::none;
  }

 private:
  void sum_channels(const Band& box, const Tap* list, const T* band, i64 channels, i64 c0, bool add,
                    const DirectPlace& to, i64 plane, T* sums, bool stores, Ahead<T>& next) const {
    const T* w =
        static_cast<const T*>(b.b) + plane % q.groups * q.weight_group + c0 * q.weight_source;
    const Sweep sweep(blocks.flat, box, to.results[1], to.results[2], lanes<T>);
    const TapSum<T> a{list,
                      box.axis[0].taps * box.axis[1].taps * box.axis[2].taps,
                      channels,
                      band,
                      box.channel,
                      q.weight_source,
                      q.weight_result,
                      blocks.sums_row,
                      add};
    const i64 last = min_of(blocks.row_blocks, to.row_block + blocks.task_blocks);
    for (i64 block = to.row_block; block < last; ++block) {
      const i64 channel = block * blocks.rows;
      const int rows = int(min_of(blocks.rows, q.result_channels - channel));
      T* block_sums =
          sums + (blocks.chunked ? block - to.row_block : 0) * blocks.rows * blocks.sums_row;
      // Lines are stored as soon as they are whole: stores of one tile drain under the next.
      i64 stored = 0;
      for (i64 line = 0; line < sweep.lines; ++line)
        sum_run<T, direct_rows>(a, rows, sweep.vectors, w + channel * q.weight_result,
                                line * box.row, block_sums + line * blocks.sums_line,
                                [&](i64 summed) PYCONV_ALWAYS {
                                  next.fetch();
                                  if (!stores) return;
                                  const i64 whole = line + (summed - to.results[2]) / box.row + 1;
                                  if (summed < to.results[2] || whole <= stored) return;
                                  const i64 last = min_of(whole, to.results[1]);
                                  store_block(to, plane, channel, rows, stored, last, block_sums);
                                  stored = last;
                                });
    }
  }

  // Without anything to add, lines go straight to the result.
  void sum_channel(const Band& box, const T* band, i64 channels, i64 c0, const DirectPlace& to,
                   i64 plane, T* sums, bool stores, bool last) const {
    const i64 group = plane % q.groups;
    const Epilogue<T> end = epilogue<T>(p, q, b, group);
    const bool at_once = stores && !blocks.chunked && copies(end) && result_step() == 1;
    LineSum<T> a{lines.rows,
                 lines.row_count,
                 lines.across,
                 box.axis[2].taps,
                 channels,
                 band,
                 box.channel,
                 q.weight_source,
                 lines.weight_line,
                 at_once ? q.axis[1].result_step * q.result.axis[1] : blocks.sums_line,
                 0,
                 c0 > 0};
    const T* w = static_cast<const T*>(b.b) + group * q.weight_group + c0 * q.weight_source;
    T* out = at_once ? end.out + offset(to, plane) : sums;
    for (i64 line = 0; line < to.results[1]; line += blocks.tile_lines) {
      a.lines = int(min_of<i64>(blocks.tile_lines, to.results[1] - line));
      sum_line_block(a, blocks.tile_lines, w, line * box.row, to.results[2],
                     out + line * a.sums_line);
    }
    if (stores && last && !at_once) store_block(to, plane, 0, 1, 0, to.results[1], sums);
  }

  i64 result_step() const { return q.axis[2].result_step * q.result.axis[2]; }
  i64 offset(const DirectPlace& to, i64 plane) const {
    return result_offset(q, {plane / q.groups, {to.at[0], to.at[1], to.at[2]}});
  }

  // Lines [line, last) of neighbouring channels.
  PYCONV_NOINLINE void store_block(const DirectPlace& to, i64 plane, i64 channel, int rows,
                                   i64 line, i64 last, const T* sums) const {
    const Epilogue<T> end = epilogue<T>(p, q, b, plane % q.groups);
    const i64 line_step = q.axis[1].result_step * q.result.axis[1], pixels = to.results[2];
    i64 at = offset(to, plane) + channel * q.result.c + line * line_step;
    for (sums += line * blocks.sums_line; line < last; ++line) {
      if (q.layout == Layout::nhwc && rows > 1) {
        for (int r = 0; r < rows; r += lanes<T>)
          store_turned(end, sums + r * blocks.sums_row, channel + r, at + r,
                       min_of(rows - r, lanes<T>), pixels);
      } else {
        for (int r = 0; r < rows; ++r)
          if (copies(end) && result_step() == 1)
            copy_line(sums + r * blocks.sums_row, end.out + at + r * q.result.c, pixels);
          else
            end.store_pixels(sums + r * blocks.sums_row, channel + r, at + r * q.result.c,
                             result_step(), pixels);
      }
      sums += blocks.sums_line;
      at += line_step;
    }
  }

  // A line of up to a vector of channels of NHWC.
  PYCONV_INLINE void store_turned(const Epilogue<T>& end, const T* sums, i64 channel, i64 at,
                                  int count, i64 pixels) const {
    if (copies(end))
      return transpose_rows(sums, blocks.sums_row, count, pixels, end.out + at, result_step());
    T tile[lanes<T> * lanes<T>];
    for (i64 i = 0; i < pixels; i += lanes<T>) {
      const i64 some = min_of<i64>(lanes<T>, pixels - i);
      transpose_rows(sums + i, blocks.sums_row, count, some, tile, lanes<T>);
      for (i64 e = 0; e < some; ++e)
        end.store_channels(tile + e * lanes<T>, channel, at + (i + e) * result_step(), count);
    }
  }
};

template <class T>
PYCONV_INLINE i64 pair_row(const DirectBlocks<T>& blocks) {
  return round_up(2 * round_up(blocks.tiles.columns, lanes<T>), 16);
}

// Two phases of an input gradient at stride 2 along W, whose results take turns in a row of dx.
template <class T>
struct DirectPair {
  const DirectPhase<T>&even, &odd;

  void run(i64 task, char* scratch) const {
    const Correlation& q = even.q;
    const DirectBlocks<T>&first = even.blocks, &second = odd.blocks;
    DirectPlace to = even.place(task);
    T* sums = reinterpret_cast<T*>(scratch);
    T* more = sums + first.sums_elements;
    T* row = more + second.sums_elements;
    char* rest = reinterpret_cast<char*>(row + pair_row(first));
    even.run(to, rest, sums, false);
    const i64 evens = to.results[2];
    const i64 odds = min_of(evens, odd.q.axis[2].count - to.at[2]);
    to.results[2] = odds;
    if (odds > 0) odd.run(to, rest, more, false);
    for (i64 plane = 0; plane < to.planes; ++plane) {
      const Epilogue<T> end = epilogue<T>(even.p, q, even.b, (to.plane + plane) % q.groups);
      for (i64 r = 0; r < q.result_channels; ++r) {
        const T* left = sums + (plane * first.rows + r) * first.sums_row;
        const T* right = more + (plane * second.rows + r) * second.sums_row;
        for (i64 line = 0; line < to.results[1]; ++line) {
          for (i64 i = 0; i < evens; i += lanes<T>) {
            const Vec<T> a = load(left + i), c = load(right + i);
            store(row + 2 * i, interleaved<T>(a, c, 0));
            store(row + 2 * i + lanes<T>, interleaved<T>(a, c, 1));
          }
          const i64 at = result_offset(q, {(to.plane + plane) / q.groups,
                                           {to.at[0], to.at[1] + line, to.at[2]}}) +
                         r * q.result.c;
          if (even.copies(end))
            copy_line(row, end.out + at, evens + odds);
          else
            end.store_pixels(row, r, at, 1, evens + odds);
          left += first.sums_line;
          right += second.sums_line;
        }
      }
    }
  }

  // Whether two phases can share tasks.
  static bool fits(const Correlation& a, const Correlation& b) {
    return a.layout == Layout::nchw && a.axis[2].result_step == 2 && a.axis[2].result_first == 0 &&
           b.axis[2].result_first == 1 && a.pixels() > 0 && b.pixels() > 0 &&
           a.result_channels <= direct_rows;
  }
};

// body(phase, nullptr), or body(phase, other) for two that share their tasks.
template <class T>
class PhasePairs {
 public:
  PhasePairs(const ConvProblem& p, Pass pass)
      : pairs(pass == Pass::bwd_data && phase_count(p, pass, 2) == 2) {}

  template <class Body>
  void next(const Correlation& q, Body&& body) {
    if (pairs && !waits) {
      waiting = q;
      waits = true;
      return;
    }
    if (!waits) return one(q, body);
    waits = false;
    const bool in_order = waiting.axis[2].result_first == 0;
    const Correlation &even = in_order ? waiting : q, &odd = in_order ? q : waiting;
    if (!DirectPair<T>::fits(even, odd)) {
      one(waiting, body);
      return one(q, body);
    }
    const DirectBlocks<T> first(even), second(odd, &first);
    if (first.tiles.box_count() == 1 && second.tiles.box_count() == 1 && !first.chunked &&
        !second.chunked)
      return body(even, first, &odd, &second);
    one(waiting, body);
    one(q, body);
  }

 private:
  template <class Body>
  static void one(const Correlation& q, Body&& body) {
    if (q.pixels() > 0) body(q, DirectBlocks<T>(q), nullptr, nullptr);
  }

  bool pairs, waits = false;
  Correlation waiting;
};

struct DirectBytes {
  std::size_t scratch, shared;
};

template <class T>
DirectBytes direct_bytes(const ConvProblem& p, Pass pass) {
  DirectBytes most{};
  if (depthwise_fits(p))
    return {depthwise_scratch_bytes<T>(p, pass), depthwise_shared_bytes<T>(p, pass)};
  if (pass == Pass::bwd_weight) {
    const Correlation q = correlation(p, Pass::fwd);
    const DirectWeightBlocks<T> blocks(q);
    const i64 parts = blocks.parts > 1 ? blocks.parts * p.k * p.c_per_group() * p.taps() : 0;
    return {blocks.scratch_bytes(), std::size_t(parts) * sizeof(T)};
  }
  if (channel_lanes_fit<T>(p, pass)) {
    const ChannelBlocks<T> blocks(p, pass);
    return {blocks.scratch_bytes(), std::size_t(blocks.table_bytes)};
  }
  const auto include = [&](std::size_t scratch, std::size_t shared) {
    most = {max_of(most.scratch, scratch), max_of(most.shared, shared)};
  };
  PhasePairs<T> pairs(p, pass);
  for (i64 phase = 0; phase < phase_count(p, pass); ++phase)
    pairs.next(correlation(p, pass, phase), [&](const Correlation&, const DirectBlocks<T>& first,
                                                const Correlation*, const DirectBlocks<T>* second) {
      const std::size_t beside =
          second ? second->scratch_bytes() + std::size_t(pair_row(first)) * sizeof(T) : 0;
      include(first.scratch_bytes() + beside,
              std::size_t(first.table_bytes + (second ? second->table_bytes : 0)));
    });
  return most;
}

template <class T>
std::size_t direct_scratch_bytes(const ConvProblem& p, Pass pass) {
  return direct_bytes<T>(p, pass).scratch;
}

template <class T>
std::size_t direct_shared_bytes(const ConvProblem& p, Pass pass) {
  return direct_bytes<T>(p, pass).shared;
}

template <class T>
std::size_t direct_packed_bytes(const ConvProblem& p, Pass pass) {
  return channel_lanes_fit<T>(p, pass) ? ChannelBlocks<T>(p, pass).packed_bytes(p) : 0;
}

template <class T>
void direct_phases(const ConvProblem& p, Pass pass, const Buffers& b) {
  PhasePairs<T> pairs(p, pass);
  for_each_phase<T>(p, pass, b, [&](const Correlation& phase) {
    pairs.next(phase, [&](const Correlation& q, const DirectBlocks<T>& blocks,
                          const Correlation* other, const DirectBlocks<T>* other_blocks) {
      const DirectPhase<T> first(p, q, blocks, b, b.shared);
      if (!other) {
        parallel_for(blocks.tasks(q), b.threads, [&](i64 task, int thread) {
          char* scratch = b.scratch + std::size_t(thread) * b.scratch_bytes;
          first.run(first.place(task), scratch, nullptr, true, first.ahead(task + b.threads));
        });
        return;
      }
      const DirectPhase<T> second(p, *other, *other_blocks, b, b.shared + blocks.table_bytes);
      const DirectPair<T> pair{first, second};
      parallel_for(blocks.tasks(q), b.threads, [&](i64 task, int thread) {
        pair.run(task, b.scratch + std::size_t(thread) * b.scratch_bytes);
      });
    });
  });
}

template <class T>
void direct(const ConvProblem& p, Pass pass, const Buffers& b) {
  if (pass == Pass::bwd_weight) {
    const Correlation q = correlation(p, Pass::fwd);
    return depthwise_fits(p) ? depthwise_bwd_weight<T>(p, q, b) : direct_bwd_weight<T>(p, b);
  }
  if (channel_lanes_fit<T>(p, pass)) return channel_lanes<T>(p, pass, b);
  if (depthwise_fits(p))
    depthwise<T>(p, pass, b);
  else
    direct_phases<T>(p, pass, b);
  if (pass == Pass::bwd_data)
    add_border_gradients(p, static_cast<const T*>(b.a), static_cast<const T*>(b.b),
                         static_cast<T*>(b.out), b.threads);
}

}  // namespace pyconv::PYCONV_TARGET
