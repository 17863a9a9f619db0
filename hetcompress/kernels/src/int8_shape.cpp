#include "int8_shape.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"

namespace hetc {
namespace {

// Small images share a strip while it fits the first-level cache.
constexpr int64_t kImagesBytes = 32 << 10;

bool is_scale(float value) { return value > 0 && std::isfinite(value); }

// The call as the float32 kernel's checks know it: they look whether pointers are NULL, and read indices.
hetc_conv2d with_pointers(const hetc_int8_conv2d& call) {
  hetc_conv2d conv = call.conv;
  static float some = 0;
  conv.input = call.input ? &some : nullptr;
  conv.values = call.values ? &some : nullptr;
  conv.output = call.output || call.real_output ? &some : nullptr;
  return conv;
}

void check_layout(const hetc_int8_conv2d& call) {
  require(!call.conv.blocked_in && !call.conv.blocked_out, "layout: expected planar images");
}

void check_numbers(const hetc_int8_conv2d& call) {
  require(!call.output || !call.real_output, "output: expected either uint8 or float32");
  require(is_scale(call.input_scale), "input_scale: expected a positive number");
  require(is_scale(call.output_scale) || call.real_output, "output_scale: expected a positive number");
  require(is_scale(call.residual_scale) || !call.residual, "residual_scale: expected a positive number");
  for (int32_t zero : {call.input_zero, call.output_zero, call.residual_zero}) {
    require(zero >= 0 && zero <= 255, "a zero: expected 0 to 255");
  }
}

void check_scales(const hetc_int8_conv2d& call) {
  require(call.weight_scales != nullptr, "weight_scales: NULL");
  require(std::all_of(call.weight_scales, call.weight_scales + call.conv.out_channels, is_scale),
          "weight_scales: expected positive numbers");
}

}  // namespace

void check_int8_call(const hetc_int8_conv2d& call) {
  check_layout(call);
  check_call(with_pointers(call));
  check_numbers(call);
}

void check_int8(const hetc_int8_conv2d& call) {
  check_layout(call);
  check(with_pointers(call));
  check_numbers(call);
  check_scales(call);
}

Int8Weights::Int8Weights(const hetc_int8_conv2d& call, const Int8Path& path) {
  const hetc_conv2d& conv = call.conv;
  const int64_t v = conv.vector, width = path.wide ? 2 : 1;
  const int64_t per_group = conv.out_channels / conv.groups, group_blocks = conv.blocks / conv.groups;
  unit_bytes = v * path.taps * width;
  starts.assign(1, 0);
  for (int64_t block = 0; block < conv.blocks; ++block) {
    starts.push_back(starts.back() + ceil_div(conv.starts[block + 1] - conv.starts[block], path.taps));
  }
  require(starts.back() <= INT32_MAX / path.taps, "too many vectors");
  values.resize(static_cast<size_t>(starts.back() * unit_bytes));
  taps.resize(static_cast<size_t>(starts.back() * path.taps));
  begin.resize(static_cast<size_t>(conv.blocks * v));
  scales.resize(static_cast<size_t>(conv.blocks * v));
  const float worth = call.real_output ? 1.0f : call.output_scale;
  for (int64_t block = 0; block < conv.blocks; ++block) {
    const int64_t first = block / group_blocks * per_group + block % group_blocks * v;
    const int64_t filters = std::min(v, per_group - block % group_blocks * v);
    for (int64_t lane = 0; lane < v; ++lane) {
      // sums are modulo 2^32, so this one is too
      uint32_t sum = 0;
      for (int64_t i = conv.starts[block], at = starts[block] * path.taps; i < conv.starts[block + 1]; ++i, ++at) {
        const int8_t value = call.values[i * v + lane];
        const int64_t place = (at / path.taps * v + lane) * path.taps + at % path.taps;
        if (path.wide) {
          const int16_t widened = value;
          std::memcpy(&values[place * 2], &widened, 2);
        } else {
          values[place] = value;
        }
        if (lane == 0) taps[at] = conv.taps[i];
        sum += static_cast<uint32_t>(int32_t(value));
      }
      const bool exists = lane < filters;
      const uint32_t bias = exists && call.bias ? static_cast<uint32_t>(call.bias[first + lane]) : 0;
      begin[block * v + lane] = static_cast<int32_t>(bias - static_cast<uint32_t>(call.input_zero) * sum);
      scales[block * v + lane] = exists ? call.input_scale * call.weight_scales[first + lane] / worth : 0;
    }
  }
}

Int8Strips::Int8Strips(const hetc_int8_conv2d& call, const Int8Path& path)
    : row_axis(call.conv.kernel[0], call.conv.stride[0], call.conv.dilation[0]),
      column_axis(call.conv.kernel[1], call.conv.stride[1], call.conv.dilation[1]) {
  const hetc_conv2d& conv = call.conv;
  const int64_t slots = static_cast<int64_t>(row_axis.phases.size() * column_axis.phases.size());
  const auto shared = [&conv](int axis, const Axis& taps) {
    return conv.stride[axis] > 1 ? 0 : std::min({conv.padding[axis], conv.padding[axis + 2], taps.reach});
  };
  const bool padded = conv.padding[0] || conv.padding[1] || conv.padding[2] || conv.padding[3];
  const int64_t shared_columns = shared(1, column_axis);
  columns = conv.out_width + column_axis.reach - shared_columns;
  const int64_t row_bytes = elements({columns, conv.in_channels, slots});
  per_image = strips_of_image(conv.out_height, row_bytes, row_axis.reach);
  out_rows = ceil_div(conv.out_height, per_image);
  per_image = ceil_div(conv.out_height, out_rows);
  // a tile's lanes are all read, so a plane needs as many bytes
  direct = !padded && conv.stride[0] == 1 && conv.stride[1] == 1 && (out_rows - 1) * columns + conv.out_width >= path.lanes;
  if (direct && per_image > 1) {  // the last strip's rows, too
    const int64_t last_rows = conv.out_height - (per_image - 1) * out_rows;
    direct = (last_rows - 1) * columns + conv.out_width >= path.lanes;
  }
  const int64_t shared_rows = per_image > 1 ? 0 : shared(0, row_axis);
  image = elements({out_rows + row_axis.reach - shared_rows, columns});
  const int64_t image_bytes = elements({image, conv.in_channels, slots});
  require(image_bytes <= INT32_MAX / 4, "a row of the image is too large");
  images = images_of_strip(conv, per_image > 1 || direct ? 1 : kImagesBytes / image_bytes);
  count = conv.batch == 0 ? 0 : ceil_div(conv.batch, images) * per_image;
  plane = direct ? conv.in_height * conv.in_width : image * images + shared_rows * columns + shared_columns;
  channel = plane * slots;
  require(channel <= INT32_MAX / conv.in_channels, "an image is too large");
  full = tiles(conv, path.lanes, images, out_rows);
  rest = tiles(conv, path.lanes, conv.batch - (ceil_div(conv.batch, images) - 1) * images,
               conv.out_height - (per_image - 1) * out_rows);
}

Tiles Int8Strips::tiles(const hetc_conv2d& conv, int lanes, int64_t of_images, int64_t of_rows) const {
  const int64_t length = (of_images - 1) * image + (of_rows - 1) * columns + conv.out_width;
  Tiles result;
  for (int64_t next = 0; next < length; next += lanes) {
    // the last tile overlaps the one before rather than read what is not there
    const int64_t start = std::max<int64_t>(std::min(next, length - lanes), 0);
    const auto first = static_cast<int>(result.segments.size());
    int64_t which = start / image, row = start % image / columns, column = start % image % columns, last = -1;
    for (int lane = 0; lane < lanes && start + lane < length; ++lane) {
      if (row < of_rows && column < conv.out_width) {
        if (which != last) {
          const int64_t to_image = which * conv.out_channels * conv.out_height * conv.out_width;
          result.segments.push_back({0, 0, to_image + row * conv.out_width + column});
          last = which;
        }
        result.segments.back().lanes |= 1u << lane;
        ++result.segments.back().count;
      }
      if (++column == columns) column = 0, ++row;
      if (row * columns == image) row = 0, ++which;
    }
    const auto segments = static_cast<int>(result.segments.size()) - first;
    if (segments) result.places.push_back({start, first, segments});
  }
  return result;
}

std::vector<int32_t> Int8Strips::offsets(const hetc_int8_conv2d& call, const Int8Weights& weights,
                                         const Int8Path& path) const {
  const hetc_conv2d& conv = call.conv;
  const int64_t taps = conv.kernel[0] * conv.kernel[1], per_group = conv.in_channels / conv.groups;
  std::vector<int32_t> of_tap(static_cast<size_t>(taps)), result(weights.taps.size());
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t row = tap / conv.kernel[1], column = tap % conv.kernel[1];
    const int64_t slot = row_axis.slot[row] * static_cast<int64_t>(column_axis.phases.size()) + column_axis.slot[column];
    of_tap[tap] = static_cast<int32_t>(slot * plane + row_axis.shift[row] * columns + column_axis.shift[column]);
  }
  const int64_t group_blocks = conv.blocks / conv.groups;
  for (int64_t group = 0; group < conv.groups; ++group) {
    const int64_t last = weights.starts[(group + 1) * group_blocks] * path.taps;
    for (int64_t i = weights.starts[group * group_blocks] * path.taps; i < last; ++i) {
      const int64_t in_group = weights.taps[i] / taps;
      result[i] = static_cast<int32_t>((group * per_group + in_group) * channel + of_tap[weights.taps[i] % taps]);
    }
  }
  return result;
}

}  // namespace hetc
