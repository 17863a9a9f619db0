// Exceptions to the codes and messages of the C interface.
#ifndef HETCOMPRESS_REPORT_H
#define HETCOMPRESS_REPORT_H

#include <algorithm>
#include <cstring>
#include <string>

#include "shape.h"

namespace hetc {

// Runs `work`; returns HETC_OK, or what it threw as a code and a message of at most `message_size` bytes.
template <typename Work>
int report(char* message, size_t message_size, Work work) {
  int code = HETC_OK;
  std::string text;
  try {
    work();
  } catch (const Invalid& error) {
    code = HETC_INVALID;
    text = error.what();
  } catch (const std::exception&) {  // bad_alloc, and system_error where no thread can be started
    code = HETC_NO_MEMORY;
    text = "out of memory or threads";
  }
  if (message && message_size) {
    const size_t length = std::min(text.size(), message_size - 1);
    std::memcpy(message, text.data(), length);
    message[length] = 0;
  }
  return code;
}

}  // namespace hetc
#endif
