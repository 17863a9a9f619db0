// Random calls of the C interface against a plain loop; buffers of exactly the size that is declared, so that a
// sanitizer sees every step outside.  Arguments: number of calls, first seed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../hetcompress/kernels/src/vector_block.h"

namespace {

struct Case {
  hetc_conv2d call = {};
  std::vector<float> input, values, bias, residual, output;
  std::vector<int32_t> taps, starts;
};

int64_t channel_place(bool blocked, int64_t v, int64_t channels, int64_t n, int64_t c, int64_t pixel, int64_t pixels) {
  if (!blocked) return (n * channels + c) * pixels + pixel;
  return ((n * ((channels + v - 1) / v) + c / v) * pixels + pixel) * v + c % v;
}

Case random_case(std::mt19937& random) {
  const auto number = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  std::normal_distribution<float> real;
  Case made;
  hetc_conv2d& c = made.call;
  c.size = sizeof c;
  c.vector = int64_t(4) << number(0, 2);
  c.groups = number(0, 2) ? 1 : number(2, 3);
  c.blocked_in = number(0, 1);
  c.blocked_out = number(0, 1);
  c.batch = number(0, 4);
  c.in_channels = c.groups * number(1, 20);
  c.out_channels = c.groups * (c.blocked_out && c.groups > 1 ? c.vector : number(1, 40));
  int64_t in[2], out[2];
  for (int axis = 0; axis < 2; ++axis) {
    c.kernel[axis] = number(1, 4);
    c.stride[axis] = number(1, 3);
    c.dilation[axis] = number(1, 2);
    c.padding[axis] = number(0, 3);
    c.padding[axis + 2] = number(0, 3);
    const int64_t extent = (c.kernel[axis] - 1) * c.dilation[axis] + 1, pads = c.padding[axis] + c.padding[axis + 2];
    in[axis] = std::max<int64_t>(1, extent - pads) + number(0, 3) * number(0, 9);
    out[axis] = (in[axis] + pads - extent) / c.stride[axis] + 1;
  }
  c.in_height = in[0], c.in_width = in[1], c.out_height = out[0], c.out_width = out[1];
  const int64_t taps = c.in_channels / c.groups * c.kernel[0] * c.kernel[1];
  c.blocks = c.groups * ((c.out_channels / c.groups + c.vector - 1) / c.vector);
  const double density = static_cast<double>(number(0, 3)) / 3;
  made.starts.push_back(0);
  for (int64_t block = 0; block < c.blocks; ++block) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (std::uniform_real_distribution<double>()(random) < density) made.taps.push_back(static_cast<int32_t>(tap));
    }
    made.starts.push_back(static_cast<int32_t>(made.taps.size()));
  }
  const auto fill = [&](std::vector<float>& numbers, int64_t count) {
    numbers.resize(static_cast<size_t>(count));
    for (float& value : numbers) value = real(random);
  };
  const auto filled = [&c](int64_t channels, int64_t blocked) {
    return blocked ? (channels + c.vector - 1) / c.vector * c.vector : channels;
  };
  c.vectors = static_cast<int64_t>(made.taps.size());
  c.input_size = c.batch * filled(c.in_channels, c.blocked_in) * in[0] * in[1];
  c.output_size = c.batch * filled(c.out_channels, c.blocked_out) * out[0] * out[1];
  fill(made.values, c.vectors * c.vector);
  fill(made.input, c.input_size);
  if (number(0, 1)) fill(made.bias, c.out_channels);
  if (number(0, 1)) fill(made.residual, c.output_size);
  made.output.resize(static_cast<size_t>(c.output_size));
  c.low = number(0, 1) ? 0.0f : -std::numeric_limits<float>::infinity();
  c.high = number(0, 1) ? 1.0f : std::numeric_limits<float>::infinity();
  c.threads = number(1, 4);
  return made;
}

void point_at_buffers(Case& made) {
  hetc_conv2d& c = made.call;
  c.input = made.input.data(), c.values = made.values.data(), c.taps = made.taps.data();
  c.starts = made.starts.data(), c.output = made.output.data();
  c.bias = made.bias.empty() ? nullptr : made.bias.data();
  c.residual = made.residual.empty() ? nullptr : made.residual.data();
}

double expected(const Case& made, int64_t n, int64_t filter, int64_t y, int64_t x) {
  const hetc_conv2d& c = made.call;
  const int64_t per_group = c.out_channels / c.groups, channels = c.in_channels / c.groups;
  const int64_t group = filter / per_group, inside = filter % per_group;
  const int64_t block = group * (c.blocks / c.groups) + inside / c.vector;
  double sum = c.bias ? c.bias[filter] : 0.0;
  for (int32_t i = c.starts[block]; i < c.starts[block + 1]; ++i) {
    const int64_t tap = c.taps[i], area = c.kernel[0] * c.kernel[1];
    const int64_t row = y * c.stride[0] + tap % area / c.kernel[1] * c.dilation[0] - c.padding[0];
    const int64_t column = x * c.stride[1] + tap % c.kernel[1] * c.dilation[1] - c.padding[1];
    if (row < 0 || row >= c.in_height || column < 0 || column >= c.in_width) continue;
    const int64_t place = channel_place(c.blocked_in, c.vector, c.in_channels, n, group * channels + tap / area,
                                        row * c.in_width + column, c.in_height * c.in_width);
    sum += double(c.values[i * c.vector + inside % c.vector]) * c.input[place];
  }
  return sum;
}

