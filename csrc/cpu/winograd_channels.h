// Winograd of NHWC images with a few vectors of channels in a group, as many in as out: lanes along
// the channels.
//
// A bundle is a group, or as many neighbouring groups as fill a vector of channels; their weights
// then lie on the diagonal of one matrix. A task transforms a block of tiles of a bundle into
// V[36][c / lanes][tile][lanes], puts V U in its place, and transforms that back: a pixel's
// channels are a vector from the image to the result, nothing is turned. Parallel over runs of
// bundles and parts of the tiles. The transforms and what is special about tiles with NaN or Inf:
// winograd.h.
#pragma once
#include "band.h"
#include "winograd.h"

namespace pyconv::PYCONV_TARGET {

// A block of 16 tiles of a vector, 8 of two or 4 of four, whose sums are half of the registers and
// whose V, 36 KB, stays in an L1 cache. One line more keeps the 36 parts out of the same sets.
constexpr int winograd_block = vector_registers / 2;
constexpr i64 winograd_step = winograd_block * lanes<float> + winograd_pad;
constexpr i64 winograd_task_tiles = 64;    // which read the same U from an L2 cache
constexpr i64 winograd_alone_tiles = 128;  // so few that one task has all, and makes U itself

constexpr float outside[4 * lanes<float>] = {};  // the channels of a pixel there

struct WinogradBundle {
  i64 groups, count;      // of a bundle; bundles
  i64 channels, vectors;  // as many in as out

  explicit WinogradBundle(const Correlation& q)
      : groups(max_of<i64>(1, lanes<float> / q.source_channels)),
        count(q.groups / groups),
        channels(groups * q.source_channels),
        vectors(channels / lanes<float>) {}

  i64 u_elements() const { return alpha * alpha * channels * channels; }
  i64 tiles() const { return winograd_block / vectors; }   // of a block
  i64 run() const { return max_of<i64>(1, 8 / vectors); }  // bundles of a task, at most
};

// Whether this serves a pass of 3x3 or 5x5 filters.
PYCONV_INLINE bool winograd_channels_fit(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bwd_weight || p.layout != Layout::nhwc || p.filter[0] != 1) return false;
  const Correlation q = correlation(p, pass);
  const WinogradBundle bundle(q);
  if (q.axis[1].count + q.axis[2].count > 1 << 17) return false;  // their places: 3 MB
  return p.c == p.k && bundle.groups <= 4 && p.groups % bundle.groups == 0 &&
         bundle.channels % lanes<float> == 0 &&
         (bundle.vectors == 1 || bundle.vectors == 2 || bundle.vectors == 4);
}

// U of a bundle, [36][c][k], for c in [first_c, last_c).
template <int R>
PYCONV_NOINLINE void pack_bundle(const Correlation& q, const WinogradBundle& bundle, i64 index,
                                 i64 first_c, i64 last_c, const float* w, float* u) {
  const AxisMap &H = q.axis[1], &W = q.axis[2];
  const i64 step = bundle.channels * bundle.channels;
  for (i64 c = first_c; c < last_c; ++c) {
    const i64 own = c / q.source_channels;  // group of the bundle
    const float* from = w + (index * bundle.groups + own) * q.weight_group +
                        c % q.source_channels * q.weight_source;
    for (i64 k = 0; k < bundle.channels; k += lanes<float>) {
      float taps[R * R][lanes<float>] = {};
      const i64 first = max_of(k, own * q.result_channels);
      const i64 last = min_of(k + lanes<float>, (own + 1) * q.result_channels);
      if (first < last)
        transpose_rows(from + (first - own * q.result_channels) * q.weight_result, q.weight_result,
                       int(last - first), R * R, taps[0] + first - k, lanes<float>);
      Vec<float> half[alpha][R], column[R], line[alpha];
      for (int j = 0; j < R; ++j) {
        for (int i = 0; i < R; ++i)
          column[i] = load(taps[(H.weight_first + winograd_tap(H, i) * H.weight_step) * R +
                                W.weight_first + winograd_tap(W, j) * W.weight_step]);
        transform_filter<R, float>(column, line);
        for (int i = 0; i < alpha; ++i) half[i][j] = line[i];
      }
      for (int i = 0; i < alpha; ++i) {
        transform_filter<R, float>(half[i], line);
        for (int j = 0; j < alpha; ++j)
          store(u + (i * alpha + j) * step + c * bundle.channels + k, line[j]);
      }
    }
  }
}

