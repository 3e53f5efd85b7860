#include <algorithm>

#include "backend/cuda/cuda_backend.hpp"
#include "backend/logit_survey.hpp"

namespace dsinfer {

using cuda::expect;
using cuda::is;
using cuda::rows_of;

bool CudaBackend::survey_logits(TensorView out, TensorView logits, TensorView asks, int64_t id_limit) {
  expect(is(out, 2, DType::i32) && is(logits, 2) && is(asks, 2, DType::i32) && asks.dim(1) == kAskWords && out.dim(0) == logits.dim(0) && asks.dim(0) == logits.dim(0) &&
             out.stride[0] % 2 == 0 && out.dim(1) >= survey_words(1) && id_limit > 0 && id_limit <= logits.dim(1) && logits.dim(1) <= INT32_MAX,
         "survey_logits", {{"out", &out}, {"logits", &logits}, {"asks", &asks}});
  const cuda::Current current(device_.index());
  for (int64_t begin = 0; begin < logits.dim(0); begin += cuda::kSurveyRows) {
    const int64_t end = std::min(logits.dim(0), begin + cuda::kSurveyRows);
    cuda::survey_logits({rows_of<int32_t>(out.rows(begin, end)), rows_of<const float>(logits.rows(begin, end)), rows_of<const int32_t>(asks.rows(begin, end)), end - begin, logits.dim(1),
                         id_limit, survey_.data()},
                        device_.stream());
  }
  return true;
}

}  // namespace dsinfer
