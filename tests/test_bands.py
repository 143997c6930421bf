"""Tiles of any number of bands: read as they are, scaled by the training tiles, trained on, exported, searched."""

import json

import keras
import numpy as np
import pytest
import rasterio
import tensorflow as tf
from PIL import Image

from macl_tf import cli
from macl_tf.datasets.bands import Bands, choose_bands, reader_of, tiles_listed
from macl_tf.datasets.images import RGB
from macl_tf.datasets.picture_kinds import PictureError
from macl_tf.export.image_graph import resize_bands
from macl_tf.export.saved_model import ExportedEncoder
from macl_tf.models.encoders import build_encoder, of_bands, spoc_encoder
from macl_tf.models.stems import of_channels
from macl_tf.pipeline.augmentation import augment_images
from macl_tf.search.engine import SearchEngine
from macl_tf.training.settings import Settings

RNG = np.random.default_rng(0)


def write(path, values, *, names=(), **profile):
    """A GeoTIFF of values (N, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    with rasterio.open(path, "w", **shape, **place, **profile) as file:
        file.write(values)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def measured(**changes):
    of_four = {"mean": (10.0, 20.0, 30.0, 40.0), "deviation": (1.0, 2.0, 3.0, 4.0)}
    drawn = {"low": (0.0, 0.0, 0.0, 0.0), "high": (100.0, 100.0, 100.0, 100.0)}
    return Bands(**{"names": ("1", "2", "3", "4"), "rgb": (0, 1, 2), **of_four, **drawn, **changes})


@pytest.mark.parametrize(
    ("dtype", "profile"),
    [
        ("uint8", {"photometric": "RGB"}),  # whose fourth band GDAL declares alpha
        ("uint16", {"interleave": "band", "compress": "deflate"}),
        ("uint16", {"tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("int16", {}),
        ("float32", {}),
    ],
)
def test_values_are_those_of_the_file(tmp_path, dtype, profile):
    values = RNG.integers(1, 120, (4, 16, 24)).astype(dtype) * (-1 if dtype in ("int16", "float32") else 1)
    path = write(tmp_path / "a.tif", values, **profile)
    bands = choose_bands("all", "", [path])
    assert bands.names == ("1", "2", "3", "4") and bands.rgb == (0, 1, 2)
    tile = bands.read(path, "a.tif")
    assert tile.dtype == np.float32
    np.testing.assert_array_equal(tile, np.moveaxis(values, 0, 2))
    np.testing.assert_array_equal(bands.read(path.read_bytes(), "a.tif"), tile)
    some = choose_bands("4, 2", "", [path])
    np.testing.assert_array_equal(some.read(path, "a.tif"), tile[..., [3, 1]])
    assert some.rgb == (0, 0, 0)


def test_no_data_is_nan(tmp_path):
    values = RNG.integers(1, 99, (2, 8, 8)).astype("int16")
    values[0, :2] = -999
    tile = choose_bands("all", "", [path := write(tmp_path / "a.tif", values, nodata=-999)]).read(path, "a")
    assert np.isnan(tile[:2, :, 0]).all() and np.isfinite(tile[2:, :, 0]).all() and np.isfinite(tile[..., 1]).all()
    floats = values.astype("float32")
    floats[1, 3, 3] = np.nan
    tile = choose_bands("all", "", [path := write(tmp_path / "b.tif", floats)]).read(path, "b")
    assert np.isnan(tile).sum() == 1 and tile[0, 0, 0] == -999
    masked = write(tmp_path / "c.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as file:
        file.write_mask(np.arange(64).reshape(8, 8) >= 8)
    tile = choose_bands("all", "", [masked]).read(masked, "c")
    assert np.isnan(tile[0]).all() and np.isfinite(tile[1:]).all()


def test_a_png_of_16_bits_has_its_values(tmp_path):
    values = RNG.integers(0, 2**16, (9, 7)).astype("uint16")
    Image.fromarray(values).save(tmp_path / "a.png")
    bands = choose_bands("all", "", [tmp_path / "a.png"])
    np.testing.assert_array_equal(bands.read(tmp_path / "a.png", "a.png")[..., 0], values)


def test_bands_have_the_names_that_their_file_gives(tmp_path):
    path = write(
        tmp_path / "a.tif", RNG.random((5, 4, 4)).astype("float32"), names=("swir", "nir", "red", "green", "blue")
    )
    bands = choose_bands("all", "", [path])
    assert bands.names == ("swir", "nir", "red", "green", "blue") and bands.rgb == (2, 3, 4)
    some = choose_bands("blue,RED,4,1", "", [path])
    assert some.names == ("blue", "red", "green", "swir") and some.rgb == (1, 2, 0)
    assert choose_bands("blue,RED,4,1", "swir,1,red", [path]).rgb == (3, 0, 1)
    # False colours, as asked for: near infrared in the place of red.
    assert choose_bands("nir,red,green", "", [path]).rgb == (0, 1, 2)
    np.testing.assert_array_equal(some.read(path, "a")[..., 1], rasterio.open(path).read(3))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "b.tif", np.ones((2, 4, 4), "uint8"))
    with pytest.raises(PictureError, match=r"b must have the bands blue, .*, real numbers, got 2 bands of uint8"):
        some.read(other, "b")


@pytest.mark.parametrize(
    ("asked", "rgb", "message"),
    [
        ("7", "", r"bands must name bands of the tiles, 1, 2, 3, 4 or their numbers from 1, got '7'"),
        ("nir", "", r"bands must name bands of the tiles, .* got 'nir'"),
        ("1,1", "", r"bands must be 'all' or different bands of 1, 2, 3, 4, got '1,1'"),
        (",", "", r"bands must be 'all' or different bands"),
        ("all", "1,2", r"rgb must be three bands, those for red, green and blue, got '1,2'"),
        ("1,2,3", "1,2,4", r"rgb must name bands of the tiles, 1, 2, 3"),
    ],
)
def test_bands_that_are_not_there_are_refused(tmp_path, asked, rgb, message):
    path = write(tmp_path / "a.tif", np.ones((4, 4, 4), "uint8"))
    with pytest.raises(ValueError, match=message):
        choose_bands(asked, rgb, [path])


def sentinel(folder, tile, seed=0):
    """A patch as BigEarthNet has it: a file for each band, of 10, 20 and 60 m."""
    rng = np.random.default_rng(seed)
    sides = {"B02": 12, "B03": 12, "B04": 12, "B11": 6, "B01": 2}
    return {band: write(folder / tile / f"{tile}_{band}.tif", rng.integers(1, 4000, (1, side, side)).astype("uint16"))
            for band, side in sides.items()}  # fmt: skip


def test_files_of_one_band_each_are_one_tile(tmp_path):
    first = sentinel(tmp_path, "S2A_1_87_48")
    sentinel(tmp_path, "S2A_1_87_49", 1)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tif"))
    bands = choose_bands("B02,B03,B04,B11,B01", "", [tmp_path / name for name in names])
    assert bands.rgb == (2, 1, 0) and bands.template == "{tile}_{band}.tif"
    tiles = [
        name for name, _ in tiles_listed([(name, None) for name in [*names, "S2A_1_87_49/preview_B99.tif"]], bands)
    ]
    assert tiles == ["S2A_1_87_48/S2A_1_87_48", "S2A_1_87_49/S2A_1_87_49"]
    tile = bands.read(tmp_path / tiles[0], tiles[0])
    assert tile.shape == (12, 12, 5)
    with rasterio.open(first["B03"]) as file:
        np.testing.assert_array_equal(tile[..., 1], file.read(1))
    with rasterio.open(first["B11"]) as file:  # bilinear: the corners are those of the coarse pixels
        assert tile[0, 0, 3] == file.read(1)[0, 0]
    first["B11"].unlink()
    with pytest.raises(PictureError, match=r"1 of its 5 bands are not there \(S2A_1_87_48_B11.tif\)"):
        bands.read(tmp_path / tiles[0], tiles[0])
    with pytest.raises(PictureError, match=r"must be one file of the bands B02, .* gdalbuildvrt -separate"):
        bands.read(b"II*\0", "upload")


def test_bands_of_separate_files_may_come_stacked(tmp_path):
    """As the message of what is refused says: what follows it is read."""
    sentinel(tmp_path, "S2A_1_87_48")
    bands = choose_bands("B04,B02", "", sorted(tmp_path.rglob("*.tif")))
    tile = bands.read(tmp_path / "S2A_1_87_48" / "S2A_1_87_48", "S2A_1_87_48")
    stacked = write(tmp_path / "stacked" / "query.tif", np.moveaxis(tile, 2, 0).astype("uint16"))
    assert bands.files(stacked) == [stacked]
    for given in (stacked, stacked.read_bytes()):
        np.testing.assert_array_equal(bands.read(given, "query"), tile)
    three = write(tmp_path / "stacked" / "three.tif", np.ones((3, 4, 4), "uint16"))
    with pytest.raises(PictureError, match=r"must be one file of the bands B04, B02.* gdalbuildvrt"):
        bands.read(three, "three")


def test_tiles_that_cannot_be_read_have_no_statistics():
    def read(_):
        raise PictureError("damaged", "broken")

    with pytest.raises(ValueError, match="a tile must be readable to measure bands, but none of 3 that were tried is"):
        Bands(("1",), (0, 0, 0)).measured(read, [0, 1, 2], progress=False)


def test_no_data_takes_no_part_in_resizing():
    tile = RNG.uniform(5, 9, (64, 48, 2)).astype("float32")
    tile[:20, :, 0] = np.nan
    small = measured(names=("1", "2")).resize(tile, 16)
    # A row of the small tile weighs eight rows of the large one, row 4 those from 14 to 22: more than half is lost.
    assert np.isnan(small[:5, :, 0]).all() and np.isfinite(small[5:]).all()
    assert np.nanmin(small) > 5 and np.isfinite(small[..., 1]).all()
    in_graph = resize_bands(tf.constant(tile[None]), 16).numpy()[0]
    np.testing.assert_array_equal(np.isnan(in_graph), np.isnan(small))
    np.testing.assert_allclose(in_graph, small, rtol=1e-5)
    assert measured(names=("1", "2")).resize(tile[:48], 48) is not None
    with pytest.raises(ValueError, match="size must be > 0, got 0"):
        measured().resize(tile, 0)


def test_statistics_are_those_of_the_tiles():
    tiles = RNG.normal((100, -20), (30, 2), (40, 32, 32, 2)).astype("float32")
    tiles[:, 0, 0] = np.nan
    bands = Bands(("1", "2"), (0, 0, 0)).measured(tiles.__getitem__, np.arange(40), progress=False)
    np.testing.assert_allclose(bands.mean, (100, -20), atol=0.5)
    np.testing.assert_allclose(bands.deviation, (30, 2), rtol=0.02)
    np.testing.assert_allclose(bands.low, np.nanpercentile(tiles, 2, axis=(0, 1, 2)), rtol=0.05)
    np.testing.assert_allclose(bands.high, np.nanpercentile(tiles, 98, axis=(0, 1, 2)), rtol=0.05)
    assert Bands.from_dict(json.loads(json.dumps(bands.to_dict()))) == bands
    assert reader_of(bands.to_dict()) == bands and reader_of(None) is RGB
    with pytest.raises(
        ValueError, match=r"band 2 must differ among the training tiles, got 3 everywhere\. Leave it out"
    ):
        bands.measured(lambda _: tiles[0] * [1, 0] + [0, 3], [0], progress=False)
    with pytest.raises(ValueError, match=r"band 1 .* got no data"):
        bands.measured(lambda _: tiles[0] * [np.nan, 1], [0], progress=False)


@pytest.mark.parametrize("scaling", ["deviation", "percentiles"])
def test_an_encoder_scales_bands_by_itself(scaling):
    bands = measured(scaling=scaling, low=(8.0, 16.0, 24.0, 32.0), high=(12.0, 24.0, 36.0, 48.0))
    values = keras.Input((None, None, 4))
    scale = keras.Model(values, of_bands(values, bands))
    mean, deviation, low, high = (np.array(v, "float32") for v in (bands.mean, bands.deviation, bands.low, bands.high))
    given = np.stack([mean, mean + deviation, low, high, np.full(4, np.nan, "float32")]).reshape(1, 1, 5, 4)
    found = scale.predict(given, verbose=0)[0, 0]
    if scaling == "deviation":  # of ImageNet's pixels
        np.testing.assert_allclose(found[:2], [[114.4] * 4, [172.0] * 4], rtol=1e-5)
    else:
        np.testing.assert_allclose(found[2:4], [[0.0] * 4, [255.0] * 4], atol=1e-3)
    np.testing.assert_allclose(found[4], found[0], rtol=1e-5)


def test_people_see_bands_stretched():
    bands = measured(rgb=(3, 0, 1), low=(0.0, 100.0, 0.0, -20.0), high=(10.0, 300.0, 1.0, 0.0))
    tile = np.array([[[5.0, 300.0, 0.0, -20.0], [20.0, 0.0, 0.0, np.nan]]], "float32")
    assert bands.show(tile).tolist() == [[[0, 127, 255], [0, 255, 0]]]


def test_weights_of_red_green_and_blue_are_kept():
    kernel = RNG.normal(size=(3, 3, 3, 5)).astype("float32")
    wide = of_channels(kernel, (3, 3, 4, 5), (2, 1, 0))
    np.testing.assert_allclose(wide[:, :, [2, 1, 0]], 0.75 * kernel, rtol=1e-6)
    np.testing.assert_allclose(wide[:, :, 3], 0.75 * kernel.mean(axis=2), rtol=1e-6)
    # Where all bands are alike, activations keep their size.
    np.testing.assert_allclose(wide.sum(axis=2), 0.75 * (kernel.sum(axis=2) + kernel.mean(axis=2)), rtol=1e-5)
    one = of_channels(kernel, (3, 3, 1, 5), (0, 0, 0))
    np.testing.assert_allclose(one[:, :, 0], kernel.sum(axis=2), rtol=1e-5)
    np.testing.assert_allclose(of_channels(np.array([1.0, 2.0, 6.0]), (4,), (0, 1, 2)), [1, 2, 6, 3])
    assert of_channels(kernel, kernel.shape, (0, 1, 2)) is kernel
    with pytest.raises(ValueError, match=r"weights must be of shape \(3, 3, 4, 6\) but for three channels"):
        of_channels(kernel, (3, 3, 4, 6), (0, 1, 2))


@pytest.mark.slow
def test_three_bands_in_another_order_are_the_same_picture():
    pixels = RNG.uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    like = {"mean": (114.4,) * 3, "deviation": (57.6,) * 3, "low": (0.0,) * 3, "high": (255.0,) * 3}
    bands = measured(names=("B", "G", "R"), rgb=(2, 1, 0), **like)
    of_pictures = build_encoder(64, backbone="efficientnet-lite0", weights="imagenet")
    found = build_encoder(64, backbone="efficientnet-lite0", weights="imagenet", bands=bands)
    for name in ("projection_1", "projection_2"):
        found.get_layer(name).set_weights(of_pictures.get_layer(name).get_weights())
    expected = of_pictures.predict(pixels, verbose=0)
    np.testing.assert_allclose(found.predict(pixels[..., ::-1], verbose=0), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("reversing", [False, True])
def test_published_networks_take_other_bands(monkeypatch, reversing):
    from macl_tf.models import backbones

    calls = []

    def published(include_top, weights, input_shape):
        calls.append((weights, input_shape))
        keras.utils.set_random_seed(len(calls))
        return keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=input_shape, alpha=0.35)

    publisher = keras.applications.vgg16 if reversing else keras.applications.mobilenet_v2
    published.__module__ = publisher.preprocess_input.__module__
    monkeypatch.setattr(backbones, "_applications", lambda: {"MobileNetV2": published})
    encoder = build_encoder(32, backbone="keras:MobileNetV2", weights="imagenet", bands=measured())
    assert calls == [(None, (32, 32, 4)), ("imagenet", (32, 32, 3))]
    network = next(layer for layer in encoder.layers if isinstance(layer, keras.Model))
    keras.utils.set_random_seed(2)
    original = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35)
    first = original.get_layer("Conv1").kernel.numpy()[:, :, :: -1 if reversing else 1]
    np.testing.assert_allclose(network.get_layer("Conv1").kernel[:, :, :3], 0.75 * first)
    np.testing.assert_array_equal(network.get_layer("Conv_1").kernel, original.get_layer("Conv_1").kernel)
    values = RNG.normal((10, 20, 30, 40), 1, (2, 32, 32, 4)).astype("float32")
    values[0, :4] = np.nan
    assert np.isfinite(encoder.predict(values, verbose=0)).all()
    like = {"mean": (114.4,) * 3, "deviation": (57.6,) * 3, "low": (0.0,) * 3, "high": (255.0,) * 3}
    pixels, turned_round = RNG.uniform(0, 255, (2, 32, 32, 3)), measured(names=("B", "G", "R"), rgb=(2, 1, 0), **like)
    features = []
    for bands in (None, turned_round):
        calls.clear()
        keras.utils.set_random_seed(2)
        model = build_encoder(32, backbone="keras:MobileNetV2", weights="imagenet", bands=bands)
        vectors = keras.Model(model.input, model.get_layer("features").output)
        features.append(vectors.predict(pixels if bands is None else pixels[..., ::-1], verbose=0))
    np.testing.assert_allclose(features[1], features[0], rtol=1e-3, atol=1e-5)
    assert spoc_encoder(32, width=8, bands=measured()).input_shape == (None, 32, 32, 4)


def test_bands_are_augmented_alike_and_stay_in_their_units():
    tiles = np.repeat(RNG.normal(-20, 3, (4, 40, 40, 1)), 2, axis=3).astype("float32")
    tiles[0, :, :5] = np.nan
    key = tf.constant([1, 2])
    turned = augment_images(tiles, key, 32, colour=0, deviation=(3.0, 3.0)).numpy()
    np.testing.assert_array_equal(turned[..., 0], turned[..., 1])
    assert np.isnan(turned[0]).any() and np.isfinite(turned[1:]).all()
    changed = augment_images(tiles, key, 32, colour=0.2, deviation=(3.0, 3.0)).numpy()
    np.testing.assert_array_equal(np.isnan(changed), np.isnan(turned))
    # Moved by a fifth of the deviation at most, spread by a fifth: decibels stay decibels.
    assert 0 < np.nanmax(np.abs(np.nanmean(changed - turned, axis=(1, 2)))) <= 0.2 * 3 + 1e-3
    ratio = np.nanstd(changed, axis=(1, 2)) / np.nanstd(turned, axis=(1, 2))
    assert (ratio >= 0.8).all() and (ratio <= 1.2).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bands": "all"},
            "bands are of dataset=folder or bigearthnet, got bands=all with dataset=synthetic",
        ),
        ({"dataset": "folder", "rgb": "1,2,3"}, "set bands, got rgb=1,2,3"),
        ({"dataset": "folder", "scaling": "log"}, "scaling must be one of deviation, percentiles"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """40 tiles of four bands of 16 bits; what is water shows in the fourth band alone."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(3)
    rows = []
    for number in range(40):
        values = rng.normal(1500, 150, (4, 40, 40))
        labels = ["land"]
        if number % 2:
            values[3] += 2500
            labels = ["water"]
        if number % 5 == 0:
            values[0, 10:30] += 1500
            labels.append("roof")
        values[:, :2] = 0
        write(folder / f"t{number:02}.tif", values.clip(0, 65535).astype("uint16"), nodata=0)
        rows.append(f"t{number:02}.tif,{';'.join(labels)}")
    (folder / "labels.csv").write_text("image,labels\n" + "\n".join(rows) + "\n")
    return folder


