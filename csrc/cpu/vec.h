// Vectors: one source for every instruction set. GCC and Clang vector extensions carry the width;
// PYCONV_VECTOR_BYTES (64 AVX-512, 32 AVX2, 16 baseline and NEON) comes from CMake, and so does
// PYCONV_TARGET, the namespace that keeps the tables of two sets apart in one library.
//
// Nothing here or in a kernel may be an inline function with external linkage (no STL): the linker
// could keep the AVX-512 copy for everybody. Hence the namespace, and builtins instead of <cmath>.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#if PYCONV_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

#include "../problem.h"

#define PYCONV_INLINE inline __attribute__((always_inline))
#define PYCONV_ALWAYS __attribute__((always_inline))  // of a lambda
// For what a kernel calls once a row: inlining it everywhere made direct.h six times slower to
// compile and no faster.
#define PYCONV_NOINLINE __attribute__((noinline))

namespace pyconv::PYCONV_TARGET {

template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type
      __attribute__((vector_size(PYCONV_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
};
template <>
struct VecOf<double> {
  typedef double type
      __attribute__((vector_size(PYCONV_VECTOR_BYTES), aligned(sizeof(double)), may_alias));
};

// Reduced alignment makes every load and store of a Vec an unaligned one, which costs nothing on
// aligned addresses on any machine we serve.
template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
constexpr int lanes = PYCONV_VECTOR_BYTES / int(sizeof(T));

// body(0), ..., body(N - 1) with constant arguments: arrays of vectors that only such code touches
// are registers from the start. (GCC keeps them in memory where a loop of `if`s is unrolled late.)
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};
template <int N, class Body>
PYCONV_INLINE void unrolled(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      PYCONV_ALWAYS { (body(Constant<I>{}), ...); }(std::make_integer_sequence<int, N>{});
}

// 32 vector registers on AVX-512 and NEON, 16 elsewhere.
#if PYCONV_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int vector_registers = 32;
#else
constexpr int vector_registers = 16;
#endif
// Sums of a register tile: 24 hide the latency of the FMA and leave room for the operands in 32
// registers, 12 in 16.
constexpr int tile_sums = vector_registers == 32 ? 24 : 12;

template <class T>
PYCONV_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
PYCONV_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
PYCONV_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};  // x - 0 keeps the sign of -0
}

#if PYCONV_VECTOR_BYTES == 64
PYCONV_INLINE __mmask16 first_lanes(int count) {
  return __mmask16((1u << count) - 1);
}
PYCONV_INLINE Vec<float> load_first(const float* p, int count) {
  return Vec<float>(_mm512_maskz_loadu_ps(first_lanes(count), p));
}
PYCONV_INLINE Vec<double> load_first(const double* p, int count) {
  return Vec<double>(_mm512_maskz_loadu_pd(__mmask8(first_lanes(count)), p));
}
PYCONV_INLINE void store_first(float* p, Vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), __m512(v));
}
PYCONV_INLINE void store_first(double* p, Vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8(first_lanes(count)), __m512d(v));
}
PYCONV_INLINE Vec<float> load_between(const float* p, int low, int high) {
  return Vec<float>(_mm512_maskz_loadu_ps(first_lanes(high) & ~first_lanes(low), p));
}
PYCONV_INLINE Vec<double> load_between(const double* p, int low, int high) {
  return Vec<double>(_mm512_maskz_loadu_pd(__mmask8(first_lanes(high) & ~first_lanes(low)), p));
}
#endif

// The first `count` lanes; the others are zero and are not read. (AVX-512 has masks for it; a
// memcpy of unknown length is a call, 5 ns.)
template <class T>
PYCONV_INLINE Vec<T> load_first(const T* p, int count) {
  Vec<T> v{};
  __builtin_memcpy(&v, p, std::size_t(count) * sizeof(T));
  return v;
}

template <class T>
PYCONV_INLINE void store_first(T* p, Vec<T> v, int count) {
  __builtin_memcpy(p, &v, std::size_t(count) * sizeof(T));
}

// A vector, or the first `count` lanes of the last one.
template <class T, bool WHOLE>
PYCONV_INLINE Vec<T> load_part(const T* p, int count) {
  return WHOLE ? load(p) : load_first(p, count);
}
template <class T, bool WHOLE>
PYCONV_INLINE void store_part(T* p, Vec<T> v, int count) {
  if constexpr (WHOLE)
    store(p, v);
  else
    store_first(p, v, count);
}

// The lanes [low, high); the others are zero and are not read.
template <class T>
PYCONV_INLINE Vec<T> load_between(const T* p, int low, int high) {
  if (low == 0 && high == lanes<T>) return load(p);
  Vec<T> v{};
  for (int i = low; i < high; ++i) v[i] = p[i];
  return v;
}

// Lanes of a and b, as if they stood one after the other in memory: every other one from `first`
// on.
template <class T>
PYCONV_INLINE Vec<T> every_other(Vec<T> a, Vec<T> b, int first) {
#if defined(__clang__)
  Vec<T> v{};
  for (int i = 0; i < lanes<T>; ++i) {
    const int from = 2 * i + first;
    v[i] = from < lanes<T> ? a[from] : b[from - lanes<T>];
  }
  return v;
#else
  decltype(a < b) from{};
  for (int i = 0; i < lanes<T>; ++i) from[i] = 2 * i + first;
  return __builtin_shuffle(a, b, from);
#endif
}

