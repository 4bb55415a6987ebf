/* The kernels for NVIDIA GPUs behind one call. Plain C: pointers, sizes and a stream; no CUDA header is needed to use
 * it.
 *
 * A face describes its tensors with msda_describe_* (msda.h), gives the level sizes where they lie, and calls
 * msda_cuda_run. The library needs the driver only; the CUDA runtime is linked in.
 */
#ifndef ADAPTER_MSDA_CUDA_H_
#define ADAPTER_MSDA_CUDA_H_

#include "msda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Level sizes that only the device knows. */
typedef struct {
  const void* spatial_shapes;    /* device memory, (L, 2), height first */
  const void* level_start_index; /* device memory, (L), or NULL: levels follow one another */
  msda_type type;                /* MSDA_INT32 or MSDA_INT64, of both */
} msda_device_levels;

/* Enqueues one call on `stream` (a cudaStream_t) of the current device. `problem` comes from msda_describe_*; its data
 * pointers lie in device memory.
 *
 * levels NULL: problem->level is filled (msda_set_levels on the host). Otherwise each block reads the sizes once; sizes
 * that do not fit S give an output of NaN and never a bad read. Allocates nothing, synchronises nothing, and keeps no
 * pointer to its arguments. Returns 0, or -1 with one sentence in `message` (launch errors included). */
int msda_cuda_run(const msda_problem* problem, const msda_device_levels* levels, void* stream,
                  char message[MSDA_MESSAGE_SIZE]);

/* "80,86,89,90,100,120+ptx": what this library was built for. */
const char* msda_cuda_architectures(void);

/* 0 if the current device can run it, -1 with one sentence (no driver, no device, too old) otherwise. */
int msda_cuda_usable(char message[MSDA_MESSAGE_SIZE]);

#ifdef __cplusplus
}
#endif

#endif /* ADAPTER_MSDA_CUDA_H_ */
