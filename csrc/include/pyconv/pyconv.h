/* The public C ABI of pyconv: describe an operation, plan it, run it on your own buffers.
 *
 * Ownership: the caller allocates every array and the workspace; a plan owns only its own few
 * hundred bytes. A plan is immutable and may be run by several threads at once, each with its own
 * workspace. No C++ type and no exception crosses this boundary; errors are a status code, and
 * pyconv_last_error() is the text of the last one in the calling thread.
 *
 * Shapes are given as the caller sees them: (N, C, *spatial), or (N, *spatial, C) for NHWC;
 * filters are always (K, C/groups, *kernel), those of a transposed convolution (C, K/groups,
 * *kernel). All arrays are dense and row-major. Sizes are 64-bit. */
#ifndef PYCONV_PYCONV_H
#define PYCONV_PYCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PYCONV_API __attribute__((visibility("default")))
#else
#define PYCONV_API
#endif

/* Raised when a struct below or the meaning of a field changes. */
#define PYCONV_ABI_VERSION 1

typedef enum pyconv_status {
  PYCONV_OK = 0,
  PYCONV_VALUE_ERROR = 1,  /* a shape or number that breaks a rule; the text names it */
  PYCONV_MEMORY_ERROR = 2, /* the plan itself could not be allocated */
  PYCONV_RUNTIME_ERROR = 3 /* a device fault */
} pyconv_status;

typedef enum pyconv_dtype { PYCONV_FLOAT32 = 0, PYCONV_FLOAT64 = 1 } pyconv_dtype;
typedef enum pyconv_layout { PYCONV_NCHW = 0, PYCONV_NHWC = 1 } pyconv_layout;

/* What a convolution plan computes, from which buffers (pyconv_buffers):
 *   FWD         y  from a = x,  b = w, bias, residual
 *   BWD_DATA    dx from a = dy, b = w
 *   BWD_WEIGHT  dw from a = dy, b = x
 *   BWD_BIAS    db from a = dy
 *   IM2COL      columns (N, C*R*S, P*Q) from a = x;  COL2IM, its adjoint: dx from a = columns */
typedef enum pyconv_pass {
  PYCONV_FWD = 0,
  PYCONV_BWD_DATA = 1,
  PYCONV_BWD_WEIGHT = 2,
  PYCONV_BWD_BIAS = 3,
  PYCONV_IM2COL = 4,
  PYCONV_COL2IM = 5
} pyconv_pass;

typedef enum pyconv_border {
  PYCONV_ZEROS = 0,
  PYCONV_REFLECT = 1,   /* d c b | a b c d | c b a */
  PYCONV_REPLICATE = 2, /* a a a | a b c d | d d d */
  PYCONV_CIRCULAR = 3,  /* b c d | a b c d | a b c */
  PYCONV_SYMMETRIC = 4  /* c b a | a b c d | d c b */
} pyconv_border;

typedef enum pyconv_activation {
  PYCONV_NONE = 0,
  PYCONV_RELU = 1,
  PYCONV_LEAKY_RELU = 2, /* slope 0.01 */
  PYCONV_TANH = 3,
  PYCONV_SIGMOID = 4,
  PYCONV_GELU = 5, /* exact: x Phi(x) */
  PYCONV_SILU = 6,
  PYCONV_RELU6 = 7 /* min(max(x, 0), 6) */
} pyconv_activation;

typedef enum pyconv_algorithm {
  PYCONV_AUTO = 0,
  PYCONV_DIRECT = 1,
  PYCONV_GEMM = 2,
  PYCONV_WINOGRAD = 3, /* float32, 3x3 or 5x5, stride 1: fewer products, see winograd.h */
  PYCONV_FFT = 4       /* filters that fit a tile of 64x64 or a line of 4096, see fft_conv.h */
} pyconv_algorithm;

typedef enum pyconv_padding {
  PYCONV_PAD_EXPLICIT = 0, /* one number, one an axis, or (before, after) pairs: 2 an axis */
  PYCONV_PAD_VALID = 1,
  PYCONV_PAD_SAME = 2, /* output = ceil(size / stride), the odd pixel after */
  PYCONV_PAD_SAME_LOWER = 3,
  PYCONV_PAD_FULL = 4
} pyconv_padding;

typedef enum pyconv_precision {
  PYCONV_DEFAULT = 0, /* within the float32 contract */
  PYCONV_STRICT = 1,  /* only direct and GEMM in plain arithmetic */
  PYCONV_TF32 = 2,  /* CUDA, float32: GEMM on tensor cores, a TF32 product each; else as default */
  PYCONV_3XTF32 = 3 /* the same with three products, which keep float32's accuracy */
} pyconv_precision;

