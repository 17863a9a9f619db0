/* The C interface of the vector-block convolution in 8 bits.
 *
 * A number x is held as round(x / scale) + zero: activations as uint8 with one scale and one zero for a tensor, weights
 * as int8 with one scale for each filter and zero 0.  Images are planar [N, C, H, W], as any runtime holds them.  Sums
 * are exact integers modulo 2^32; a sum is scaled in float32 and rounded half to even.
 */
#ifndef HETCOMPRESS_INT8_H
#define HETCOMPRESS_INT8_H

#include "vector_block.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hetc_int8_conv2d {
  hetc_conv2d conv;      /* `size` is that of this struct; both layouts are planar; the buffers below replace those of
                            float32, which are NULL; paths are "avx512vnni", "avx2" and "portable" */
  const uint8_t* input;
  const int8_t* values;  /* [vectors][V] */
  const int32_t* bias;   /* [out_channels], in units of input_scale * weight_scales[filter]; or NULL */
  const uint8_t* residual; /* added before the result is clamped; of the shape of the output; or NULL */
  uint8_t* output;         /* either this one, */
  float* real_output;      /* or this one, for which output_scale and output_zero mean nothing */
  const float* weight_scales; /* [out_channels] */
  float input_scale, output_scale, residual_scale;
  int32_t input_zero, output_zero, residual_zero; /* 0 to 255 */
} hetc_int8_conv2d;

/* As `hetc_conv2d_run`. */
HETC_EXPORT int hetc_int8_conv2d_run(const hetc_int8_conv2d* call, char* message, size_t message_size);

/* Whether this processor runs a path. */
HETC_EXPORT int hetc_int8_has_path(const char* path);

#ifdef __cplusplus
}
#endif
#endif
