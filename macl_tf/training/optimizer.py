"""AdamW that moves a pretrained backbone more slowly than the head."""

from __future__ import annotations

from typing import Any

import keras

# First parts of the paths of what is no backbone: it begins from random weights.
_HEAD = ("projection_", "logits", "proxy")


@keras.saving.register_keras_serializable("macl_tf")
class BackboneAdamW(keras.optimizers.AdamW):
    """AdamW whose steps of the backbone's variables are scaled.

    Args:
        backbone_factor: Factor of the learning rate of all variables but projection, classifier and proxies, > 0.
        **kwargs: As in Keras.
    """

    def __init__(self, *args: Any, backbone_factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backbone_factor = backbone_factor
        self._slow: set[Any] = set()

    def build(self, variables: Any) -> None:
        """As in Keras."""
        super().build(variables)
        # Told by key: on TensorFlow a step gets the variable that a Keras variable holds, which has no path.
        self._slow = {self._var_key(variable) for variable in variables if not variable.path.startswith(_HEAD)}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """As in Keras."""
        factor = self.backbone_factor if self._var_key(variable) in self._slow else 1.0
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        """Everything `__init__` takes."""
        return {**super().get_config(), "backbone_factor": self.backbone_factor}
