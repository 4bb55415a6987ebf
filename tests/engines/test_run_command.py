"""adapter-run: results under the right names, a broken picture does not stop the others, exit codes and messages."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from adapter_engines import Engine
from adapter_engines.cli import main
from adapter_engines.segmentation import segment
from adapter_infer.spec import Inference

NAMES = ("sky", "tree", "road", "water", "person")


@pytest.fixture
def engine_file(make_toy):
    palette = tuple((40 * i, 10 * i, 255 - 40 * i) for i in range(5))
    inference = Inference("slide", (64, 64), (43, 43))
    return make_toy(batch=None, size=None, inference=inference, names=NAMES, palette=palette).path


@pytest.fixture
def save(tmp_path, picture):
    def write(name, height=90, width=120, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(height, width, seed)).save(path)
        return path

    return write


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_label_maps_and_overlays_are_written(engine_file, save, tmp_path, capsys):
    picture, out = save("photo.png"), tmp_path / "out"
    assert run(engine_file, picture, "--out", out) == 0
    assert names_in(out) == ["photo_labels.png", "photo_overlay.png"]
    with Engine.load(engine_file) as engine, Image.open(picture) as image:
        expected = segment(engine, np.array(image))
    with Image.open(out / "photo_labels.png") as labels:
        np.testing.assert_array_equal(np.array(labels), expected)
        assert labels.getpalette()[3:6] == [40, 10, 215]
    table = capsys.readouterr().out
    assert "photo.png" in table
    assert "network" in table
    assert "90x120" in table


def test_no_overlay_is_drawn_where_none_is_wanted(engine_file, save, tmp_path):
    assert run(engine_file, save("photo.jpg"), "--out", tmp_path / "out", "--no-overlay") == 0
    assert names_in(tmp_path / "out") == ["photo_labels.png"]


def test_a_broken_picture_is_reported_and_the_others_are_done(engine_file, save, tmp_path, capsys):
    good, late = save("a.png"), save("z.png")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    code = run(engine_file, good, broken, tmp_path / "missing.png", late, "--out", tmp_path / "out", "--no-overlay")
    assert code == 1
    assert names_in(tmp_path / "out") == ["a_labels.png", "z_labels.png"]
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 2
    assert complaints[0] == f"adapter-run: {broken} is not a picture of a known format; convert it to PNG or JPEG"
    assert complaints[1].startswith(f"adapter-run: {tmp_path / 'missing.png'} is not there")


def test_a_picture_the_file_cannot_take_is_reported_by_name(make_toy, save, tmp_path, capsys):
    path = make_toy(size=(64, 96)).path
    fits, other = save("fits.png", 64, 96), save("other.png", 64, 160)
    assert run(path, other, fits, "--out", tmp_path / "out", "--no-overlay") == 1
    assert names_in(tmp_path / "out") == ["fits_labels.png"]
    assert capsys.readouterr().err.startswith(f"adapter-run: {other}: it is 64x160 after preprocessing")


def test_a_folder_is_searched_and_its_sub_folders_are_kept(engine_file, save, tmp_path):
    save("in/a.png")
    save("in/city/a.JPG")
    save("in/city/.hidden.png")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    out = tmp_path / "in" / "results"
    for _ in range(2):  # the second time, the results of the first lie in the folder that is searched
        assert run(engine_file, tmp_path / "in", "--out", out, "--no-overlay") == 0
        assert names_in(out) == ["a_labels.png", "city/a_labels.png"]


@pytest.mark.parametrize("second", ["b/x.png", "a/x.jpg"])
def test_pictures_of_one_name_do_not_overwrite_each_other(engine_file, save, tmp_path, capsys, second):
    assert run(engine_file, save("a/x.png"), save(second), "--out", tmp_path / "out") == 2
    assert "would both be written as" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_picture_named_twice_is_done_once(engine_file, save, tmp_path, capsys):
    picture = save("in/x.png")
    assert run(engine_file, picture, picture, tmp_path / "in", "--out", tmp_path / "out", "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["pictures"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.onnx", "x.png", "--out", "out"], 2, "there is no file"),
        (["toy.onnx", "x.png", "--out", "x.png"], 2, "cannot make the folder"),
        (["toy.onnx", "x.png", "--out", "out", "--provider", "cuda"], 5, "CUDAExecutionProvider"),
        (["toy.onnx", "x.png", "--out", "out", "--threads", "0"], 2, "threads is 0"),
        (["toy.onnx", "x.png", "--out", "out", "--stride", "99", "99"], 2, "cannot be 99 apart"),
        (["toy.onnx", "x.png", "--out", "out", "--json", "empty"], 2, "is a folder"),
        (["toy.onnx", "empty", "--out", "out"], 2, "holds no picture"),
        (["toy.onnx", "full", "--out", "full"], 2, "is a folder pictures are read from"),
        (["x.png", "x.png", "--out", "out"], 3, "is not an ONNX file"),
        (["foreign.onnx", "x.png", "--out", "out"], 3, "make it with adapter-export"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    engine_file, make_toy, save, tmp_path, capsys, monkeypatch, arguments, code, message
):
    make_toy("foreign.onnx", metadata=False)
    save("x.png")
    save("full/x.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("adapter-run: ")


def test_the_json_tells_what_was_found_and_how(engine_file, save, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    arguments = [
        engine_file,
        save("photo.png", 90, 220),
        broken,
        "--out",
        tmp_path / "out",
        "--threads",
        1,
        "--batch",
        2,
    ]
    assert run(*arguments, "--json", tmp_path / "report.json") == 1
    assert run(*arguments, "--json", "-") == 1
    written = json.loads((tmp_path / "report.json").read_text())
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["engine"] == written["engine"]
    assert written["engine"]["path"] == str(engine_file)
    assert (written["mode"], written["crop"], written["stride"]) == ("slide", [64, 64], [43, 43])
    assert (written["provider"], written["threads"], written["batch"]) == ("cpu", 1, 2)
    (found,) = written["pictures"]
    assert (found["size"], found["network_size"], found["windows"]) == ([90, 220], [64, 160], 4)
    assert set(found["time_ms"]) == {"read", "preprocess", "network", "postprocess", "write", "total"}
    assert sum(entry["share"] for entry in found["classes"]) == pytest.approx(1)
    assert all(NAMES[entry["index"]] == entry["name"] for entry in found["classes"])
    (failed,) = written["failed"]
    assert failed["path"] == str(broken)


def test_an_embedded_file_gives_the_same_label_map(engine_file, make_toy, save, tmp_path):
    picture = save("photo.png")
    embedded = make_toy(
        "e.onnx", batch=None, size=None, inference=Inference("slide", (64, 64), (43, 43)), embed=True
    ).path
    for path, out in ((engine_file, "a"), (embedded, "b")):
        assert run(path, picture, "--out", tmp_path / out, "--no-overlay") == 0
    one, other = (np.array(Image.open(tmp_path / out / "photo_labels.png")) for out in ("a", "b"))
    assert np.mean(one == other) > 0.999


def test_help_needs_no_heavy_library():
    program = """
import sys
for name in ("torch", "onnx", "onnxruntime", "PIL", "rich"):
    sys.modules[name] = None
from adapter_engines.cli import main
main(["--help"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--provider" in result.stdout
