"""What requests and answers look like, for checking the former and describing both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from macl_tf.index.filters import Filter
from macl_tf.losses.registry import LOSSES
from macl_tf.server.errors import refusing
from macl_tf.server.settings import DEPTH, BaseMap

Id = Annotated[str, Field(min_length=1, max_length=512, description="Of an item in the index.")]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[
    list[Number],
    Field(min_length=4, max_length=4, description="West, south, east, north in degrees (WGS 84). West may be greater "
          "than east: the box then crosses the antimeridian."),
]  # fmt: skip
# 5.0 is a whole number in JSON, "5" and true are not.
Whole = Annotated[
    int, BeforeValidator(lambda value: int(value) if isinstance(value, float) and value % 1 == 0 else value)
]
Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", json_schema_extra={"format": "date"})]


class Strict(BaseModel):
    """A request: what is not known is an error, and nothing is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


Edge = Annotated[Number, Field(ge=0, le=1)]
Part = Annotated[
    list[Edge],
    Field(
        min_length=4, max_length=4, description="Left, top, right, bottom in shares of a picture's width and height."
    ),
]


class Example(Strict):
    """What results should be like, or not: an item by its id, a vector of the encoder, or one from elsewhere."""

    id: Id | None = None
    vector: list[Number] | None = Field(None, min_length=1, max_length=8192, description="D numbers, of any norm.")

    features: list[Number] | None = Field(
        None, min_length=1, max_length=8192, description="Of an index of vectors from elsewhere: such a vector, which "
        "goes through its head where it has one.",
    )  # fmt: skip

    box: Part | None = Field(None, description="The part of the item that is meant, by its small picture.")

    @model_validator(mode="after")
    def _one(self) -> Example:
        if (self.id, self.vector, self.features).count(None) != 2:
            raise ValueError("an example has an id, a vector or features, one of them")
        if self.box is not None and self.id is None:
            raise ValueError("a box is of an item: give its id, and of an uploaded image the query's own box")
        return self

    @property
    def value(self) -> str | list[float]:
        """The id or the vector, whichever was given."""
        return self.id if self.id is not None else self.vector or []


class Condition(Strict):
    """What results must fulfil: all of what is given."""

    any_of: list[Label] = Field(default=[], max_length=1000, description="Labels of which a result holds at least one.")
    all_of: list[Label] = Field(default=[], max_length=1000, description="Labels that it holds all of.")
    none_of: list[Label] = Field(default=[], max_length=1000, description="Labels that it holds none of.")
    bbox: Box | None = Field(default=None, description="Which the box around its footprint touches.")
    since: Day | None = Field(default=None, description="The first day.")
    until: Day | None = Field(default=None, description="The last day, itself included.")
    split: list[Label] = Field(default=[], max_length=1000, description="Names of splits of which its own is one.")

    def to_filter(self) -> Filter | None:
        """The index's filter; None where there is no condition."""
        given = {name: value for name, value in self if value}
        with refusing(given):
            return Filter(**given) if given else None


class Query(Strict):
    """A search. Results are ranked by cosine with the example, or with the direction that several give."""

    positive: list[Example] = Field([], description="What results should be like. An uploaded image is one more.")
    negative: list[Example] = Field([], description="What they should not be like.")
    collection: str | None = Field(
        default=None, min_length=1, max_length=200, description="A collection: its right tiles join the positive "
        "examples, its wrong ones the negative.",
    )  # fmt: skip
    k: Whole = Field(
        default=10,
        ge=1,
        description="Results in the answer, at most the limit that /info tells; a file reaches as deep as pages.",
    )
    offset: Whole = Field(default=0, ge=0, le=DEPTH, description="Results to leave out, for the next page.")
    filter: Condition = Condition()
    labels: list[Label] | None = Field(
        default=None, max_length=1000, description="Labels of the query, to tell which ones results share; by default "
        "those of the item, where that is all of the query.",
    )  # fmt: skip
    exact: bool = Field(default=False, description="Whether to compare with every item.")
    index: Whole | None = Field(default=None, ge=1, description="A version of the index; null for the newest.")
    format: Literal["json", "geojson", "csv", "parquet"] = Field(
        default="json", description="csv and parquet, which is GeoParquet, are files of the results."
    )
    box: Part | None = Field(default=None, description="The part of the uploaded image that is meant.")
    preview: bool = Field(default=False, description="Whether to draw the uploaded image: browsers cannot draw TIFF.")
    vector: bool = Field(default=False, description="Whether to tell the vector that was searched with.")


