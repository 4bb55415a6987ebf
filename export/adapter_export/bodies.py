"""The bodies of our operators in standard ONNX operators: what makes one exported file run without any library.

A body is a model-local function of the operator's own domain and name. A runtime that knows the operator (our library,
a TensorRT plugin) runs its kernel; every other one inlines the function. Attach bodies after the export: the exporter's
optimiser inlines functions.

Bilinear sampling is spelled with Gather, for any L, P, D and any mix of static and dynamic sizes. Not with GridSample:
TensorRT 10.13 to 11.1 build that spelling and return wrong numbers. Each point needs four cells; the body gathers the
two of the upper row for all points, multiplies by their weights, then does the same with the lower row. Against one
gather of all four this holds half the cells at a time, a third less memory at its peak, for a quarter more time; one
gather a cell takes twice the time.
A cell outside its level is looked up in a row of zeros behind the last cell, so nothing outside, however far, adds
anything, not even where a feature is not finite.

Letters: N batch, S tokens of all levels, M heads, D channels per head, Q queries, L levels, P points, K = L*P.
"""

from __future__ import annotations

import onnx
from onnx import parser

from adapter_export.operators import FUSED, STANDARD, TENSORRT, Operator

_CONSTANTS = """
   zero = Constant <value = int64[1] {0}> ()
   one = Constant <value = int64[1] {1}> ()
   two = Constant <value = int64[1] {2}> ()
   three = Constant <value = int64[1] {3}> ()
   rest = Constant <value = int64[1] {-1}> ()
   scalar_0 = Constant <value = int64 {0}> ()
   scalar_1 = Constant <value = int64 {1}> ()
   none = Constant <value = float {0.0}> ()
   half = Constant <value = float {0.5}> ()
   unit = Constant <value = float {1.0}> ()
   before = Constant <value = float {-1.0}> ()
"""

# What follows needs: l, k (1,); nqm, nq; x_cells, y_cells (N, Q, M, K) positions in cells of the point's level with the
# first cell's centre at 0; weights (N, Q, M, K); starts (L, 1). `*_k` lists a figure of the level for each of K points.
_LEVELS = """
   p = Div (k, l)
   lp = Concat <axis = 0> (l, p)
   heights, widths = Split <axis = 1, num_outputs = 2> (spatial_shapes)
   heights_lp = Expand (heights, lp)
   widths_lp = Expand (widths, lp)
   heights_64 = Reshape (heights_lp, rest)
   widths_64 = Reshape (widths_lp, rest)
   heights_k = Cast <to = 1> (heights_64)
   widths_k = Cast <to = 1> (widths_64)
"""

_FUSED_LOCATIONS = """
   width = Shape <start = 3, end = 4> (samples)
   k = Div (width, three)
   k_2 = Mul (k, two)
   l = Shape <start = 0, end = 1> (spatial_shapes)
   nqm = Shape <start = 0, end = 3> (samples)
   nq = Shape <start = 0, end = 2> (samples)
   samples_32 = Cast <to = 1> (samples)
   offsets_flat = Slice (samples_32, zero, k_2, three)
   logits = Slice (samples_32, k_2, width, three)
   weights = Softmax <axis = -1> (logits)
   {levels}
   areas_l1 = Mul (heights, widths)
   areas = Squeeze (areas_l1, one)
   starts_l = CumSum <exclusive = 1> (areas, scalar_0)
   starts = Unsqueeze (starts_l, one)
   reference_x, reference_y = Split <axis = 3, num_outputs = 2> (reference_points)
   reference_nq = Shape <start = 0, end = 2> (reference_points)
   reference_nqlp = Concat <axis = 0> (reference_nq, l, p)
   reference_nq1k = Concat <axis = 0> (reference_nq, one, k)
   reference_x_lp = Expand (reference_x, reference_nqlp)
   reference_y_lp = Expand (reference_y, reference_nqlp)
   reference_x_k = Reshape (reference_x_lp, reference_nq1k)
   reference_y_k = Reshape (reference_y_lp, reference_nq1k)
   centre_x_edge = Mul (reference_x_k, widths_k)
   centre_y_edge = Mul (reference_y_k, heights_k)
   centre_x = Sub (centre_x_edge, half)
   centre_y = Sub (centre_y_edge, half)
   nqmk2 = Concat <axis = 0> (nqm, k, two)
   offsets = Reshape (offsets_flat, nqmk2)
   offsets_x = Gather <axis = 4> (offsets, scalar_0)
   offsets_y = Gather <axis = 4> (offsets, scalar_1)
   x_cells = Add (offsets_x, centre_x)
   y_cells = Add (offsets_y, centre_y)
"""

