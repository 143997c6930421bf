"""Training batches: what is drawn, in which order, and that image and labels stay together."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.images import resize_image
from macl_tf.pipeline.pipeline import Parts, load_images, training_dataset
from macl_tf.pipeline.samplers import SAMPLERS, label_aware_weights

NUM_IMAGES = 60
COMMON = {"image_size": 4, "batch_size": 8, "seed": 5, "epochs": 4, "progress": False, "images_per_class": 4}


def plain_archive(**changes) -> Archive:
    """60 images in one plain grey each, 4 * index, so that a pixel names its image; every tenth has no label."""
    generator = np.random.default_rng(7)
    labels = (generator.random((NUM_IMAGES, 5)) < [0.8, 0.5, 0.3, 0.15, 0.1]).astype(np.uint8)
    labels[labels.sum(axis=1) == 0, 0] = 1
    labels[::10] = 0
    fields = {
        "name": "plain",
        "label_names": tuple("abcde"),
        "file_names": tuple(f"{index:02d}.png" for index in range(NUM_IMAGES)),
        "labels": labels,
        "read_image": lambda index: np.full((9, 7 + index % 3, 3), 4 * index, np.uint8),
    }
    return Archive(**(fields | changes))


def noisy_archive(**changes) -> Archive:
    images = np.random.default_rng(1).integers(0, 256, (NUM_IMAGES, 10, 12, 3), np.uint8)
    return plain_archive(**{"name": "noisy", "read_image": images.__getitem__} | changes)


def batches(data) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(data.dataset.as_numpy_iterator())


def assert_same(these, those):
    assert len(these) == len(those) > 0
    for (images, labels), (other_images, other_labels) in zip(these, those, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def image_numbers(images: np.ndarray) -> np.ndarray:
    """Which images of the plain archive these are, without colour changes."""
    assert (np.ptp(images, axis=(1, 2, 3)) < 1e-3).all()
    return np.rint(images[:, 0, 0, 0] / 4).astype(int)


ALL = np.arange(NUM_IMAGES)


def test_load_images_resizes_in_order():
    archive = noisy_archive()
    images = load_images(archive, np.array([5, 3, 41]), 6, progress=False)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, [resize_image(archive.read_image(index), 6) for index in (5, 3, 41)])


def test_an_unreadable_image_is_named():
    def read(index: int) -> np.ndarray:
        if index == 7:
            raise OSError("truncated")
        return np.zeros((4, 4, 3), np.uint8)

    archive = plain_archive(read_image=read)
    message = r"Could not read image '07.png' of archive 'plain': truncated"
    with pytest.raises(ValueError, match=message):
        load_images(archive, ALL, 4, progress=False)
    with pytest.raises(ValueError, match=message):
        training_dataset(archive, ALL, **COMMON)
    with pytest.raises(tf.errors.OpError, match=message):
        batches(training_dataset(archive, ALL, **COMMON, cache_bytes=0))


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_labels_stay_with_their_images(sampler, views):
    archive = plain_archive()
    indices = np.random.default_rng(3).permutation(NUM_IMAGES)[:45]
    data = training_dataset(archive, indices, **COMMON, sampler=sampler, views=views, colour=0.0)
    labelled = {index for index in indices if index % 10}
    if sampler == "classes":
        sets = Counter(archive.labels[index].tobytes() for index in labelled)
        labelled = {index for index in labelled if sets[archive.labels[index].tobytes()] > 1}
    assert data.num_not_drawn == 45 - len(labelled)
    assert data.steps_per_epoch == len(labelled) // 8
    seen = batches(data)
    assert len(seen) == 4 * data.steps_per_epoch == data.dataset.cardinality()
    assert data.dataset.element_spec[0].shape == (8 * views, 4, 4, 3)
    assert data.dataset.element_spec[1].shape == (8 * views, 5)
    for images, labels in seen:
        assert images.dtype == labels.dtype == np.float32
        numbers = image_numbers(images)
        np.testing.assert_array_equal(labels, archive.labels[numbers])
        np.testing.assert_array_equal(numbers, np.tile(numbers[:8], views))
        assert labelled.issuperset(numbers)


def test_batches_of_classes_hold_alike_many_images_of_each_label_set():
    archive = plain_archive(labels=np.eye(5)[np.arange(NUM_IMAGES) % 5])
    data = training_dataset(archive, ALL, **(COMMON | {"epochs": 20}), sampler="classes", augment=False)
    for _, labels in batches(data):
        assert sorted(labels.sum(axis=0)) == [0, 0, 0, 4, 4]
    np.testing.assert_allclose(data.weights.sum(), 1)
    drawn = np.concatenate([image_numbers(images) for images, _ in batches(data)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=NUM_IMAGES) / len(drawn), data.weights)
    with pytest.raises(ValueError, match="images_per_class must be >= 2 and divide batch_size=8, got 3"):
        training_dataset(archive, ALL, **(COMMON | {"images_per_class": 3}), sampler="classes")
    with pytest.raises(ValueError, match="images_per_class must be >= 2 and divide batch_size=8, got 1"):
        training_dataset(archive, ALL, **(COMMON | {"images_per_class": 1}), sampler="classes")
    with pytest.raises(ValueError, match=r"must be >= 2 images_per_class, .* got 8 and 8"):
        training_dataset(archive, ALL, **(COMMON | {"images_per_class": 8}), sampler="classes")
    lonely = plain_archive(labels=np.eye(NUM_IMAGES), label_names=tuple(map(str, range(NUM_IMAGES))))
    with pytest.raises(ValueError, match="got 8 and 0 with a companion of 60"):
        training_dataset(lonely, ALL, **COMMON, sampler="classes")


def test_without_augmentation_the_image_is_the_resize():
    archive = noisy_archive()
    data = training_dataset(archive, ALL, **COMMON, views=2, augment=False)
    resized = load_images(archive, ALL, 4, progress=False).astype(np.float32)
    for images, labels in batches(data):
        distance = np.abs(images[:, None] - resized[None]).max(axis=(2, 3, 4))
        numbers = distance.argmin(axis=1)
        assert (distance.min(axis=1) == 0).all()
        np.testing.assert_array_equal(labels, archive.labels[numbers])
        np.testing.assert_array_equal(images[:8], images[8:])


def test_uniform_epochs_show_each_labelled_image_at_most_once():
    data = training_dataset(plain_archive(), ALL, **COMMON, sampler="uniform", colour=0.0)
    seen = [image_numbers(images) for images, _ in batches(data)]
    for epoch in range(4):
        numbers = np.concatenate(seen[6 * epoch : 6 * epoch + 6])
        assert len(numbers) == 48 == len(set(numbers))  # of 54: six are dropped, others each epoch


@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "classes"])
def test_draw_frequencies_match_the_weights(sampler):
    archive = plain_archive()
    epochs = 60
    options = COMMON | {
        "epochs": epochs,
        "image_size": 1,
        "augment": False,
        "sampler": sampler,
        "power": 1.0,
    }
    data = training_dataset(archive, ALL, **options)
    weights = label_aware_weights(archive.labels, 0.0 if sampler == "uniform" else 1.0)
    np.testing.assert_array_equal(data.weights, weights)
    draws = epochs * data.steps_per_epoch * 8
    counts = np.bincount(np.concatenate([image_numbers(images) for images, _ in batches(data)]), minlength=NUM_IMAGES)
    assert counts.sum() == draws and counts[weights == 0].sum() == 0
    # Independent draws would give chi-square with 53 degrees of freedom, above 90.6 in one seed of a thousand;
    # both samplers spread the draws more evenly than that.
    expected = draws * weights[weights > 0]
    assert ((counts[weights > 0] - expected) ** 2 / expected).sum() < 90.6
    # Counts of a sampler that ignores the weights are far outside.
    assert sampler == "uniform" or ((expected.mean() - expected) ** 2 / expected).sum() > 300


@pytest.mark.parametrize("sampler", ["weighted", "repeat"])
def test_resumed_run_sees_the_same_batches(sampler):
    options = COMMON | {"sampler": sampler, "views": 2}
    data = training_dataset(noisy_archive(), ALL, **options)
    whole = batches(data)
    assert_same(whole, batches(data))
    tf.random.set_seed(3)
    tail = batches(training_dataset(noisy_archive(), ALL, **options, initial_epoch=3))
    assert_same(whole[3 * data.steps_per_epoch :], tail)
    assert batches(training_dataset(noisy_archive(), ALL, **options, initial_epoch=4)) == []


def test_epochs_steps_and_seeds_all_differ():
    seen = [
        images.tobytes()
        for seed in (5, 6)
        for images, _ in batches(training_dataset(noisy_archive(), ALL, **(COMMON | {"seed": seed})))
    ]
    assert len(set(seen)) == len(seen) == 2 * 4 * 6


def test_one_image_looks_different_at_every_epoch_and_step():
    settings = COMMON | {"batch_size": 1, "steps_per_epoch": 3, "colour": 0.0, "image_size": 8}
    data = training_dataset(noisy_archive(), np.array([1]), **settings)
    assert len({images.tobytes() for images, _ in batches(data)}) == 4 * 3


def test_cached_or_not_and_whatever_the_parallelism():
    archive = noisy_archive()
    needed = 54 * 5 * 5 * 3  # labelled images at ceil(1.25 * 4) pixels
    cached = training_dataset(archive, ALL, **COMMON, cache_bytes=needed)
    decoded = training_dataset(archive, ALL, **COMMON, cache_bytes=needed - 1)
    assert cached.cached and not decoded.cached
    expected = batches(cached)
    assert_same(expected, batches(decoded))
    for threads in (1, 4):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = threads
        assert_same(expected, list(decoded.dataset.with_options(options).as_numpy_iterator()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_longer_than_the_data(sampler):
    data = training_dataset(
        plain_archive(), ALL, **(COMMON | {"epochs": 2}), sampler=sampler, steps_per_epoch=20, colour=0.0
    )
    seen = [image_numbers(images) for images, _ in batches(data)]
    assert len(seen) == 40 and data.steps_per_epoch == 20
    first, second = np.concatenate(seen[:20]), np.concatenate(seen[20:])
    assert len(set(first)) > 45 and (first != second).any()


def test_fit_trains_on_it():
    import keras

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.compile(optimizer="sgd", loss="mse")
    data = training_dataset(noisy_archive(), ALL, **COMMON, initial_epoch=1)
    options = {"steps_per_epoch": data.steps_per_epoch, "shuffle": False, "verbose": 0}
    history = model.fit(data.dataset, initial_epoch=1, epochs=4, **options)
    assert len(history.history["loss"]) == 3


def distributed_batches(out: str) -> None:
    """Run in a process of its own: batches of two logical CPU replicas, put together again."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    tf.config.experimental.enable_op_determinism()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    result = {}
    for sampler in ("weighted", "repeat"):
        data = training_dataset(noisy_archive(), ALL, **COMMON, sampler=sampler, views=2)
        for number, (images, labels) in enumerate(strategy.experimental_distribute_dataset(data.dataset)):
            parts = strategy.experimental_local_results(images)
            assert [len(part) for part in parts] == [8, 8]
            result[f"{sampler}_{number}_images"] = np.concatenate(parts)
            result[f"{sampler}_{number}_labels"] = np.concatenate(strategy.experimental_local_results(labels))
    np.savez(out, **result)