def query_of(body: bytes) -> Query | None:
    """The query that a JSON is; None where it is none."""
    try:
        return Query.model_validate_json(body)
    except ValidationError:
        return None


Ids = Annotated[list[Id], Field(max_length=10_000)]
CollectionName = Annotated[str, Field(min_length=1, max_length=200, description="Of a collection.")]


class ToCount(Strict):
    """Which tiles to count."""

    filter: Condition = Condition()
    index: Whole | None = Field(default=None, ge=1, description="A version of the index; null for the newest.")


PLOT_SIDE = 65_535  # places in a plot are whole numbers up to it


class ToPlot(Strict):
    """Which tiles of the plot."""

    box: Part | None = Field(default=None, description="Left, top, right, bottom in shares of the plot; null for all.")
    filter: Condition = Condition()
    k: Whole = Field(default=48, ge=0, le=200, description="Tiles in the answer, those in the middle of the box first.")
    offset: Whole = Field(default=0, ge=0, le=DEPTH, description="Tiles to leave out, for the next page.")
    index: Whole | None = Field(default=None, ge=1, description="A version of the index; null for the newest.")


class Marks(Strict):
    """What somebody says of tiles."""

    name: Annotated[str, Field(min_length=1, max_length=200, description="Of the collection, made if need be.")]
    right: Ids = []
    wrong: Ids = []
    skipped: Ids = Field(default=[], description="Tiles that are neither for now: no round asks for them again.")
    neither: Ids = Field(default=[], description="Tiles whose marks are taken back.")
    by: str = Field(default="", max_length=200, description="Who says so; by default whoever holds the token.")


class ToMatch(Strict):
    """Which items to look into, and for what."""

    ids: list[Id] = Field(min_length=1, max_length=64)
    vector: list[Number] = Field(min_length=1, max_length=8192, description="As an answer's: D numbers, of any norm.")
    index: Whole | None = Field(default=None, ge=1, description="A version of the index; null for the newest.")


class NewName(Strict):
    """Another name of a collection."""

    name: CollectionName
    new: Annotated[str, Field(min_length=1, max_length=200)]


class ToLabel(Strict):
    """The label that a collection becomes."""

    name: CollectionName
    label: Label | None = Field(default=None, description="By default the name of the collection.")
    new_labels: list[Label] = Field(
        default=[], max_length=10, description="The label, where it is new, and meant, however near it is to another."
    )


TAUGHT_BY = tuple(name for name, entry in LOSSES.items() if entry.of_labels)  # the first by default


class ToTeach(Strict):
    """What to teach the index."""

    loss: Literal[TAUGHT_BY] = Field(default=TAUGHT_BY[0], description="Of the new head.")  # type: ignore[valid-type]
    publish: Literal["better", "always", "never"] = Field(
        default="better", description="When: where held-out tiles are not found worse than before, always, or never."
    )


class BeforeAfter(BaseModel):
    """A figure of held-out tiles by the encoder that was there, and by heads that did not learn from them."""

    name: str
    before: float | None
    after: float | None


class TaughtLabel(BeforeAfter):
    """The average precision of a label or collection."""

    tiles: int = Field(description="That hold it.")
    collection: bool


class TaughtResult(BaseModel):
    """What was learned, and whether it was published."""

    published: int | None = Field(description="The new version of the index; null where it was not published.")
    better: bool = Field(description="Whether held-out tiles are not found worse than before.")
    tiles: int = Field(description="That hold a label.")
    seconds: float
    figures: list[BeforeAfter]
    labels: list[TaughtLabel]


class TeachingAnswer(BaseModel):
    """How far the teaching is."""

    state: Literal["none", "running", "done", "failed"]
    stage: str | None = Field(description="What is done now: starting, training or indexing.")
    share: float = Field(description="Which share of all is done, 0 to 1.")
    error: str | None = Field(description="Why it failed.")
    result: TaughtResult | None
    losses: list[str] = Field(description="That a head may be taught by, the one by default first.")


