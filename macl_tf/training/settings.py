"""The settings of a run: flat, typed, frozen; from defaults, a TOML file, and `--set key=value`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import operator
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from macl_tf.datasets import NAMES, OF_BANDS
from macl_tf.datasets.band_names import SCALINGS
from macl_tf.losses.registry import LOSSES
from macl_tf.models.descriptor_names import DESCRIPTORS, HEAD, OF_CLASSIFIER, ROBUST, last_stages
from macl_tf.models.runtimes import RUNTIMES

# Values that bring other defaults with them: single-label retrieval is done with sums of feature maps, as DCL's authors
# do, and batches of several tiles a class; our ResNet-18 has no published weights of its own, and small tiles suit it;
# a file of one's own brings weights; vectors from elsewhere need none, and a head; a head takes seconds. Whatever is
# said explicitly wins.
BRINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("features", "?*", {"head": "projection", "weights": "", "epochs": 60}),
    ("backbone", "*.keras", {"weights": ""}),
    ("dataset", "bigearthnet", {"bands": "all"}),
    ("trainable", HEAD, {"epochs": 60}),
    ("labels", "scene", {"head": "spoc", "sampler": "classes"}),
    ("head", "spoc", {"descriptor": "multi-scale"}),
    ("loss", "bce", {"descriptor": "backbone+probabilities"}),
    ("backbone", "resnet18", {"weights": "", "image_size": 64, "epochs": 30, "descriptor": "projection"}),
)


_RULES = {"at_least": operator.ge, "at_most": operator.le, "above": operator.gt, "below": operator.lt}


def setting(default: Any, text: str, *, one_of: tuple[str, ...] | None = None, **rules: float) -> Any:
    """A field with its help text and the rules that its value must keep, of `_RULES`."""
    return dataclasses.field(default=default, metadata={"help": text, "one_of": one_of, **rules})


@dataclass(frozen=True)
class Settings:
    """All settings of a run. Each field is a key of configs/*.toml and of `--set`.

    Raises:
        ValueError: For a value that breaks the rule of its field.
    """

    # The archive and its parts
    dataset: str = setting("synthetic", "the archive", one_of=NAMES)
    data_dir: str = setting("", "folder of the archive; synthetic needs none")
    table: str = setting("", "label table of a folder archive; found by itself if there is only one")
    num_tiles: int = setting(1200, "tiles of the synthetic archive", at_least=20)
    labels: str = setting(
        "all",
        "all labels of a tile, or its scene class alone, which brings head=spoc and sampler=classes",
        one_of=("all", "scene"),
    )
    features: str = setting(
        "",
        "vectors of the tiles from elsewhere, to train a head on in place of pictures: a Parquet, NPZ or STAC file, or "
        "a folder of them; brings weights='' and epochs=60",
    )
    bands: str = setting(
        "",
        "bands of the tiles of a folder or bigearthnet, in place of 8-bit RGB: all, or numbers or names such as 4,3,2 "
        "or B02,B03,B04,B08 (one file for each band is read too)",
    )
    rgb: str = setting("", "which of the bands are red, green and blue; found by name where it can be")
    scaling: str = setting(
        SCALINGS[0],
        "of bands, by the training tiles: to the mean and deviation that pretrained networks expect, or percentiles 2 "
        "to 98 to 0 to 255",
        one_of=SCALINGS,
    )
    classes: str = setting("19", "labels of bigearthnet: the 19 refined ones, or the 43 of v1", one_of=("19", "43"))
    min_area: float = setting(0.0, "share of a tile below which a label of a mask does not count", at_least=0, below=1)
    split: str = setting(
        "auto",
        "how tiles are divided: by blocks of neighbours, at random by seed, by whole groups (scenes), by blocks of "
        "ground, as published, or as suits the archive",
        one_of=("auto", "blocks", "random", "groups", "geographic", "official"),
    )
    validation: float = setting(0.15, "share of the tiles for validation", above=0, below=1)
    test: float = setting(0.2, "share of the tiles for the test", above=0, below=1)
    gap: float = setting(
        0.0, "share left out between training and validation in a split by blocks", at_least=0, below=1
    )
    split_block: float = setting(
        0.0, "side of the blocks of a geographic split, metres; 0 is four sides of a tile", at_least=0
    )
    # The encoder
    backbone: str = setting(
        "efficientnet-lite0",
        "the network: efficientnet-lite0, efficientnet-lite2, resnet18 (which brings weights='', image_size=64, "
        "epochs=30 and descriptor=projection), keras:NAME of keras.applications, hub:PRESET "
        "of keras-hub, or a .keras file of one's own",
    )
    image_size: int = setting(128, "side to which tiles are resized, pixels", at_least=32)
    width: int = setting(
        64, "channels of resnet18's first stage: 64 is ResNet-18, 32 trains three times as fast", at_least=8
    )
    embedding_dim: int = setting(128, "dimensions of the projection", at_least=2)
    head: str = setting(
        "projection",
        "what follows the feature maps: a projection, or their sum alone, which brings descriptor=multi-scale",
        one_of=tuple(DESCRIPTORS),
    )
    descriptor: str = setting(
        ROBUST,
        "vector that retrieval compares: projection, backbone, or robust, the projection beside the backbone as it "
        "began (two passes unless trainable=head), with head=projection; spoc or multi-scale with head=spoc; and with "
        "a classifier its probabilities, alone or beside others",
        one_of=tuple(
            dict.fromkeys(name for kind in (DESCRIPTORS, OF_CLASSIFIER) for names in kind.values() for name in names)
        ),
    )
    turns: int = setting(
        1,
        "quarter turns of a tile whose descriptors are averaged, 1, 2 or 4: pictures from above have no up",
        at_least=1,
    )
    learn_turns: bool = setting(
        True,
        "after training, teach the head to give in one pass what four turns give on average: a part of their gain, "
        "at no cost in search (head=projection, unless trainable=head)",
    )
    weights: str = setting(
        "imagenet",
        "weights to start from: imagenet (the backbone's published ones; extra 'imagenet' or 'hub'), encoder.keras of "
        "another run, a .weights.h5 file, or '' for random ones",
    )
    trainable: str = setting(
        "all",
        "what is trained: all, last:N (the backbone's last N stages), or head, on features computed "
        "once, which brings epochs=60",
    )
    feature_views: int = setting(
        8, "augmented views of each tile whose features are kept for trainable=head, 0: none", at_least=0
    )
    dropout: float = setting(
        0.5,
        "share of a tile's features that a head is trained without, others in each batch (trainable=head)",
        at_least=0,
        below=1,
    )
    runtime: str = setting(
        RUNTIMES[0],
        "what computes features for trainable=head; openvino (extra openvino) is faster on processors, openvino-bf16 "
        "faster still and less exact with AVX512_BF16 or AMX",
        one_of=RUNTIMES,
    )
    freeze_norms: bool = setting(False, "keep the backbone's batch normalisation as it began")
    # The loss
    loss: str = setting(
        "macl", "the loss; wmacl weighs anchors by rarity, bce is classification alone", one_of=tuple(LOSSES)
    )
    classification_weight: float = setting(
        0.0, "weight of multi-label classification (mean binary cross-entropy) beside the loss", at_least=0
    )
    temperature: float = setting(0.1, "base temperature, of the losses that read it (docs/losses.md)", above=0)
    margin: float = setting(0.0, "margin, of the losses that read it; 0 is the loss's own", at_least=0)
    final_temperature: float = setting(0.0, "where a cosine takes the temperature; 0 keeps it", at_least=0)
    reweighting_power: float = setting(1.0, "how strongly rare labels and large overlaps weigh", at_least=0)
    overlap_power: float = setting(2.0, "how strongly large overlaps weigh beside rarity", at_least=0)
    overlap_scale: float = setting(0.0, "rise of the temperature with label overlap", at_least=0)
    rarity_scale: float = setting(0.3, "fall of the temperature with the anchor's rarity", at_least=0, below=1)
    min_temperature: float = setting(0.01, "floor of the temperature", above=0)
    # The batches
    batch_size: int = setting(128, "tiles a step, over all devices", at_least=2)
    microbatch: int = setting(
        0, "tiles that the encoder sees at a time, in less memory, with the whole batch's gradient; 0: all", at_least=0
    )
    views: int = setting(1, "augmented views of each tile in a batch, 1 or 2", at_least=1, at_most=2)
    sampler: str = setting(
        "weighted",
        "weighted draws, repeat factors over a stream, every tile once, or several tiles of each class in a batch",
        one_of=("weighted", "repeat", "uniform", "classes"),
    )
    images_per_class: int = setting(8, "tiles of a class (an exact label set) in a batch of classes", at_least=2)
    sampler_power: float = setting(0.5, "0 draws tiles alike, 1 by the inverse frequency of labels", at_least=0)
    augment: bool = setting(True, "random crops, flips, quarter turns and mild colour changes")
    crop_area: float = setting(0.5, "smallest share of a tile that a random crop keeps", above=0, at_most=1)
    cache_gib: float = setting(4.0, "memory for decoded tiles, GiB; beyond it they are decoded again", at_least=0)
    # The optimizer
    epochs: int = setting(15, "passes over the training tiles", at_least=1)
    learning_rate: float = setting(1e-3, "peak of AdamW's learning rate", above=0)
    backbone_factor: float = setting(1.0, "share of the learning rate that the backbone takes", above=0, at_most=1)
    weight_decay: float = setting(1e-4, "AdamW's weight decay", at_least=0)
    warmup_epochs: float = setting(2.0, "epochs of linear warm-up before the cosine decay", at_least=0)
    early_stopping: int = setting(0, "stop after this many epochs without a better validation; 0 never", at_least=0)
    precision: str = setting(
        "float32",
        "of layers in training; auto: mixed_bfloat16 where the processor has AVX512_BF16 or AMX and the network no "
        "depthwise convolutions, else float32",
        one_of=("float32", "mixed_float16", "mixed_bfloat16", "auto"),
    )
    seed: int = setting(0, "of the archive, split, weights, draws and augmentation", at_least=0)

    def __post_init__(self) -> None:
        for field in fields(self):
            check_value(field, getattr(self, field.name))
        if last_stages(self.trainable) is None and self.trainable == HEAD and self.head != "projection":
            raise ValueError(f"trainable=head needs head=projection, which has a head to train, got head={self.head}.")
        if self.features:
            for name, needed in (("head", "projection"), ("turns", 1)):
                if (value := getattr(self, name)) != needed:
                    raise ValueError(f"{name} must be {needed} with features={self.features}, got {value}.")
            if last_stages(self.trainable) is not None:
                raise ValueError(f"trainable must be head or all with features, got {self.trainable}.")
        if self.bands and (self.dataset not in OF_BANDS or self.features):
            where = "features" if self.features else f"dataset={self.dataset}"
            raise ValueError(f"bands are of dataset={' or '.join(OF_BANDS)}, got bands={self.bands} with {where}.")
        if self.rgb and not self.bands:
            raise ValueError(f"rgb says which of the bands are red, green and blue: set bands, got rgb={self.rgb}.")
        if self.turns not in (1, 2, 4):
            raise ValueError(f"turns must be 1, 2 or 4, got {self.turns}.")
        if self.descriptor not in self.descriptors:
            known = ", ".join(self.descriptors)
            raise ValueError(f"descriptor must be one of {known} with head={self.head}, got '{self.descriptor}'.")

    @property
    def trains_head(self) -> bool:
        """Whether a head alone is trained, on features."""
        return self.trainable == HEAD or bool(self.features)

    @property
    def classifies(self) -> bool:
        """Whether a classifier is trained, alone or beside the loss."""
        return self.loss == "bce" or self.classification_weight > 0

    @property
    def descriptors(self) -> tuple[str, ...]:
        """Descriptors of such a run; the first is the one that the loss sees."""
        return DESCRIPTORS[self.head] + (OF_CLASSIFIER[self.head] if self.classifies else ())

    @property
    def floor(self) -> str:
        """The descriptor of the untrained encoder that figures are measured against: what its backbone gives."""
        return "backbone" if self.head == "projection" else self.descriptor

    @property
    def keeps_pretrained(self) -> bool:
        """Whether the backbone as it began lies beside the trained one, for `robust`."""
        began = self.weights == "imagenet" or self.backbone.endswith(".keras")
        return began and self.head == "projection" and not self.trains_head

    @property
    def learns_turns(self) -> bool:
        """Whether the head is taught by turns after training."""
        return self.learn_turns and self.head == "projection" and not self.trains_head

    def to_toml(self) -> str:
        """All settings as a TOML file that `load_settings` reads back."""
        return "".join(f"{key} = {toml_value(value)}\n" for key, value in dataclasses.asdict(self).items())


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises a ValueError that gives rule and value where a value breaks its field's rule."""
    rule, name = field.metadata, field.name
    if rule["one_of"] is not None and value not in rule["one_of"]:
        raise ValueError(f"{name} must be one of {', '.join(rule['one_of'])}, got '{value}'.")
    for key, holds in _RULES.items():
        if key in rule and not holds(value, rule[key]):
            raise ValueError(f"{name} must be {key.replace('_', ' ')} {rule[key]}, got {value}.")


def typed(key: str, value: Any) -> Any:
    """`value`, text from the command line or a value from TOML, as the type of the setting `key`."""
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Settings)}
    if key not in kinds:
        near = difflib.get_close_matches(key, kinds, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"There is no setting '{key}'.{hint} The settings are: {', '.join(sorted(kinds))}.")
    kind = kinds[key]
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    wrong_number = isinstance(value, bool) or (kind is int and isinstance(value, float))
    try:
        if wrong_number if kind in (int, float) else not isinstance(value, kind):
            raise ValueError
        return kind(value)
    except ValueError:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ValueError(f"{key} must be {words[kind]}, got '{value}'.") from None


def config_file(dataset: str) -> Path | None:
    """The file that comes with macl_tf for an archive: configs/ of a checkout, macl_tf/configs/ of a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (path := folder / f"{dataset}.toml").is_file():
            return path
    return None


def load_settings(file: str | Path | None = None, assignments: Iterable[str] = (), **given: str) -> Settings:
    """Settings from defaults, then a TOML file, then `key=value` texts, then named values; the later wins.

    `backbone=resnet18`, `trainable=head`, `features=FILE`, `labels=scene` and others change some defaults (`BRINGS`);
    what is said in any of these places wins. Without a file it is the one that comes for the archive asked for; `given`
    is what the flags of the command line give.
    """
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must be key=value, got '{text}'. For example --set epochs=30.")
        overrides[key.strip()] = typed(key.strip(), value.strip())
    overrides.update({key: typed(key, value) for key, value in given.items()})
    if file is None:
        dataset = overrides.get("dataset", "synthetic")
        check_value(next(field for field in fields(Settings) if field.name == "dataset"), dataset)
        file = config_file(dataset)
    values = {} if file is None else read_toml(Path(file))
    values |= overrides
    for key, pattern, brought in BRINGS:
        if fnmatchcase(str(values.get(key, "")), pattern):
            values = {**brought, **values}
    return Settings(**values)


def read_toml(path: Path) -> dict[str, Any]:
    """The settings that a TOML file gives, checked."""
    if not path.is_file():
        ours = config_file("synthetic")
        hint = f" Those of macl_tf are in '{ours.parent}'; without --config the archive's own is taken." if ours else ""
        raise FileNotFoundError(f"The configuration '{path}' is not there.{hint}")
    try:
        values: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The configuration '{path}' is not TOML: {error}.") from error
    try:
        return {key: typed(key, value) for key, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def toml_value(value: Any) -> str:
    """A flat value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | str) else repr(value)


def settings_help() -> str:
    """One line for each setting: key, default, what it does, what is allowed."""
    lines = []
    for field in fields(Settings):
        allowed = field.metadata["one_of"]
        choices = f" ({', '.join(allowed)})" if allowed else ""
        lines.append(f"  {f'{field.name} = {toml_value(field.default)}':<28}  {field.metadata['help']}{choices}")
    return "\n".join(lines)
