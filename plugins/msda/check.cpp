// Checks every size before anything is read. One check a line; a refusal names the value, the limit and the way out.
#include <cinttypes>
#include <cstdio>

#include "refuse.h"

namespace {

using msda::refuse;

// "3x16x12x32", for messages; cut short where the rank is absurd.
struct Dims {
  char text[96];
  explicit Dims(const msda_tensor& t) {
    int used = std::snprintf(text, sizeof text, t.rank ? "" : "scalar");
    for (size_t i = 0; i < t.rank && used < static_cast<int>(sizeof text) - 24; ++i)
      used += std::snprintf(text + used, sizeof text - used, i ? "x%" PRId64 : "%" PRId64, t.dims[i]);
  }
};

const char* name(msda_type type) {
  static const char* const names[] = {"fp32", "fp16", "bf16", "int64", "int32", "of another type"};
  return names[type <= MSDA_OTHER ? type : MSDA_OTHER];
}

bool is_float(msda_type type) { return type == MSDA_FLOAT32 || type == MSDA_FLOAT16 || type == MSDA_BFLOAT16; }

// No tensor may need more bytes than pointers can count, whichever of its dims are zero.
bool countable(const int64_t* dims, size_t rank) {
  int64_t bytes = 4;
  for (size_t i = 0; i < rank; ++i)
    if (__builtin_mul_overflow(bytes, dims[i] > 1 ? dims[i] : 1, &bytes)) return false;
  return true;
}

int check_tensor(const msda_tensor& t, const char* what, size_t rank, const char* letters, char* message) {
  if (t.rank != rank)
    return refuse(message, "%s has shape %s, %zu dimensions; it must be %s", what, Dims(t).text, t.rank, letters);
  for (size_t i = 0; i < rank; ++i)
    if (t.dims[i] < 0)
      return refuse(message, "%s has shape %s, a negative size; give the real size", what, Dims(t).text);
  if (!countable(t.dims, rank))
    return refuse(message, "%s has shape %s, more bytes than 2^63; make it smaller", what, Dims(t).text);
  return 0;
}

int check_value(const msda_tensor& value, msda_problem* p, char* message) {
  if (!is_float(value.type))
    return refuse(message, "value is %s; it must be fp32, fp16 or bf16: cast it", name(value.type));
  if (check_tensor(value, "value", 4, "(N, S, M, D)", message)) return -1;
  p->n = value.dims[0], p->s = value.dims[1], p->m = value.dims[2], p->d = value.dims[3];
  if (p->s > INT32_MAX)
    return refuse(message,
                  "value has S=%" PRId64 " cells; at most 2147483647 can be addressed: make the levels smaller", p->s);
  if (p->m < 1 || p->d < 1)
    return refuse(message, "value has M=%" PRId64 " heads of D=%" PRId64 " channels; each must be at least 1", p->m,
                  p->d);
  p->value = value.data;
  p->value_type = value.type;
  return 0;
}

int check_shapes(const msda_tensor& shapes, msda_problem* p, char* message) {
  if (shapes.type != MSDA_INT64 && shapes.type != MSDA_INT32)
    return refuse(message, "spatial_shapes is %s; it must be int32 or int64: cast it", name(shapes.type));
  if (check_tensor(shapes, "spatial_shapes", 2, "(L, 2)", message)) return -1;
  if (shapes.dims[1] != 2)
    return refuse(message, "spatial_shapes has shape %s; it must be (L, 2), height before width", Dims(shapes).text);
  p->l = shapes.dims[0];
  if (p->l < 1 || p->l > MSDA_MAX_LEVELS)
    return refuse(message, "spatial_shapes has L=%" PRId64 " levels; 1 to %d are supported", p->l, MSDA_MAX_LEVELS);
  return 0;
}

// Leading dims N, Q, M of what is given for every (query, head), and that the output can exist.
int check_rows(const msda_tensor& t, const char* what, msda_problem* p, char* message) {
  p->q = t.dims[1];
  if (t.dims[0] != p->n || t.dims[2] != p->m)
    return refuse(message, "%s has shape %s, but value has N=%" PRId64 " and M=%" PRId64 "; these must be equal", what,
                  Dims(t).text, p->n, p->m);
  const int64_t output[] = {p->n, p->q, p->m, p->d};
  if (!countable(output, 4))
    return refuse(message,
                  "the output %" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64
                  " has more bytes than 2^63; give fewer queries",
                  p->n, p->q, p->m, p->d);
  return 0;
}

int check_points(const char* what, msda_problem* p, char* message) {
  if (p->p < 1 || p->p > MSDA_MAX_POINTS / p->l)
    return refuse(message, "%s holds P=%" PRId64 " points for each of L=%" PRId64 " levels; L*P must be 1 to %d", what,
                  p->p, p->l, MSDA_MAX_POINTS);
  return 0;
}

}  // namespace

