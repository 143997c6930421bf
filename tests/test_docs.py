"""What README.md and docs/ show runs, what they name exists, and what their tables say was measured."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import shlex
import tomllib

import pytest
import yaml

import macl_tf
from benchmarks import documents
from macl_tf.cli import parser, with_boxes
from macl_tf.datasets import NAMES, load_archive
from macl_tf.training.settings import Settings, load_settings
from tests.conftest import ROOT
from tests.generated import photo, save
from tests.test_architecture import PACKAGE, ROOMS

RESULTS = ROOT / "benchmarks" / "results"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README, TUTORIAL = PAGES["README.md"], PAGES["docs/tutorial.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The command lines of a page, each as words; what stands after # or && is told apart."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    parts = [part for line in lines for part in re.split(r" && ", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def macl(words):
    """The arguments of `macl` in a command line, or None if it is another program's."""
    for program, first in (("macl", []), ("python train.py", ["train"]), ("python -m export", ["export"])):
        size = len(program.split())
        if words[:size] == program.split():
            return first + words[size:]
    return None


ALL_COMMANDS = [(page, words) for page, text in PAGES.items() for words in commands(text)]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 100


@pytest.mark.slow
def test_the_code_runs_as_it_stands(run_python):
    """Each block alone, as somebody would paste it; in one process, for the time that TensorFlow takes to start."""
    found = [
        (page, block)
        for page, text in PAGES.items()
        for block in blocks(text, "python")
        # These have tests of their own: a served folder, the example's cells, a loss that is written in the docs.
        if "SearchEngine" not in block and page not in ("docs/example.md", "docs/own_loss.md", "docs/teaching.md")
    ]
    assert {"README.md", "docs/training.md", "docs/own_backbone.md", "docs/gpu.md"} <= {page for page, _ in found}
    script = f"for page, block in {found!r}:\n    print(page, flush=True)\n    exec(compile(block, page, 'exec'), {{}})"
    run_python(script, warm=True)


def test_every_command_is_one_that_macl_takes():
    checked = set()
    for page, words in ALL_COMMANDS:
        if (arguments := macl(words)) is not None:
            options, rest = parser().parse_known_args(with_boxes(arguments))
            assert not [word for word in rest if word.startswith("-")], (page, words)
            if getattr(options, "set", None):
                sets = [each for each in options.set if "N" not in each.partition("=")[2]]
                dataset = getattr(options, "dataset", None) or ("folder" if options.command == "inspect" else None)
                load_settings(None, sets, **({"dataset": dataset} if dataset else {}))
            checked.add(options.command)
    commands = "tile inspect train evaluate export embed index search upsert delete collections teach suggest serve"
    assert checked == set(commands.split())


def test_every_other_command_names_what_exists():
    extras, known = set(PROJECT["project"]["optional-dependencies"]), set()
    for page, words in ALL_COMMANDS:
        known.add(words[0])
        if words[:2] == ["python", "-m"] and words[2] != "export":
            assert importlib.util.find_spec(words[2]), (page, words)
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), (page, words)
        if words[:3] == ["pip", "install", "-e"]:
            assert set(re.findall(r"[\w-]+", words[3])) <= extras, (page, words)
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), (page, words)
    assert {"pip", "python", "macl", "curl"} <= known


def test_requests_are_what_the_server_takes():
    from macl_tf.server.schemas import Marks, Query

    bodies = [
        (word.removeprefix("query="), Marks if words[-1].endswith("/marks") else Query)
        for _, words in ALL_COMMANDS
        if words[0] == "curl"
        for word in words
        if word.startswith(("{", "query={"))
    ]
    bodies = [(body, kind) for body, kind in bodies if "instances" not in body]  # TensorFlow Serving's
    assert len(bodies) >= 6
    for body, kind in bodies:
        kind.model_validate_json(body)
    conditions = dict(re.findall(r'`"(\w+)": (.+?)`', PAGES["docs/filters.md"].replace(', "until"', '`, `"until"')))
    assert conditions.keys() == set(Query.model_fields["filter"].annotation.model_fields)
    for name, value in conditions.items():
        Query.model_validate_json(json.dumps({"filter": {name: json.loads(value)}}))