/* A list of integers; values == NULL means "not given". */
typedef struct pyconv_ints {
  const int64_t* values;
  int32_t count;
} pyconv_ints;

/* Options a zeroed struct leaves at their defaults, except axes, groups, stride and dilation. */
typedef struct pyconv_conv_desc {
  size_t struct_size; /* sizeof(pyconv_conv_desc) of the caller */
  const char* op;     /* starts every error text, e.g. "conv2d" */
  int32_t axes;       /* 1, 2 or 3 */
  int32_t pass, dtype, layout, border, activation, algorithm;
  int32_t transposed;         /* 1: FWD is the transposed convolution, the others its gradients */
  int32_t flip;               /* 1: true convolution, 0: cross-correlation */
  int32_t padding_kind;       /* pyconv_padding */
  int32_t padding_pairs;      /* 1: padding holds (before, after) pairs */
  int32_t batch_invariant;    /* 1: the plan does not look at N */
  int32_t precision;          /* pyconv_precision */
  pyconv_ints x, w;           /* shapes */
  pyconv_ints dy;             /* backward passes: the shape of the given gradient, or not given */
  pyconv_ints bias, residual; /* shapes, if used */
  pyconv_ints stride, padding, dilation;   /* count 1 stands for every axis */
  pyconv_ints output_padding, output_size; /* transposed only */
  int64_t groups;
} pyconv_conv_desc;

/* Pooling, from which buffers:
 *   MAX     FWD: out = y, aux = int64 indices or NULL, from a = x
 *           BWD: out = dx from a = dy, b = indices (needs only x, the input's shape, and dy)
 *   AVG     FWD: out = y from a = x;  BWD: out = dx from a = dy;  b = window weights or NULL
 *   LP      FWD: out = y from a = x;  BWD: out = dx from a = dy, b = x, aux = y
 *   UNPOOL  FWD: out = y (zero but at the indices) from a = x, b = indices
 *   SWITCHES  MAX of at most 256 taps, not adaptive, on the CPU: aux and b are bytes, which tap won
 * Indices are flat positions in one channel's plane (D, H, W). */
typedef enum pyconv_pool_kind {
  PYCONV_POOL_MAX = 0,
  PYCONV_POOL_AVG = 1,
  PYCONV_POOL_LP = 2,
  PYCONV_POOL_UNPOOL = 3,
  PYCONV_POOL_SWITCHES = 4
} pyconv_pool_kind;

typedef struct pyconv_pool_desc {
  size_t struct_size;
  const char* op;
  int32_t axes;
  int32_t kind; /* pyconv_pool_kind */
  int32_t pass; /* PYCONV_FWD or PYCONV_BWD_DATA */
  int32_t dtype, layout;
  int32_t adaptive; /* 1: windows follow from output_size, kernel and stride are not used */
  int32_t ceil_mode;
  int32_t exclude_pad; /* 1: count_include_pad is false */
  int32_t has_divisor; /* 1: divisor replaces the window's size */
  int64_t divisor;
  double norm_type;    /* LP: p > 0, infinity allowed */
  pyconv_ints x, dy;   /* shapes: the pooling's input, and the gradient of its output */
  pyconv_ints indices; /* shape, where indices are read */
  pyconv_ints weights; /* shape of the window weights, if used */
  pyconv_ints kernel, stride, padding, dilation; /* stride not given: kernel */
  pyconv_ints output_size;                       /* adaptive, or UNPOOL */
} pyconv_pool_desc;

typedef struct pyconv_buffers {
  const void *a, *b;
  const void *bias, *residual;
  void* out;
  void* aux;
  void* workspace;
  size_t workspace_bytes;
  int32_t b_is_packed; /* b comes from pyconv_pack_weights */
  void* stream;        /* of a device; NULL on the CPU */
} pyconv_buffers;

typedef struct pyconv_plan pyconv_plan;

PYCONV_API int32_t pyconv_abi_version(void);
PYCONV_API const char* pyconv_last_error(void);

PYCONV_API pyconv_status pyconv_plan_conv(const pyconv_conv_desc* desc, pyconv_plan** plan);
PYCONV_API pyconv_status pyconv_plan_pool(const pyconv_pool_desc* desc, pyconv_plan** plan);
PYCONV_API void pyconv_plan_free(pyconv_plan* plan);

