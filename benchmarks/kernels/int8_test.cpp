// Random calls of the C interface in 8 bits against a plain loop; buffers of exactly the size that is declared, so that
// a sanitizer sees every step outside.  Arguments: number of calls, first seed.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "../../hetcompress/kernels/src/int8.h"

namespace {

struct Case {
  hetc_int8_conv2d call = {};
  std::vector<uint8_t> input, residual, output;
  std::vector<int8_t> values;
  std::vector<int32_t> bias, taps, starts;
  std::vector<float> scales, real_output;
};

Case random_case(std::mt19937& random) {
  const auto number = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  Case made;
  hetc_conv2d& c = made.call.conv;
  c.size = sizeof made.call;
  c.vector = int64_t(4) << number(0, 2);
  c.groups = number(0, 2) ? 1 : number(2, 3);
  c.batch = number(0, 4);
  c.in_channels = c.groups * number(1, 20);
  c.out_channels = c.groups * number(1, 40);
  int64_t in[2], out[2];
  for (int axis = 0; axis < 2; ++axis) {
    c.kernel[axis] = number(1, 4), c.stride[axis] = number(1, 3), c.dilation[axis] = number(1, 3);
    c.padding[axis] = number(0, 3), c.padding[axis + 2] = number(0, 3);
    const int64_t extent = (c.kernel[axis] - 1) * c.dilation[axis] + 1, pads = c.padding[axis] + c.padding[axis + 2];
    in[axis] = std::max<int64_t>(1, extent - pads) + number(0, 3) * number(0, 9);
    out[axis] = (in[axis] + pads - extent) / c.stride[axis] + 1;
  }
  c.in_height = in[0], c.in_width = in[1], c.out_height = out[0], c.out_width = out[1];
  c.blocks = c.groups * ((c.out_channels / c.groups + c.vector - 1) / c.vector);
  const int64_t taps = c.in_channels / c.groups * c.kernel[0] * c.kernel[1], density = number(0, 3);
  made.starts.push_back(0);
  for (int64_t block = 0; block < c.blocks; ++block) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (number(1, 3) <= density) made.taps.push_back(static_cast<int32_t>(tap));
    }
    made.starts.push_back(static_cast<int32_t>(made.taps.size()));
  }
  const auto fill = [&random](auto& numbers, int64_t count) {
    numbers.resize(static_cast<size_t>(count));
    for (auto& value : numbers) value = static_cast<std::decay_t<decltype(value)>>(random());
  };
  c.vectors = static_cast<int64_t>(made.taps.size());
  c.input_size = c.batch * c.in_channels * in[0] * in[1];
  c.output_size = c.batch * c.out_channels * out[0] * out[1];
  fill(made.values, c.vectors * c.vector);
  fill(made.input, c.input_size);
  if (number(0, 1)) {
    fill(made.bias, c.out_channels);
    for (int32_t& value : made.bias) value %= 1 << 16;
  }
  if (number(0, 1)) fill(made.residual, c.output_size);
  made.scales.assign(static_cast<size_t>(c.out_channels), 1.0f);
  if (number(0, 1)) {
    made.output.resize(static_cast<size_t>(c.output_size));
  } else {
    made.real_output.resize(static_cast<size_t>(c.output_size));
  }
  c.low = number(0, 1) ? 0.0f : -std::numeric_limits<float>::infinity();
  c.high = std::numeric_limits<float>::infinity();
  c.threads = number(1, 4);
  made.call.input_scale = made.call.residual_scale = 1, made.call.output_scale = 512;
  made.call.input_zero = static_cast<int32_t>(number(0, 255)), made.call.output_zero = static_cast<int32_t>(number(0, 255));
  made.call.residual_zero = static_cast<int32_t>(number(0, 255));
  return made;
}

void point_at_buffers(Case& made) {
  hetc_int8_conv2d& c = made.call;
  c.conv.taps = made.taps.data(), c.conv.starts = made.starts.data();
  c.input = made.input.data(), c.values = made.values.data(), c.weight_scales = made.scales.data();
  c.bias = made.bias.empty() ? nullptr : made.bias.data();
  c.residual = made.residual.empty() ? nullptr : made.residual.data();
  c.output = made.real_output.empty() ? made.output.data() : nullptr;
  c.real_output = made.real_output.empty() ? nullptr : made.real_output.data();
}

