"""Archives drawn for tests, lying on disk as people have the real ones: few and small pictures, all the quirks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Written out here, and not imported, so that a slip in the library's tables is seen.
UCM_LABELS = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass", "mobile-home",
    "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
UCM_SCENES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential",
    "forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark",
    "overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
DLRSD_COLOURS = (
    (166, 202, 240), (128, 128, 0), (0, 0, 128), (255, 0, 0), (0, 128, 0), (128, 0, 0), (255, 233, 233),
    (160, 160, 164), (0, 128, 128), (90, 87, 255), (255, 255, 0), (255, 192, 0), (0, 0, 255), (255, 0, 192),
    (128, 0, 128), (0, 255, 0), (0, 255, 255),
)  # fmt: skip
WHDLD_COLOURS = {
    "building": (255, 0, 0), "road": (255, 255, 0), "pavement": (192, 192, 0), "vegetation": (0, 255, 0),
    "bare soil": (128, 128, 128), "water": (0, 0, 255),
}  # fmt: skip


def photo(seed: int, height: int = 24, width: int = 24) -> np.ndarray:
    """Noise: more colours than any mask has."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_palette_mask(path: Path, raw: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> None:
    """A PNG of mode P whose raw value i has the colour i - 1, as the published masks are."""
    image = Image.frombytes("P", (raw.shape[1], raw.shape[0]), raw.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def half_and_half(first: int, second: int, share: float = 0.5, size: int = 20) -> np.ndarray:
    """Raw mask values: the upper `share` of the rows is `first`, the rest `second`."""
    raw = np.full((size, size), second)
    raw[: round(share * size)] = first
    return raw


def label_rows(
    stems: Sequence[str], labels: np.ndarray, delimiter: str, corner: str, names: Sequence[str], end: str
) -> bytes:
    lines = [delimiter.join([corner, *names])]
    lines += [delimiter.join([stem, *map(str, row)]) for stem, row in zip(stems, labels.tolist(), strict=True)]
    return "".join(line + end for line in lines).encode()


def ucm_labels(stems: Sequence[str]) -> np.ndarray:
    """Image n of the list has the labels n and n + 3, modulo 17."""
    labels = np.zeros((len(stems), 17), np.uint8)
    for row in range(len(stems)):
        labels[row, [row % 17, (row + 3) % 17]] = 1
    return labels


UCM_STEMS = ("agricultural00", "agricultural01", "airplane00", "airplane07", "beach42", "tenniscourt99")


def write_ucm(folder: Path, *, table: bool = True, stems: Sequence[str] = UCM_STEMS) -> np.ndarray:
    """Six TIFFs, one of odd size, with Thumbs.db and macOS shadows, and the CRLF table. Returns the labels."""
    for seed, stem in enumerate(stems):
        path = folder / "Images" / stem.rstrip("0123456789") / f"{stem}.tif"
        save(path, photo(seed, 25 if stem == "beach42" else 24, 23 if stem == "beach42" else 24))
        (path.parent / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (path.parent / f"._{stem}.tif").write_bytes(b"\x00\x05\x16\x07")
    labels = ucm_labels(stems)
    if table:
        rows = label_rows(stems, labels, "\t", "IMAGE\\LABEL", UCM_LABELS, "\r\n")
        (folder / "LandUse_Multilabeled.txt").write_bytes(rows)
    return labels


def ucm_matrix(stems: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """The published matrix: 17 x 2100, one column an image in the order of scenes and numbers."""
    matrix = np.zeros((17, 2100), np.uint8)
    for stem, row in zip(stems, labels, strict=True):
        matrix[:, 100 * UCM_SCENES.index(stem[:-2]) + int(stem[-2:])] = row
    return matrix


# Stem -> raw values of the two halves of its mask.
DLRSD_MASKS: Mapping[str, tuple[int, int]] = {"agricultural00": (2, 8), "airplane03": (1, 11), "beach10": (12, 13)}


def write_dlrsd(folder: Path, layout: str, *, mask_share: float = 0.5) -> None:
    """Layout a: masks only. b: TIFFs, masks and a table. c: full_images, full_1cmasks (mode L), full_masks (mode P)."""
    for seed, (stem, halves) in enumerate(DLRSD_MASKS.items()):
        scene, raw = stem[:-2], half_and_half(*halves, share=mask_share)
        if layout == "a":
            save_palette_mask(folder / "Images" / scene / f"{stem}.png", raw, DLRSD_COLOURS)
        elif layout == "b":
            save(folder / "Images" / scene / f"{stem}.tif", photo(seed))
            save_palette_mask(folder / "Labels" / scene / f"{stem}.png", raw, DLRSD_COLOURS)
        else:
            save(folder / "full_images" / f"{stem}.png", photo(seed))
            save(folder / "full_1cmasks" / f"{stem}.png", raw.astype(np.uint8))
            save_palette_mask(folder / "full_masks" / f"{stem}.png", raw, DLRSD_COLOURS)
    if layout == "b":
        names = [name.replace("-", "") for name in UCM_LABELS]
        labels = np.zeros((len(DLRSD_MASKS), 17), np.uint8)
        for row, halves in zip(labels, DLRSD_MASKS.values(), strict=True):
            row[np.array(halves) - 1] = 1
        (folder / "multilabels.csv").write_bytes(label_rows(list(DLRSD_MASKS), labels, ",", "image", names, "\n"))


# Names of the two halves of each mask.
WHDLD_MASKS: Mapping[str, tuple[str, str]] = {
    "wh0001": ("building", "road"), "wh0002": ("vegetation", "water"), "wh0003": ("bare soil", "pavement"),
}  # fmt: skip


def write_whdld(
    folder: Path, *, order: Sequence[str] = tuple(WHDLD_COLOURS), images: str = "Images", masks: str = "ImagesPNG"
) -> None:
    """JPEGs and palette masks; `order` says which label has the raw value 1, 2, ..."""
    colours = [WHDLD_COLOURS[name] for name in order]
    for seed, (stem, halves) in enumerate(WHDLD_MASKS.items()):
        save(folder / images / f"{stem}.jpg", photo(seed), quality=95)
        raw = half_and_half(*(order.index(name) + 1 for name in halves), share=0.25)
        save_palette_mask(folder / masks / f"{stem}.png", raw, colours)


# Rows are not in the order of the splits, and Park is numbered from 101.
MLAID_FILES = ("images_test/Airport/airport_2.jpg", "images_tr/Airport/airport_10.jpg", "images_tr/Park/park_101.jpg",
               "images_test/BareLand/bareland_7.jpg", "images_tr/BareLand/bareland_1.jpg")  # fmt: skip


def write_mlaid(folder: Path, *, delimiter: str = ",", table: str = "multilabel.csv") -> np.ndarray:
    for seed, name in enumerate(MLAID_FILES):
        save(folder / name, photo(seed, 30, 30))
    stems = [Path(name).stem for name in MLAID_FILES]
    labels = ucm_labels(stems)
    (folder / table).write_bytes(label_rows(stems, labels, delimiter, "IMAGE\\LABEL", UCM_LABELS, "\r\n"))
    return labels


MLRSNET_LABELS = (
    "airplane", "airport", "bare soil", "baseball diamond", "basketball court", "beach", "bridge", "buildings", "cars",
    "chaparral", "cloud", "containers", "crosswalk", "dense residential area", "desert", "dock", "factory", "field",
    "football field", "forest", "freeway", "golf course", "grass", "greenhouse", "gully", "habor", "intersection",
    "island", "lake", "mobile home", "mountain", "overpass", "park", "parking lot", "parkway", "pavement", "railway",
    "railway station", "river", "road", "roundabout", "runway", "sand", "sea", "ships", "snow", "snowberg",
    "sparse residential area", "stadium", "swimming pool", "tanks", "tennis court", "terrace", "track", "trail",
    "transmission tower", "trees", "water", "wetland", "wind turbine",
)  # fmt: skip
# Categories as they are spelled, and what each of their tiles holds.
MLRSNET_TILES: Mapping[str, Sequence[Sequence[str]]] = {
    "airplane": (("airplane", "pavement"), ("airplane", "airport", "bare soil")),  # three in a row of the alphabet
    "harbor&port": (("habor", "ships", "water"), ()),
    "swimmimg_pool": (("swimming pool", "trees"), ("swimming pool",)),
}


def write_mlrsnet(folder: Path, *, header: Sequence[str] = MLRSNET_LABELS) -> None:
    """A folder of JPEGs and a table for each category, its columns in the order of `header`."""
    for category, tiles in MLRSNET_TILES.items():
        stems = [f"{category}_{number:05}.jpg" for number in range(1, len(tiles) + 1)]
        for seed, stem in enumerate(stems):
            save(folder / "Images" / category / stem, photo(seed), quality=95)
        labels = np.array([[int(name in held) for name in header] for held in tiles])
        (folder / "Labels").mkdir(exist_ok=True)
        (folder / f"Labels/{category}.csv").write_bytes(label_rows(stems, labels, ",", "image", header, "\r\n"))