// Every STEP-th element from p on. The lanes [first, last); the others are zero and are not read.
template <int STEP, class T>
PYCONV_INLINE Vec<T> load_stepped(const T* p, int first, int last) {
  constexpr int width = lanes<T>;
  if constexpr (STEP == 1) {
    return load_between(p, first, last);
  } else {
    const int low = STEP * first, high = STEP * (last - 1) + 1;
    Vec<T> v{};
    unrolled<STEP>([&](auto m) PYCONV_ALWAYS {
      const auto within = [&](int i) PYCONV_ALWAYS {
        return i<m * width ? 0 : i>(m + 1) * width ? width : i - m * width;
      };
      const Vec<T> part = load_between(p + m * width, within(low), within(high));
#if defined(__clang__)
      for (int i = 0; i < width; ++i)
        if (i * STEP / width == m) v[i] = part[i * STEP % width];
#else
      decltype(v < v) from{};
      for (int i = 0; i < width; ++i)
        from[i] = i * STEP / width == m ? width + i * STEP % width : i;
      v = __builtin_shuffle(v, part, from);
#endif
    });
    return v;
  }
}

// Two vectors as a0 b0 a1 b1 ..., its first or second half.
template <class T>
PYCONV_INLINE Vec<T> interleaved(Vec<T> a, Vec<T> b, int half) {
#if defined(__clang__)
  Vec<T> v{};
  for (int i = 0; i < lanes<T>; ++i) {
    const int from = i / 2 + half * lanes<T> / 2;
    v[i] = i % 2 ? b[from] : a[from];
  }
  return v;
#else
  decltype(a < b) from{};
  for (int i = 0; i < lanes<T>; ++i) from[i] = i / 2 + half * lanes<T> / 2 + i % 2 * lanes<T>;
  return __builtin_shuffle(a, b, from);
#endif
}

// The first `count` lanes to every other element from p on; those between are not touched. (28 of
// them: 3.9 ns with masks, 8.4 one by one.)
#if PYCONV_VECTOR_BYTES == 64
PYCONV_INLINE void store_even(float* p, Vec<float> v, int count) {
  const unsigned even = 0x55555555u & unsigned((1ull << (2 * count)) - 1);
  _mm512_mask_storeu_ps(p, __mmask16(even), __m512(interleaved<float>(v, v, 0)));
  if (even >> 16)
    _mm512_mask_storeu_ps(p + 16, __mmask16(even >> 16), __m512(interleaved<float>(v, v, 1)));
}
PYCONV_INLINE void store_even(double* p, Vec<double> v, int count) {
  const unsigned even = 0x5555u & ((1u << (2 * count)) - 1);
  _mm512_mask_storeu_pd(p, __mmask8(even), __m512d(interleaved<double>(v, v, 0)));
  if (even >> 8)
    _mm512_mask_storeu_pd(p + 8, __mmask8(even >> 8), __m512d(interleaved<double>(v, v, 1)));
}
#endif
template <class T>
PYCONV_INLINE void store_even(T* p, Vec<T> v, int count) {
  for (int i = 0; i < count; ++i) p[2 * i] = v[i];
}

// a without its first lane, and `next` after its last.
template <class T>
PYCONV_INLINE Vec<T> shifted(Vec<T> a, T next) {
#if defined(__clang__)
  Vec<T> v{};
  for (int i = 0; i + 1 < lanes<T>; ++i) v[i] = a[i + 1];
  v[lanes<T> - 1] = next;
  return v;
#else
  decltype(a < a) from{};
  for (int i = 0; i < lanes<T>; ++i) from[i] = i + 1;
  return __builtin_shuffle(a, splat(next), from);
#endif
}

// The sum of all lanes as a fixed tree: halves, quarters, ...
template <class T, int HALF = lanes<T> / 2>
PYCONV_INLINE T sum_lanes(Vec<T> v) {
#if defined(__clang__)
  Vec<T> other{};
  for (int i = 0; i < HALF; ++i) other[i] = v[i + HALF];
  v += other;
#else
  decltype(v < v) from{};
  for (int i = 0; i < lanes<T>; ++i) from[i] = (i + HALF) % lanes<T>;
  v += __builtin_shuffle(v, from);
#endif
  if constexpr (HALF > 1)
    return sum_lanes<T, HALF / 2>(v);
  else
    return v[0];
}

template <class T>
PYCONV_INLINE T min_of(T a, T b) {
  return b < a ? b : a;
}

template <class T>
PYCONV_INLINE T max_of(T a, T b) {
  return a < b ? b : a;
}

PYCONV_INLINE i64 ceil_div(i64 a, i64 b) {
  return (a + b - 1) / b;
}
PYCONV_INLINE i64 round_up(i64 a, i64 b) {
  return ceil_div(a, b) * b;
}

}  // namespace pyconv::PYCONV_TARGET