@pytest.mark.slow
def test_the_pages_commands_run_in_their_order(tmp_path, run_python):
    """The tutorial from its folder of tiles on, then what the pages about searching do with its result."""
    archive = load_archive("synthetic", num_tiles=60)
    (tmp_path / "TILES").mkdir()
    rows = ["image,labels,split"]
    for index in range(len(archive)):
        name = f"airplane{index + 11}.jpg"  # 70 is a query of the tutorial
        save(tmp_path / "TILES" / name, archive.read_image(index))
        labels = ";".join(archive.label_names[label] for label in archive.labels[index].nonzero()[0])
        labels += ";airplane" * (index == 59)  # so few tiles may lack a label that a filter names
        rows.append(f"{name},{labels},{'test' if index % 3 else 'train'}")
    (tmp_path / "TILES" / "labels.csv").write_text("\n".join(rows))
    save(tmp_path / "tile.jpg", photo(7))
    save(tmp_path / "new.tif", photo(8))
    sets = ("epochs=1", "image_size=32", "backbone=resnet18", "width=8", "batch_size=8")
    done, small = [], [word for text in sets for word in ("--set", text)]
    for words in commands(TUTORIAL) + commands(PAGES["docs/searching.md"]) + commands(PAGES["docs/filters.md"]):
        arguments = macl(words)
        if arguments and arguments[0] != "serve":
            done.append(arguments + small * (arguments[0] == "train"))
    assert [words[0] for words in done[:5]] == ["train", "export", "embed", "index", "search"]
    done = [
        words for number, words in enumerate(done) if words[0] != "train" or not number
    ]  # another run needs minutes
    code = [block for page in ("searching", "filters") for block in blocks(PAGES[f"docs/{page}.md"], "python")]
    assert len(code) == 3
    script = f"""
import os, sys
from macl_tf.cli import main
os.chdir(sys.argv[1])
for words in {done!r}:
    print("$", *words, flush=True)
    if "--output" in words and "shards" in words and "--table" not in words:
        words[words.index("shards")] = "shards2"  # with the table before, without it now
    assert main(words) == 0, words
for block in {code!r}:
    print("$ python", flush=True)
    exec(block, {{}})
"""
    output = run_python(script, tmp_path, timeout=600, warm=True).stdout
    assert (tmp_path / "found.png").is_file() and "rank  score  id" in output
    for answer in output.split("$ python\n")[1:]:
        found = [line.split()[0] for line in answer.splitlines()]
        assert found == ["1", "2", "3", "4", "5"]


def test_the_five_commands_of_the_readme_are_the_tutorials():
    five = [words for words in commands(README.split("## From a folder of tiles")[1].split("\n## ")[0]) if macl(words)]
    assert [words[1] for words in five] == ["train", "export", "embed", "index", "serve"]
    longer = [" ".join(words) for words in commands(TUTORIAL)]
    for words in five:
        assert any(line.startswith(" ".join(words)) for line in longer), words


def test_the_two_commands_are_those_that_ci_runs():
    assert "pip install -e '.[cpu,test]' && pytest\n" in README
    assert "pip install -e '.[cpu,imagenet]' && python train.py\n" in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet -e '.[cpu,test]'\n" in ci and "\npytest " in ci


def test_every_archive_and_setting_named_exists():
    assert {name for name in NAMES if f"| `{name}` |" in PAGES["docs/training.md"]} == set(NAMES)
    named = {setting for text in PAGES.values() for setting in re.findall(r"--set\s+([a-z_]+)=", text)}
    assert {"loss", "weights", "batch_size"} <= named <= set(Settings.__dataclass_fields__)


def test_there_are_as_many_losses_as_it_says():
    names = Settings.__dataclass_fields__["loss"].metadata["one_of"]
    assert f"{len(names)} in all" in PAGES["docs/training.md"]
    assert f"one of {len(names) - 1} other losses" in PAGES["docs/index.md"]
    assert all(f"| `{name}` |" in PAGES["docs/losses.md"] for name in names)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_it_links_is_there(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[page])
    for target in targets:
        assert (ROOT / page).parent.joinpath(target).exists(), target
    assert targets or page not in ("README.md", "docs/index.md", "docs/tutorial.md", "docs/results.md")


def test_the_site_lists_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry):
        if isinstance(entry, str):
            yield entry
        for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from files(part)

    listed = [f"docs/{name}" for name in files(site["nav"])]
    assert sorted(listed) == sorted(page for page in PAGES if page.startswith("docs/"))


def made_pages(name="pages"):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tutorial_from_scenes_has_a_script_for_its_commands_and_pictures():
    """Nothing but that script runs the page's commands on the real scenes: what it reads and draws is what is shown."""
    script, page = made_pages("scenes_tutorial"), PAGES["docs/tutorial_scenes.md"]
    shown = [macl(words) for words in commands(page) if macl(words)]
    assert list(script.commands()) == shown and {"tile", "inspect", "train", "export", "serve"} <= {w[0] for w in shown}
    drawn = set(re.findall(r'keep\("\S+", "(\S+)"', (ROOT / "docs" / "scenes_tutorial.py").read_text(encoding="utf-8")))
    assert drawn == set(re.findall(r"\]\((\S+\.jpg)\)", page)) and len(drawn) == 4
    assert all((ROOT / "docs" / name).stat().st_size < 250_000 for name in drawn)


