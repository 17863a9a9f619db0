#include "shape.h"

#include <algorithm>

#include "check.h"

namespace hetc {
namespace {

// The usual height of a tile: the heights of strips are multiples of it.
constexpr int64_t kTileRows = 4;

}  // namespace

Axis::Axis(int64_t taps, int64_t stride, int64_t dilation) : reach(0) {
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t place = tap * dilation, phase = place % stride;
    auto known = std::find(phases.begin(), phases.end(), phase);
    slot.push_back(known - phases.begin());
    if (known == phases.end()) phases.push_back(phase);
    shift.push_back(place / stride);
    reach = std::max(reach, place / stride);
  }
}

std::vector<int32_t> Axis::slots(int64_t stride) const {
  std::vector<int32_t> result(static_cast<size_t>(stride), -1);
  for (size_t i = 0; i < phases.size(); ++i) result[static_cast<size_t>(phases[i])] = static_cast<int32_t>(i);
  return result;
}

Strips::Strips(const hetc_conv2d& call, int64_t pixels_at_place)
    : row_axis(call.kernel[0], call.stride[0], call.dilation[0]),
      column_axis(call.kernel[1], call.stride[1], call.dilation[1]),
      channel_blocks(ceil_div(call.in_channels, call.vector)),
      pixels(pixels_at_place),
      lanes(call.vector * pixels) {
  const int64_t phases = static_cast<int64_t>(row_axis.phases.size() * column_axis.phases.size());
  // three channels of a first layer at stride 2 in a quarter of the cache lines
  together = !call.blocked_in && phases > 1 && call.in_channels <= call.vector / phases;
  planes = together ? 1 : phases;
  // columns of the image that no tap reads are copied all the same, to one more column
  const bool unread = static_cast<int64_t>(column_axis.phases.size()) < call.stride[1];
  columns = call.out_width + column_axis.reach + unread;
  // a batch of none is bounded by no buffer
  const int64_t row_bytes = elements({columns, channel_blocks, planes, lanes, 4});
  const int64_t image_bytes = elements({row_bytes, call.out_height + row_axis.reach});
  const bool padded = call.padding[0] || call.padding[1] || call.padding[2] || call.padding[3];
  const bool same_places = !padded && call.stride[0] == 1 && call.stride[1] == 1 && pixels == 1;
  direct = call.blocked_in && same_places && image_bytes <= INT32_MAX;

  per_image = strips_of_image(call.out_height, row_bytes, row_axis.reach);
  out_rows = ceil_div(call.out_height, per_image);
  if (per_image > 1) out_rows = std::min(ceil_div(out_rows, kTileRows) * kTileRows, call.out_height);
  per_image = ceil_div(call.out_height, out_rows);
  rows = direct ? call.in_height : out_rows + row_axis.reach;
  plane = elements({rows, columns, lanes});
  channel_block = elements({plane, planes});
  slot_step = together ? call.in_channels * pixels : plane;
  image = elements({channel_block, channel_blocks});
  if (image > INT32_MAX / 4) throw Invalid("a row of the image is too large");
  images = images_of_strip(call, per_image > 1 ? 1 : kStripBytes / (image * 4));
  count = call.batch == 0 ? 0 : ceil_div(call.batch, images) * per_image;
}

std::vector<int32_t> Strips::offsets(const hetc_conv2d& call) const {
  // one table of all taps, then a look-up for each vector: no division for each
  const int64_t taps = call.kernel[0] * call.kernel[1], v = call.vector;
  std::vector<int32_t> of_tap(taps), of_channel(call.in_channels), of_place;
  std::vector<int32_t> result(call.vectors + 1);  // the kernel reads one ahead
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t row = tap / call.kernel[1], column = tap % call.kernel[1];
    const int64_t phase = row_axis.slot[row] * static_cast<int64_t>(column_axis.phases.size()) + column_axis.slot[column];
    of_tap[tap] = static_cast<int32_t>(
        4 * (phase * slot_step + (row_axis.shift[row] * columns + column_axis.shift[column]) * lanes));
  }
  for (int64_t channel = 0; channel < call.in_channels; ++channel) {
    of_channel[channel] = static_cast<int32_t>(4 * (channel / v * channel_block + channel % v * pixels));
  }
  const int64_t per_group = call.in_channels / call.groups, blocks = call.blocks / call.groups;
  of_place.resize(per_group * taps);
  for (int64_t group = 0; group < call.groups; ++group) {
    for (int64_t place = 0, channel = group * per_group; channel < (group + 1) * per_group; ++channel) {
      for (int64_t tap = 0; tap < taps; ++tap) of_place[place++] = of_channel[channel] + of_tap[tap];
    }
    for (int32_t i = call.starts[group * blocks]; i < call.starts[(group + 1) * blocks]; ++i) {
      result[i] = of_place[call.taps[i]];
    }
  }
  return result;
}

}  // namespace hetc
