"""Saved classifiers on the Hugging Face Hub: one repository, one `classifier.safetensors` and a model card.

Nothing that comes from there is executed: the file is tensors and JSON, and is checked before it is used.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..toolbox.dassl.errors import ExpectedError, WrongValue, optional
from ..toolbox.dassl.utils import atomic_write
from . import file

if TYPE_CHECKING:
    from .classifier import Classifier

PREFIX = "hf://"
ENDPOINT = "https://huggingface.co"
REACH_SECONDS = 10  # for the hub's first answer


class HubError(ExpectedError, OSError):
    """The hub cannot be reached, refuses, or has not what was asked for."""


def endpoint() -> str:
    """The hub's address; HF_ENDPOINT names another one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT


def parse(name: str) -> tuple[str, str | None]:
    """Repository and revision (branch, tag or commit) of OWNER/NAME or OWNER/NAME@REVISION, with or without "hf://".

    Raises:
        WrongValue: it is neither.
    """
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(PREFIX), re.ASCII)
    if found is None or ".." in name or "--" in found[1]:
        raise WrongValue(f"expected OWNER/NAME or OWNER/NAME@REVISION on the hub, found {name!r}")
    return found[1], found[2]


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Errors of huggingface_hub within the block as one message each.

    Raises:
        HubError: saying what is wrong and what to do.
    """
    errors = optional("huggingface_hub.errors", "hub")
    where = f"{repo} on {endpoint()}"
    try:
        with quiet():
            yield
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{where} has no such revision") from error
    except errors.LocalEntryNotFoundError as error:  # (an EntryNotFoundError, but it says that nothing could be asked)
        raise HubError(f"cannot reach {endpoint()}, and {repo} was not fetched before") from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{where} holds no {file.FILE}: it was not pushed by mocoop") from error
    except errors.GatedRepoError as error:
        raise HubError(
            f"{where} is gated: ask for access on its page, then log in (hf auth login, or HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no {where}, or it is private and you are not logged in (hf auth login, or HF_TOKEN)"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{where}: your token may not do this (HTTP {status}); it needs to be valid and to write"
            ) from error
        raise HubError(f"{where}: {str(error).strip().splitlines()[0][:300]}") from error
    except (ConnectionError, TimeoutError, errors.HfHubHTTPError.__bases__[0]) as error:  # of the HTTP client it uses
        raise HubError(f"cannot reach {endpoint()} ({type(error).__name__}: {str(error)[:200]})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without huggingface_hub's log lines about each try within the block: the one message at the end says it."""
    logging = optional("huggingface_hub.utils.logging", "hub")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def ask() -> None:
    """Ask the hub for anything, once. huggingface_hub itself tries for minutes where there is no network.

    Raises:
        HubError: there is no answer within REACH_SECONDS.
    """
    utils, errors = optional("huggingface_hub.utils", "hub"), optional("huggingface_hub.errors", "hub")
    try:
        utils.get_session().head(endpoint(), timeout=REACH_SECONDS)
    except (OSError, errors.HfHubHTTPError.__bases__[0]) as error:  # of the HTTP client it uses
        raise HubError(f"cannot reach {endpoint()} ({type(error).__name__}: {str(error)[:200]})") from error


# ---- there
# --------------------------------------------------------------------------------------------------------------


def push(clf: Classifier, repo: str, private: bool = False, licence: str | None = None, overwrite: bool = False) -> str:
    """Put a classifier and its model card into a repository of one's own, in one commit; returns the address.

    Args:
        clf: trained; repo: OWNER/NAME, made if there is none; private: when it is made.
        licence: its identifier on the hub, such as "mit", for the card; None = the card says that none is stated.
        overwrite: also where a classifier is there already (the earlier one stays in the repository's history).

    Raises:
        MissingPackage: the extra `hub` is not installed.
        HubError: no token, no right, no network; FileExistsError: there is a classifier, and it may not be replaced.
        WrongValue: repo or licence is no such thing.
    """
    hub = optional("huggingface_hub", "hub")
    repo, revision = parse(repo)
    if revision:
        raise WrongValue(f"expected OWNER/NAME to push to, found a revision: {revision!r}")
    card = model_card(clf, repo, licence)
    if hub.get_token() is None:
        raise HubError("not logged in: run `hf auth login`, or set HF_TOKEN to a token that may write")
    api = hub.HfApi(endpoint=endpoint(), library_name="mocoop")
    with tempfile.TemporaryDirectory() as folder, explained(repo):
        ask()
        clf.save(Path(folder) / file.FILE)
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        api.create_repo(repo, private=private, exist_ok=True)
        if not overwrite and api.file_exists(repo, file.FILE):
            raise FileExistsError(f"{repo} has a {file.FILE} already; replace it with --overwrite")
        added = [hub.CommitOperationAdd(name, str(Path(folder, name))) for name in (file.FILE, "README.md")]
        api.create_commit(repo, added, commit_message=f"{clf.model.method}, {len(clf.classes_)} classes")
    return f"{endpoint()}/{repo}"


