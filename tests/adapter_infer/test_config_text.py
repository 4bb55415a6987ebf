"""The reader of configuration texts gives what Python would give, or refuses; it never executes anything."""

from __future__ import annotations

import pytest

from adapter_infer import config_text
from adapter_infer.config_limits import Unknown
from adapter_infer.errors import UnsupportedModel


def parse(text: str, **base: object) -> dict:
    return config_text.parse(text, "cfg.py", base)


@pytest.mark.parametrize(
    "text",
    [
        "x = dict(a=1, b=dict(c=(2, -3), d=[None, True, 'e']))",
        "x = [True] * 5 + [False]",
        "x = ([14] * 5 + [56]) * 4",
        "x = 2 * [1, 2] + [2 ** 10, 7 // 2, 7 % 4, 1 / 8, -(3 - 5), +1, not 0]",
        "y = dict(a=1, b=[2])\nx = dict(type='T', **y, c=y['b'][0])",
        "y = [1, 2]\nx = [*y, *(3, 4), 5]",
        "y = 512, 512\nx = dict(crop_size=y, stride=(y[0] * 2 // 3, 341))",
        "x = {'a': 1, 2: 'b', **{'c': 3}}",
        "x = y = [1]\nx = x + [2]",
        "a, (b, c) = 1, [2, 3]\nx = [c, b, a]",
        "x: dict = dict({'a': 1}, b=2)",
        "x = 1\nx += 2\ny = [x]\ny += [4]\nx = y",
        "'''doc'''\nclasses = ('a', 'b')\nx = [len(classes), sum([48, 96]), max(1, 2) if False else 0][:0] or 1\nx = 3",
        "x = dict(n=len([1, 2, 3]), s=sum((1, 2.5)), m=max([1, 7]), i=min([3, 2]))",
        "x = list((1, 2)) + list(dict(a=1))\ny = tuple([1])",
        "x = 'a' + 'b' * 3\ny = 'ä €'",
        "x = dict()\nx = list()\nx = tuple()",
    ],
)
def test_values_equal_what_python_computes(text: str) -> None:
    expected: dict = {}
    exec(text, {}, expected)
    assert parse(text)["x"] == expected["x"]
    assert type(parse(text)["x"]) is type(expected["x"])


