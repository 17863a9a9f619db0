// The C interface: calls that are made once, and calls that are planned once and run often.
#include "dispatch.h"
#include "report.h"
#include "run.h"

struct hetc_plan {
  hetc_plan(const hetc_conv2d& asked, const hetc::Path& fitting)
      : call(asked), path(fitting), starts(asked.starts, asked.starts + asked.blocks + 1), plan(asked, fitting) {
    call.taps = nullptr;
    call.starts = starts.data();
  }

  hetc_conv2d call;
  const hetc::Path& path;
  const std::vector<int32_t> starts;
  const hetc::Plan plan;
};

namespace {

const hetc::Path& checked(const hetc_conv2d* call) {
  if (!call || call->size != sizeof(hetc_conv2d)) throw hetc::Invalid("the caller was built for another version");
  hetc::check(*call);
  const hetc::Path* const path = hetc::find_path(call->path);
  if (!path) throw hetc::Invalid("path: this processor does not run " + std::string(call->path));
  return *path;
}

}  // namespace

extern "C" int hetc_conv2d_run(const hetc_conv2d* call, char* message, size_t message_size) {
  return hetc::report(message, message_size, [call] {
    const hetc::Path& path = checked(call);
    if (call->output_size != 0) hetc::run_checked(*call, path, hetc::Plan(*call, path));
  });
}

extern "C" hetc_plan* hetc_conv2d_plan(const hetc_conv2d* call, int* code, char* message, size_t message_size) {
  hetc_plan* plan = nullptr;
  *code = hetc::report(message, message_size, [&] {
    const hetc::Path& path = checked(call);
    plan = new hetc_plan(*call, path);
  });
  return plan;
}

extern "C" int hetc_plan_run(const hetc_plan* plan, const float* input, const float* values, const float* bias,
                             const float* residual, float* output) {
  return hetc::report(nullptr, 0, [=] {
    hetc_conv2d call = plan->call;
    call.input = input, call.values = values, call.bias = bias, call.residual = residual, call.output = output;
    if (call.output_size != 0) hetc::run_checked(call, plan->path, plan->plan);
  });
}

extern "C" void hetc_plan_free(hetc_plan* plan) { delete plan; }
