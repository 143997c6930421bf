"""The container file, as far as it can be tried without a container engine: what it copies, installs, runs and asks."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from macl_tf import cli
from tests.conftest import ROOT
from tests.serving_process import make_served, running

DEPLOY = ROOT / "deploy"
FILES = pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.beam"])


def told(word, file="Dockerfile"):
    lines = [line.split(maxsplit=1) for line in (ROOT / file).read_text().splitlines() if line[:1].isalpha()]
    return [rest for first, rest in lines if first == word and not rest.startswith("--from")]


@FILES
def test_what_it_copies_is_there_and_not_ignored(file):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for rest in told("COPY", file):
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists() and f"!{source}" in ignored, source


@FILES
def test_what_it_copies_is_all_that_the_package_is_built_from(tmp_path, file):
    for rest in told("COPY", file):
        *sources, target = rest.split()
        for source in sources:
            (tmp_path / target).mkdir(parents=True, exist_ok=True) if target == "./" else None
            os.symlink(ROOT / source, tmp_path / (source if target == "./" else target))
    tool = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    folders = tool["tool"]["setuptools"].get("package-dir", {})
    for package in tool["tool"]["setuptools"]["packages"]:
        assert (tmp_path / folders.get(package, package.replace(".", "/"))).is_dir(), package
    command = told("RUN", file)[-1]
    extras = command.partition("[")[2].partition("]")[0].split(",")
    assert set(extras) <= set(tool["project"]["optional-dependencies"])


def test_workers_have_one_version_of_beam():
    text = (ROOT / "Dockerfile.beam").read_text()
    copied, installed = re.findall(r"_sdk:([\d.]+)", text), re.findall(r"apache-beam\[gcp,aws\]==([\d.]+)", text)
    assert len(copied) == 1 and copied == installed


def test_its_command_is_one_of_macl(capsys):
    (entry,), (words,) = map(json.loads, told("ENTRYPOINT")), map(json.loads, told("CMD"))
    assert entry == ["macl"]
    assert cli.main(words) == 2  # there is no /served here
    assert "'/served' is not there" in capsys.readouterr().err


@pytest.mark.parametrize("serving", [True, False])
def test_its_health_check_asks_the_service(tmp_path, serving):
    (command,) = [json.loads(rest.partition("CMD ")[2]) for rest in told("HEALTHCHECK")]
    with running(make_served(tmp_path / "served")) as url:
        port = url.rstrip("/").rpartition(":")[2]
        code = command[2].replace(":8080", f":{port}").replace("readyz", "readyz" if serving else "nothing")
        assert code != command[2]
        answer = subprocess.run([sys.executable, *command[1:2], code], capture_output=True, text=True)
    assert (answer.returncode == 0) == serving, answer.stderr


def described(*files):
    """What YAML files hold."""
    yaml = pytest.importorskip("yaml", reason="not among our requirements")
    return [one for file in files for one in yaml.safe_load_all((DEPLOY / file).read_text())]


def test_servers_of_compose_and_kubernetes_start_alike():
    (compose,) = described("compose.yaml")
    deployment = next(one for one in described("kubernetes/search.yaml") if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    composed = [re.sub(r"\$\{\w+:-\}", "", word) for word in compose["services"]["search"]["command"]]
    read = [cli.parser().parse_args(words) for words in (container["args"], composed)]
    for options in read:
        assert (options.command, options.served, options.host, options.port) == ("serve", "/served", "0.0.0.0", 8080)
        assert options.index == "milvus:http://milvus:19530#tiles" and not options.encoder_url
    assert container["ports"][0]["containerPort"] == 8080
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/served", "/tmp"}
    ingress, policy = described("kubernetes/ingress.yaml")
    assert ingress["spec"]["rules"][0]["host"] in read[0].allow_host
    assert policy["spec"]["podSelector"] == deployment["spec"]["selector"]


def test_the_proxy_finds_the_servers_of_the_compose_file():
    services = described("compose.yaml")[0]["services"]
    text = (DEPLOY / "nginx.conf").read_text()
    assert re.findall(r"server (\w+):8080 resolve;", text) == ["search"] and "search" in services
    assert services["proxy"]["ports"][0].endswith(f":{re.findall(r'listen (.*);', text)[0]}")


def test_tensorflow_serving_starts_as_beside_an_export():
    yaml = pytest.importorskip("yaml", reason="not among our requirements")
    ours = described("compose.yaml")[0]["services"]["encoder"]
    exported = yaml.safe_load((ROOT / "export" / "deploy" / "compose.yaml").read_text())["services"]["encoder"]
    assert ours["profiles"] == ["serving"]
    for key in ("image", "command", "read_only", "tmpfs", "cap_drop", "security_opt", "restart"):
        assert ours[key] == exported[key], key
    inside = [[volume.partition(":")[2] for volume in one["volumes"]] for one in (ours, exported)]
    assert inside[0] == inside[1]