/* The result's shape as the caller sees it; returns the rank (at most 5). */
PYCONV_API int32_t pyconv_plan_shape(const pyconv_plan* plan, int64_t shape[5]);
/* Bytes for `threads` threads (0: as many as would run now). */
PYCONV_API size_t pyconv_plan_workspace(const pyconv_plan* plan, int32_t threads);
/* Bytes of the packed weights; 0 where the algorithm reads w as it is. */
PYCONV_API size_t pyconv_plan_packed_bytes(const pyconv_plan* plan);
PYCONV_API pyconv_status pyconv_pack_weights(const pyconv_plan* plan, const void* w, void* packed);
/* Bytes that pyconv_run reads or writes in each buffer, in the order of pyconv_buffers: a, b, bias,
 * residual, out, aux. 0: not used. A bias or residual the descriptor did not have is not used. */
PYCONV_API void pyconv_plan_buffer_bytes(const pyconv_plan* plan, size_t bytes[6]);
PYCONV_API const char* pyconv_plan_algorithm(const pyconv_plan* plan);
PYCONV_API const char* pyconv_plan_target(const pyconv_plan* plan);
PYCONV_API const char* pyconv_plan_reason(const pyconv_plan* plan); /* why that algorithm */
PYCONV_API double pyconv_plan_flops(const pyconv_plan* plan);
PYCONV_API double pyconv_plan_bytes(const pyconv_plan* plan); /* compulsory traffic */

PYCONV_API pyconv_status pyconv_run(const pyconv_plan* plan, const pyconv_buffers* buffers);

/* dx = dy * activation'(.), element by element; `y` is the activation's output, or its input for
 * gelu and silu; `stream` as in pyconv_buffers. */
PYCONV_API pyconv_status pyconv_activation_backward(int32_t activation, int32_t dtype, int64_t size,
                                                    const void* dy, const void* y, void* dx,
                                                    void* stream);

/* What networks do between convolutions, each in one pass over memory or few. x and y are (N, C,
 * pixels), or (N, pixels, C) for NHWC; for the optimizers n elements, c = pixels = 1. Buffers by
 * kind, C the channels; those in brackets may be NULL:
 *   BATCH_NORM           x, w, b, mean, variance (running: written in training), [residual], y,
 *                        saved[2 C] (written); y = activation(w (x - mean) / std + b + residual)
 *                        backward: dy, x, w, saved, dx, dw, db (before activation and residual)
 *                        numbers: eps, momentum
 *   LOCAL_RESPONSE_NORM  x, y, [s] (written); backward: dy, x, s (overwritten), dx
 *                        numbers: alpha / size, beta, k
 *   DROPOUT              x, y; its own backward with the same seed; numbers: p
 *   ACTIVATION           x, y; its gradient is pyconv_activation_backward
 *   SGD                  w, grad, [velocity]; numbers: lr, momentum, decay, nesterov (0 or 1)
 *   ADAM                 w, grad, mean, square; numbers: lr / (1 - beta1^t), beta1, beta2,
 *                        1 / (1 - beta2^t), eps, decay of the gradient, factor of the weights */
typedef enum pyconv_layer_kind {
  PYCONV_BATCH_NORM = 0,
  PYCONV_LOCAL_RESPONSE_NORM = 1,
  PYCONV_DROPOUT = 2,
  PYCONV_ACTIVATION = 3,
  PYCONV_SGD = 4,
  PYCONV_ADAM = 5
} pyconv_layer_kind;

typedef struct pyconv_layer_desc {
  size_t struct_size;
  const char* op;
  int32_t kind, dtype, layout, activation, backward, training;
  int64_t n, c, pixels;
  int64_t size; /* LOCAL_RESPONSE_NORM: channels of a window */
  uint64_t seed;
  double numbers[8];
} pyconv_layer_desc;

/* Bytes of each buffer; 0: not used, negative: may be NULL. */
PYCONV_API pyconv_status pyconv_layer_bytes(const pyconv_layer_desc* desc, int64_t bytes[8]);
PYCONV_API pyconv_status pyconv_run_layer(const pyconv_layer_desc* desc, void* const buffers[8],
                                          void* stream);

PYCONV_API void pyconv_set_num_threads(int32_t threads); /* 0: as OpenMP says */
PYCONV_API int32_t pyconv_get_num_threads(void);

/* Instruction sets: names of the built ones that run on this machine, best first; the chosen one.
 */
PYCONV_API int32_t pyconv_target_count(void);
PYCONV_API const char* pyconv_target_name(int32_t i);
PYCONV_API const char* pyconv_get_target(void);
PYCONV_API pyconv_status pyconv_set_target(const char* name);

#ifdef __cplusplus
}
#endif
#endif
