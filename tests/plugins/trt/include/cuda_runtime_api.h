// The two names that TensorRT's headers take from the CUDA runtime, for builds of tests on machines without CUDA.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
