// How a call's work is cut into tasks for its threads: a strip of the images x a range of filter blocks.
#ifndef HETCOMPRESS_SHARES_H
#define HETCOMPRESS_SHARES_H

#include <algorithm>
#include <cstdint>
#include <vector>

#include "shape.h"

namespace hetc {

struct Shares {
  // Strips alone if there is one for each thread; else also ranges of blocks, with the like number of vectors.
  // `starts[i]` vectors lie before block i; of the index of a container, or a pointer.
  template <typename Starts>
  Shares(const Starts& starts, int64_t blocks, int64_t threads, int64_t strips)
      : ranges(strips == 0 ? 1 : std::min(blocks, ceil_div(threads, strips))), tasks(strips * ranges), bounds{0} {
    const auto work = [&starts](int64_t block) { return static_cast<double>(starts[block]) + static_cast<double>(block); };
    for (int64_t block = 0; block < blocks; ++block) {
      const double share = static_cast<double>(bounds.size()) / static_cast<double>(ranges);
      if (share < 1 && work(block + 1) >= work(blocks) * share) bounds.push_back(block + 1);
    }
    bounds.resize(static_cast<size_t>(ranges) + 1, blocks);
    bounds.back() = blocks;
  }

  int64_t ranges, tasks;
  std::vector<int64_t> bounds;  // of the ranges: the first block of each, and the end
};

}  // namespace hetc
#endif