class NewLabels(Strict):
    """Which tiles hold a label."""

    label: Label
    holds: Ids = Field(default=[], description="Tiles that hold it from now on.")
    lacks: Ids = Field(default=[], description="Tiles that do not.")
    new_labels: list[Label] = Field(
        default=[], max_length=10, description="The label, where it is new, and meant, however near it is to another."
    )


class Error(BaseModel):
    """Why a request was refused."""

    rule: str
    value: Any
    remedy: str


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or more."""

    error: Error


class Versions(BaseModel):
    """Which encoder and index an answer comes from."""

    model_version: int
    index_version: int


class Item(BaseModel):
    """What is known about a tile."""

    id: str
    labels: list[str]
    split: str | None
    source: str | None
    date: str | None
    bbox: list[float] | None
    thumbnail: str | None = Field(description="Where its small picture is: an address relative to /api/v1/.")


class Result(Item):
    """A tile that was found."""

    rank: int
    score: float
    shared: list[str]


class QueryInfo(BaseModel):
    """What was searched for."""

    vector: list[float] | None = Field(
        description="Where asked for: D numbers, of norm 1. An example of other queries, and what /matches looks for."
    )
    labels: list[str] | None
    preview: str | None = Field(
        description="Where asked for: the uploaded image, a JPEG of at most 40 pixels a side, base64."
    )


class Milliseconds(BaseModel):
    """Where the time went."""

    decode: float
    encode: float
    search: float


class SearchAnswer(Versions):
    """Results, best first."""

    k: int
    offset: int
    more: bool
    query: QueryInfo
    ms: Milliseconds
    results: list[Result]


class ItemAnswer(Versions):
    """One tile."""

    item: Item


class MatchesAnswer(Versions):
    """Where in items what was searched for is."""

    matches: list[list[list[float]]] = Field(
        description="For each of the ids rows, from top to bottom, of the cosines of its cells, from left to right."
    )


class ItemsAnswer(Versions):
    """Several tiles."""

    items: list[Item]


class PlotAnswer(Versions):
    """Tiles in two dimensions, those that are alike near each other: at most 20,000, as columns."""

    count: int = Field(description="All tiles of the index, drawn or not.")
    ids: list[str]
    x: list[int] = Field(description=f"To the right, 0 to {PLOT_SIDE}.")
    y: list[int] = Field(description=f"Downwards, 0 to {PLOT_SIDE}.")


class PlottedAnswer(Versions):
    """Tiles of the plot in a box and with a filter."""

    places: list[int] = Field(description="Which they are in the lists of GET /plot, those in the middle first.")
    items: list[Item]
    more: bool


class NumberOf(BaseModel):
    """How many of the counted tiles hold a label."""

    name: str
    count: int


class CountAnswer(Versions):
    """How many tiles meet a filter, and how many of these hold each label."""

    count: int
    labels: list[NumberOf]


class WrittenAnswer(Versions):
    """An upsert that is on disk."""

    id: str
    new_labels: list[str] = Field(description="Labels of the tile that the index did not have.")


class DeletedAnswer(Versions):
    """A delete that is on disk."""

    deleted: int


class CollectionAnswer(BaseModel):
    """A collection: how many tiles are right, wrong or skipped, by whom and when the last mark was made."""

    name: str
    label: str | None = Field(
        description="Of the index, that is spelled so but for case, blanks, hyphens and underscores: what is right in "
        "the collection is learned and suggested as it."
    )
    right: int
    wrong: int
    skipped: int
    by: str | None
    at: str = Field(description="In UTC.")


class CollectionsAnswer(BaseModel):
    """Collections by name."""

    collections: list[CollectionAnswer]
    total: int
    offset: int


class Some(BaseModel):
    """How many ids these are, and the first of them."""

    count: int
    first: list[str]


class MarkInfo(BaseModel):
    """What somebody said of a tile."""

    id: str
    mark: Literal["right", "wrong", "skipped"]
    by: str | None
    at: str
    item: Item | None = Field(description="null where the index does not hold the tile now.")


class MarksAnswer(CollectionAnswer, Versions):
    """Marks of a collection, the last ones first."""

    absent: Some = Field(description="Marked tiles that the index does not hold now.")
    marks: list[MarkInfo]
    offset: int
    more: bool


class RoundTile(Item):
    """A tile to judge."""

    score: float = Field(description="Cosine similarity with the direction that the marks give.")


class PrecisionInfo(BaseModel):
    """How many of the last marks are right."""

    right: int
    of: int


class LeftInfo(BaseModel):
    """How many right tiles are not marked yet, estimated from tiles that were drawn at random."""

    estimate: int
    low: int = Field(description="With high, an interval of 95 % confidence.")
    high: int
    sample: int = Field(description="Tiles that were drawn at random and judged right or wrong.")


class RoundAnswer(CollectionAnswer, Versions):
    """What to judge next. No tile stands in two lists."""

    found: int = Field(description="Tiles of the index that are marked right.")
    precision: PrecisionInfo | None = Field(description="null before the first mark.")
    left: LeftInfo | None = Field(description="null as long as no block of the random tiles is judged.")
    best: list[RoundTile] = Field(description="The best candidates, the highest scores first.")
    uncertain: list[RoundTile] = Field(description="Tiles between right and wrong, the most uncertain first.")
    sampled: list[RoundTile] = Field(description="Tiles that are drawn at random.")


class SuggestedTile(Item):
    """A tile whose label is worth a look."""

    score: float = Field(description="1 as tiles with the label score on the average, 0 as those without.")


class SuggestionsAnswer(Versions):
    """Tiles that probably hold a label and do not have it, and those that have it and probably do not."""

    label: str
    missing: list[SuggestedTile]
    doubtful: list[SuggestedTile]


class ImportedAnswer(CollectionAnswer):
    """What came of a file."""

    read: int = Field(description="Marks in the file.")
    changed: int = Field(description="Tiles whose mark is another now.")
    absent: Some = Field(description="Ids in the file that the index does not hold; their marks are kept.")


class RelabelledAnswer(Versions):
    """A label that tiles got or lost."""

    label: str
    new_labels: list[str] = Field(description="The label, where the index did not have it.")
    gained: int = Field(description="Tiles that hold it now and did not.")
    lost: int = Field(description="Tiles that held it and do not now.")


class LabelledAnswer(RelabelledAnswer):
    """A collection that became a label."""

    absent: Some = Field(description="Marked tiles that the index does not hold now.")


class LabelCount(BaseModel):
    """How many tiles hold a label; rare are the third of the labels with the fewest."""

    name: str
    count: int
    rare: bool


class LabelsAnswer(Versions):
    """All labels that a tile may hold, also those that none does, in the index's order."""

    labels: list[LabelCount]
    total: int