bool right(const Case& made) {
  const hetc_conv2d& c = made.call;
  for (int64_t n = 0; n < c.batch; ++n) {
    for (int64_t filter = 0; filter < c.out_channels; ++filter) {
      for (int64_t pixel = 0; pixel < c.out_height * c.out_width; ++pixel) {
        const int64_t place = channel_place(c.blocked_out, c.vector, c.out_channels, n, filter, pixel,
                                            c.out_height * c.out_width);
        double value = expected(made, n, filter, pixel / c.out_width, pixel % c.out_width);
        if (c.residual) value += c.residual[place];
        value = std::min(std::max(value, double(c.low)), double(c.high));
        if (!(std::fabs(value - c.output[place]) <= 1e-4 * std::max(1.0, std::fabs(value)))) return false;
      }
    }
  }
  return true;
}

// Planned once and run by several callers at once, the numbers are those of a single call, bit for bit.
bool the_same_planned(const Case& made, char* message, size_t size) {
  int code = HETC_OK;
  hetc_plan* const plan = hetc_conv2d_plan(&made.call, &code, message, size);
  if (!plan) return false;
  std::vector<std::vector<float>> outputs(3, std::vector<float>(made.output.size()));
  std::vector<int> codes(outputs.size());
  std::vector<std::thread> callers;
  for (size_t i = 0; i < outputs.size(); ++i) {
    callers.emplace_back([&, i] {
      const hetc_conv2d& c = made.call;
      codes[i] = hetc_plan_run(plan, c.input, c.values, c.bias, c.residual, outputs[i].data());
    });
  }
  for (std::thread& caller : callers) caller.join();
  hetc_plan_free(plan);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const bool same = outputs[i].empty() ||
                      std::memcmp(outputs[i].data(), made.output.data(), outputs[i].size() * sizeof(float)) == 0;
    if (codes[i] != HETC_OK || !same) return false;
  }
  return true;
}

// A call with one number spoiled has to be refused or, where the number was fine after all, computed.
void spoil(std::mt19937& random, const Case& good) {
  Case made = good;
  point_at_buffers(made);
  const int64_t values[] = {0, -1, 1, 3, INT32_MAX, INT64_MAX, INT64_MIN, int64_t(1) << 40};
  int64_t* const fields = &made.call.vector;
  const size_t count = (offsetof(hetc_conv2d, input) - offsetof(hetc_conv2d, vector)) / sizeof(int64_t);
  fields[random() % count] = values[random() % 8];
  if (!made.taps.empty() && random() % 4 == 0) made.taps[random() % made.taps.size()] = static_cast<int32_t>(random());
  if (random() % 4 == 0) made.starts[random() % made.starts.size()] = static_cast<int32_t>(random());
  char message[100];
  const hetc_conv2d& now = made.call;
  const hetc_conv2d& before = good.call;
  // sizes of buffers that nothing declares: the caller's word
  if (now.out_channels != before.out_channels || now.vector != before.vector || now.vectors != before.vectors ||
      now.blocks != before.blocks || now.input_size != before.input_size || now.output_size != before.output_size) {
    return;
  }
  hetc_conv2d_run(&made.call, message, sizeof message);
}

}  // namespace

int main(int count, char** arguments) {
  const long calls = count > 1 ? std::atol(arguments[1]) : 300;
  std::mt19937 random(count > 2 ? static_cast<unsigned>(std::atol(arguments[2])) : 0);
  for (long i = 0; i < calls; ++i) {
    Case made = random_case(random);
    point_at_buffers(made);
    // the result may take the place of what was added to it, if it is blocked
    const bool in_place = made.call.blocked_out && made.call.residual;
    for (const char* path : {"avx512", "avx2", "portable"}) {
      if (!hetc_has_path(path)) continue;
      char message[200];
      made.call.path = path;
      if (hetc_conv2d_run(&made.call, message, sizeof message) != HETC_OK || !right(made)) {
        std::printf("call %ld on %s: %s\n", i, path, message[0] ? message : "wrong numbers");
        return 1;
      }
      if (!the_same_planned(made, message, sizeof message)) {
        std::printf("call %ld on %s, planned: %s\n", i, path, message[0] ? message : "other numbers");
        return 1;
      }
      if (!in_place) continue;
      const std::vector<float> apart = made.output;
      made.output = made.residual;
      hetc_conv2d call = made.call;
      call.output = made.output.data(), call.residual = made.output.data();
      if (hetc_conv2d_run(&call, message, sizeof message) != HETC_OK || made.output != apart) {
        std::printf("call %ld on %s, in place: %s\n", i, path, message[0] ? message : "wrong numbers");
        return 1;
      }
    }
    for (int j = 0; j < 10; ++j) spoil(random, made);
  }
  std::printf("%ld calls are right\n", calls);
  return 0;
}
