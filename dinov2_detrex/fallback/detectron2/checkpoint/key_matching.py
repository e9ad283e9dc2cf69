"""Which entry of a foreign state dict belongs to which parameter, if only the endings of the names agree?"""

import logging
from typing import Any

logger = logging.getLogger(__name__)


def rename_by_suffix(state_dict: dict[str, Any], model_state: dict[str, Any]) -> dict[str, Any]:
    """The state dict under the model's names.

    Each model key takes the longest file key that equals it or that it ends with after a dot; of another shape it is
    left out with a warning. File keys that nothing takes keep their names.

    Raises:
        ValueError: two model keys take the same file key.
    """
    taken_by: dict[str, str] = {}
    for model_key, value in model_state.items():
        file_key = _longest_suffix_in(state_dict, model_key)
        if file_key is None or not _same_shape(model_key, value, file_key, state_dict[file_key]):
            continue
        if file_key in taken_by:
            raise ValueError(f"{file_key} of the file matches both {taken_by[file_key]} and {model_key} of the model")
        taken_by[file_key] = model_key
    if not taken_by:
        logger.warning("No key of the file matches the end of any key of the model")
    return {taken_by.get(key, key): value for key, value in state_dict.items()}


def _longest_suffix_in(state_dict: dict[str, Any], model_key: str) -> str | None:
    parts = model_key.split(".")
    suffixes = (".".join(parts[i:]) for i in range(len(parts)))  # the longest first
    return next((suffix for suffix in suffixes if suffix in state_dict), None)


def _same_shape(model_key: str, model_value: Any, file_key: str, file_value: Any) -> bool:
    if tuple(model_value.shape) == tuple(file_value.shape):
        return True
    shapes = tuple(file_value.shape), tuple(model_value.shape)
    logger.warning(
        "%s of the file has shape %s, %s of the model %s: left out", file_key, shapes[0], model_key, shapes[1]
    )
    return False
