import tomllib

import pytest

from macl_tf.datasets import NAMES
from macl_tf.training import settings as config
from macl_tf.training.settings import Settings, load_settings


@pytest.mark.parametrize("dataset", NAMES)
def test_every_archive_has_its_file(dataset):
    path = config.config_file(dataset)
    assert path.read_text(encoding="utf-8").startswith("# python train.py")
    assert load_settings(dataset=dataset).dataset == dataset
    assert tomllib.loads(path.read_text(encoding="utf-8"))["dataset"] == dataset


def test_the_file_for_pretraining_is_of_a_plain_classifier():
    settings = load_settings(config.config_file("synthetic").with_name("pretraining.toml"))
    assert (settings.dataset, settings.loss, settings.descriptor) == ("synthetic", "bce", "backbone+probabilities")


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('epochs = 3\nlearning_rate = 1\ndataset = "folder"\n', encoding="utf-8")
    settings = load_settings(file, ["epochs=4", "augment=false"], data_dir="tiles")
    assert (settings.epochs, settings.learning_rate, settings.dataset) == (4, 1.0, "folder")
    assert (settings.augment, settings.data_dir, settings.batch_size) == (False, "tiles", Settings.batch_size)


def test_toml_round_trip(tmp_path):
    settings = Settings(data_dir='a "b" \\c', temperature=1e-7, augment=False, epochs=7)
    (tmp_path / "s.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert load_settings(tmp_path / "s.toml") == settings


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "There is no setting 'epoch'. Did you mean epochs?.*batch_size, "),
        ("epochs", "--set must be key=value, got 'epochs'"),
        ("epochs=ten", "epochs must be a whole number, got 'ten'"),
        ("epochs=2.5", "epochs must be a whole number, got '2.5'"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("temperature=0", "temperature must be above 0, got 0.0"),
        ("temperature=nan", "temperature must be above 0, got nan"),
        ("rarity_scale=1", "rarity_scale must be below 1, got 1.0"),
        ("crop_area=1.5", "crop_area must be at most 1, got 1.5"),
        ("views=3", "views must be at most 2, got 3"),
        ("augment=maybe", "augment must be true or false, got 'maybe'"),
        ("sampler=none", "sampler must be one of weighted, repeat, uniform, classes, got 'none'"),
    ],
)
def test_bad_settings_name_the_valid_ones(assignment, message):
    with pytest.raises(ValueError, match=message):
        load_settings(None, [assignment])


def test_vectors_from_elsewhere_bring_a_head_and_no_weights():
    for assignments in (["features=v.npz"], ["features=v.npz", "backbone=efficientnet-lite2", "labels=scene"]):
        settings = load_settings(None, assignments, dataset="ucm")
        assert (settings.weights, settings.head, settings.descriptor) == ("", "projection", "robust")
        assert (settings.epochs, settings.floor, settings.trains_head) == (60, "backbone", True)
    assert load_settings(None, ["features=v.npz", "weights=run/encoder.keras"]).weights == "run/encoder.keras"
    assert Settings().keeps_pretrained and not Settings(features="v.npz").keeps_pretrained


def test_scenes_bring_the_defaults_of_single_label_retrieval_and_what_is_said_wins(tmp_path):
    def parts(*assignments):
        settings = load_settings(None, assignments)
        return settings.head, settings.descriptor, settings.sampler

    assert parts() == ("projection", "robust", "weighted")
    assert parts("labels=scene") == ("spoc", "multi-scale", "classes")
    assert parts("head=spoc") == ("spoc", "multi-scale", "weighted")
    assert parts("labels=scene", "sampler=uniform", "descriptor=spoc") == ("spoc", "spoc", "uniform")
    assert parts("labels=scene", "head=projection") == ("projection", "robust", "classes")
    assert parts("labels=scene", "backbone=resnet18") == ("spoc", "multi-scale", "classes")
    (tmp_path / "mine.toml").write_text('labels = "scene"\nsampler = "repeat"\n', encoding="utf-8")
    assert load_settings(tmp_path / "mine.toml").sampler == "repeat"
    with pytest.raises(
        ValueError, match="descriptor must be one of projection, backbone, robust with head=projection, got 'spoc'"
    ):
        parts("descriptor=spoc")


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Those of macl_tf are in"):
        load_settings(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("epochs: 3", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.toml' is not TOML"):
        load_settings(bad)
    bad.write_text("epochs = true", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.toml: epochs must be a whole number, got 'True'"):
        load_settings(bad)
    with pytest.raises(ValueError, match="dataset must be one of synthetic, ucm"):
        load_settings(dataset="imagenet")


def test_help_names_every_setting():
    text = config.settings_help()
    assert all(f"  {name} = " in text for name in Settings.__dataclass_fields__)


def test_a_network_without_published_weights_and_a_head_bring_defaults():
    def parts(*assignments):
        settings = load_settings(None, assignments)
        return settings.weights, settings.image_size, settings.epochs, settings.learning_rate, settings.descriptor

    own = load_settings(None)
    assert (own.backbone, *parts("dataset=ucm")) == ("efficientnet-lite0", "imagenet", 128, 15, 1e-3, "robust")
    assert parts("dataset=ucm", "backbone=resnet18") == ("", 64, 30, 1e-3, "projection")
    assert parts("dataset=ucm", "trainable=head", "epochs=9") == ("imagenet", 128, 9, 1e-3, "robust")
    assert parts("dataset=ucm", "backbone=mine.keras") == ("", 128, 15, 1e-3, "robust")
    assert parts("dataset=ucm", "backbone=resnet18", "weights=w.keras")[0] == "w.keras"
