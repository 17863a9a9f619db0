// The entry by which onnxruntime takes the library as a plug-in.
#include <utility>

#include "ort_tools.h"

namespace hetc {
namespace {

// One domain for each runtime in the process; sessions refer to it, so it stays.
ort::Domain* domain_of(const ort::Api& api) {
  static std::mutex mutex;
  static std::vector<std::pair<const ort::Api*, ort::Domain*>> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : domains) {
    if (known.first == &api) return known.second;
  }
  ort::Domain* domain = nullptr;
  ok(api.create_domain("hetcompress", &domain));
  ok(api.add_operator(domain, &real_operator()));
  ok(api.add_operator(domain, &int8_operator()));
  ok(api.add_operator(domain, &pool_operator()));
  domains.emplace_back(&api, domain);
  return domain;
}

}  // namespace
}  // namespace hetc

extern "C" HETC_EXPORT hetc::ort::Status* RegisterCustomOps(hetc::ort::SessionOptions* options,
                                                            const hetc::ort::ApiBase* base) {
  const hetc::ort::Api* api = base->get_api(hetc::ort::kVersion);
  if (!api) {
    return base->get_api(1)->create_status(hetc::ort::kFail, "hetcompress needs onnxruntime 1.18 or newer");
  }
  return hetc::guarded(*api, "hetcompress", [&] { hetc::ok(api->add_domain(options, hetc::domain_of(*api))); });
}
