/* The one contract between the kernels of multi-scale deformable attention and the runtimes that call them. Plain C.
 *
 * A face (ONNX Runtime, TensorRT) turns its tensors into `msda_tensor`, has them checked, and runs ranges of queries.
 * A kernel sees a checked `msda_problem` and no framework. Letters as everywhere: N batch, S cells of all levels,
 * M heads, D channels per head, Q queries, L levels, P points per level.
 */
#ifndef ADAPTER_MSDA_H_
#define ADAPTER_MSDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  MSDA_MAX_LEVELS = 16,
  MSDA_MAX_POINTS = 256,   /* L * P, the samples of one (query, head) */
  MSDA_MAX_SIDE = 1 << 24, /* height or width of a level: fp32 tells no finer positions apart */
  MSDA_MESSAGE_SIZE = 256
};

typedef enum { MSDA_FLOAT32, MSDA_FLOAT16, MSDA_BFLOAT16, MSDA_INT64, MSDA_INT32, MSDA_OTHER } msda_type;

/* A dense row-major tensor as a face hands it over. `data` may be NULL while only sizes are checked. */
typedef struct {
  const void* data;
  const int64_t* dims;
  size_t rank;
  msda_type type;
} msda_tensor;

typedef struct {
  int32_t height, width;
  int32_t start; /* first cell of the level within S */
} msda_level;

/* One call, checked. Filled by msda_describe_*, then msda_set_levels; the data pointers may be replaced between runs.
 *
 * Both ops are stored in one form: every (query, head) has a row of L*P positions (x, y) and a row of L*P weights, at
 * `position_stride` and `weight_stride` elements from one row to the next. In the fused op both lie in `samples`, the
 * positions are offsets in cells from the reference point, and the weights are logits before their softmax. */
typedef struct {
  int64_t n, s, m, d, q, l, p;
  msda_type value_type; /* of value and output */
  const void* value;
  void* output;
  const float* reference_points; /* (reference_n, Q, reference_l, 2); NULL in the standard op */
  int64_t reference_n, reference_l;
  const void* positions;
  msda_type position_type;
  int64_t position_stride;
  const void* weights;
  msda_type weight_type;
  int64_t weight_stride;
  msda_level level[MSDA_MAX_LEVELS];
} msda_problem;

/* Checks types, ranks and sizes of the fused op and fills everything of `problem` but `output` and `level`:
 * value (N, S, M, D) T; spatial_shapes (L, 2) int32 or int64; reference_points (1|N, Q, 1|L, 2) fp32; samples
 * (N, Q, M, 3*L*P) T or fp32, per head 2*L*P offsets (x first) then L*P logits. T is fp32, fp16 or bf16.
 * Returns 0, or -1 with one sentence in `message` that names the value, the limit and the way out. Reads no tensor. */
int msda_describe_fused(const msda_tensor* value, const msda_tensor* spatial_shapes,
                        const msda_tensor* reference_points, const msda_tensor* samples, msda_problem* problem,
                        char message[MSDA_MESSAGE_SIZE]);

/* The same for the standard op: value (N, S, M, D) T; spatial_shapes (L, 2) and level_start_index (L), both int32 or
 * both int64; sampling_locations (N, Q, M, L, P, 2) T or fp32, x first, in [0, 1]; attention_weights (N, Q, M, L, P) T.
 */
int msda_describe_standard(const msda_tensor* value, const msda_tensor* spatial_shapes,
                           const msda_tensor* level_start_index, const msda_tensor* sampling_locations,
                           const msda_tensor* attention_weights, msda_problem* problem,
                           char message[MSDA_MESSAGE_SIZE]);

/* Checks the level sizes against S and fills `problem->level`. Both arrays lie in host memory: `spatial_shapes` L pairs
 * (height, width), `level_start_index` L numbers, or NULL for levels that follow one another. Returns as above. */
int msda_set_levels(msda_problem* problem, const int64_t* spatial_shapes, const int64_t* level_start_index,
                    char message[MSDA_MESSAGE_SIZE]);

/* Computes output rows [first, last) of the N*Q rows of M*D channels. Any split into ranges gives the same bits; ranges
 * may run in parallel. Reads nothing outside the tensors, whatever numbers they hold. */
typedef void (*msda_cpu_kernel)(const msda_problem* problem, int64_t first, int64_t last);

typedef struct {
  const char* name; /* "avx512", "avx2", "sse2"; "portable" where the processor is no x86 */
  msda_cpu_kernel run;
} msda_cpu;

/* The best code path of this processor, or the one that `wanted` names (NULL or "": the best). NULL with one sentence
 * in `message` where the name is unknown or the processor lacks it. */
const msda_cpu* msda_cpu_select(const char* wanted, char message[MSDA_MESSAGE_SIZE]);

#ifdef __cplusplus
}
#endif

#endif /* ADAPTER_MSDA_H_ */
