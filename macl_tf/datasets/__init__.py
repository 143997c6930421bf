"""Archives of labelled tiles: `load_archive` opens one by name and returns an `archives.Archive`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from macl_tf.files import cache_folder
from macl_tf.versions import need

if TYPE_CHECKING:
    from macl_tf.datasets.archives import Archive

NAMES = ("synthetic", "ucm", "dlrsd", "whdld", "mlaid", "mlrsnet", "bigearthnet", "folder")
OF_BANDS = ("folder", "bigearthnet")  # whose tiles may have other bands than 8-bit RGB


def load_archive(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    num_tiles: int | None = None,
    table: str | os.PathLike[str] | None = None,
    min_area: float = 0.0,
    names: Iterable[str] = (),
    bands: Mapping[str, str] | None = None,
    classes: int = 19,
) -> Archive:
    """Open an archive by name. Only what that archive needs is imported.

    Args:
        name: one of `NAMES`.
        data_dir: the archive's folder, or one that contains it. `synthetic` needs none; `ucm` downloads without one.
        cache_dir: where all but synthetic and folder are prepared, about as large as the archive, and where `folder`
            remembers which images it has decoded; by default `$XDG_CACHE_HOME/macl_tf` or `~/.cache/macl_tf`.
        seed: of `synthetic`.
        num_tiles: of `synthetic`; None for its own default.
        table: label table of `folder`; None to look for it.
        min_area: of archives with masks: share of a tile's area in [0, 1] below which a label does not count.
        classes: of `bigearthnet`: 19 or 43 labels.
        bands: of `folder` and `bigearthnet`: `asked`, `rgb` and `scaling` of `bands.choose_bands`; None for pictures of
            8-bit RGB, or all of bigearthnet's twelve.
        names: of `folder`: tiles of which there are no pictures, where it holds none at all.

    Returns:
        The archive.

    Raises:
        ValueError: if the name is unknown, or an option does not fit the archive.
        FileNotFoundError: if the archive is not there; it says what was looked for, where, and where to get it.

    Example:
        >>> archive = load_archive("synthetic", num_tiles=8)
        >>> len(archive), archive.read_image(0).shape
        (8, (96, 96, 3))
    """
    need("train")
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}.")
    for option, value, owners in (
        ("num_tiles", num_tiles, ("synthetic",)),
        ("table", table, ("folder",)),
        ("bands", bands, OF_BANDS),
    ):
        if value is not None and name not in owners:
            raise ValueError(
                f"{option} is an option of {' and '.join(map(repr, owners))}, got {value!r} for {name!r}. Leave it out."
            )
    if min_area and name in ("synthetic", "bigearthnet"):
        raise ValueError(f"min_area must be 0 for {name!r}: it is an option of archives with masks, got {min_area}.")
    module = import_module(f"macl_tf.datasets.{name}")
    if name == "synthetic":
        return module.make_synthetic(seed=seed, **({} if num_tiles is None else {"num_tiles": num_tiles}))
    cache = Path(cache_dir or cache_folder()).expanduser()
    if name == "folder":
        if data_dir is None:
            raise ValueError(
                "folder needs data_dir, the folder with your images and their table, got None. Give it by --data-dir."
            )
        return module.load_folder(data_dir, table, cache_dir=cache, names=names, bands=bands, min_area=min_area)
    if name == "bigearthnet":
        return module.load_bigearthnet(data_dir, cache_dir=cache, classes=classes, bands=bands)
    from macl_tf.datasets.preparing import load_prepared

    return load_prepared(getattr(module, name.capitalize()), data_dir, cache, min_area=min_area)