def test_pages_made_from_the_code_are_fresh():
    pages, again = made_pages(), "run: python docs/pages.py"
    assert PAGES["docs/settings.md"] == pages.settings_page(), again
    assert PAGES["docs/cli.md"] == pages.cli_page(), again
    assert pages.losses_table() in PAGES["docs/losses.md"], again
    assert all(f"`{name}`" in PAGES["docs/settings.md"] for name in Settings.__dataclass_fields__)
    code = [text for kind, text in pages.example_cells() if kind == "python"]
    assert [block.rstrip() for block in blocks(PAGES["docs/example.md"], "python")] == code and len(code) >= 5, again


@pytest.mark.slow
def test_the_example_runs(tmp_path, run_python):
    code = (ROOT / "examples" / "rare_labels.py").read_text(encoding="utf-8")
    output = run_python(f"import os, sys; os.chdir(sys.argv[1])\n{code}", tmp_path, warm=True).stdout
    figures = re.search(r"mAP per label, mean over labels +(\S+) +(\S+)", output)
    assert float(figures[2]) > float(figures[1]) + 0.05
    assert (tmp_path / "rare_labels.png").stat().st_size > 100_000


def test_the_reference_describes_what_is_public():
    named = re.findall(r"^::: (\S+)$", PAGES["docs/api.md"], re.MULTILINE)
    assert len(named) == len(set(named)) > 20
    described = set()
    for name in named:
        try:
            described |= {(name, each) for each in vars(importlib.import_module(name))}
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name
            described.add((module, attribute))
    public = [getattr(macl_tf, name) for name in macl_tf.__all__]
    public += [getattr(macl_tf.losses, name) for name in macl_tf.losses.__all__]
    for value in public:
        if isinstance(value, type) or callable(value):
            assert (value.__module__, value.__name__) in described or any(
                name == value.__name__ for _, name in described
            ), value


DESIGN = PAGES["docs/design.md"]


def test_the_floor_plan_is_that_of_the_code():
    plan = re.findall(r"^\| `([\w.]+)` \|", DESIGN.split("## The walk of a tile")[0], re.MULTILINE)
    assert plan == ["." if room == "" else room for room in ROOMS]


def test_everything_asked_for_is_where_the_design_says():
    asked = re.findall(r"^\| .+? \| `(\S+\.py)` \| `(\w+)` \|$", DESIGN.split("## Where is")[1], re.MULTILINE)
    assert len(asked) >= 20
    for file, name in asked:
        body = ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body
        assert name in {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, (file, name)


def test_both_walks_name_files_that_exist():
    walks = re.findall(r"`([\w/]+(?:\.py|/))`", DESIGN.split("## The walk of a tile")[1].split("## Where is")[0])
    assert len(walks) > 20
    for file in walks:
        assert (PACKAGE / file).exists() or list(PACKAGE.rglob(file)), file


def test_hooks_and_the_workflow_run_what_is_here():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]  # nothing is fetched
    assert all(
        hook["language"] == "system" and hook["entry"].split()[0] in ("ruff", "mypy") for hook in hooks[0]["hooks"]
    )
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step]
    assert steps == [".ci/run"] and (ROOT / ".ci" / "run").stat().st_mode & 0o111
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text(encoding="utf-8"))


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == macl_tf.__version__ and citation["license"] == PROJECT["project"]["license"]
    assert f"## [{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_as_many_tiles_were_queries_as_it_says():
    result = json.loads((RESULTS / "ucm.json").read_text(encoding="utf-8"))
    assert f"Each of {result['num_queries']} test tiles" in PAGES["docs/results.md"]


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


TRAINED = ("macl_tf.models.cached_gradients", "macl_tf.models.encoders", "macl_tf.pipeline.pipeline")


def module_names():
    names = [module.name for module in pkgutil.walk_packages(macl_tf.__path__, "macl_tf.")]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in TRAINED else []) for name in names]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    lines = inspect.getsource(module).splitlines()
    shown = (line.strip().startswith(">>> ") and "+SKIP" not in line for line in lines)
    assert result.attempted == sum(shown)  # none is overlooked


def test_our_index_is_the_fastest_as_docs_speed_lets_one_think():
    measured = json.loads((RESULTS / "search_libraries.json").read_text(encoding="utf-8"))
    for result in measured["results"]:
        best = {
            name: row["threads_1"]["at_recall"].get("0.95", {"qps": 0})["qps"] for name, row in result["rivals"].items()
        }
        assert max(best, key=lambda name: best[name]) == "macl_tf scann", "docs/speed.md says nothing else"