int msda_describe_fused(const msda_tensor* value, const msda_tensor* spatial_shapes,
                        const msda_tensor* reference_points, const msda_tensor* samples, msda_problem* p,
                        char message[MSDA_MESSAGE_SIZE]) {
  if (check_value(*value, p, message) || check_shapes(*spatial_shapes, p, message)) return -1;
  if (samples->type != value->type && samples->type != MSDA_FLOAT32)
    return refuse(message, "samples is %s and value is %s; samples must have the type of value or fp32: cast it",
                  name(samples->type), name(value->type));
  if (check_tensor(*samples, "samples", 4, "(N, Q, M, 3*L*P)", message) || check_rows(*samples, "samples", p, message))
    return -1;
  const int64_t width = samples->dims[3];
  if (width % (3 * p->l))
    return refuse(message,
                  "samples has last dimension %" PRId64 ", not a multiple of 3*L = %" PRId64
                  "; it must hold 2*L*P offsets and L*P logits",
                  width, 3 * p->l);
  p->p = width / (3 * p->l);
  if (check_points("samples", p, message)) return -1;

  if (reference_points->type != MSDA_FLOAT32)
    return refuse(message, "reference_points is %s; it must be fp32 whatever value is: cast it",
                  name(reference_points->type));
  if (check_tensor(*reference_points, "reference_points", 4, "(1 or N, Q, 1 or L, 2)", message)) return -1;
  const int64_t* r = reference_points->dims;
  if ((r[0] != 1 && r[0] != p->n) || r[1] != p->q || (r[2] != 1 && r[2] != p->l) || r[3] != 2)
    return refuse(message,
                  "reference_points has shape %s; with N=%" PRId64 ", Q=%" PRId64 ", L=%" PRId64
                  " of the other inputs it must be (1 or N, Q, 1 or L, 2)",
                  Dims(*reference_points).text, p->n, p->q, p->l);
  p->reference_points = static_cast<const float*>(reference_points->data);
  p->reference_n = r[0], p->reference_l = r[2];

  const size_t size = samples->type == MSDA_FLOAT32 ? 4 : 2;
  p->positions = samples->data;
  p->weights = static_cast<const char*>(samples->data) + 2 * p->l * p->p * size;
  p->position_type = p->weight_type = samples->type;
  p->position_stride = p->weight_stride = width;
  return 0;
}

int msda_describe_standard(const msda_tensor* value, const msda_tensor* spatial_shapes,
                           const msda_tensor* level_start_index, const msda_tensor* locations,
                           const msda_tensor* weights, msda_problem* p, char message[MSDA_MESSAGE_SIZE]) {
  if (check_value(*value, p, message) || check_shapes(*spatial_shapes, p, message)) return -1;
  if (level_start_index->type != spatial_shapes->type)
    return refuse(message, "level_start_index is %s and spatial_shapes is %s; they must have one type: cast one",
                  name(level_start_index->type), name(spatial_shapes->type));
  if (check_tensor(*level_start_index, "level_start_index", 1, "(L)", message)) return -1;
  if (level_start_index->dims[0] != p->l)
    return refuse(message, "level_start_index has %" PRId64 " entries for L=%" PRId64 " levels; give one for each",
                  level_start_index->dims[0], p->l);

  if (locations->type != value->type && locations->type != MSDA_FLOAT32)
    return refuse(message, "sampling_locations is %s and value is %s; it must have the type of value or fp32: cast it",
                  name(locations->type), name(value->type));
  if (check_tensor(*locations, "sampling_locations", 6, "(N, Q, M, L, P, 2)", message)) return -1;
  if (check_rows(*locations, "sampling_locations", p, message)) return -1;
  if (locations->dims[3] != p->l || locations->dims[5] != 2)
    return refuse(message, "sampling_locations has shape %s; it must be (N, Q, M, L, P, 2) with L=%" PRId64,
                  Dims(*locations).text, p->l);
  p->p = locations->dims[4];
  if (check_points("sampling_locations", p, message)) return -1;

  if (weights->type != value->type)
    return refuse(message, "attention_weights is %s and value is %s; they must have one type: cast it",
                  name(weights->type), name(value->type));
  if (check_tensor(*weights, "attention_weights", 5, "(N, Q, M, L, P)", message)) return -1;
  for (int i = 0; i < 5; ++i)
    if (weights->dims[i] != locations->dims[i])
      return refuse(message,
                    "attention_weights has shape %s and sampling_locations %s; they must agree in N, Q, M, L, P",
                    Dims(*weights).text, Dims(*locations).text);

  p->reference_points = nullptr;
  p->reference_n = p->reference_l = 0;
  p->positions = locations->data;
  p->position_type = locations->type;
  p->position_stride = 2 * p->l * p->p;
  p->weights = weights->data;
  p->weight_type = weights->type;
  p->weight_stride = p->l * p->p;
  return 0;
}

int msda_set_levels(msda_problem* p, const int64_t* spatial_shapes, const int64_t* level_start_index,
                    char message[MSDA_MESSAGE_SIZE]) {
  int64_t total = 0;  // cannot overflow: 16 levels of at most 2^48 cells
  for (int64_t l = 0; l < p->l; ++l) {
    const int64_t height = spatial_shapes[2 * l], width = spatial_shapes[2 * l + 1];
    if (height < 1 || width < 1 || height > MSDA_MAX_SIDE || width > MSDA_MAX_SIDE)
      return refuse(message,
                    "spatial_shapes says %" PRId64 "x%" PRId64 " for level %" PRId64
                    "; height and width must be 1 to %d",
                    height, width, l, MSDA_MAX_SIDE);
    total += height * width;
  }
  if (total != p->s)
    return refuse(message,
                  "spatial_shapes adds up to %" PRId64 " cells, but value has S=%" PRId64
                  "; give the spatial_shapes that value was made of",
                  total, p->s);
  int64_t next = 0;
  for (int64_t l = 0; l < p->l; ++l) {
    const int64_t height = spatial_shapes[2 * l], width = spatial_shapes[2 * l + 1];
    const int64_t start = level_start_index ? level_start_index[l] : next;
    if (start < 0 || start > p->s - height * width)
      return refuse(message,
                    "level_start_index puts level %" PRId64 ", %" PRId64 "x%" PRId64 " cells, at %" PRId64
                    "; with S=%" PRId64 " it must be 0 to %" PRId64,
                    l, height, width, start, p->s, p->s - height * width);
    p->level[l] = {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(start)};
    next += height * width;
  }
  return 0;
}
