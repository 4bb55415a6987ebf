"""What a build refuses before TensorRT starts: profiles, sizes, options, files; and what it says without TensorRT."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from adapter_engines.plan_cli import main
from adapter_engines.plans import options as build_options
from adapter_engines.plans import source
from adapter_engines.plans.options import BuildOptions
from adapter_engines.plans.profiles import Range, ranges, shapes
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.metadata import InputForm, Metadata, from_props

without_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)


@pytest.fixture
def described(make_toy):
    """The metadata of a toy, with another form of the input."""

    def make(batch: int | None = None, size: tuple[int, int] | None = None, **more: object) -> Metadata:
        props = {each.key: each.value for each in onnx.load(make_toy().path).metadata_props}
        metadata = from_props(props)
        assert metadata is not None
        form = InputForm(batch, *(size or (None, None)), **more)  # type: ignore[arg-type]
        return Metadata(**(vars(metadata) | {"input": form}))

    return make


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(each) for each in arguments])
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("adapter-engine: ") and printed.err.count("\n") == 1
    return code, printed.err


def test_one_profile_covers_batch_and_size(described) -> None:
    asked = [Range(opt_batch=2, max_batch=4, min_size=(64, 64), max_size=(512, 640))]
    assert shapes(described(), asked) == [
        {"image": {"min": [1, 3, 64, 64], "opt": [2, 3, 512, 640], "max": [4, 3, 512, 640]}}
    ]


def test_pixels_are_last_where_the_graph_normalises(described) -> None:
    (profile,) = shapes(described(size=(64, 96), embed_preprocess=True), [Range(max_batch=2)])
    assert profile["image"] == {"min": [1, 64, 96, 3], "opt": [2, 64, 96, 3], "max": [2, 64, 96, 3]}


def test_a_batch_starts_at_one_and_a_size_at_its_optimum(described) -> None:
    (profile,) = shapes(described(), [Range(max_batch=8, opt_size=(128, 128))])
    assert [profile["image"][kind] for kind in ("min", "opt", "max")] == [
        [1, 3, 128, 128],
        [8, 3, 128, 128],
        [8, 3, 128, 128],
    ]


def test_an_option_given_once_holds_for_all_profiles() -> None:
    made = ranges({"max_batch": [1, 8], "opt_size": [(64, 64)], "min_batch": []})
    assert made == [Range(max_batch=1, opt_size=(64, 64)), Range(max_batch=8, opt_size=(64, 64))]


def test_options_given_differently_often_are_refused() -> None:
    with pytest.raises(UsageError, match="--min-batch is given 2 times, but another option 3 times"):
        ranges({"max_batch": [1, 2, 3], "min_batch": [1, 1]})


def test_a_static_file_needs_and_takes_no_ranges(described) -> None:
    static = described(1, (64, 96))
    assert shapes(static, [Range()]) == []
    with pytest.raises(UsageError, match="batch is fixed at 1; leave out --min-batch"):
        shapes(static, [Range(max_batch=4)])
    with pytest.raises(UsageError, match="size is fixed at 64x96; leave out --min-size"):
        shapes(static, [Range(opt_size=(64, 96))])
    with pytest.raises(UsageError, match="batch is fixed at 2"):
        shapes(described(2), [Range(opt_batch=2, opt_size=(64, 64))])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Range(max_batch=1, max_size=(500, 300)), "--max-size 500 300 is not a multiple of 32.*give 512 320"),
        (Range(max_batch=1, max_size=(0, 32)), "--max-size 0 32 .* give 32 32"),
        (Range(max_batch=0, max_size=(32, 32)), "--max-batch is 0; give at least 1"),
        (Range(min_batch=4, max_batch=2, max_size=(32, 32)), "batches are min 4, opt 2, max 2; they must not fall"),
        (Range(max_batch=1, min_size=(64, 32), max_size=(32, 64)), "min 64x32, opt 32x64, max 32x64"),
        (Range(max_size=(32, 32)), "batch is dynamic; say with --max-batch"),
        (Range(max_batch=1), "size is dynamic; say with --opt-size"),
    ],
)
def test_ranges_the_model_does_not_take_are_refused(described, asked: Range, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shapes(described(), [asked])


@pytest.mark.parametrize(
    ("text", "expected"), [("4G", 4 * 2**30), ("512m", 2**29), ("1.5 GiB", 3 * 2**29), ("4096", 4096), ("2KB", 2048)]
)
def test_workspace_sizes(text: str, expected: int) -> None:
    assert build_options.size(text) == expected


@pytest.mark.parametrize("text", ["", "G", "4X", "-1", "0", "4G4"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        build_options.size(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(builder_level=6), "builder level 6 does not exist; choose 0 to 5"),
        (BuildOptions(with_plugin=False, embed_plugin=True), "--embed-plugin and --without-plugin exclude each other"),
        (BuildOptions(with_plugin=False, plugin=Path("x.so")), "--plugin x.so and --without-plugin"),
        (BuildOptions(timing_cache=Path("/")), "--timing-cache / is a folder"),
        (BuildOptions(timing_cache=Path("/no/such/cache")), "the folder /no/such does not exist"),
    ],
)
def test_options_that_cannot_go_together_are_refused(options: BuildOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_options.check(options)


def test_the_function_is_hidden_without_touching_the_file(make_msda) -> None:
    path = make_msda()
    before = path.read_bytes()
    assert [each.name for each in onnx.load(path).functions] == ["MSDeformAttn"]
    with source.content(path, source.read(path).bodies) as data:
        hidden = onnx.ModelProto.FromString(bytes(data))
    assert not hidden.functions and len(hidden.graph.node) == 1
    assert path.read_bytes() == before
    with source.content(path) as data:
        assert bytes(data) == before


def test_foreign_functions_stay(make_msda, tmp_path: Path) -> None:
    model = onnx.load(make_msda())
    other = helper.make_function(
        "elsewhere", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    model.functions.insert(0, other)
    onnx.save(model, tmp_path / "two.onnx")
    with source.content(tmp_path / "two.onnx", frozenset({("adapter_infer", "MSDeformAttn")})) as data:
        assert [each.name for each in onnx.ModelProto.FromString(bytes(data)).functions] == ["Twice"]


def test_msda_nodes_are_counted_with_their_bodies(make_msda) -> None:
    found = source.read(make_msda())
    assert (found.msda_nodes, found.bodies) == (1, {("adapter_infer", "MSDeformAttn")})
    found = source.read(make_msda("bare.onnx", body=False))
    assert (found.msda_nodes, len(found.ours), len(found.bodies)) == (1, 1, 0)


def test_the_grid_sample_flavour_never_becomes_a_plan(make_toy) -> None:
    with pytest.raises(
        UnsupportedModel, match="GridSample TensorRT misreads without an error; export it with --op fused"
    ):
        source.read(make_toy(op="onnx").path)


def test_missing_weights_are_named(make_toy, tmp_path: Path) -> None:
    model = onnx.load(make_toy().path)
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    weights = tmp_path / "w.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UsageError, match=r"w\.bin has \d+ bytes, but split\.onnx needs"):
        source.read(tmp_path / "split.onnx")
    weights.unlink()
    with pytest.raises(UsageError, match=r"w\.bin, which is not there"):
        source.read(tmp_path / "split.onnx")


@without_tensorrt
def test_without_tensorrt_the_way_to_it_is_said(make_toy, tmp_path: Path, capsys) -> None:
    code, message = failure(capsys, "build", make_toy().path, "--plan", tmp_path / "t.plan")
    assert code == 5 and "pip install tensorrt-cu13" in message and "polygraphy" in message
    assert not list(tmp_path.glob("*.plan*"))


def test_a_bad_range_is_said_before_tensorrt_is_looked_for(make_toy, tmp_path: Path, capsys) -> None:
    toy = make_toy(batch=None, size=None)
    arguments = ("build", toy.path, "--plan", tmp_path / "t.plan", "--max-batch", 2, "--max-size", 100, 100)
    assert failure(capsys, *arguments) == (
        2,
        "adapter-engine: --max-size 100 100 is not a multiple of 32, which the model's coarsest level needs; "
        "give 128 128\n",
    )


def test_the_plan_never_overwrites_its_source(make_toy, capsys) -> None:
    path = make_toy().path
    code, message = failure(capsys, "build", path, "--plan", path)
    assert code == 2 and "would overwrite the file that is read" in message


@pytest.mark.parametrize("plan", ["missing/out.plan", "."])
def test_places_that_cannot_be_written_are_refused_first(make_toy, tmp_path: Path, capsys, plan: str) -> None:
    code, message = failure(capsys, "build", make_toy().path, "--plan", tmp_path / plan)
    assert code == 2 and "--plan" in message


def test_help_opens_without_heavy_libraries() -> None:
    program = (
        "import sys\nfrom adapter_engines.plan_cli import main\n"
        "try: main(['build', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tensorrt', 'polygraphy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    assert "--embed-plugin" in done.stdout


def test_a_file_of_another_maker_may_be_static_only() -> None:
    from adapter_engines.plans.profiles import check_static

    assert shapes(None, [Range()]) == []
    with pytest.raises(UsageError, match="no metadata of adapter-export"):
        shapes(None, [Range(max_batch=2)])
    check_static("x", (1, 3))
    with pytest.raises(UnsupportedModel, match=r"input x \(-1, 3\) has dynamic axes"):
        check_static("x", (-1, 3))
