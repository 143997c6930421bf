"""Teaching: a new head from all labels and collections of an index, and its archive as the new head sees it.

The features that the index keeps of its tiles are what the head is trained on, so no picture is read again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from macl_tf.artifacts import open_encoder, open_version, publish, versions, withdraw
from macl_tf.evaluation.report import RetrievalReport, describe
from macl_tf.export.exporting import after_build, finish, publishing_alone
from macl_tf.export.fitting import scale_of
from macl_tf.export.model_info import describe_taught
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.export.taught import scaled, write_taught
from macl_tf.files import write_json
from macl_tf.index.index import Index, Projection
from macl_tf.index.snapshot import Snapshot
from macl_tf.index.version import resolved
from macl_tf.labels import LabelStatistics
from macl_tf.losses.registry import LOSSES
from macl_tf.models.descriptor_names import HEAD, features_in
from macl_tf.search.query import QueryError
from macl_tf.teaching.collections import Collections
from macl_tf.teaching.judging import JUDGED_BY, MEANS, held_out, judged
from macl_tf.teaching.lessons import Lessons, gather, vectors_at
from macl_tf.training.heads import Head, HeadTrainer
from macl_tf.training.settings import Settings, load_settings

REPORT = Path("teaching", "report.json")  # in the served folder: of the last call
PUBLISH = ("better", "always", "never")
# A few marks are learned in 100 steps; in 600, half of what was won is lost again.
_EPOCHS, _STEPS, _LARGEST_EPOCH = 20, 5, 20
_EXACT = 150_000  # tiles up to which the new index is searched exactly, unless asked: ScaNN takes minutes to tune
_NEGATIVES = 0.25  # of a batch; more where fewer tiles are labelled
# Settings of `macl train` that are of a head, its loss, batches and optimizer.
_OWN = (
    "classification_weight", "temperature", "margin", "final_temperature", "reweighting_power", "overlap_power",
    "overlap_scale", "rarity_scale", "min_temperature", "batch_size", "sampler", "images_per_class",
    "sampler_power", "epochs", "learning_rate", "weight_decay", "warmup_epochs", "dropout", "embedding_dim",
    "descriptor", "seed",
)  # fmt: skip
Progress = Callable[[str, float], object]  # what is done now, and which share of all is


@dataclasses.dataclass(frozen=True)
class Taught:
    """What `teach` did."""

    served: Path
    lessons: Lessons
    before: RetrievalReport  # of held-out tiles, by the encoder that was there
    after: RetrievalReport  # by heads that did not learn from them
    published: Path | None  # the new version of the index; None where it was not published
    seconds: float

    @property
    def better(self) -> bool:
        """Whether held-out tiles are found as well as before, or better: by the mean over labels of their AP."""
        before, after = (report.values[JUDGED_BY] for report in (self.before, self.after))
        return after is not None and (before is None or after >= before)

    def table(self) -> str:
        """Before and after, of all held-out tiles and of each label; collections have a star."""
        starred = set(self.lessons.collections)
        rows: list[tuple[str, ...]] = [("held-out tiles", "tiles", "before", "after")]
        rows += [(describe(key), "", *_numbers(self.before.values[key], self.after.values[key])) for key in MEANS]
        pairs = zip(self.before.per_label, self.after.per_label, strict=True)
        rows += [
            (f"AP of {one['name']}{'*' if one['name'] in starred else ''}", f"{one['train_count']:,}",
             *_numbers(one["ap"], other["ap"]))
            for one, other in sorted(pairs, key=lambda pair: pair[0]["train_count"])
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        )

    def summary(self) -> dict[str, Any]:
        """What a page shows, for JSON: means, and each label with its average precision before and after."""
        starred = set(self.lessons.collections)
        pairs = zip(self.before.per_label, self.after.per_label, strict=True)
        return {
            "published": None if self.published is None else int(self.published.name),
            "better": self.better,
            "tiles": int(self.lessons.held.sum()),
            "seconds": round(self.seconds, 1),
            "figures": [
                {"name": describe(key), "before": self.before.values[key], "after": self.after.values[key]}
                for key in MEANS
            ],
            "labels": [
                {"name": one["name"], "tiles": one["train_count"], "collection": one["name"] in starred,
                 "before": one["ap"], "after": other["ap"]}
                for one, other in pairs
            ],
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "published": None if self.published is None else int(self.published.name),
            "better": self.better,
            "labels": list(self.lessons.names),
            "collections": list(self.lessons.collections),
            "left_out": list(self.lessons.left_out),
            "tiles": int(self.lessons.held.sum()),
            "seconds": round(self.seconds, 1),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


def teach(
    served: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    loss: str = "macl",
    settings: Sequence[str] = (),
    publish: str = "better",
    kind: str = "",
    keep: int = 2,
    progress: bool = False,
    on_progress: Progress | None = None,
) -> Taught:
    """Trains a new head on what is said of an index's tiles, judges it, and publishes the archive as it sees it.

    Encoder and index get a new version together: whoever searches has the old one until both are there, and after an
    error or a kill. The old one is kept. Tiles that others write meanwhile are in the new one.

    Args:
        served: What `macl export` or `macl index` wrote.
        labels: A label table of its tiles, to learn from beside labels and collections; the index keeps its own.
        loss: One of `losses.registry.LOSSES` that learns from labels.
        settings: More of `macl train`, as "key=value": those of head, loss, batches and optimizer.
        publish: "better", where held-out tiles are not found worse than before; "always"; or "never".
        kind: Of the new index, as of `export_run`; "" for exact search up to 150,000 tiles, and beyond as the index is.
            `macl index SERVED` builds another from it, any time.
        keep: Versions of the index to keep, 0 for all.
        progress: Whether to show a bar and what is written.
        on_progress: Called with what is done now, and which share of it is.

    Returns:
        What was learned, figures of held-out tiles before and after, and what was published.

    Raises:
        QueryError: Where there is nothing to learn, or the index keeps no features.
        ValueError: For another loss or setting, or a table that names no tile.
        ArtifactError: If the index or its encoder is missing or damaged.
        BlockingIOError: If another process exports to `served`, indexes or teaches there.
    """
    begin, served = time.monotonic(), Path(served)
    if publish not in PUBLISH:
        raise ValueError(f"publish must be one of {', '.join(PUBLISH)}, got {publish!r}.")
    asked = _settings(loss, settings)
    resolved(kind or "auto", 0)  # refuses a kind that there is not
    with publishing_alone(served):
        _tidy(served)
        index = Index.open(served / "index")
        state = index.snapshot
        made_with, info = _encoder_of(served, state)
        lessons = gather(state, Collections(served).all(), labels, seed=asked.seed)
        vectors = vectors_at(state, lessons.positions)
        features = scaled(vectors[:, : features_in(info)]).astype(np.float16)
        encoder = ExportedEncoder.load(served, made_with["version"])  # before any training: it may be damaged
        with _Bar(progress, on_progress) as bar:
            school = _School(asked, lessons, features, bar)
            before, after = judged(
                lambda chosen: school.head(chosen).describe,
                vectors,
                features,
                lessons.labels,
                lessons.names,
                asked.seed,
            )
            taught = Taught(served, lessons, before, after, None, 0.0)
            if publish == "always" or (publish == "better" and taught.better):
                head = school.head(np.ones(len(features), bool))
                figures = {**after.values, "num_queries": after.num_queries}
                path = _published(served, index, encoder, made_with, info, head, figures, kind, keep, bar)
                after_build(served, path, keep, progress)
                finish(served, keep, print if progress else lambda *_: None, pictures=bool(info["image_size"]))
                taught = dataclasses.replace(taught, published=path)
    taught = dataclasses.replace(taught, seconds=time.monotonic() - begin)
    (served / REPORT).parent.mkdir(exist_ok=True)
    write_json(served / REPORT, {**taught.to_dict(), "loss": loss, "settings": list(settings)})
    return taught


class _School:
    """Trains heads on some of the tiles of the lessons, all from the same random weights."""

    def __init__(self, asked: Settings, lessons: Lessons, features: NDArray[np.float16], bar: _Bar) -> None:
        self._features, self._lessons, self._bar = features, lessons, bar
        held = lessons.held
        parts = [~out for out in held_out(lessons.labels, asked.seed)]
        labelled = min(int((held & part).sum()) for part in parts)
        others = min(int((~held & part).sum()) for part in parts)
        most = asked.batch_size if not others else round((1 - _NEGATIVES) * asked.batch_size)
        batch = min(most, labelled)
        if asked.sampler == "classes":
            batch = max(batch // asked.images_per_class, 2) * asked.images_per_class
        steps = min(max(labelled // batch, _STEPS), _LARGEST_EPOCH)
        statistics = LabelStatistics.from_labels(lessons.labels[held], lessons.names)
        fitting = dataclasses.replace(asked, batch_size=batch)
        negatives = min(asked.batch_size - batch, others)
        self._trainer = HeadTrainer(fitting, features.shape[1], statistics, steps=steps, negatives=negatives)
        bar.expect((len(parts) + 1) * asked.epochs)

    def head(self, chosen: NDArray[np.bool_]) -> Head:
        """A head that learned from the chosen tiles (N,)."""
        return self._trainer.fit(self._features[chosen], self._lessons.labels[chosen], on_epoch=self._bar.step)


class _Bar:
    """Tells how far it is: the epochs of all trainings, and then the archive."""

    def __init__(self, shown: bool, on_progress: Progress | None) -> None:
        self._bar = tqdm(desc="teaching", unit="epoch", disable=not shown, leave=False)
        self._tell, self._total, self._done = on_progress or (lambda *_: None), 1, 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, epochs: int) -> None:
        """How many there will be."""
        self._bar.total = self._total = epochs
        self._tell("training", 0.0)

    def step(self) -> None:
        """One is done."""
        self._bar.update()
        self._done += 1
        self._tell("training", 0.8 * self._done / self._total)

    def publishing(self) -> None:
        """All are done."""
        self._bar.close()
        self._tell("indexing", 0.8)


def _settings(loss: str, assignments: Sequence[str]) -> Settings:
    """The settings of the training; a ValueError for those that are not of a head."""
    names = [text.partition("=")[0].strip() for text in assignments]
    if foreign := [name for name in names if name not in _OWN and name in Settings.__dataclass_fields__]:
        raise ValueError(f"a setting of teaching must be one of {', '.join(_OWN)}, got {foreign[0]}. Leave it out.")
    if loss in LOSSES and not LOSSES[loss].of_labels:
        raise ValueError(f"loss must be one that learns from labels, got {loss!r}. Leave it out for macl.")
    of_head = ["dataset=folder", f"trainable={HEAD}", f"epochs={_EPOCHS}", "augment=false", "dropout=0", f"loss={loss}"]
    settings = load_settings(assignments=[*of_head, *assignments])
    width = settings.descriptor.partition("+")[0]
    if width not in ("robust", "backbone"):
        raise ValueError(
            f"descriptor must be robust or backbone+probabilities, which keep what the next teaching needs, "
            f"got '{settings.descriptor}'."
        )
    return settings


def _encoder_of(served: Path, state: Snapshot) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the index says of its encoder, and what that says of itself; refuses one without features."""
    made_with: dict[str, Any] = state.info.get("encoder") or {}
    info: dict[str, Any] = {} if not made_with else open_encoder(served, made_with, verify=False)[1]["info"]
    if not info or not features_in(info):
        rule = "teaching needs the features of the backbone, which vectors of robust or backbone hold"
        raise QueryError(
            rule,
            info.get("descriptor", "an index without an encoder"),
            "Export the run again with them: macl export --run-dir RUN --output SERVED --descriptor robust",
        )
    return made_with, info