_STANDARD_LOCATIONS = """
   l = Shape <start = 0, end = 1> (spatial_shapes)
   nqm = Shape <start = 0, end = 3> (sampling_locations)
   nq = Shape <start = 0, end = 2> (sampling_locations)
   p_given = Shape <start = 4, end = 5> (sampling_locations)
   k = Mul (l, p_given)
   {levels}
   starts = Unsqueeze (level_start_index, one)
   nqmk = Concat <axis = 0> (nqm, k)
   weights_32 = Cast <to = 1> (attention_weights)
   weights = Reshape (weights_32, nqmk)
   nqmk2 = Concat <axis = 0> (nqmk, two)
   locations_32 = Cast <to = 1> (sampling_locations)
   locations = Reshape (locations_32, nqmk2)
   locations_x = Gather <axis = 4> (locations, scalar_0)
   locations_y = Gather <axis = 4> (locations, scalar_1)
   x_edge = Mul (locations_x, widths_k)
   y_edge = Mul (locations_y, heights_k)
   x_cells = Sub (x_edge, half)
   y_cells = Sub (y_edge, half)
"""

# A position that touches no cell, NaN included, is set to 0 before it becomes an integer and looked up as zeros.
_SAMPLING = """
   after_left = Greater (x_cells, before)
   before_right = Less (x_cells, widths_k)
   after_top = Greater (y_cells, before)
   before_bottom = Less (y_cells, heights_k)
   inside_x = And (after_left, before_right)
   inside_y = And (after_top, before_bottom)
   inside = And (inside_x, inside_y)
   x = Where (inside, x_cells, none)
   y = Where (inside, y_cells, none)
   column = Floor (x)
   row = Floor (y)
   weight_right = Sub (x, column)
   weight_below = Sub (y, row)
   weight_left = Sub (unit, weight_right)
   weight_above = Sub (unit, weight_below)
   last_column = Sub (widths_k, unit)
   last_row = Sub (heights_k, unit)
   has_left = GreaterOrEqual (column, none)
   has_right = Less (column, last_column)
   is_above = GreaterOrEqual (row, none)
   is_below = Less (row, last_row)
   has_above = And (is_above, inside)
   has_below = And (is_below, inside)
   has_above_left = And (has_above, has_left)
   has_above_right = And (has_above, has_right)
   has_below_left = And (has_below, has_left)
   has_below_right = And (has_below, has_right)

   n = Shape <start = 0, end = 1> (value)
   s = Shape <start = 1, end = 2> (value)
   m = Shape <start = 2, end = 3> (value)
   d = Shape <start = 3, end = 4> (value)
   n_scalar = Squeeze (n)
   m_scalar = Squeeze (m)
   images = Range (scalar_0, n_scalar, scalar_1)
   heads = Range (scalar_0, m_scalar, scalar_1)
   n111 = Constant <value = int64[4] {-1, 1, 1, 1}> ()
   m1 = Constant <value = int64[2] {-1, 1}> ()
   images_n111 = Reshape (images, n111)
   heads_m1 = Reshape (heads, m1)
   starts_lp = Expand (starts, lp)
   starts_k = Reshape (starts_lp, rest)
   image_cells = Mul (images_n111, s)
   level_cells = Add (image_cells, starts_k)
   level_rows = Mul (level_cells, m)
   first_64 = Add (level_rows, heads_m1)
   cells = Mul (n, s)
   zeros_64 = Mul (cells, m)
   stride_y_64 = Mul (widths_64, m)

   first = Cast <to = 6> (first_64)
   zeros_row = Cast <to = 6> (zeros_64)
   stride_x = Cast <to = 6> (m)
   stride_y = Cast <to = 6> (stride_y_64)
   column_32 = Cast <to = 6> (column)
   row_32 = Cast <to = 6> (row)
   along_x = Mul (column_32, stride_x)
   along_y = Mul (row_32, stride_y)
   along = Add (along_x, along_y)
   at_above_left = Add (first, along)
   at_above_right = Add (at_above_left, stride_x)
   at_below_left = Add (at_above_left, stride_y)
   at_below_right = Add (at_below_left, stride_x)
   above_left = Where (has_above_left, at_above_left, zeros_row)
   above_right = Where (has_above_right, at_above_right, zeros_row)
   below_left = Where (has_below_left, at_below_left, zeros_row)
   below_right = Where (has_below_right, at_below_right, zeros_row)

   rows_of_d = Concat <axis = 0> (rest, d)
   one_of_d = Concat <axis = 0> (one, d)
   cells_of_value = Reshape (value, rows_of_d)
   zeros_32 = ConstantOfShape (one_of_d)
   zeros = CastLike (zeros_32, value)
   features = Concat <axis = 0> (cells_of_value, zeros)

   share_above = Mul (weights, weight_above)
   share_above_left = Mul (share_above, weight_left)
   share_above_right = Mul (share_above, weight_right)
   index_above = Concat <axis = 3> (above_left, above_right)
   shares_above_k = Concat <axis = 3> (share_above_left, share_above_right)
   shares_above = Unsqueeze (shares_above_k, three)
   cells_above = Gather <axis = 0> (features, index_above)
   cells_above_32 = Cast <to = 1> (cells_above)
   sum_above = MatMul (shares_above, cells_above_32)

   share_below = Mul (weights, weight_below)
   share_below_left = Mul (share_below, weight_left)
   share_below_right = Mul (share_below, weight_right)
   index_below = Concat <axis = 3> (below_left, below_right)
   shares_below_k = Concat <axis = 3> (share_below_left, share_below_right)
   shares_below = Unsqueeze (shares_below_k, three)
   cells_below = Gather <axis = 0> (features, index_below)
   cells_below_32 = Cast <to = 1> (cells_below)
   sum_below = MatMul (shares_below, cells_below_32)

   output_nqm1d = Add (sum_above, sum_below)
   output_nqm1d_t = CastLike (output_nqm1d, value)
"""