@pytest.mark.parametrize("views", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_parts_put_together_are_the_batches_and_read_their_own_images(views):
    settings = COMMON | {"epochs": 2, "views": views}
    whole = batches(training_dataset(noisy_archive(), ALL, **settings))
    for cache_bytes in (0, 2**30):
        together = []
        for worker in range(2):
            seen, archive = Counter(), noisy_archive()
            read = archive.read_image
            counted = noisy_archive(read_image=lambda index, read=read, seen=seen: seen.update([index]) or read(index))
            parts = Parts(range(2 * worker, 2 * worker + 2), 4)
            found = batches(training_dataset(counted, ALL, **settings, parts=parts, cache_bytes=cache_bytes))
            pairs = zip(found[::2], found[1::2], strict=True)
            together.append([[np.concatenate(each) for each in zip(*pair, strict=True)] for pair in pairs])
            drawn = sum(len(labels) for _, labels in found)
            assert seen.total() < drawn if cache_bytes else seen.total() == drawn
        for batch, *parts in zip(whole, *together, strict=True):
            for expected, *rows in zip(batch, *parts, strict=True):
                np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-5, atol=1e-3)


def test_parts_must_divide_the_rows():
    with pytest.raises(ValueError, match="the 8 rows of a batch must be divisible by its parts, got 3"):
        training_dataset(noisy_archive(), ALL, **COMMON, parts=Parts(range(1), 3))