def model_card(clf: Classifier, repo: str, licence: str | None = None) -> str:
    """The README of a repository: what the classifier is, how it was trained, what was measured, how to use it.

    Raises:
        WrongValue: the licence is no identifier.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise WrongValue(f"licence: expected an identifier such as mit or apache-2.0, found {licence!r}")
    model, fit, held_out = clf.model, clf.fit_, clf.figures_.get("held_out") or {}
    labels = ", ".join(one_line(label) for label in clf.classes_.tolist()[:100])
    more, clip = len(clf.classes_) - 100, one_line(model.backbone.name)
    trained = [f"{key}: {fit[key]}" for key in ("images", "shots", "seed", "dataset") if fit.get(key) is not None]
    figures = [f"| {key} | {value:.4g} |" for key, value in held_out.items() if value is not None]
    measured = ["| | |", "|---|---|", *figures] if figures else ["Nothing was measured on held-out images."]
    stated = licence or "none is stated; ask its author before you use it"
    return "\n".join(
        [
            "---",
            *([f"license: {licence}"] if licence else []),
            "library_name: mocoop",
            "pipeline_tag: image-classification",
            "tags: [clip, prompt-learning]",
            "---",
            "",
            f"# {repo.split('/')[1]}",
            "",
            f"An image classifier: {model.method} on CLIP's {clip}, {len(clf.classes_)} classes.",
            "",
            "```python",
            "from mocoop import load",
            "",
            f'load("{PREFIX}{repo}").predict(["new.jpg"])',
            "```",
            "",
            f"**Classes:** {labels}{f' and {more} more' if more > 0 else ''}",
            "",
            f"**Training:** {one_line('; '.join(trained)) or 'none'}.",
            "",
            "**Measured on images that were held out in turn:**",
            "",
            *measured,
            "",
            f"**Licence:** {stated}. CLIP's own weights have a licence of their own.",
            "",
        ]
    )


def one_line(text: object) -> str:
    """A label or name without what Markdown or HTML would read."""
    return re.sub(r"[\s<>`|*\[\]\\]+", " ", str(text)).strip()


# ---- and back
# -------------------------------------------------------------------------------------------------------------


def fetch(name: str) -> Path:
    """The saved classifier of a repository, in huggingface_hub's cache, checked; fetched unless it is there already.

    Args:
        name: see `parse`.

    Raises:
        MissingPackage, HubError: see `push`; WrongValue: the file is no classifier, or damaged.
    """
    hub = optional("huggingface_hub", "hub")
    repo, revision = parse(name)
    given = {"revision": revision, "endpoint": endpoint(), "library_name": "mocoop"}
    with explained(repo):
        try:
            ask()
            found = hub.hf_hub_download(repo, file.FILE, **given)
        except HubError:  # what was fetched before will do
            found = hub.hf_hub_download(repo, file.FILE, **given, local_files_only=True)
    file.read_file(Path(found))
    return Path(found)


def pull(name: str, out: str | Path, overwrite: bool = False) -> None:
    """Fetch a classifier and put it in place once it is checked.

    Args:
        name: see `parse`; out: the file; overwrite: replace an existing one.

    Raises:
        FileExistsError: there is one; and as `fetch`.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give another --out, or --overwrite")
    found = fetch(name)
    with atomic_write(out) as temporary:
        shutil.copyfile(found, temporary)
