"""How does a frozen backbone compute what it gives for an image once? By the content of all that decides it.

The key of an entry is a digest of the image as the backbone is given it (augmented, normalised, padded), of the
weights, of how the model was built, of the precision, and of what computes: versions, device, threads. Each image is
computed alone, whatever stands beside it in the batch, so that an entry is a function of its key and a run does not
depend on which entries were there.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dinov2_detrex.backbone.feature_store import FeatureStore

Maps = dict[str, Tensor]

uncompiled: Any = torch.compiler.disable  # whose own annotation makes no method


class FeatureCache:
    """What a frozen backbone gives, kept in a store.

    Args:
        store: on disk.
        dtype: in which features are kept; they come back in the images' own. None keeps them as they are, to the bit.

    Attributes:
        found, computed: images so far.
    """

    def __init__(self, store: FeatureStore, dtype: torch.dtype | None = None):
        self.store, self.dtype = store, dtype
        self.found, self.computed = 0, 0
        self._weights: tuple[Any, str] = (None, "")  # versions of the tensors, and the digest of their content

    @uncompiled
    def maps(self, images: Tensor, compute: Callable[[Tensor], Maps], net: nn.Module, how_built: str) -> Maps:
        """What `compute` gives for images (B, C, h, w), image by image, computed or kept.

        Args:
            images: as the backbone is given them.
            compute: images (1, C, h, w) to tensors (1, ...) by name; of this image alone.
            net: holds the weights that `compute` uses.
            how_built: anything else that decides what it gives.
        """
        common = "\n".join((self._weights_digest(net), how_built, str(self.dtype), _surroundings(images)))
        rows = [self._row(image, compute, common) for image in images]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, image: Tensor, compute: Callable[[Tensor], Maps], common: str) -> Maps:
        key = hashlib.blake2b(f"{common}\n{tuple(image.shape)}\n".encode(), digest_size=20)
        key.update(_bytes_of(image))
        kept = self.store.read(key.hexdigest())
        if kept is None:
            self.computed += 1
            kept = {name: self._as_kept(value[0]) for name, value in compute(image[None]).items()}
            self.store.write(key.hexdigest(), {name: value.cpu() for name, value in kept.items()})
        else:
            self.found += 1
        restored = {name: value.to(image.device) for name, value in kept.items()}
        return restored if self.dtype is None else {name: value.to(image.dtype) for name, value in restored.items()}

    def _as_kept(self, value: Tensor) -> Tensor:
        return value.detach().to(self.dtype or value.dtype).clone(memory_format=torch.contiguous_format)

    def _weights_digest(self, net: nn.Module) -> str:
        """Of all parameters and buffers; computed anew where one of them was written to since."""
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        versions = [(name, value.data_ptr(), value._version) for name, value in tensors.items()]
        if versions != self._weights[0]:
            digest = hashlib.blake2b(digest_size=20)
            for name, value in tensors.items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(_bytes_of(value.detach()))
            self._weights = (versions, digest.hexdigest())
        return self._weights[1]


def _bytes_of(value: Tensor) -> Any:  # an array, which has a buffer
    return value.cpu().contiguous().flatten().view(torch.uint8).numpy()


def _surroundings(images: Tensor) -> str:
    """What decides the last bits beside the model: precision, device, versions."""
    device = images.device
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    if device.type == "cuda":
        computer = torch.cuda.get_device_name(device)
    else:
        computer = f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = (f"torch {torch.__version__}", f"timm {timm.__version__}", _code_digest())
    matrices = torch.get_float32_matmul_precision()
    return ", ".join((str(images.dtype), str(autocast), matrices, computer, *versions))


@functools.cache
def _code_digest() -> str:
    """Of the files of this folder, which may compute something else in another version."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
