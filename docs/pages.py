"""The pages that are made from the code, so that they cannot go stale: `python docs/pages.py` writes them.

`settings.md`, `cli.md` and the table of `losses.md` are compared with the code by a test. `example.md` has the code of
examples/rare_labels.py, its output and its figure; a test runs the example and compares the code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from macl_tf.cli import parser
from macl_tf.files import write_text
from macl_tf.losses.registry import LOSSES, OF_MACL
from macl_tf.training.settings import Settings

DOCS = Path(__file__).parent
EXAMPLE = DOCS.parent / "examples" / "rare_labels.py"
MADE = "<!-- Made from the code by: python docs/pages.py -->\n"


def settings_page() -> str:
    """A table of all settings: name, default, rule, meaning."""
    lines = [
        MADE + "# Settings",
        "",
        "All settings of `macl train`. Give them as `--set KEY=VALUE`, as lines of a TOML file (`--config`), or as",
        "arguments of `macl_tf.training.settings.Settings`. Files in `configs/` change some of the defaults.",
        "",
        "| setting | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for field in fields(Settings):
        default = (
            str(field.default).lower() if isinstance(field.default, bool) else repr(field.default).replace("'", '"')
        )
        cells = (f"`{field.name}`", f"`{default}`", rule(field), field.metadata["help"])
        lines.append(row(*cells))
    return "\n".join(lines) + "\n"


def losses_table() -> str:
    """All losses: name, class, what is positive, what weighs, which settings are read, source."""
    lines = ["| `--set loss=` | class | positive | weights, or what is pushed | settings it reads | source |"]
    lines.append("|---|---|---|---|---|---|")
    for name, entry in LOSSES.items():
        fixed = ", ".join(f"{key}={value!r}" for key, value in entry.fixed.items())
        behind = {"proxies": " on `ProxyHead`", "classifier": " on `classified`"}.get(entry.ends_in, "")
        read = ", ".join(f"`{key}`" for key in entry.reads if key not in ("label_statistics", *OF_MACL))
        read += " and MACL's own" if set(OF_MACL) <= set(entry.reads) else ""
        kind = f"`{entry.kind}({fixed})`" if fixed else f"`{entry.kind}`"
        lines.append(f"| `{name}` | {kind}{behind} | {entry.positive} | {entry.how} | {read} | {entry.source} |")
    return "\n".join(lines)


def row(name: str, *cells: str) -> str:
    """A row of a table; its text is no Markdown and no HTML."""
    return "| " + " | ".join([name, *(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)]) + " |"


def rule(field: Any) -> str:
    """The values that a setting takes, in words."""
    allowed = field.metadata
    if allowed["one_of"]:
        return ", ".join(f"`{name}`" for name in allowed["one_of"])
    if isinstance(field.default, bool):
        return "`true`, `false`"
    if isinstance(field.default, str):
        return "text"
    signs = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
    bounds = [f"{sign} {allowed[name]:g}" for name, sign in signs.items() if name in allowed]
    return " ".join(["whole number" if isinstance(field.default, int) else "number", ", ".join(bounds)]).strip()


def cli_page() -> str:
    """The help of `macl` and of each command, as Python of any version would lay it out."""
    main = parser()
    commands = next(action for action in main._actions if isinstance(action, argparse._SubParsersAction))
    parts = [
        MADE + "# Command line",
        f"{main.description} `macl COMMAND --help` prints the same. [Settings](settings.md) lists what `--set` takes.",
    ]
    for name, command in commands.choices.items():
        parts += [f"## macl {name}", *described(command.description or ""), table_of(command)]
    return "\n\n".join(parts) + "\n"


def described(text: str) -> list[str]:
    """The paragraphs of a description; examples and other indented lines as code."""
    blocks = []
    for block in text.strip().split("\n\n"):
        first, _, rest = block.partition("\n")
        if rest.startswith("  "):
            code = "\n".join(line[2:] if line.startswith("  ") else line for line in rest.splitlines())
            blocks.append(f"{first}\n\n```bash\n{code}\n```")
        else:
            plain, code = [], []
            for line in block.splitlines():
                (code if line.startswith("  ") else plain).append(line)
            blocks.append(
                "\n".join(plain) + (f"\n\n```bash\n{chr(10).join(line[2:] for line in code)}\n```" if code else "")
            )
    return blocks


def table_of(command: argparse.ArgumentParser) -> str:
    """The arguments of a command, positional ones first."""
    rows = ["| argument | meaning |", "|---|---|"]
    actions = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    for action in sorted(actions, key=lambda action: bool(action.option_strings)):
        name = " ".join([*action.option_strings[-1:], *([] if action.nargs == 0 else [metavar(action)])])
        needed = "; required" if action.option_strings and action.required else ""
        rows.append(row(f"`{name}`", f"{action.help or ''}{needed}".replace("%%", "%")))
    return "\n".join(rows)


def metavar(action: argparse.Action) -> str:
    """How the help calls an argument's value."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return name + (" ..." if action.nargs in ("*", "+") else "")


def example_cells() -> list[tuple[str, str]]:
    """The cells of the example, as ("markdown" or "python", text)."""
    pieces = re.split(r"^# %%(.*)\n", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    cells = []
    for kind, body in zip(pieces[::2], pieces[1::2], strict=True):
        if "[markdown]" in kind:
            cells.append(
                ("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
            )
        else:
            cells.append(("python", body.strip()))
    return cells


def example_page(outputs: list[str]) -> str:
    """The example as a page; `outputs` has what each cell of code printed."""
    parts, printed = [MADE.strip()], iter(outputs)
    for kind, text in example_cells():
        parts.append(text if kind == "markdown" else f"```python\n{text}\n```")
        if kind == "python" and (output := next(printed).rstrip()):
            parts.append(f"```text\n{output}\n```")
    parts.append("![Queries with rare labels and their nearest neighbours](rare_labels.jpg)")
    return "\n\n".join(parts) + "\n"


def run_example() -> list[str]:
    """Runs the cells in order, keeps the figure, returns what each cell printed."""
    from PIL import Image

    outputs: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    there = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for kind, text in example_cells():
                if kind == "python":
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        exec(compile(text, EXAMPLE.name, "exec"), names)
                    outputs.append(printed.getvalue())
            picture = Image.open("rare_labels.png").convert("RGB")
        finally:
            os.chdir(there)
        picture.resize((picture.width * 2 // 3, picture.height * 2 // 3)).save(DOCS / "rare_labels.jpg", quality=85)
    return outputs


def main() -> None:
    """Writes the pages."""
    write_text(DOCS / "settings.md", settings_page())
    write_text(DOCS / "cli.md", cli_page())
    losses = (DOCS / "losses.md").read_text(encoding="utf-8")
    write_text(DOCS / "losses.md", re.sub(r"(?m)(^\|.*\n)+", lambda _: losses_table() + "\n", losses, count=1))
    write_text(DOCS / "example.md", example_page(run_example()))


if __name__ == "__main__":
    main()
