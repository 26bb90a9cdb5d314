#include "layer.h"

#include "check.h"

namespace pyconv {

LayerProblem check_layer(const pyconv_layer_desc& d, i64 (&bytes)[layer_buffers]) {
  const Check check(d.op, 1);
  LayerProblem p{};
  p.kind = check.choice<LayerKind>("kind", d.kind, layer_kind_count);
  p.dtype = check.choice<DType>("dtype", d.dtype, 2);
  p.layout = check.choice<Layout>("layout", d.layout, 2);
  p.activation = check.choice<Activation>("activation", d.activation, activation_count);
  p.backward = d.backward != 0;
  p.training = d.training != 0;
  p.n = d.n, p.c = d.c, p.pixels = d.pixels;
  p.size = d.size;
  p.seed = d.seed;
  p.numbers = d.numbers;
  check.require(p.n >= 0, "n", p.n, "must not be negative");
  check.require(p.c >= 1, "c", p.c, "must be at least 1");
  check.require(p.pixels >= 0, "pixels", p.pixels, "must not be negative");
  const i64 element = p.dtype == DType::f32 ? 4 : 8;
  const i64 all = check.times(check.times(check.times(p.n, p.c, "x"), p.pixels, "x"), element, "x");
  const i64 channels = check.times(p.c, 2 * element, "c") / 2;
  for (i64& b : bytes) b = 0;
  const auto set = [&](std::initializer_list<i64> values) {
    std::copy(values.begin(), values.end(), bytes);
  };
  switch (p.kind) {
    case LayerKind::batch_norm:
      if (p.backward)
        set({all, all, channels, 2 * channels, all, channels, channels});
      else
        set({all, channels, channels, channels, channels, -all, all, 2 * channels});
      break;
    case LayerKind::local_response_norm:
      check.require(p.size >= 1, "size", p.size, "must be at least 1");
      if (p.backward)
        set({all, all, all, all});
      else
        set({all, all, -all});
      break;
    case LayerKind::dropout:
    case LayerKind::activation: set({all, all}); break;
    case LayerKind::sgd: set({all, all, -all}); break;
    case LayerKind::adam: set({all, all, all, all}); break;
  }
  return p;
}

}  // namespace pyconv
