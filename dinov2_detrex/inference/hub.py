"""Where does a model package come from, and how is it handed on? From and to the Hugging Face Hub, or a folder."""

import os
import re
from pathlib import Path

from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.packages import CARD, CONFIG, EXAMPLES, FACTS, WEIGHTS, is_package, read_facts

PARTS = (WEIGHTS, CONFIG, FACTS, CARD, f"{EXAMPLES}/*")  # what is fetched and sent; anything else is left where it is
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_hub_id(name: str) -> bool:
    """True for what is written as the Hub's ids are, "owner/name"."""
    return _HUB_ID.fullmatch(name) is not None


def find_package(package: str | os.PathLike, revision: str | None = None) -> Path:
    """The folder of a package; one on the Hub is downloaded into the cache of `huggingface_hub` first.

    Args:
        package: a folder, or the id of a model on the Hub, "owner/name". A folder wins.
        revision: of the Hub's: a branch, tag or commit.

    Returns:
        a folder with the files of a package; what is in them is not looked at.

    Raises:
        UserError: no such folder or id, no package, or no connection and nothing in the cache.
    """
    folder = Path(package)
    if not folder.is_dir():
        if not is_hub_id(os.fspath(package)):
            raise UserError(f"{package} is neither a folder nor an id of the Hugging Face Hub, owner/name")
        folder = _downloaded(os.fspath(package), revision)
    if not is_package(folder):
        raise UserError(f"{package} is no model package: it has no {FACTS}; `dinov2-detrex package RUN` makes one")
    return folder


def _downloaded(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(PARTS)))
    except Exception as error:  # the Hub's own errors, those of its cache, and the network's
        raise UserError(f"{repo_id} is no folder here, and cannot be had from the Hub: {one_line(error)}") from error


def push_to_hub(package: str | os.PathLike, repo_id: str, private: bool = True, message: str = "Add a detector") -> str:
    """Send a package to the Hub, into a model repository that is made if need be.

    Args:
        package: its folder.
        repo_id: "owner/name"; who sends must be logged in (`hf auth login`, or HF_TOKEN).
        private: of a repository that is made; one that exists stays as it is.
        message: of the commit.

    Returns:
        the address of the commit.

    Raises:
        UserError: no package, not logged in, not allowed, or no connection.
    """
    read_facts(package)
    if not is_hub_id(repo_id):
        raise UserError(f"{repo_id!r} is no id of the Hugging Face Hub; it is written owner/name")
    from huggingface_hub import HfApi

    api = HfApi(library_name="dinov2_detrex")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repo_id, folder_path=Path(package), allow_patterns=list(PARTS), commit_message=message
        )
    except Exception as error:
        raise UserError(f"{package} cannot be sent to {repo_id}: {one_line(error)}") from error
    return str(sent.commit_url)
