"""What the README shows runs, and what its tables say was measured."""

import doctest
import importlib
import json
import pkgutil
import re
import shlex

import pytest

import macl_tf
from benchmarks import documents
from macl_tf.datasets import NAMES
from macl_tf.training.settings import Settings
from tests.conftest import ROOT
from tests.generated import photo, save
from tests.runs import make_run

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


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


def test_as_many_tiles_were_queries_as_it_says():
    result = json.loads((RESULTS / "ucm.json").read_text(encoding="utf-8"))
    assert f"Each of {result['num_queries']} test tiles" in README


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_tables_are_those_that_were_measured(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = list(documents.BLOCK.finditer(text))
    assert len(blocks) == text.count("<!-- end -->") >= 1
    for found in blocks:
        assert found[4] == documents.made(found[2], found[3]), found[1]
        command = json.loads((RESULTS / f"{found[2]}.json").read_text(encoding="utf-8"))["command"]
        command = command.replace(" --path", "")  # was an option of the search until its path got a command of its own
        assert command.replace(" --out OUT", "").replace("--data-dir DIR", "--data-dir UCMerced_LandUse") in text
    assert documents.renewed(text) == text


def test_every_result_has_its_table():
    shown = {found[2] for name in documents.DOCUMENTS for found in documents.BLOCK.finditer((ROOT / name).read_text())}
    assert shown == {path.stem for path in RESULTS.glob("*.json")}


def module_names():
    return [module.name for module in pkgutil.walk_packages(macl_tf.__path__, "macl_tf.")]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_our_index_is_the_fastest_as_the_readme_lets_one_think():
    measured = json.loads((RESULTS / "search_libraries.json").read_text(encoding="utf-8"))
    for result in measured["results"]:
        best = {
            name: row["threads_1"]["at_recall"].get("0.95", {"qps": 0})["qps"] for name, row in result["rivals"].items()
        }
        assert max(best, key=lambda name: best[name]) == "macl_tf scann", "the README says nothing else"