@pytest.mark.parametrize(
    "expression",
    [
        "os.environ['DEPTH']",
        "__import__('os').system('touch hacked')",
        "open('/etc/passwd').read()",
        "f'{depth}'",
        "lambda: 1",
        "[i for i in range(3)]",
        "().__class__",
        "undefined_name",
        "1 if True else 2",
        "1 / 0",
        "b'bytes'",
        "1j",
        "{1, 2}",
        "'%d' % 3",
        "dict(1)",
        "dict(**undefined_name)",
        "[1, 2][5]",
        "{'a': 1}['b']",
        "-'a'",
        "'a' + 1",
        "...",
    ],
)
def test_what_is_not_spelled_out_is_unknown_and_refused_by_line_and_text(
    expression: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = parse(f"good = 1\nbad = {expression}\n")
    assert isinstance(values["bad"], Unknown)
    assert values["bad"].where == "cfg.py:2"
    assert "cfg.py:2" in str(values["bad"].refusal("model.depth"))
    assert "model.depth" in str(values["bad"].refusal("model.depth"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_leaves_its_neighbours_known() -> None:
    values = parse("import os\nx = dict(a=1, b=os.getcwd(), c=[2, os.sep])")
    assert values["x"]["a"] == 1
    assert isinstance(values["x"]["b"], Unknown)
    assert values["x"]["c"][0] == 2
    assert values["x"]["b"].text == "os.getcwd()"


@pytest.mark.parametrize(
    "statement",
    [
        "model.update(depth=24)",
        "model['depth'] = 24",
        "model['inner']['depth'] = 24",
        "model.depth = 24",
        "del model",
        "if True:\n    model = dict(depth=24)",
        "for model in [1]:\n    pass",
        "with open('x') as model:\n    pass",
        "try:\n    import model\nexcept ImportError:\n    pass",
        "def model():\n    pass",
        "class model:\n    pass",
        "from somewhere import *",
        "from somewhere import thing as model",
        "import model.depth",
        "exec('model = 1')",
        "change(model)",
        "x = change(model)",
        "x = [change(model)]",
        "x = len(change(model))",
        "alias.update(depth=24)",
        "inner.update(depth=24)",
        "(model := 3)",
        "x = [model := 3]",
        "match 1:\n    case model:\n        pass",
        "model, x = pair()",
        "globals()['model'] = 1",
        "x = eval('model.clear()')",
        "model |= dict(depth=24) if True else {}",
    ],
)
def test_a_statement_that_may_change_a_value_makes_it_unknown(statement: str) -> None:
    text = f"inner = dict(depth=12)\nmodel = dict(inner=inner, depth=12)\nalias = model\n{statement}\n"
    assert isinstance(parse(text)["model"], Unknown)


def test_a_statement_that_changes_nothing_keeps_values() -> None:
    text = "model = dict(depth=12)\nprint(model)\nassert model\nx = len(model)\nimport os\nhome = os.getcwd()\n"
    assert parse(text)["model"] == {"depth": 12}
    assert parse(text)["x"] == 1


def test_a_later_assignment_makes_an_unknown_name_known_again() -> None:
    assert parse("import model\nmodel = dict(depth=3)\n")["model"] == {"depth": 3}


def test_a_shadowed_dict_is_not_the_builtin() -> None:
    assert isinstance(parse("def dict(**k):\n    return 1\nx = dict(a=1)")["x"], Unknown)


@pytest.mark.parametrize(
    "text",
    [
        "x = 10 ** 10 ** 10",
        "x = 2 ** 5000",
        "x = [0] * 10 ** 10",
        "x = 10 ** 9 * [0]",
        "x = 'a' * 10 ** 9",
        "x = (1 << 3)\ny = [[[0] * 1000] * 1000] * 1000",
        "a = [0] * 1000\nb = [a] * 100\nc = [b] * 10",
        "a = [1]\n" + "a = [a, a]\n" * 40,
        "a = [1]\n" + "a = a + a\n" * 40,
        "a = 'x'\n" + "a = a + a\n" * 40,
        "a = 3\n" + "a = a * a\n" * 40,
        "a = dict(x=1)\n" + "a = dict(x=a, y=a)\n" * 40,
        "\n".join(f"a{i} = [{i}]" for i in range(1500)),
        "\n".join(f"a{i} = [{i}]" for i in range(900)) + "\nexec('')" * 5_000,
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "[" * 150 + "]" * 150 + "\n" + "x = " + "-" * 3000 + "1",
        "x = " + "+".join(["1"] * 5000),
        "x = " + "(" * 90 + ")" * 90 + "\ny = " + "a" + ".b" * 3000,
        "x = " + "9" * 5000,
        "x = 1" + " " * (2**21),
        "x = '\0'",
        "x = = 1",
        "x = (",
        "\x00",
    ],
)
def test_bombs_and_broken_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UnsupportedModel) as refusal:
        values = parse(text)
        # Attribute chains and the like are allowed to be unknown; nothing may have grown.
        raise UnsupportedModel("unknown") if isinstance(values.get("y"), Unknown) else AssertionError(text[:40])
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "+".join(["1"] * 200_000),
        "x = " + "-" * 400_000 + "1",
        "x = a" + ".b" * 200_000,
        "x = a" + "()" * 200_000,
        "x = a" + "[0]" * 150_000,
        "x = " + "not " * 100_000 + "1",
        "x = " + "lambda: " * 60_000 + "1",
        "x = 1 " + "if a else 1 " * 40_000,
        "x = " + "((1" + "+1" * 900 + ")" + "+1" * 900 + ")",
        "x = f'{" + "+".join(["1"] * 200_000) + "}'",
        "if a:\n pass\n" + "elif a:\n pass\n" * 30_000,
    ],
)
def test_deep_expressions_are_refused_before_they_reach_pythons_parser(text: str) -> None:
    """Python 3.10 would end in a segmentation fault."""
    with pytest.raises(UnsupportedModel, match="nests too deeply"):
        parse(text)


def test_wide_configurations_are_not_taken_for_deep_ones() -> None:
    values = parse(f"x = {list(range(5000))}\ny = dict({', '.join(f'a{i}=dict(b=[{i}, -1])' for i in range(2000))})")
    assert (values["x"][-1], values["y"]["a1999"]["b"]) == (4999, [1999, -1])


def test_mmengines_importing_style_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedModel, match=r"read_base\(\).*resolved configuration"):
        parse("from mmengine.config import read_base\nwith read_base():\n    from .base import *\n")


def test_placeholders_of_mmcv_are_filled_or_unknown() -> None:
    base = {"_base_": {"model": {"depth": 12}}, "fileBasename": "cfg.py"}
    values = parse(
        "name = '{{ fileBasename }}'\nplain = {{ fileBasename }}\ndepth = {{ _base_.model.depth }}\n"
        "quoted = '{{ _base_.model.depth }}'\nmissing = {{ _base_.nothing }}\nother = {{ x + 1 }}",
        **base,
    )
    assert (values["name"], values["plain"], values["depth"]) == ("cfg.py", "cfg.py", 12)
    assert all(isinstance(values[name], Unknown) for name in ("quoted", "missing", "other"))