// V [in][tile][lanes] of one part becomes V U, [out][tile][lanes].
template <int VECTORS>
PYCONV_NOINLINE void multiply_channels(const float* u, float* v) {
  constexpr int tiles = winograd_block / VECTORS, width = lanes<float>;
  for (i64 xi = 0; xi < alpha * alpha; ++xi, v += winograd_step) {
    Vec<float> sums[tiles][VECTORS];
    unrolled<tiles>([&](auto t) PYCONV_ALWAYS {
      unrolled<VECTORS>([&](auto n) PYCONV_ALWAYS { sums[t][n] = Vec<float>{}; });
    });
    for (i64 in = 0; in < VECTORS; ++in) {
      const float* from = v + in * tiles * width;
      for (i64 c = 0; c < width; ++c, u += VECTORS * width) {
        Vec<float> weight[VECTORS];
        unrolled<VECTORS>([&](auto n) PYCONV_ALWAYS { weight[n] = load_once(u + n * width); });
        unrolled<tiles>([&](auto t) PYCONV_ALWAYS {
          const Vec<float> left =
              VECTORS == 1 ? splat(from[t * width + c]) : once<float>(splat(from[t * width + c]));
          unrolled<VECTORS>([&](auto n) PYCONV_ALWAYS { sums[t][n] += left * weight[n]; });
        });
      }
    }
    unrolled<VECTORS>([&](auto n) PYCONV_ALWAYS {
      unrolled<tiles>([&](auto t)
                          PYCONV_ALWAYS { store(v + (n * tiles + t) * width, sums[t][n]); });
    });
  }
}

template <int R>
struct WinogradChannels {
  static constexpr int M = alpha + 1 - R, width = lanes<float>;

  const ConvProblem& p;
  const Correlation& q;
  const WinogradBundle bundle;
  const float *u, *w;
  const Buffers& b;
  const i64 high, wide, tiles;  // tiles of a plane, of all planes

  WinogradChannels(const ConvProblem& problem, const Correlation& phase, const float* packed,
                   const float* weights, const Buffers& buffers)
      : p(problem),
        q(phase),
        bundle(phase),
        u(packed),
        w(weights),
        b(buffers),
        high(ceil_div(q.axis[1].count, M)),
        wide(ceil_div(q.axis[2].count, M)),
        tiles(q.n * q.axis[0].count * high * wide) {}

  static bool packs(const Correlation& q) {
    const i64 planes = q.n * q.axis[0].count;
    return WinogradBundle(q).count < 8 ||
           planes * ceil_div(q.axis[1].count, M) * ceil_div(q.axis[2].count, M) >
               winograd_alone_tiles;
  }
  static i64 scratch_elements(const Correlation& q) {
    const WinogradBundle bundle(q);
    return alpha * alpha * winograd_step + (packs(q) ? 0 : bundle.run() * bundle.u_elements());
  }

  Pixel tile_at(i64 tile) const {
    const i64 plane = tile / wide / high;
    return {plane / q.axis[0].count,
            {plane % q.axis[0].count, tile / wide % high * M, tile % wide * M}};
  }

