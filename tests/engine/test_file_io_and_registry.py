"""Paths and URLs open alike; objects and their dotted names find each other."""

import collections
import http.server
import threading
from functools import partial

import pytest
import torch
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import Registry, _convert_target_to_string, locate


def test_local_paths_are_files_and_folders(tmp_path):
    folder = str(tmp_path / "a" / "b")
    PathManager.mkdirs(folder)
    PathManager.mkdirs(folder)
    with PathManager.open(f"{folder}/x.txt", "w") as file:
        file.write("hello")
    PathManager.copy(f"{folder}/x.txt", f"{folder}/y.txt")
    assert PathManager.isdir(folder) and PathManager.isfile(f"{folder}/y.txt") and PathManager.exists(folder)
    assert sorted(PathManager.ls(folder)) == ["x.txt", "y.txt"]
    PathManager.rm(f"{folder}/x.txt")
    assert not PathManager.exists(f"{folder}/x.txt")
    assert PathManager.get_local_path(f"{folder}/y.txt") == f"{folder}/y.txt"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    served: list[str] = []

    def do_GET(self):
        self.served.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server of this machine's own that serves the folder `web`."""
    (tmp_path / "web" / "x").mkdir(parents=True)
    QuietHandler.served = []
    handler = partial(QuietHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


def test_a_url_is_downloaded_once_to_the_cache(tmp_path, server, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "web" / "x" / "weights.pth").write_bytes(b"weights")
    paths = [PathManager.get_local_path(f"{server}/x/weights.pth") for _ in range(2)]
    assert paths[0] == paths[1] and paths[0].startswith(str(tmp_path / "cache")) and paths[0].endswith("x/weights.pth")
    assert open(paths[0], "rb").read() == b"weights"
    assert QuietHandler.served == ["/x/weights.pth"]


@pytest.mark.fallback("detectron2")
def test_detectron2_urls_stand_for_the_published_files(tmp_path, server, monkeypatch):
    from detectron2.utils.file_io import Detectron2Handler

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    assert Detectron2Handler.URL == "https://dl.fbaipublicfiles.com/detectron2/"
    monkeypatch.setattr(Detectron2Handler, "URL", f"{server}/")
    (tmp_path / "web" / "x" / "y.txt").write_text("model")
    with PathManager.open("detectron2://x/y.txt") as file:
        assert file.read() == "model"


@pytest.mark.parametrize(
    "target, name",
    [
        (torch.nn.Conv2d, "torch.nn.Conv2d"),
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (collections.OrderedDict, "collections.OrderedDict"),
        (dict, "builtins.dict"),
        (torch.nn.Module.train, "torch.nn.Module.train"),
    ],
)
def test_names_are_the_shortest_that_lead_back(target, name):
    assert _convert_target_to_string(target) == name and locate(name) is target


@pytest.mark.parametrize("name", ["no_such_package.x", "torch.nn.NoSuchLayer", "torch.no.such"])
def test_a_name_that_leads_nowhere_is_an_import_error_that_names_it(name):
    with pytest.raises(ImportError, match=name):
        locate(name)


def test_a_registry_finds_by_name():
    registry = Registry("THINGS")

    @registry.register()
    class Thing:
        pass

    assert registry.get("Thing") is Thing and "Thing" in registry
    with pytest.raises(KeyError):
        registry.get("Other")