def _published(
    served: Path,
    index: Index,
    encoder: ExportedEncoder,
    made_with: dict[str, Any],
    before: dict[str, Any],
    head: Head,
    figures: dict[str, Any],
    kind: str,
    keep: int,
    bar: _Bar,
) -> Path:
    """Encoder and index, together: the encoder gets its number when all of the index is written, just before it."""
    bar.publishing()
    root, built = served / "encoder", index.info.get("built", {})
    info = describe_taught(before, head.settings, head.width, head.digest, figures) | {"dim": head.dim}
    with ExitStack() as until:
        staging = until.enter_context(publish(root, "encoder"))
        staging.info.update(info)
        write_taught(encoder, head, info, staging.path, scale_of(made_with, encoder.dim))
        new = {"version": max(versions(root)) + 1, "uuid": staging.uuid}
        width = head.width
        projection = Projection(made_with, new, head.dim, lambda rows: head.describe(scaled(rows[:, :width])))
        return index.projected(
            projection,
            kind=kind or ("brute_force" if len(index) <= _EXACT else built.get("kind", "auto")),
            recall_target=built.get("recall_target", 0.95),
            keep=keep,
            progress=False,
            check=until.close,
        )


def _tidy(served: Path) -> None:
    """Removes an encoder that a killed process left without its index."""
    root = served / "encoder"
    infos = [
        open_version(served / "index", "index", one, verify=False)[1]["info"] for one in versions(served / "index")
    ]
    used = [info["encoder"]["version"] for info in infos if info.get("encoder")]
    for version in versions(root):
        if version not in used and "taught" in open_version(root, "encoder", version, verify=False)[1]["info"]:
            withdraw(root, version)


def _numbers(*values: float | None) -> list[str]:
    return ["-" if value is None else f"{value:.4f}" for value in values]
