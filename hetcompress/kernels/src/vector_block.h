/* The C interface of the vector-block convolution.
 *
 * A vector-block convolution keeps, of the weights of a 2-D convolution, vectors of V filters x one input channel x one
 * tap.  Filters come in blocks of V (a remainder of a group's filters is filled up with zeros); a block's kept vectors
 * follow each other:
 *
 *     values  [vectors][V]   the weights
 *     taps    [vectors]      (channel in the conv group * kernel rows + row) * kernel columns + column
 *     starts  [blocks + 1]   block b owns vectors starts[b] .. starts[b + 1]; blocks = groups * ceil(out / groups / V)
 *
 * Images are float32, either planar [N, C, H, W] or blocked [N, ceil(C / V), H, W, V].
 */
#ifndef HETCOMPRESS_VECTOR_BLOCK_H
#define HETCOMPRESS_VECTOR_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define HETC_EXPORT __declspec(dllexport)
#else
#define HETC_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Work that may run on several threads: `body(argument, slot)` for each slot once. */
typedef void (*hetc_body)(void* argument, size_t slot);
/* Runs `body` for slots 0 .. slots - 1, in any order and on any threads, and returns when all are done. */
typedef void (*hetc_parallel)(void* context, hetc_body body, void* argument, size_t slots);

enum { HETC_OK = 0, HETC_INVALID = 1, HETC_NO_MEMORY = 2 };

typedef struct hetc_conv2d {
  int64_t size;   /* sizeof(hetc_conv2d): a library with another layout refuses the call */
  int64_t vector; /* V: 4, 8 or 16 */
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, out_height, out_width;
  int64_t groups;
  int64_t kernel[2], stride[2], dilation[2]; /* rows, columns */
  int64_t padding[4];                        /* top, left, bottom, right; zeros */
  int64_t blocked_in, blocked_out;           /* 0 planar, 1 blocked */
  int64_t vectors, blocks;
  int64_t input_size, output_size; /* elements in the buffers, checked against the shapes */
  const float* input;
  const float* values;
  const int32_t* taps;
  const int32_t* starts;
  const float* bias;     /* [out_channels] or NULL */
  const float* residual; /* added to the result before it is clamped; shape and layout of the output; or NULL */
  float* output;         /* may be `residual` if it is blocked; may not overlap the others */
  float low, high;       /* the result is clamped to these; -inf and inf leave it alone, NaN stays */
  int64_t threads;       /* at most so many slots */
  const char* path;      /* "avx512", "avx2", "portable", or NULL for the best that this processor runs */
  hetc_parallel parallel; /* NULL for OpenMP's where the process has some, else our own */
  void* context;          /* for `parallel` */
} hetc_conv2d;

/* Computes the convolution.  Every argument is checked first; returns HETC_OK, or a code and a message of at most
 * `message_size` bytes, and then nothing has been written to `output`. */
HETC_EXPORT int hetc_conv2d_run(const hetc_conv2d* call, char* message, size_t message_size);

/* What of a call depends on sizes and positions alone, checked and worked out once for many runs. */
typedef struct hetc_plan hetc_plan;

/* Plans a call: of its buffers only `taps` and `starts` are read, and not needed afterwards.  Returns NULL and a message
 * where `hetc_conv2d_run` would refuse; the code is written to `code`. */
HETC_EXPORT hetc_plan* hetc_conv2d_plan(const hetc_conv2d* call, int* code, char* message, size_t message_size);
/* Runs a plan on buffers of the planned sizes, which are not checked again; on several threads at once if need be.
 * `bias` and `residual` may be NULL.  Returns HETC_OK or HETC_NO_MEMORY. */
HETC_EXPORT int hetc_plan_run(const hetc_plan* plan, const float* input, const float* values, const float* bias,
                              const float* residual, float* output);
HETC_EXPORT void hetc_plan_free(hetc_plan* plan);

/* Whether this processor runs a path; 0 for unknown names. */
HETC_EXPORT int hetc_has_path(const char* path);
HETC_EXPORT const char* hetc_best_path(void);
/* The vector length V that the best path runs fastest. */
HETC_EXPORT int64_t hetc_best_vector(void);
/* Says that this process was forked off before it loaded the library, by one whose threads it therefore lacks. */
HETC_EXPORT void hetc_forked(void);

#ifdef __cplusplus
}
#endif
#endif