_MERGED_HEADS = """
   c = Mul (m, d)
   nqc = Concat <axis = 0> (nq, c)
   output = Reshape (output_nqm1d_t, nqc)
"""

_SEPARATE_HEADS = """
   output = Squeeze (output_nqm1d_t, three)
"""

_PROLOGUES = {
    FUSED.name: _FUSED_LOCATIONS,
    STANDARD.name: _STANDARD_LOCATIONS,
    TENSORRT.name: """
   spatial_shapes = Cast <to = 7> (spatial_shapes_32)
   level_start_index = Cast <to = 7> (level_start_index_32)
"""
    + _STANDARD_LOCATIONS,
}


def body(operator: Operator, opset: int) -> onnx.FunctionProto:
    """The function for `operator` at a standard opset of 18 or later; fp32, fp16 or bf16 values, arithmetic in fp32."""
    wide = operator.integers == "tensor(int64)"
    inputs = [
        name if wide or name not in {"spatial_shapes", "level_start_index"} else f"{name}_32"
        for name in operator.inputs
    ]
    attributes = ", ".join(f'{key}: string = "{text}"' for key, text in operator.attributes.items())
    text = f"""
<opset_import: ["" : {opset}], domain: "{operator.domain}">
{operator.name} <{attributes}> ({", ".join(inputs)}) => (output)
{{
   {_CONSTANTS}
   {_PROLOGUES[operator.name].replace("{levels}", _LEVELS)}
   {_SAMPLING}
   {_SEPARATE_HEADS if operator.per_head else _MERGED_HEADS}
}}
"""
    return parser.parse_function(text)