def words(archive, run, *more):
    small = ("image_size=32", "backbone=resnet18", "width=8", "epochs=2", "batch_size=8", "embedding_dim=8")
    sets = [word for text in (*small, "bands=all", *more) for word in ("--set", text)]
    return ["train", "--dataset", "folder", "--data-dir", str(archive), "--run-dir", str(run), "--quiet", *sets]


@pytest.mark.slow
def test_a_run_on_bands_is_exported_searched_and_written_to(archive, small_encoder, tmp_path, capsys):
    run, served = tmp_path / "run", tmp_path / "served"
    assert cli.main(words(archive, run)) == 0
    bands = Bands.from_dict(json.loads((run / "bands.json").read_text()))
    assert bands.channels == 4 and 1400 < bands.mean[1] < 1600 < bands.mean[3]
    assert (run / "neighbours.png").is_file()
    assert cli.main(["evaluate", "--run-dir", str(run)]) == 0
    assert cli.main(["export", "--run-dir", str(run), "--output", str(served), "--quiet"]) == 0
    encoder = ExportedEncoder.load(served)
    assert encoder.reader == bands and encoder.info["preprocessing"].startswith("Bands 1, 2, 3, 4 in the units")
    tile = bands.read(archive / "t01.tif", "t01.tif")
    trained = keras.saving.load_model(run / "encoder.keras", compile=False)
    expected = keras.Model(trained.input, trained.outputs[0]).predict(bands.resize(tile, 32)[None], verbose=0)
    np.testing.assert_allclose(encoder.embed_images([tile]), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_pixels(tile[None]), expected, atol=1e-4)  # resized in the graph
    found, valid = encoder.embed_bytes([(archive / "t01.tif").read_bytes()])
    assert valid.all()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"pixels must be \(B, H, W, 4\) float32, got \(1, 32, 32, 3\) uint8"):
        encoder.embed_pixels(np.zeros((1, 32, 32, 3), np.uint8))

    engine = SearchEngine.open(served)
    (answer,) = engine.search(archive / "t03.tif", k=3)
    assert answer.results[0].id == "t03.tif" and answer.results[0].score > 0.999
    assert engine.index.thumbnail("t03.tif")[:2] == b"\xff\xd8"
    assert engine.upsert([archive / "t05.tif"], ["mine"], labels=["roof"]) == 0
    (answer,) = engine.search(ids=["mine"], k=1)
    assert answer.results[0].id == "t05.tif"
    Image.new("RGB", (40, 40)).save(tmp_path / "picture.png")
    with pytest.raises(PictureError, match=r"must have the bands 1, 2, 3, 4, real numbers, got 3 bands of uint8"):
        engine.search(tmp_path / "picture.png")
    capsys.readouterr()
    sheet = ["search", str(served), str(archive / "t03.tif"), "--sheet", str(tmp_path / "sheet.png")]
    assert cli.main(sheet) == 0 and (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
def test_a_run_on_bands_goes_on_and_takes_its_bands_alone(archive, small_encoder, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(words(archive, run, "trainable=head", "feature_views=1")) == 0
    before = (run / "bands.json").read_bytes()
    (run / "metrics.json").unlink()
    assert cli.main(words(archive, run, "trainable=head", "feature_views=1")) == 0  # from its last epoch
    assert (run / "bands.json").read_bytes() == before
    other = tmp_path / "other"
    for number in range(20):
        write(other / f"t{number:02}.tif", RNG.integers(1, 99, (2, 40, 40)).astype("uint16"))
    (other / "labels.csv").write_text(
        "image,labels\n" + "".join(f"t{n:02}.tif,{'land' if n % 2 else 'water;roof'}\n" for n in range(20))
    )
    capsys.readouterr()
    assert cli.main(["evaluate", "--run-dir", str(run), "--data-dir", str(other)]) == 2
    assert "tiles must have the bands that the run was trained on, 1, 2, 3, 4, got 1, 2" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unlabelled_folder_of_bands_is_indexed_and_brought_up_to_date(tmp_path, capsys):
    for seed in range(4):
        sentinel(tmp_path / "tiles", f"S2A_{seed}", seed)
    served = str(tmp_path / "served")
    pixels = keras.Input((32, 32, 4))
    keras.Model(pixels, keras.layers.Conv2D(8, 5, strides=4)(pixels)).save(tmp_path / "mine.keras")
    index = ["index", str(tmp_path / "tiles"), "--backbone", str(tmp_path / "mine.keras"), "--weights", ""]
    index += ["--image-size", "32", "--bands", "B02,B03,B04,B11", "--output", served]
    assert cli.main(index) == 0
    sheet = ["search", served, "--id", "S2A_1/S2A_1", "--sheet", str(tmp_path / "sheet.png")]
    assert cli.main(sheet) == 0 and (tmp_path / "sheet.png").is_file()
    said = "".join(capsys.readouterr())
    assert "4 images embedded" in said and "no operation of TensorFlow decodes tiles of bands" in said
    sentinel(tmp_path / "tiles", "S2A_9", 9)
    assert cli.main(index) == 0
    assert "1 images embedded" in "".join(capsys.readouterr())  # the statistics stay


def test_a_server_says_which_bands_a_picture_lacks():
    from macl_tf.server.service import decode
    from macl_tf.server.settings import Limits

    data = tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy()
    with pytest.raises(Exception, match="bands of the tiles that the index was made of") as refused:
        decode(data, 8, Limits(), reader=measured())
    assert "Give one raster of the bands 1, 2, 3, 4" in str(vars(refused.value))
