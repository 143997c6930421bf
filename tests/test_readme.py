"""What the README shows runs, and what its tables say was measured."""

import doctest
import importlib
import json
import pkgutil
import re
import shlex

import pytest

import macl_tf
from benchmarks import record, search
from macl_tf.config import Settings
from macl_tf.datasets import NAMES
from tests.conftest import ROOT
from tests.generated import photo, save
from tests.runs import make_run

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def block_after(name):
    """What the README holds between the comment that names a result and the next one."""
    found = re.search(rf"<!-- benchmarks/results/{name}\.json.*?-->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    return found.group(1).strip()


def test_the_code_runs_as_it_stands(run_python):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        if "SearchEngine" not in block:  # needs a served folder: see the next test
            run_python(block)


def test_the_five_commands_and_the_search_in_code_run_as_they_stand(tmp_path, run_python):
    commands = re.search(r"## From a run to answers\n\n```bash\n(.*?)```", README, re.DOTALL).group(1).splitlines()
    assert [line.split("#")[0].split()[0] for line in commands] == ["python", "python", "macl", "macl", "macl"]
    make_run(tmp_path / "run")  # instead of the first, which trains
    (tmp_path / "TILES").mkdir()
    for seed in range(3):
        save(tmp_path / "TILES" / f"{seed}.png", photo(seed))
    save(tmp_path / "tile.jpg", photo(7))
    arguments = [shlex.split(line, comments=True)[1 + line.startswith("python") * 2 :] for line in commands[1:]]
    arguments[0] = ["export", *arguments[0]]
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "SearchEngine" in block)
    code = code.replace('filter="any=water"', 'filter="none=ship"')  # what lies in TILES has no labels
    script = f"""
import os, sys
from macl_tf.cli import main
os.chdir(sys.argv[1])
for words in {arguments!r}:
    assert main(words) == 0, words
{code}"""
    output = run_python(script, tmp_path).stdout
    assert "rank  score" in output and (tmp_path / "found.png").is_file()
    found = [line.split()[:3:2] for line in output.splitlines()[-3:]]  # rank and id, as the code prints them
    assert [rank for rank, _ in found] == ["1", "2", "3"] and {id_ for _, id_ in found} == {"0.png", "1.png", "2.png"}


def test_the_two_commands_are_those_that_ci_runs():
    assert "pip install -e '.[cpu,test]' && pytest\n" in README
    assert "pip install -e '.[cpu]' && python train.py\n" in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet -e '.[cpu,test]'\n" in ci and "\npytest " in ci


def test_every_archive_and_setting_named_exists():
    assert {name for name in NAMES if f"| `{name}` |" in README} == set(NAMES)
    for setting in re.findall(r"--set (\w+)=", README):
        assert setting in Settings.__dataclass_fields__


def test_every_file_that_it_links_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_real_tiles_is_the_committed_run():
    result = json.loads((RESULTS / "ucm.json").read_text(encoding="utf-8"))
    assert block_after("ucm") == record.markdown(result)
    assert result["command"].replace("DIR", "UCMerced_LandUse") in README
    assert f"Each of {result['num_queries']} test tiles" in README


@pytest.mark.parametrize("name", ["metrics", "pipeline"])
def test_every_number_of_a_speed_table_is_in_its_json(name):
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert result["command"] in README
    known = {format(number, spec) for number in numbers(result) for spec in (".0f", ".1f", ".2f", ",.0f")}
    shown = re.findall(r"\| *([\d.,]+)(?=x? *(?=\|))", block_after(name))
    assert len(shown) >= 4
    assert set(shown) <= known


def test_what_onednn_gives_is_what_two_runs_measured():
    rates = [
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rates"]["training the encoder"]
        for name in ("pipeline_onednn_off", "pipeline")
    ]
    off, on = (round(rate["images_per_second"]) for rate in rates)
    assert f"{off} images/s instead of {on}" in " ".join(README.split())


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def module_names():
    return [module.name for module in pkgutil.walk_packages(macl_tf.__path__, "macl_tf.")]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_tables_of_searchers_are_those_that_were_measured():
    measured = json.loads((RESULTS / "search.json").read_text(encoding="utf-8"))
    for result in measured["results"]:
        found = re.search(
            rf"<!-- benchmarks/results/search\.json {result['data']} -->\n(.*?)\n<!-- end -->", README, re.DOTALL
        )
        assert found.group(1) == search.table(result)
        best = {
            name: row["threads_1"]["at_recall"].get("0.95", {"qps": 0})["qps"] for name, row in result["rivals"].items()
        }
        assert max(best, key=lambda name: best[name]) == "macl_tf scann", "the README says nothing else"
    path = measured["path"]
    for part in ("decoding", "resizing", "encoder", "index"):
        assert f"{path[part + '_ms']:.1f}" in README
    assert f"{100 * path['rest_share']:.0f} % of it" in README
