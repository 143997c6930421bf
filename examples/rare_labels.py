# %% [markdown]
# # Example: search a small archive in Python
#
# Train on the built-in synthetic archive with MACL, measure retrieval before and after, and look at the neighbours of
# tiles with rare labels. It takes half a minute on two cores and downloads nothing. Every `# %%` begins a cell: editors
# such as VS Code, Spyder and PyCharm run them one by one, and `python examples/rare_labels.py` runs them all.

# %% [markdown]
# ## An archive, its parts and its labels
#
# `load_archive` reads your own folder in the same way: `load_archive("folder", "TILES")`.

# %%
import keras
import numpy as np

import macl_tf
from macl_tf.datasets import load_archive
from macl_tf.datasets.splits import split_archive
from macl_tf.evaluation.retrieval import compare_table, embed, nearest
from macl_tf.figures import contact_sheet
from macl_tf.pipeline.pipeline import load_images, training_dataset

keras.utils.set_random_seed(0)
archive = load_archive("synthetic", num_tiles=800, seed=0)
splits = split_archive(archive, "random", validation=0.05, test=0.3, seed=0)
statistics = macl_tf.LabelStatistics.from_labels(archive.labels[splits.train], archive.label_names)
rare = [archive.label_names[label] for label in statistics.rarest()]
print(f"{len(splits.train)} tiles to train with, {len(splits.test)} to test with")
print("Rarest third of the labels:", ", ".join(rare))

# %% [markdown]
# ## An encoder and its retrieval before training
#
# The backbone is any function of Keras layers; the default, ResNet-18, would take longer than this example should. Each
# test tile is a query among the other test tiles. An encoder with random weights already sorts by colour.


# %%
def backbone(pixels):
    x = pixels
    for filters in (32, 64, 128, 128):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return x


encoder = macl_tf.build_encoder(image_size=48, backbone=backbone, embedding_dim=64)
images, labels = load_images(archive, splits.test, 48, progress=False), archive.labels[splits.test]
names = {"label_names": archive.label_names, "label_counts": statistics.counts}
untrained = macl_tf.evaluate(embed(encoder, images, progress=False), labels, **names)

# %% [markdown]
# ## Training
#
# The data set samples tiles by their labels, rare ones more often, and augments them. The loss is a Keras loss.

# %%
data = training_dataset(
    archive, splits.train, image_size=48, batch_size=64, seed=0, epochs=20, steps_per_epoch=8, progress=False
)
encoder.compile(keras.optimizers.AdamW(3e-3), loss=macl_tf.MACL(statistics))
history = encoder.fit(data.dataset, epochs=20, steps_per_epoch=8, shuffle=False, verbose=0)
print(f"Loss: {history.history['loss'][0]:.2f} in the first epoch, {history.history['loss'][-1]:.2f} in the last")

# %% [markdown]
# ## Retrieval after training

# %%
embeddings = embed(encoder, images, progress=False)
trained = macl_tf.evaluate(embeddings, labels, **names)
print(compare_table({"untrained": untrained, "trained": trained}))

# %% [markdown]
# ## Searching
#
# The nearest neighbours of the first test tile of each of the four rarest labels. Labels shared with the query are
# blue, and ★ marks rare ones.

# %%
queries = [int(np.flatnonzero(labels[:, label])[0]) for label in statistics.rarest()[:4]]
scores, found = nearest(embeddings, k=6)  # of every test tile among the others
scores, found = scores[queries], found[queries]
contact_sheet(
    [archive.read_image(splits.test[query]) for query in queries],
    labels[queries],
    [[archive.read_image(splits.test[row]) for row in rows] for rows in found],
    labels[found],
    scores,
    "rare_labels.png",
    label_names=archive.label_names,
    rare=statistics.rarest(),
)
