"""What a saved model may hold of ours is known to Keras once both are imported, in either order.

Keras finds a class in a `.keras` file only if the module that registers it was imported. `import macl_tf` alone must
not load Keras, and with it TensorFlow (`macl --help`): where Keras is not there yet, its import is waited for.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# Every module with a class that `register_keras_serializable` marks, by the backend that it needs (a test compares).
MODULES = {
    "macl_tf.losses": "",
    "macl_tf.evaluation.retrieval_metrics": "",
    "macl_tf.models.fast_layers": "",
    "macl_tf.models.cached_gradients": "tensorflow",
    "macl_tf.training.optimizer": "",
}


def register_with_keras() -> None:
    """Registers our classes now if Keras is imported, else as soon as it is."""
    if "keras" in sys.modules:
        _import_modules()
    else:
        sys.meta_path.insert(0, _WhenKerasComes())


def _import_modules() -> None:
    backend = sys.modules["keras"].config.backend()
    for module, needs in MODULES.items():
        if needs in ("", backend):
            importlib.import_module(module)
    for entry in importlib.import_module("macl_tf.losses.registry").BY_NAME.values():
        importlib.import_module(f"macl_tf.losses.{entry.home}")  # or is being imported just now


class _WhenKerasComes(importlib.abc.MetaPathFinder):
    """Finds Keras as everybody does, and registers after it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec of Keras, once; None for all else, which others find.

        A module of losses that is imported before Keras waits for it: registering imports all of them, which could not
        go well in the middle of one of them.
        """
        if fullname.startswith("macl_tf.losses.") and fullname != "macl_tf.losses.registry":
            importlib.import_module("keras")
            found = sys.modules.get(fullname)
            return None if found is None else ModuleSpec(fullname, _Imported(found))
        if fullname != "keras" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _import_modules()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


class _Imported(importlib.abc.Loader):
    """Gives a module that has been imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run; the module keeps where it came from."""
        module.__spec__ = self.spec