  // Offsets of the 6 rows of a tile in a plane, for every row of tiles, then of columns; -1
  // outside.
  static i64 place_elements(const Correlation& q) {
    return alpha * (ceil_div(q.axis[1].count, M) + ceil_div(q.axis[2].count, M) + 1);
  }
  void list_places() const {
    i64* to = places();
    for (int a = 1; a < 3; ++a) {
      const AxisMap& map = q.axis[a];
      for (i64 o = 0; o < map.count; o += M)
        for (int i = 0; i < alpha; ++i) {
          const i64 at = border_position(map.source(o, map.tap_step < 0 ? R - 1 : 0) + i,
                                         map.source_size, q.border);
          *to++ = at < 0 ? -1 : at * q.source.axis[a];
        }
    }
    for (int i = 0; i < alpha; ++i) *to++ = -1;
  }
  i64* places() const { return reinterpret_cast<i64*>(b.shared); }

  // `source`: the bundle's first channel.
  PYCONV_NOINLINE void transform_source(const float* source, const Pixel& at, float* v,
                                        i64 next) const {
    const AxisMap& D = q.axis[0];
    const i64 d = border_position(D.source(at.o[0], 0), D.source_size, q.border);
    const i64* rows = places() + (d < 0 ? high + wide : at.o[1] / M) * alpha;
    const i64* columns = places() + (high + at.o[2] / M) * alpha;
    const float* plane = source + at.n * q.source.n + max_of<i64>(d, 0) * q.source.axis[0];
    const float* pixels[alpha][alpha];
    for (int i = 0; i < alpha; ++i)
      for (int j = 0; j < alpha; ++j)
        pixels[i][j] = (rows[i] | columns[j]) < 0 ? outside : plane + rows[i] + columns[j];
    for (int i = 1; i <= M && next; ++i)
      for (int j = 1; j <= M; ++j) __builtin_prefetch(pixels[i][j] + next, 0, 2);
    const i64 apart = bundle.tiles() * width;
    for (i64 in = 0; in < bundle.vectors; ++in, v += apart) {
      Vec<float> half[alpha][alpha];
      unrolled<alpha>([&](auto j) PYCONV_ALWAYS {
        Vec<float> column[alpha];
        unrolled<alpha>([&](auto i) PYCONV_ALWAYS { column[i] = load(pixels[i][j] + in * width); });
        transform_input<float>(column);
        unrolled<alpha>([&](auto i) PYCONV_ALWAYS { half[i][j] = column[i]; });
      });
      unrolled<alpha>([&](auto i) PYCONV_ALWAYS {
        transform_input<float>(half[i]);
        unrolled<alpha>(
            [&](auto j) PYCONV_ALWAYS { store(v + (i * alpha + j) * winograd_step, half[i][j]); });
      });
    }
  }

  PYCONV_NOINLINE void transform_back(i64 group, const Pixel& at, const Epilogue<float>& end,
                                      const float* v, i64 next) const {
    const i64 lines = min_of<i64>(M, q.axis[1].count - at.o[1]);
    const i64 pixels = min_of<i64>(M, q.axis[2].count - at.o[2]);
    const i64 offset = result_offset(q, at), line = q.axis[1].result_step * q.result.axis[1];
    const i64 pixel = q.axis[2].result_step * q.result.axis[2], apart = bundle.tiles() * width;
    float results[M * M * width];
    const bool plain = end.plain();
    const i64 down = plain ? line : M * width, across = plain ? pixel : width;
    for (i64 channel = 0; channel < bundle.channels; channel += width, v += apart) {
      Vec<float> half[M][alpha], bad{};
      unrolled<alpha>([&](auto j) PYCONV_ALWAYS {
        Vec<float> m[alpha], y[M];
        unrolled<alpha>([&](auto i)
                            PYCONV_ALWAYS { m[i] = load(v + (i * alpha + j) * winograd_step); });
        transform_output<M, float>(m, y);
        unrolled<M>([&](auto i) PYCONV_ALWAYS { half[i][j] = y[i]; });
      });
      float* const out = end.out + offset + channel;
      float* const to = plain ? out : results;
      unrolled<M>([&](auto i) PYCONV_ALWAYS {
        if (i >= lines) return;
        Vec<float> y[M];
        transform_output<M, float>(half[i], y);
        unrolled<M>([&](auto j) PYCONV_ALWAYS {
          if (j >= pixels) return;
          bad += y[j] * 0.0f;  // NaN for NaN and Inf
          store(to + i * down + j * across, y[j]);
          __builtin_prefetch(out + i * line + j * pixel + next, 1, 2);
        });
      });
      if (sum_lanes<float>(bad) != 0)
        sum_directly(group, channel, at, lines, pixels, bad, to, down, across);
      for (i64 i = 0; i < lines && !plain; ++i)
        end.store_channels(results + i * down, width, channel, offset + i * line + channel, pixel,
                           width, pixels);
    }
  }

