/* The C interface of pooling, and of the change between layouts, which is pooling of single pixels. */
#ifndef HETCOMPRESS_POOL_H
#define HETCOMPRESS_POOL_H

#include "vector_block.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hetc_pool2d {
  int64_t size;   /* sizeof(hetc_pool2d) */
  int64_t vector; /* V: 4, 8 or 16; also where both sides are planar */
  int64_t batch, channels, in_height, in_width, out_height, out_width;
  int64_t kernel[2], stride[2]; /* rows, columns */
  int64_t padding[4];           /* top, left, bottom, right; less than the kernel */
  int64_t average;              /* 0 the largest pixel, 1 the average */
  int64_t count_padding;        /* an average counts padding as pixels of 0 */
  int64_t round_up;             /* a window that reaches beyond the padding counts, if it begins within the image */
  int64_t blocked_in, blocked_out; /* as of hetc_conv2d */
  int64_t input_size, output_size;
  const float* input;
  float* output;          /* may not overlap the input */
  int64_t threads;
  const char* path;
  hetc_parallel parallel;
  void* context;
} hetc_pool2d;

/* As `hetc_conv2d_run`.  The largest of some pixels is NaN if one of them is. */
HETC_EXPORT int hetc_pool2d_run(const hetc_pool2d* call, char* message, size_t message_size);

#ifdef __cplusplus
}
#endif
#endif
