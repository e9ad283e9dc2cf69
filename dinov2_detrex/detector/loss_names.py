"""How the loss of a prediction is called, and how much it counts: detrex's names, and the weights by them."""

import warnings
from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor

Branch = Literal["", "enc", "dn", "o2m"]  # decoder, encoder's proposals, denoising queries, one-to-many groups


class Place(NamedTuple):
    """Where in the detector a prediction is made.

    Attributes:
        branch: of what.
        layer: of the decoder, counted from 0; None for its last and for the encoder.
    """

    branch: Branch
    layer: int | None = None

    def named(self, loss: str) -> str:
        """The name of a loss of this prediction: `loss_class`, `loss_class_3`, `loss_class_enc`, `loss_class_dn_3`."""
        branch = f"_{self.branch}" if self.branch else ""
        return loss + branch + ("" if self.layer is None else f"_{self.layer}")


def decoder_places(branch: Branch, num_layers: int) -> list[Place]:
    """The decoder's layers, first to last."""
    return [*(Place(branch, layer) for layer in range(num_layers - 1)), Place(branch)]


def spelled_out(weight_dict: Mapping[str, float], num_layers: int) -> dict[str, float]:
    """The weight of every loss by its full name.

    A name that `weight_dict` leaves out has the weight of what it repeats: `loss_class_dn_7` that of `loss_class_dn`,
    and if there is none that of `loss_class`.

    Args:
        weight_dict: loss name -> weight.
        num_layers: of the decoder.
    """
    given = {name: float(weight) for name, weight in weight_dict.items()}
    elsewhere = [Place("enc"), *decoder_places("dn", num_layers), *decoder_places("o2m", num_layers)]
    earlier = decoder_places("", num_layers)
    repeated = {place.named(name): weight for name, weight in given.items() for place in elsewhere}
    return repeated | {place.named(name): weight for name, weight in given.items() for place in earlier} | given


def weighted(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Multiply every loss with its weight; one without a weight counts once, with a warning."""
    for name in [name for name in losses if name not in weights]:
        warnings.warn(f"{name} has no weight in weight_dict and is added with weight 1", stacklevel=2)
    return {name: loss * weights.get(name, 1.0) for name, loss in losses.items()}
