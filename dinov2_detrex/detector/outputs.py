"""What the heads say, in detrex's form: dicts of logits and boxes, of the ordinary and of the denoising queries."""

from typing import TypedDict

from torch import Tensor


class Prediction(TypedDict):
    """`pred_logits` (B, Q, K) and `pred_boxes` (B, Q, 4), CXCYWH normalised to the image."""

    pred_logits: Tensor
    pred_boxes: Tensor


class Outputs(Prediction, total=False):
    """The prediction of the last decoder layer; those of the earlier layers and of the encoder's proposals."""

    aux_outputs: list[Prediction]
    enc_outputs: Prediction


class OneToManyMeta(TypedDict):
    """The outputs of the groups of training queries, (B, groups x queries of one, ...), and how many groups."""

    num_groups: int
    outputs: Outputs


class DenoisingMeta(TypedDict):
    """detrex's `dn_metas`: slots of a group (2 n_max), number of groups, and the outputs of the denoising queries."""

    single_padding: int
    dn_num: int
    output_known_lbs_bboxes: Outputs


def decoder_layers(outputs: Outputs) -> list[Prediction]:
    """The predictions of every decoder layer, first to last."""
    return [*outputs.get("aux_outputs", ()), outputs]


def split_queries(outputs: Outputs, count: int) -> tuple[Outputs, Outputs]:
    """Outputs of the ordinary queries, with those of the encoder, and of the first `count`, the denoising ones."""
    layers = decoder_layers(outputs)
    denoised = [of_queries(layer, slice(count)) for layer in layers]
    ordinary = [of_queries(layer, slice(count, None)) for layer in layers]
    rest: Outputs = {**ordinary[-1], "aux_outputs": ordinary[:-1]}
    if "enc_outputs" in outputs:
        rest["enc_outputs"] = outputs["enc_outputs"]
    return rest, {**denoised[-1], "aux_outputs": denoised[:-1]}


def split_groups(outputs: Outputs, num_queries: int) -> tuple[Outputs, Outputs]:
    """Outputs of the first `num_queries`, the ordinary ones, and of the groups after them; without denoising."""
    groups, ordinary = split_queries(outputs, num_queries)
    if "enc_outputs" in outputs:
        ordinary["enc_outputs"] = outputs["enc_outputs"]
        del groups["enc_outputs"]
    return ordinary, groups


def of_queries(prediction: Prediction, chosen: slice) -> Prediction:
    """The prediction of some of the queries alone."""
    return {
        "pred_logits": prediction["pred_logits"][:, chosen],
        "pred_boxes": prediction["pred_boxes"][:, chosen],
    }