@pytest.mark.slow
def test_replicas_share_the_batches_of_one_device(tmp_path, run_python):
    out = str(tmp_path / "batches.npz")
    run_python(f"from tests.test_pipeline import distributed_batches; distributed_batches({out!r})", warm=True)
    with np.load(out) as together:
        for sampler in ("weighted", "repeat"):
            one_device = batches(training_dataset(noisy_archive(), ALL, **COMMON, sampler=sampler, views=2))
            numbers = range(len(one_device))
            assert f"{sampler}_{len(one_device)}_images" not in together
            shared = [(together[f"{sampler}_{n}_images"], together[f"{sampler}_{n}_labels"]) for n in numbers]
            assert_same(one_device, shared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "random"}, "sampler must be one of weighted, repeat, uniform, classes, got 'random'"),
        ({"views": 3}, "views must be 1 or 2, got 3"),
        ({"batch_size": 55}, "got 55 and 54 labelled of 60. Lower batch_size"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"image_size": 0}, "image_size must be >= 1, got 0"),
        ({"initial_epoch": 5}, "initial_epoch must be between 0 and epochs=4, got 5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be >= 1, got 0"),
        ({"power": -1.0}, "power must be finite and >= 0, got -1.0"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale must be"),
        ({"colour": 1.0}, "colour must be in"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        training_dataset(plain_archive(), ALL, **(COMMON | changes))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "at least one integer"),
        ([0.5], "at least one integer, got shape .* of float64"),
        ([[1]], "at least one integer"),
        ([0, 60], "between 0 and 59, the last image of 'plain', got 0 to 60"),
        ([-1], "between 0 and 59"),
        ([0, 10, 20], "At least one image must have a label, none of 3 has"),
    ],
)
def test_bad_indices(indices, message):
    with pytest.raises(ValueError, match=message):
        training_dataset(plain_archive(), np.array(indices), **(COMMON | {"batch_size": 1}))
