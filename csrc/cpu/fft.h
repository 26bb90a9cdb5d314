// Real transforms of a tile of 2 n1 x n2 numbers, as n1 x n2 complex ones.
//
//   z[i][j] = (x[i][j] + i x[i + n1][j]) e^(i pi i / 2 n1)   ->   Z[k][l], its transform
//
// The upper half of the rows is the imaginary part: this takes x modulo u^(2 n1) = -1 along the
// rows, whose 2 n1 real numbers are n1 complex ones at u^n1 = i. No frequency is special, products
// of transforms are plain complex products, and what wraps around has the other sign, which
// overlap-save drops anyway. A line of 2 n1 n2 numbers is the same matrix, row after row, with
// twiddles between the two passes; it wraps likewise.
//
// Lanes run along j, then, after a transposition of squares of lanes, along k: both passes
// transform whole vectors, 16 = 4 x 4, 32 = 4 x 8 and 64 = 8 x 8 points long, in an L1 cache. The
// inverse is the same code with real and imaginary parts exchanged. Bailey, "FFTs in external or
// hierarchical memory", 1990; on the right-angle transform, Crandall and Fagin, "Discrete weighted
// transforms and large-integer arithmetic", 1994.
#pragma once
#include "direct_tile.h"

namespace pyconv::PYCONV_TARGET {

struct Root {
  double re, im;
};

// e^(2 pi i k / n): the series for at most an eighth of a turn, which needs no library.
constexpr Root root_of_unity(i64 k, i64 n) {
  k = (k % n + n) % n;
  const i64 quarter = (8 * k + n) / (2 * n);
  const double x = 6.283185307179586477 * double(4 * k - quarter * n) / double(4 * n);
  double re = 0, im = 0, term = 1;
  for (int i = 0; i < 20; ++i) {
    (i % 2 ? im : re) += i % 4 < 2 ? term : -term;
    term *= x / (i + 1);
  }
  switch (quarter % 4) {
    case 0: return {re, im};
    case 1: return {-im, re};
    case 2: return {-re, -im};
    default: return {im, -re};
  }
}

template <class T>
constexpr i64 unit = 2 * lanes<T>;  // a vector of real parts, one of imaginary parts

template <class T>
struct Complex {
  Vec<T> re, im;
};

template <class T>
PYCONV_INLINE Complex<T> load_unit(const T* p) {
  return {load(p), load(p + lanes<T>)};
}
template <class T>
PYCONV_INLINE void store_unit(T* p, const Complex<T>& z) {
  store(p, z.re);
  store(p + lanes<T>, z.im);
}
template <class T>
PYCONV_INLINE Complex<T> exchanged(const Complex<T>& z) {
  return {z.im, z.re};
}
template <class T>
PYCONV_INLINE Complex<T> operator+(const Complex<T>& a, const Complex<T>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
PYCONV_INLINE Complex<T> operator-(const Complex<T>& a, const Complex<T>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
PYCONV_INLINE Complex<T> turned(const Complex<T>& z) {  // by -i
  return {z.im, -z.re};
}
template <class T>
PYCONV_INLINE Complex<T> times(const Complex<T>& z, T re, T im) {
  return {z.re * re - z.im * im, z.re * im + z.im * re};
}

template <class T>
PYCONV_INLINE void butterfly(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> ac = a + c, a_c = a - c, bd = b + d, b_d = turned(b - d);
  a = ac + bd;
  b = a_c + b_d;
  c = ac - bd;
  d = a_c - b_d;
}
template <class T>
PYCONV_INLINE void butterfly(Complex<T> (&z)[4]) {
  butterfly(z[0], z[1], z[2], z[3]);
}
template <class T>
PYCONV_INLINE void butterfly(Complex<T> (&z)[8]) {
  butterfly(z[0], z[2], z[4], z[6]);
  butterfly(z[1], z[3], z[5], z[7]);
  const T half = T(0.70710678118654752440);
  const Complex<T> a = z[1], e0 = z[0], e1 = z[2], e2 = z[4], e3 = z[6];
  const Complex<T> b{(z[3].re + z[3].im) * half, (z[3].im - z[3].re) * half};
  const Complex<T> c = turned(z[5]);
  const Complex<T> d{(z[7].im - z[7].re) * half, (z[7].re + z[7].im) * -half};
  z[0] = e0 + a, z[4] = e0 - a;
  z[1] = e1 + b, z[5] = e1 - b;
  z[2] = e2 + c, z[6] = e2 - c;
  z[3] = e3 + d, z[7] = e3 - d;
}

// w^(q k), w = e^(-2 pi i / (R1 R2)).
template <class T, int R1, int R2>
struct LineRoots {
  T re[R2][R1] = {}, im[R2][R1] = {};

  constexpr LineRoots() {
    for (int q = 0; q < R2; ++q)
      for (int k = 0; k < R1; ++k) {
        const Root root = root_of_unity(-q * k, R1 * R2);
        re[q][k] = T(root.re);
        im[q][k] = T(root.im);
      }
  }
};
template <class T, int R1, int R2>
constexpr LineRoots<T, R1, R2> line_roots{};

// e^(i pi n / 2 N).
template <class T, int N>
struct Twist {
  T re[N] = {}, im[N] = {};

  constexpr Twist() {
    for (int n = 0; n < N; ++n) {
      const Root root = root_of_unity(n, 4 * N);
      re[n] = T(root.re);
      im[n] = T(root.im);
    }
  }
};
template <class T, int N>
constexpr Twist<T, N> twist{};

// put(k, sum over n of get(n) e^(-2 pi i n k / N)), for a vector of transforms.
template <class T, int N, class Get, class Put>
PYCONV_INLINE void transform_line(Get&& get, Put&& put) {
  constexpr int R1 = N == 64 ? 8 : 4, R2 = N / R1;
  alignas(64) T between[N * unit<T>];
  for (int q = 0; q < R2; ++q) {
    Complex<T> z[R1];
    unrolled<R1>([&](auto m) PYCONV_ALWAYS { z[m] = get(m * R2 + q); });
    butterfly(z);
    const T *re = line_roots<T, R1, R2>.re[q], *im = line_roots<T, R1, R2>.im[q];
    store_unit(between + q * unit<T>, z[0]);
    unrolled<R1 - 1>([&](auto k) PYCONV_ALWAYS {
      store_unit(between + ((k + 1) * R2 + q) * unit<T>, times(z[k + 1], re[k + 1], im[k + 1]));
    });
  }
  for (int k = 0; k < R1; ++k) {
    Complex<T> z[R2];
    unrolled<R2>([&](auto q) PYCONV_ALWAYS { z[q] = load_unit(between + (k * R2 + q) * unit<T>); });
    butterfly(z);
    unrolled<R2>([&](auto l) PYCONV_ALWAYS { put(k + R1 * l, z[l]); });
  }
}

// Of a line: e^(i pi j / 2 n1 n2) e^(-2 pi i j k / n1 n2), as n1 rows of units.
template <class T>
void line_twiddles(i64 n1, i64 n2, T* to) {
  const i64 turn = 4 * n1 * n2;
  Root fine[64], coarse[4 * fft_points / 2 / 64];
  for (i64 i = 0; i < 64; ++i) fine[i] = root_of_unity(i, turn);
  for (i64 i = 0; i < turn / 64; ++i) coarse[i] = root_of_unity(64 * i, turn);
  for (i64 k = 0; k < n1; ++k)
    for (i64 j = 0; j < n2; ++j) {
      const i64 at = ((j * (1 - 4 * k)) % turn + turn) % turn;
      const Root a = fine[at % 64], b = coarse[at / 64];
      T* out = to + 2 * (k * n2 + j / lanes<T> * lanes<T>)+j % lanes<T>;
      out[0] = T(a.re * b.re - a.im * b.im);
      out[lanes<T>] = T(a.re * b.im + a.im * b.re);
    }
}

// The first pass: x[2 N][n2] to N rows of units.
template <class T, int N>
PYCONV_NOINLINE void transform_rows(const T* x, i64 n2, const T* twiddles, T* to) {
  for (i64 j = 0; j < n2; j += lanes<T>)
    transform_line<T, N>(
        [&](int n) PYCONV_ALWAYS {
          const Complex<T> z{load(x + n * n2 + j), load(x + (n + N) * n2 + j)};
          return times(z, twist<T, N>.re[n], twist<T, N>.im[n]);
        },
        [&](int k, const Complex<T>& z) PYCONV_ALWAYS {
          const i64 at = 2 * (k * n2 + j);
          if (!twiddles) return store_unit(to + at, z);
          const Complex<T> w = load_unit(twiddles + at);
          store_unit(to + at, {z.re * w.re - z.im * w.im, z.re * w.im + z.im * w.re});
        });
}

// Its inverse, times `scale`.
template <class T, int N>
PYCONV_NOINLINE void restore_rows(const T* from, i64 n2, const T* twiddles, T scale, T* x) {
  for (i64 j = 0; j < n2; j += lanes<T>)
    transform_line<T, N>(
        [&](int k) PYCONV_ALWAYS {
          const i64 at = 2 * (k * n2 + j);
          const Complex<T> z = load_unit(from + at);
          if (!twiddles) return exchanged(z);
          const Complex<T> w = load_unit(twiddles + at);
          return Complex<T>{z.im * w.re - z.re * w.im, z.re * w.re + z.im * w.im};
        },
        [&](int n, const Complex<T>& z) PYCONV_ALWAYS {
          const T re = twist<T, N>.re[n] * scale, im = twist<T, N>.im[n] * scale;
          store(x + n * n2 + j, z.im * re + z.re * im);
          store(x + (n + N) * n2 + j, z.re * re - z.im * im);
        });
}

// The second pass, over the columns of N rows of `width` numbers: `apart` elements from unit to
// unit of `to`. Inverse: from such units.
template <class T, int N>
PYCONV_NOINLINE void transform_columns(const T* from, i64 width, T* to, i64 apart) {
  for (i64 k = 0; k < width; k += lanes<T>)
    transform_line<T, N>([&](int n) PYCONV_ALWAYS { return load_unit(from + 2 * (n * width + k)); },
                         [&](int l, const Complex<T>& z) PYCONV_ALWAYS {
                           store_unit(to + (l * (width / lanes<T>)+k / lanes<T>)*apart, z);
                         });
}

template <class T, int N>
PYCONV_NOINLINE void restore_columns(const T* from, i64 apart, i64 width, T* to) {
  for (i64 k = 0; k < width; k += lanes<T>)
    transform_line<T, N>(
        [&](int l) PYCONV_ALWAYS {
          return exchanged(load_unit(from + (l * (width / lanes<T>)+k / lanes<T>)*apart));
        },
        [&](int n, const Complex<T>& z)
            PYCONV_ALWAYS { store_unit(to + 2 * (n * width + k), exchanged(z)); });
}

// rows x columns of units to columns x rows.
template <class T>
PYCONV_NOINLINE void transpose_units(const T* from, i64 rows, i64 columns, T* to) {
  constexpr int width = lanes<T>;
  for (i64 r = 0; r < rows; r += width)
    for (i64 c = 0; c < columns; c += width)
      for (int part = 0; part < 2; ++part) {
        Vec<T> square[width], next[width];
        const T* in = from + 2 * (r * columns + c) + part * width;
        T* out = to + 2 * (c * rows + r) + part * width;
        unrolled<width>([&](auto i) PYCONV_ALWAYS { square[i] = load(in + 2 * i * columns); });
#pragma GCC unroll 4
        for (int half = width / 2; half > 0; half /= 2) {
          unrolled<width / 2>([&](auto i) PYCONV_ALWAYS {
            next[2 * i] = interleaved<T>(square[i], square[i + width / 2], 0);
            next[2 * i + 1] = interleaved<T>(square[i], square[i + width / 2], 1);
          });
          unrolled<width>([&](auto i) PYCONV_ALWAYS { square[i] = next[i]; });
        }
        unrolled<width>([&](auto i) PYCONV_ALWAYS { store(out + 2 * i * rows, square[i]); });
      }
}

// A tile of real numbers and room for its transform.
template <class T>
struct FftBuffers {
  alignas(64) T x[fft_points], other[fft_points];
};

// Tiles of one shape; `twiddles` only of a line. Unit f of a transform lies at f * apart.
template <class T>
struct Fft {
  i64 n1, n2;
  const T* twiddles;

  PYCONV_INLINE i64 units() const { return n1 * n2 / lanes<T>; }

  // b.x to its transform.
  void forward(FftBuffers<T>& b, T* to, i64 apart) const {
    switch (n1) {
      case 16: transform_rows<T, 16>(b.x, n2, twiddles, b.other); break;
      case 32: transform_rows<T, 32>(b.x, n2, twiddles, b.other); break;
      default: transform_rows<T, 64>(b.x, n2, twiddles, b.other);
    }
    transpose_units(b.other, n1, n2, b.x);
    switch (n2) {
      case 16: return transform_columns<T, 16>(b.x, n1, to, apart);
      case 32: return transform_columns<T, 32>(b.x, n1, to, apart);
      default: return transform_columns<T, 64>(b.x, n1, to, apart);
    }
  }

  void inverse(const T* from, i64 apart, FftBuffers<T>& b) const {
    switch (n2) {
      case 16: restore_columns<T, 16>(from, apart, n1, b.x); break;
      case 32: restore_columns<T, 32>(from, apart, n1, b.x); break;
      default: restore_columns<T, 64>(from, apart, n1, b.x);
    }
    transpose_units(b.x, n2, n1, b.other);
    const T scale = T(1) / T(n1 * n2);
    switch (n1) {
      case 16: return restore_rows<T, 16>(b.other, n2, twiddles, scale, b.x);
      case 32: return restore_rows<T, 32>(b.other, n2, twiddles, scale, b.x);
      default: return restore_rows<T, 64>(b.other, n2, twiddles, scale, b.x);
    }
  }
};

}  // namespace pyconv::PYCONV_TARGET
