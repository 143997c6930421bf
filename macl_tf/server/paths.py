"""Which paths there are and what each takes, under whatever prefix a proxy gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from urllib.parse import parse_qsl

from macl_tf.search.query import NotThereError, QueryError
from macl_tf.server.errors import wrong_method

HEALTH = ("/healthz", "/readyz")
FOR_MACHINES = (*HEALTH, "/metrics")  # beside the API
_PREFIX = re.compile(r"(/[\w.~-]+)+", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where a request leads."""

    prefix: str  # what stands before the path outside, "" or "/tiles"
    path: str  # behind it
    methods: Mapping[str, Set[str]] | None  # query parameters by method; None for a path that leads nowhere
    to_folder: bool = False  # whether it is the prefix itself, without the slash that the page's links need

    @property
    def for_machines(self) -> bool:
        """Whether programs ask there, who get JSON; what is left is the page."""
        return self.path == "/api" or self.path.startswith("/api/") or self.path in FOR_MACHINES

    @property
    def route(self) -> str:
        """What figures call it: one name for all of the page, and one for all that leads nowhere."""
        if self.methods is None:
            return "other"
        return self.path if self.for_machines else "page"

    @property
    def allowed(self) -> str:
        """The value of the header Allow."""
        methods = {*(self.methods or ()), "OPTIONS"}
        return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))

    def check(self, method: str) -> None:
        """Lets a request through that asks for what there is, by a method that it takes."""
        if self.methods is None:
            what = "API is described at {}/api/v1/openapi.json" if self.for_machines else "page is at {}/"
            raise NotThereError("Not found", self.path, f"The {what.format(self.prefix)}.")
        asked = "GET" if method == "HEAD" else method
        if asked not in self.methods and asked != "OPTIONS":
            rule = f"{self.path} takes {self.allowed}"
            raise wrong_method(rule, method, "Use one of these methods.", {"Allow": self.allowed})

    def check_query(self, method: str, query: bytes) -> None:
        """Refuses query parameters that would be passed over in silence, or of which one would win."""
        if self.methods is None or not self.path.startswith("/api/") or not query:
            return
        known = self.methods.get("GET" if method == "HEAD" else method, frozenset())
        given = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
        for name in given:
            if name not in known:
                takes = f"the query parameters {', '.join(sorted(known))}" if known else "no query parameters"
                remedy = "Leave it out." if method in ("GET", "HEAD") else "Send it in the body, or leave it out."
                raise QueryError(f"{method} {self.path} takes {takes}", name, remedy)
            if given.count(name) > 1:
                raise QueryError(f"the query parameter {name} is given once", given.count(name), "Give one of them.")


def check_prefix(root_path: str) -> str:
    """A prefix without a slash at its end; "" for none, and a ValueError for one that cannot be."""
    prefix = root_path.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"--root-path must be like /tiles, of letters, digits, '-', '_', '.' and '~', got {root_path!r}."
        )
    return prefix


class Paths:
    """All paths of a server: those of the API, with the query parameters of each method, and the page's files.

    A proxy shows them under the prefix `root_path`, like /tiles, whether it takes that off or not.

    Example:
        >>> paths = Paths({"/api/v1/items": {"GET": {"id"}, "PUT": set()}}, ["index.html"], "/tiles")
        >>> paths.place("/tiles/api/v1/items/").allowed
        'GET, HEAD, OPTIONS, PUT'
        >>> paths.place("/").route, paths.place("/nothing").route
        ('page', 'other')
    """

    def __init__(self, api: Mapping[str, Mapping[str, Set[str]]], page: Iterable[str], root_path: str = "") -> None:
        self._root = check_prefix(root_path)
        reading: Mapping[str, Set[str]] = {"GET": set()}
        self._methods = dict(api)
        self._methods |= dict.fromkeys(("/api/v1/openapi.json", *FOR_MACHINES), reading)
        self._methods |= {f"/{name}": reading for name in ("", *page)} | {"*": {}}  # the server as a whole

    def place(self, path: str, forwarded: str = "") -> Place:
        """Where a path leads; a slash at its end does not matter to programs.

        `forwarded` is the header X-Forwarded-Prefix, "" without one; what `root_path` says goes before it.
        """
        prefix = self._root
        if not prefix and _PREFIX.fullmatch(forwarded := forwarded.rstrip("/")):
            prefix = forwarded
        inner = path
        if prefix and self._known(path) is None:  # else the proxy took it off
            if path == prefix:
                return Place(prefix, "/", self._methods["/"], to_folder=True)
            if path.startswith(f"{prefix}/"):
                inner = path.removeprefix(prefix)
        known = self._known(inner)
        return Place(prefix, known or inner, None if known is None else self._methods[known])

    def _known(self, path: str) -> str | None:
        if path in self._methods:
            return path
        short = Place("", path.removesuffix("/"), None)
        return short.path if short.for_machines and short.path in self._methods else None
