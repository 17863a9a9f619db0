// Random calls of pooling against a plain loop, in buffers of exactly the size that is declared.  Arguments: number of
// calls, first seed.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "../../hetcompress/kernels/src/pool.h"

namespace {

struct Case {
  hetc_pool2d call = {};
  std::vector<float> input, output;
};

// Images in memory: element of a pixel, and how many elements there are.
struct Images {
  int64_t place(int64_t n, int64_t c, int64_t y, int64_t x) const {
    if (!blocked) return ((n * channels + c) * height + y) * width + x;
    return (((n * blocks() + c / v) * height + y) * width + x) * v + c % v;
  }
  int64_t size(int64_t batch) const {
    return batch * (blocked ? blocks() * v : channels) * height * width;
  }
  int64_t blocks() const { return (channels + v - 1) / v; }

  bool blocked;
  int64_t v, channels, height, width;
};

Images input_of(const hetc_pool2d& c) {
  return {c.blocked_in != 0, c.vector, c.channels, c.in_height, c.in_width};
}
Images output_of(const hetc_pool2d& c) {
  return {c.blocked_out != 0, c.vector, c.channels, c.out_height, c.out_width};
}

Case random_case(std::mt19937& random) {
  const auto number = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  Case made;
  hetc_pool2d& c = made.call;
  c.size = sizeof c;
  c.vector = int64_t(4) << number(0, 2);
  c.batch = number(0, 3);
  c.channels = number(1, 40);
  c.average = number(0, 1), c.count_padding = number(0, 1), c.round_up = number(0, 1);
  c.blocked_in = number(0, 1), c.blocked_out = number(0, 1);
  int64_t in[2], out[2];
  for (int axis = 0; axis < 2; ++axis) {
    c.kernel[axis] = number(1, 5);
    c.stride[axis] = number(1, 4);
    c.padding[axis] = number(0, c.kernel[axis] - 1);
    c.padding[axis + 2] = number(0, c.kernel[axis] - 1);
    const int64_t pads = c.padding[axis] + c.padding[axis + 2];
    in[axis] = std::max<int64_t>(1, c.kernel[axis] - pads) + number(0, 3) * number(0, 20);
    out[axis] = 0;
    for (int64_t begin = -c.padding[axis];; begin += c.stride[axis]) {
      const bool fits = begin + c.kernel[axis] <= in[axis] + c.padding[axis + 2];
      if (!fits && !(c.round_up && begin < in[axis] &&
                     begin - c.stride[axis] + c.kernel[axis] < in[axis] + c.padding[axis + 2])) {
        break;
      }
      ++out[axis];
    }
  }
  c.in_height = in[0], c.in_width = in[1], c.out_height = out[0], c.out_width = out[1];
  c.input_size = input_of(c).size(c.batch), c.output_size = output_of(c).size(c.batch);
  std::normal_distribution<float> real;
  for (int64_t i = 0; i < c.input_size; ++i) made.input.push_back(real(random));
  made.output.assign(static_cast<size_t>(c.output_size), std::numeric_limits<float>::quiet_NaN());
  c.threads = number(1, 4);
  return made;
}

double expected(const Case& made, int64_t n, int64_t channel, int64_t row, int64_t column) {
  const hetc_pool2d& c = made.call;
  double sum = 0, largest = -std::numeric_limits<double>::infinity();
  int64_t counted = 0;
  for (int64_t i = 0; i < c.kernel[0]; ++i) {
    for (int64_t j = 0; j < c.kernel[1]; ++j) {
      const int64_t y = row * c.stride[0] - c.padding[0] + i, x = column * c.stride[1] - c.padding[1] + j;
      const bool inside = y >= 0 && y < c.in_height && x >= 0 && x < c.in_width;
      counted += inside || (c.count_padding && y < c.in_height + c.padding[2] && x < c.in_width + c.padding[3]);
      if (!inside) continue;
      const double pixel = made.input[static_cast<size_t>(input_of(c).place(n, channel, y, x))];
      sum += pixel;
      largest = std::max(largest, pixel);
    }
  }
  return c.average ? sum / static_cast<double>(counted) : largest;
}

bool right(const Case& made) {
  const hetc_pool2d& c = made.call;
  for (int64_t n = 0; n < c.batch; ++n) {
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      for (int64_t y = 0; y < c.out_height; ++y) {
        for (int64_t x = 0; x < c.out_width; ++x) {
          const double found = made.output[static_cast<size_t>(output_of(c).place(n, channel, y, x))];
          if (!(std::fabs(expected(made, n, channel, y, x) - found) <= 1e-5)) return false;
        }
      }
    }
  }
  return true;
}

// A call with one number spoiled has to be refused or, where the number was fine after all, computed.
void spoil(std::mt19937& random, const Case& good) {
  Case made = good;
  made.call.input = made.input.data(), made.call.output = made.output.data();
  const int64_t values[] = {0, -1, 1, 3, INT32_MAX, INT64_MAX, INT64_MIN, int64_t(1) << 40};
  int64_t* const fields = &made.call.vector;
  fields[random() % ((offsetof(hetc_pool2d, input_size) - offsetof(hetc_pool2d, vector)) / sizeof(int64_t))] =
      values[random() % 8];
  char message[100];
  hetc_pool2d_run(&made.call, message, sizeof message);
}

}  // namespace

int main(int count, char** arguments) {
  const long calls = count > 1 ? std::atol(arguments[1]) : 300;
  std::mt19937 random(count > 2 ? static_cast<unsigned>(std::atol(arguments[2])) : 0);
  for (long i = 0; i < calls; ++i) {
    Case made = random_case(random);
    made.call.input = made.input.data(), made.call.output = made.output.data();
    for (const char* path : {"avx512", "avx2", "portable"}) {
      if (!hetc_has_path(path)) continue;
      char message[200];
      made.call.path = path;
      if (hetc_pool2d_run(&made.call, message, sizeof message) != HETC_OK || !right(made)) {
        std::printf("pooling %ld on %s: %s\n", i, path, message[0] ? message : "wrong numbers");
        return 1;
      }
    }
    for (int j = 0; j < 10; ++j) spoil(random, made);
  }
  std::printf("%ld calls of pooling are right\n", calls);
  return 0;
}