int64_t sum(const Case& made, int64_t n, int64_t filter, int64_t y, int64_t x) {
  const hetc_conv2d& c = made.call.conv;
  const int64_t per_group = c.out_channels / c.groups, channels = c.in_channels / c.groups;
  const int64_t group = filter / per_group, inside = filter % per_group;
  const int64_t block = group * (c.blocks / c.groups) + inside / c.vector;
  int64_t total = made.call.bias ? made.call.bias[filter] : 0;
  for (int32_t i = c.starts[block]; i < c.starts[block + 1]; ++i) {
    const int64_t tap = c.taps[i], area = c.kernel[0] * c.kernel[1];
    const int64_t row = y * c.stride[0] + tap % area / c.kernel[1] * c.dilation[0] - c.padding[0];
    const int64_t column = x * c.stride[1] + tap % c.kernel[1] * c.dilation[1] - c.padding[1];
    if (row < 0 || row >= c.in_height || column < 0 || column >= c.in_width) continue;
    const int64_t channel = n * c.in_channels + group * channels + tap / area;
    const int64_t value = made.call.input[(channel * c.in_height + row) * c.in_width + column] - made.call.input_zero;
    total += value * made.call.values[i * c.vector + inside % c.vector];
  }
  return total;
}

bool right(const Case& made) {
  const hetc_int8_conv2d& q = made.call;
  const hetc_conv2d& c = q.conv;
  const int64_t pixels = c.out_height * c.out_width;
  for (int64_t i = 0; i < c.output_size; ++i) {
    const int64_t pixel = i % pixels, filter = i / pixels % c.out_channels, n = i / pixels / c.out_channels;
    // below 2^24, so exact in float32
    int64_t value = sum(made, n, filter, pixel / c.out_width, pixel % c.out_width);
    if (q.residual) value += q.residual[i] - q.residual_zero;
    if (c.low == 0) value = std::max<int64_t>(value, 0);
    if (q.real_output) {
      if (q.real_output[i] != static_cast<float>(value)) return false;
      continue;
    }
    // either neighbour of a half
    const double step = std::clamp(static_cast<double>(value) / 512 + q.output_zero, 0.0, 255.0);
    if (std::abs(step - q.output[i]) > 0.5) return false;
  }
  return true;
}

// A call with one number spoiled has to be refused or, where the number was fine after all, computed.
void spoil(std::mt19937& random, const Case& good) {
  Case made = good;
  point_at_buffers(made);
  const int64_t values[] = {0, -1, 1, 3, INT32_MAX, INT64_MAX, INT64_MIN, int64_t(1) << 40};
  int64_t* const fields = &made.call.conv.vector;
  const size_t count = (offsetof(hetc_conv2d, input) - offsetof(hetc_conv2d, vector)) / sizeof(int64_t);
  fields[random() % count] = values[random() % 8];
  if (!made.taps.empty() && random() % 4 == 0) made.taps[random() % made.taps.size()] = static_cast<int32_t>(random());
  if (random() % 4 == 0) made.starts[random() % made.starts.size()] = static_cast<int32_t>(random());
  if (random() % 4 == 0) made.call.input_zero = static_cast<int32_t>(random());
  if (random() % 4 == 0) made.call.output_scale = std::numeric_limits<float>::quiet_NaN();
  const hetc_conv2d &now = made.call.conv, &before = good.call.conv;
  // sizes of buffers that nothing declares: the caller's word
  if (now.out_channels != before.out_channels || now.vector != before.vector || now.vectors != before.vectors ||
      now.blocks != before.blocks || now.input_size != before.input_size || now.output_size != before.output_size) {
    return;
  }
  char message[100];
  hetc_int8_conv2d_run(&made.call, message, sizeof message);
}

}  // namespace

int main(int count, char** arguments) {
  const long calls = count > 1 ? std::atol(arguments[1]) : 300;
  std::mt19937 random(count > 2 ? static_cast<unsigned>(std::atol(arguments[2])) : 0);
  for (long i = 0; i < calls; ++i) {
    Case made = random_case(random);
    point_at_buffers(made);
    for (const char* path : {"avx512vnni", "avx2", "portable"}) {
      if (!hetc_int8_has_path(path)) continue;
      char message[200] = "";
      made.call.conv.path = path;
      if (hetc_int8_conv2d_run(&made.call, message, sizeof message) != HETC_OK || !right(made)) {
        std::printf("call %ld on %s: %s\n", i, path, message[0] ? message : "wrong numbers");
        return 1;
      }
    }
    for (int j = 0; j < 10; ++j) spoil(random, made);
  }
  std::printf("%ld calls in 8 bits are right\n", calls);
  return 0;
}
