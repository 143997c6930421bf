"""Base of the TFDS builders: records become examples, and a prepared builder becomes an `Archive`.

The builders can be used with TFDS alone, for example

    import tensorflow_datasets as tfds
    import macl_tf.datasets.dlrsd  # registers "dlrsd"

    dataset = tfds.load("dlrsd", split="train", builder_kwargs={"source_dir": "DLRSD"})

Only `ucm` needs no `source_dir` where there is a network. Of archives with masks `labels` counts any pixel, and
`label_areas` holds the shares for a stricter rule.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from macl_tf.datasets.archives import Archive, normalise_stem
from macl_tf.datasets.images import decode_image
from macl_tf.datasets.records import Listing, Record, stored_picture
from macl_tf.datasets.sources import Source, count_note, fingerprint, scene_and_number
from macl_tf.datasets.walk import CACHE_SIGNATURE, CACHE_TAG
from macl_tf.files import locked


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder that reads an archive from a folder as people have it. A subclass says what is its own.

    Args:
        source_dir: the archive's folder, or one that contains it. Without it TFDS's `manual_dir` is looked at.
        **kwargs: what every TFDS builder takes: data_dir (where the prepared data go), config, version.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.1.0": "Pictures of other kinds than 8-bit RGB, grey and palette are left out; each one's digest.",
        "1.0.0": "First release.",
    }
    SOURCE: ClassVar[Source]
    LABEL_NAMES: ClassVar[tuple[str, ...]]
    DEFAULT_SPLIT: ClassVar[str] = "random"
    SCENES: ClassVar[bool] = True  # whether a tile's name tells its scene
    AREAS: ClassVar[bool] = False  # whether masks may tell the share of each label
    DOWNLOADS: ClassVar[bool] = False
    # What TFDS checks downloads against. Said here so that it does not look for a checksums file (which needs
    # importlib_resources, a package that TFDS 4.9.10 does not ask for).
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.MANUAL_DOWNLOAD_INSTRUCTIONS = (
            f"Put these into the manual directory, or name their folder as source_dir:\n{cls.SOURCE.layout}"
        )
        super().__init_subclass__(**kwargs)

    def __init__(self, *, source_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        self.source_dir = source_dir
        super().__init__(**kwargs)
        self._original_state["source_dir"] = source_dir  # TFDS pickles a builder as its constructor's arguments.

    @classmethod
    def source_paths(cls, data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
        """The files and folders that the prepared data depend on, the archive's own folder first."""
        return (cls.SOURCE.locate(data_dir),)

    @classmethod
    @abstractmethod
    def list_records(cls, *paths: Path) -> Listing:
        """The records of the archive at `source_paths`, and notes about what was left out."""

    def download(self, dl_manager: tfds.download.DownloadManager) -> tuple[Path, ...]:
        """The `source_paths` of an archive that no folder was given for, where it can be downloaded."""
        return self.source_paths(None)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(self.LABEL_NAMES))),
            "file_name": tfds.features.Text(),
            "content": tfds.features.Text(),  # digest of the pixels, by which copies are known
        }
        if self.SCENES:
            features |= {"scene": tfds.features.Text(), "number": tfds.features.Scalar(np.int64)}
        if self.AREAS:
            features["label_areas"] = tfds.features.Tensor(shape=(len(self.LABEL_NAMES),), dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.SOURCE.description,
            features=tfds.features.FeaturesDict(features),
            homepage=self.SOURCE.homepage,
            citation=self.SOURCE.citation,
            metadata=tfds.core.MetadataDict(notes=[], unreadable=[]),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        given = self.source_dir
        if given is None:
            with suppress(AssertionError):  # TFDS's word for a manual directory that is missing or empty.
                given = dl_manager.manual_dir
        listing = self.list_records(*(self.download(dl_manager) if given is None else self.source_paths(given)))
        self.info.metadata.update(notes=list(listing.notes), unreadable=[])
        return {
            part: self._generate_examples([record for record in listing.records if record.split == part])
            for part in sorted({record.split for record in listing.records}, reverse=True)
        }

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The examples of some records; an image that is not read is skipped and its error kept."""
        features = self.info.features
        unreadable = self.info.metadata["unreadable"]
        written = 0
        for record in records:
            _, number = scene_and_number(normalise_stem(record.path.name))
            file_name = f"{record.scene}/{record.path.name}" if "scene" in features else record.path.name
            try:
                image, content = stored_picture(record.path, file_name)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            example: dict[str, Any] = {
                "image": image,
                "labels": np.flatnonzero(record.labels).tolist(),
                "file_name": file_name,
                "content": content,
            }
            if "scene" in features:
                example |= {"scene": record.scene, "number": number}
            if "label_areas" in features:
                unknown = np.full(len(self.LABEL_NAMES), np.nan, np.float32)
                example["label_areas"] = unknown if record.label_areas is None else record.label_areas
            written += 1
            yield file_name, example
        if not written:
            raise ValueError(f"None of {len(records)} images of {self.name} could be read; the first: {unreadable[0]}")


def prepare(builder: ArchiveBuilder) -> ArchiveBuilder:
    """Prepare a builder as files that can be read at random, unless that has been done; no copy is looked for online.

    TFDS writes into a folder with another name and renames it at the end, so that an interrupted preparation is never
    taken for a complete one.
    """
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False),
        file_format="array_record",
    )
    return builder


def read_archive(builder: ArchiveBuilder, *, min_area: float = 0.0) -> Archive:
    """Turn a builder, prepared in the format array_record, into an `Archive` in the order of the file names.

    Labels that cover less than `min_area` of a tile do not count; 0 takes any pixel, and is all that an archive without
    masks allows. Images are read and decoded one by one when asked for.
    """
    splits = sorted(builder.info.splits)
    skip = {"image": tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split, decoders=skip) for split in splits]
    rows = []
    for part, source in enumerate(sources):
        for position in range(len(source)):
            example = source[position]
            del example["image"]
            rows.append((example["file_name"].decode(), part, position, example))
    rows.sort(key=lambda row: row[0])
    names = tuple(name for name, *_ in rows)
    labels = np.zeros((len(rows), len(builder.LABEL_NAMES)), np.uint8)
    for row, (*_, example) in zip(labels, rows, strict=True):
        row[example["labels"]] = 1

    shares = np.stack([example.get("label_areas", np.nan) for *_, example in rows])
    areas = None if np.isnan(shares).any() else shares
    if areas is not None:
        labels = ((areas > 0) & (areas >= np.float32(min_area))).astype(np.uint8)
    elif min_area > 0:
        raise ValueError(f"min_area must be 0 for {builder.name} without masks, got {min_area}: no areas are known.")

    scenes = numbers = None
    if "scene" in builder.info.features:
        scenes = tuple(example["scene"].decode() for *_, example in rows)
        numbers = np.array([example["number"] for *_, example in rows], np.int64)
    official = tuple(splits[part] for _, part, *_ in rows) if len(splits) > 1 else None
    unlabelled = [name for name, row in zip(names, labels, strict=True) if not row.any()]
    unreadable = sorted(builder.info.metadata["unreadable"])

    def read_image(index: int) -> np.ndarray:
        _, part, position, _ = rows[index]
        return decode_image(sources[part][position]["image"], names[index])

    return Archive(
        name=builder.name,
        label_names=builder.LABEL_NAMES,
        file_names=names,
        labels=labels,
        read_image=read_image,
        label_areas=areas,
        scenes=scenes,
        numbers=None if numbers is None or (numbers < 0).any() else numbers,
        official_split=official,
        default_split="random" if official is None and builder.DEFAULT_SPLIT == "official" else builder.DEFAULT_SPLIT,
        notes=(
            *builder.info.metadata["notes"],
            *count_note(unreadable, "image was left out", "images were left out"),
            *count_note(unlabelled, "image has no label and was kept", "images have no label and were kept"),
        ),
        contents=tuple(example["content"].decode() for *_, example in rows),
    )


def load_prepared(
    builder_class: type[ArchiveBuilder],
    data_dir: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str],
    *,
    min_area: float = 0.0,
) -> Archive:
    """Prepare an archive unless that has been done, and open it.

    The prepared copy lies in `cache_dir/<name>-<fingerprint of the source>`: an archive that changed is prepared anew.
    Of several processes one prepares, and the others wait for it. Nothing is prepared where the archive is not there.
    """
    if not 0 <= min_area <= 1:
        raise ValueError(f"min_area must be in [0, 1], got {min_area}.")
    download = data_dir is None and builder_class.DOWNLOADS
    key = "download" if download else fingerprint(builder_class.source_paths(data_dir))
    place = Path(cache_dir).expanduser() / f"{builder_class.name}-{key}"
    place.mkdir(parents=True, exist_ok=True)
    (place / CACHE_TAG).write_text(CACHE_SIGNATURE)
    with locked(place / ".lock"):
        builder = prepare(builder_class(source_dir=data_dir, data_dir=place))
    return read_archive(builder, min_area=min_area)
