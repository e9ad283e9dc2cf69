"""How are paths and URLs opened alike? URLs are downloaded once, to $FVCORE_CACHE or ~/.torch/iopath_cache."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathHandler", "PathManager"]


class Detectron2Handler(PathHandler):
    """detectron2://x/y is a published model file of the real detectron2."""

    PREFIX = "detectron2://"
    URL = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs) -> str:
        return PathManager.get_local_path(self.URL + path.removeprefix(self.PREFIX), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return open(self._get_local_path(path), mode, **kwargs)


PathManager = PathManagerBase()
PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
