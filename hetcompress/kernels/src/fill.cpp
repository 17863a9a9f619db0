#include "fill.h"

#include <algorithm>

namespace hetc {

Filler::Filler(const hetc_conv2d& call, const Path& path, const Strips& strips)
    : call_(call),
      strips_(strips),
      fill_(path.fill(static_cast<int>(call.vector), call.blocked_in != 0)),
      layout_(layout_in(call)),
      plane_(layout_, call.in_height, call.in_width),
      row_slots_(strips.row_axis.slots(call.stride[0])) {
  const int64_t step = call.stride[1];
  const std::vector<int32_t> column_slots = strips.column_axis.slots(step);
  width_read_ = std::min(call.in_width, std::max<int64_t>(strips.columns * step - call.padding[1], 0));
  for (int64_t column = 0; column < width_read_; ++column) {
    const int64_t place = column + call.padding[1];
    const int32_t slot = column_slots[static_cast<size_t>(place % step)];
    const int64_t at = slot < 0 ? strips.columns - 1 : slot * (strips.plane / call.vector) + place / step;
    column_at_.push_back(static_cast<int32_t>(at * call.vector));
  }
}

void Filler::fill(const Strip& strip, float* scratch) const {
  const int64_t block_planes = layout_.blocked ? 1 : call_.vector;
  Fill fill;
  fill.rows = strip.image_rows + strips_.row_axis.reach;
  fill.columns = strips_.columns;
  fill.plane = strips_.plane;
  fill.row_step = call_.stride[0];
  fill.first_place = strip.first_row * call_.stride[0] - call_.padding[0];
  fill.row_slots = row_slots_.data();
  fill.column_slots = static_cast<ptrdiff_t>(strips_.column_axis.phases.size());
  fill.column_at = column_at_.data();
  fill.width_read = width_read_;
  fill.zero_all = call_.stride[0] > 1 || call_.stride[1] > 1 || width_read_ == 0;
  fill.end = call_.input + call_.input_size;
  fill.height = call_.in_height;
  fill.width = call_.in_width;
  fill.row = plane_.row;
  fill.channel = plane_.size;
  for (int64_t image = 0; image < strip.images; ++image) {
    const float* const first = call_.input + (strip.image + image) * layout_.planes() * plane_.size + plane_.first;
    for (int64_t block = 0; block < strips_.channel_blocks; ++block) {
      fill.image = first + block * block_planes * plane_.size;
      fill.channels = static_cast<int>(std::min<int64_t>(call_.vector, call_.in_channels - block * call_.vector));
      fill.scratch = scratch + image * strips_.image + block * strips_.channel_block;
      fill_(fill);
    }
  }
}

}  // namespace hetc
