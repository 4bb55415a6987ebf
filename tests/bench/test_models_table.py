"""`adapter-bench models`, and how the first word of adapter-bench finds its command."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from adapter_bench import cli, models_table
from adapter_infer import presets
from adapter_infer.errors import UnsupportedModel

TINY = "mask_rcnn_deit_adapter_tiny_fpn_1x_coco"


def test_a_row_has_the_figures_of_its_model() -> None:
    (row,) = models_table.rows([TINY, "mask_rcnn_deit_adapter_tiny_fpn_3x_coco"], (1280, 800))
    assert row.names == (TINY, "mask_rcnn_deit_adapter_tiny_fpn_3x_coco")
    assert (row.family, row.size, row.error) == ("detection, MaskRCNN", (1280, 800), None)
    assert row.params == row.params_published == 28_068_512
    assert row.fp32_bytes is not None
    assert 4 * row.params < row.fp32_bytes < 4.01 * row.params  # batch norms' statistics
    assert row.macs is not None
    assert row.macs_paper is not None
    assert row.macs_paper < row.macs < 1.01 * row.macs_paper  # the MSDA core


def test_published_parameters_include_auxiliary_heads() -> None:
    (row,) = models_table.rows(["upernet_deit_adapter_tiny_512_160k_ade20k"], (64, 64))
    assert (row.params, row.family) == (35_580_998, "semantic segmentation, UPerHead")
    assert row.params_published is not None
    assert round(row.params_published / 1e6, 1) == 36.1


def test_networks_that_differ_have_rows_of_their_own() -> None:
    """Tests of several scales run the same network; the old forward pass of BEiT is another one."""
    names = models_table.selected(["htc++_beit*_adapter_large_fpn_3x_coco*"])
    keys = {name: models_table._network(presets.spec(name)) for name in names}
    stem = "htc++_{}_adapter_large_fpn_3x_coco{}"
    same = {keys[stem.format(family, test)] for family in ("beit", "beitv2") for test in ("", "_ms")}
    assert len(same) == 1
    assert keys[stem.format("beit", "_old")] not in same


def test_markdown_and_json_tell_the_same(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "models.json"
    assert cli.main(["models", TINY, "setr_pup_vit_base*", "--size", "64", "96", "--markdown", "--json", str(out)]) == 0
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    assert [row["names"] for row in found] == [[TINY], ["setr_pup_vit_base_512_ade20k"]]
    for row in found:
        cells = f"| 64x96 | {row['params'] / 1e6:.1f} | {row['fp32_bytes'] / 1e6:.0f} | {row['macs'] / 1e9:.1f} |"
        assert f"| `{row['names'][0]}` {cells}" in text
    assert text.count("| model | size | parameters (M) |") == 2
    assert models_table.NOTE in text


def test_a_model_that_cannot_be_counted_is_told_and_the_others_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from adapter_bench import macs_torch

    count = macs_torch.count

    def fails(spec: Any, *given: Any) -> Any:
        if spec.name == TINY:
            raise UnsupportedModel("this one is not for counting")
        return count(spec, *given)

    monkeypatch.setattr(macs_torch, "count", fails)
    assert cli.main(["models", TINY, "setr_pup_vit_base*", "--size", "64", "64", "--markdown"]) == 1
    text = capsys.readouterr().out
    assert f"| `{TINY}` | this one is not for counting | - |" in text
    assert "| `setr_pup_vit_base_512_ade20k` | 64x64 | 89.7 |" in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["models", "nonsense_model"], "there is no preset 'nonsense_model'"),
        (["models", TINY, "--markdown", "-", "--json", "-"], "cannot both go to standard output"),
        (["models", TINY, "--size", "0", "64"], "at least 1 pixel"),
        (["models", TINY, "--json", "absent/models.json"], "the folder absent does not exist"),
    ],
)
def test_refusals_name_the_command(
    command: list[str], words: str, capsys: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    said = capsys.readouterr()
    assert said.err.startswith("adapter-bench models: ")
    assert words in said.err
    assert said.out == ""


# --- the first word ---


def test_a_first_word_runs_its_module_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    module = types.ModuleType("made_up_command")
    module.main = given.append  # type: ignore[attr-defined]  # returns None, which is well
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "made_up_command", module)
    monkeypatch.setitem(cli.COMMANDS, "dream", ("made_up_command", "nothing"))
    assert cli.main(["dream", "--of", "sheep"]) == 0
    assert given == [["--of", "sheep"]]


def test_a_commands_failure_is_its_exit_code_under_its_name(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def main(argv: list[str]) -> int:
        raise UnsupportedModel("no sheep")

    monkeypatch.setattr(models_table, "main", main)
    assert cli.main(["models"]) == UnsupportedModel.exit_code
    assert capsys.readouterr().err == "adapter-bench models: no sheep\n"


def test_a_command_that_is_not_there_is_neither_listed_nor_run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(cli.COMMANDS, "dream", ("adapter_bench.absent.command", "nothing"))
    assert cli.main(["dream"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("adapter-bench: dream is no command of adapter-bench (there are: models")
    assert "dream," not in said


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    code = "import sys\nfrom adapter_bench import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'onnx', 'numpy', 'rich') if name in sys.modules], file=sys.stderr)"
    for words, expected in ((["--help"], "  models "), (["models", "--help"], "usage: adapter-bench models ")):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert done.stderr.strip() == "[]"
