// From the tensors of one call to the kernel's problem, the same for every execution provider.
#pragma once

#include "../msda/msda.h"
#include "msda_op.h"

namespace adapter {

// Reads and checks the inputs, whose integers lie in host memory, and asks for the output. Fills all of `problem`.
OrtStatus* prepare(const OrtApi& api, const MsdaOp& op, OrtKernelContext* context, msda_problem* problem);

// A refusal by `who`, an op or a setting, for the user to read.
OrtStatus* refuse(const OrtApi& api, const char* who, const char* message, OrtErrorCode code = kOrtInvalidArgument);

}  // namespace adapter