class ModelInfo(BaseModel):
    """The encoder of the newest index."""

    version: int
    sha256: str
    dim: int
    image_size: int | None = Field(description="null where no picture can be searched for.")
    features: int | None = Field(description="How many numbers the `features` of an example have; null: it has none.")
    descriptor: str
    dataset: dict[str, Any] = Field(description="What it was trained on, with its licence: not what is searched.")
    figures: dict[str, Any] = Field(description="On the test tiles of what it was trained on.")


class ArchiveInfo(BaseModel):
    """What an index was built from."""

    name: str = Field(description="Of the archive, or of the folder that was embedded.")
    tiles: int = Field(description="How many it had then.")


class IndexInfo(BaseModel):
    """The newest index."""

    version: int
    count: int
    archive: ArchiveInfo | None = Field(description="null for an index that does not say.")
    kind: str
    recall: dict[str, Any]


class VersionInfo(BaseModel):
    """A version of the index that can be searched."""

    version: int
    encoder_version: int
    share: float | None = Field(
        description="Of what training learned, where the index has less of it than the encoder. Vectors of another "
        "share are others, though of one encoder."
    )
    descriptor: str
    count: int
    archive: str | None


class LimitsInfo(BaseModel):
    """What a request may ask for at most."""

    bytes: int
    pixels: int
    k: int
    batch: int
    formats: list[str]


class InfoAnswer(BaseModel):
    """What is served."""

    model: ModelInfo
    index: IndexInfo
    versions: list[VersionInfo]
    labels: int = Field(description="How many are held by a tile.")
    has_places: bool
    has_parts: bool = Field(description="Whether a box in an item may be an example, and /matches answers.")
    has_files: bool = Field(description="Whether /picture and /file have the tiles themselves.")
    writable: bool
    base_map: BaseMap | None
    limits: LimitsInfo