  PYCONV_NOINLINE void sum_directly(i64 group, i64 channel, const Pixel& tile, i64 lines,
                                    i64 pixels, const Vec<float>& bad, float* to, i64 down,
                                    i64 across) const {
    for (i64 lane = 0; lane < width; ++lane) {
      if (bad[lane] == 0) continue;
      const i64 own = group + (channel + lane) / q.result_channels;
      const i64 k = (channel + lane) % q.result_channels;
      const float* source = static_cast<const float*>(b.a) + own * q.source_channels * q.source.c;
      const float* filter = w + own * q.weight_group + k * q.weight_result;
      for (i64 i = 0; i < lines; ++i)
        for (i64 j = 0; j < pixels; ++j)
          to[i * down + j * across + lane] = winograd_exact(
              q, source, filter, {tile.n, {tile.o[0], tile.o[1] + i, tile.o[2] + j}});
    }
  }

  // `more`: whether the next bundle follows, whose lines are fetched on the way.
  void run_block(i64 index, i64 tile0, const float* weights, float* v, bool more) const {
    const i64 group = index * bundle.groups, count = bundle.tiles();
    const float* source = static_cast<const float*>(b.a) + index * bundle.channels * q.source.c;
    for (i64 t = 0; t < count; ++t)  // past the last tile that once more
      transform_source(source, tile_at(min_of(tile0 + t, tiles - 1)), v + t * width,
                       more ? bundle.channels : 0);
    if (bundle.vectors == 1)
      multiply_channels<1>(weights, v);
    else if (bundle.vectors == 2)
      multiply_channels<2>(weights, v);
    else
      multiply_channels<4>(weights, v);
    const Epilogue<float> end = epilogue<float>(p, q, b, group);
    for (i64 t = 0; t < min_of(count, tiles - tile0); ++t)
      transform_back(group, tile_at(tile0 + t), end, v + t * width, more ? bundle.channels : 0);
  }

  // A task takes several bundles in turn: neighbouring channels share pages and pairs of lines.
  void run() const {
    if (tiles == 0) return;
    const i64 block = bundle.tiles();
    i64 part = u ? winograd_task_tiles : tiles;
    while (u && part > block && bundle.count * ceil_div(tiles, part) < 16) part /= 2;
    const i64 parts = ceil_div(tiles, part);
    const i64 some = max_of<i64>(1, min_of(bundle.run(), bundle.count * parts / 16));
    const i64 runs = ceil_div(bundle.count, some);
    list_places();
    parallel_for(runs * parts, b.threads, [&](i64 task, int thread) {
      float* v = reinterpret_cast<float*>(b.scratch + thread * b.scratch_bytes);
      float* own = v + alpha * alpha * winograd_step;
      const i64 tile0 = task / runs * part, first = task % runs * some;
      const i64 last = min_of(bundle.count, first + some);
      for (i64 index = first; index < last && !u; ++index)
        pack_bundle<R>(q, bundle, index, 0, bundle.channels, w,
                       own + (index - first) * bundle.u_elements());
      const float* weights = u ? u + first * bundle.u_elements() : own;
      for (i64 tile = tile0; tile < min_of(tiles, tile0 + part); tile += block)
        for (i64 index = first; index < last; ++index)
          run_block(index, tile, weights + (index - first) * bundle.u_elements(), v,
                    index + 1 < last);
    });
  }
};

}  // namespace pyconv::PYCONV_TARGET
