"""The web application: one image in, the answer and its reasons out. Every answer is JSON, also of what is refused.

    GET  /               the page
    GET  /health         {"status": "ok", "waiting": images that wait}
    GET  /model          classes, method, experts, limits, versions
    POST /predict        an image as the body, or as a file of multipart/form-data
    POST /predict/batch  several files of multipart/form-data; one that cannot be read is said so in its place

`probabilities` are a list of {"label", "probability"}, the most probable first, in both. What is refused, and what is
not there, is {"error": message}.

The model computes in one thread, one request after the other; who comes when too many wait is sent away (503). Bodies
are counted while they arrive. A page of another origin cannot use it: its `Origin` is refused, no CORS header is sent,
and a loopback server answers only to loopback names (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException as HTTPError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..classifier.classifier import Classifier
from ..classifier.images import to_image
from ..classifier.labels import Label
from ..toolbox.dassl.utils import readable_formats
from ..toolbox.dassl.utils.images import ImageError

PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("page.css", "page.js")
MOST_PIXELS = 50_000_000  # of one image: 150 MB once it is decoded
MOST_FILES = 64  # of one batch
BATCH_BODY = 8  # a batch's body may be as large as so many images of the largest size
FORM = 2**16  # bytes of a form around an image
MOST_WAITING = 64  # requests
READ_SECONDS = 60  # for a body to arrive
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


# ---- who may ask, and how much
# ------------------------------------------------------------------------------------------


class Guard:
    """Before the application: refuses foreign hosts and origins, and bodies that are too large.

    Args:
        app: the application; hosts: names it may be called by, None = any.
        limit: path -> largest body in bytes, and the message for a larger one.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, limit: Callable[[str], tuple[int, str]]):
        self.app, self.hosts, self.limit = app, hosts, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, (most, too_much), seen = Headers(scope=scope), self.limit(scope["path"]), 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, too_much)
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        if (refused := self.refusal(scope["method"], headers, most, too_much)) is not None:
            return await refused(scope, receive, with_headers)
        return await self.app(scope, counted, with_headers)

    def refusal(self, method: str, headers: Headers, most: int, too_much: str) -> JSONResponse | None:
        """The answer to a request that is not let through, None for all others."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and hostname(host) not in self.hosts:
            return failure(403, f"this server answers to {', '.join(sorted(self.hosts))}, not to {host[:100]!r}")
        foreign = origin is not None and origin.partition("://")[2] != host
        if method != "GET" and (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return failure(403, "pages of another origin cannot use this server")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            return failure(413, too_much)
        return None


def hostname(host: str) -> str:
    """The name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half of an IPv6 address
        return ""


def too_large(most: int, images: int = 1) -> str:
    """What to say of a body that is larger than so many images of `most` bytes may be."""
    smaller = "a smaller image" if images == 1 else "fewer or smaller images"
    return (
        f"more than {images * most / 2**20:g} MB were sent; send {smaller} (or start the server with a larger --max-mb)"
    )


def failure(status: int, message: str) -> JSONResponse:
    """What is sent where something is refused."""
    return JSONResponse({"error": message}, status)


class Turns:
    """One thread in which all work on the model is done, in the order in which it came.

    Args:
        most: requests that may wait.
    """

    def __init__(self, most: int = MOST_WAITING):
        self.most, self.waiting, self.pool = most, 0, ThreadPoolExecutor(1, "model")

    async def take(self, work: Callable, *args: object) -> object:
        """The result of `work(*args)`.

        Raises:
            HTTPException: 503, as many as may wait already do; 400, it raised an `ImageError`; 500, anything else.
        """
        if self.waiting >= self.most:
            raise HTTPException(503, "too many requests are waiting; try again in a moment", {"Retry-After": "1"})
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        except ImageError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:  # ours: whoever started the server sees it, others are answered as before
            logging.exception("a request failed")
            reason = f"something went wrong in the server ({type(error).__name__}); its own output says more"
            raise HTTPException(500, reason) from error
        finally:
            self.waiting -= 1


# ---- bodies
# -------------------------------------------------------------------------------------------------------------


async def files_of(request: Request) -> list[tuple[str, bytes]]:
    """Names and contents of what was sent: the files of a form, or the body itself.

    Raises:
        HTTPException: 400, there is none, or the form is damaged; 408, it takes too long; 413, see `Guard`.
    """
    try:
        found = await asyncio.wait_for(read_files(request), READ_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {READ_SECONDS} s") from None
    if not found:
        raise HTTPException(400, "expected an image: as the body, or as a file of multipart/form-data; found none")
    return found


async def read_files(request: Request) -> list[tuple[str, bytes]]:
    """See `files_of`; without a time limit."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = await request.body()
        return [("image", body)] if body else []
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        return [((part.filename or "image")[:200], await part.read()) for part in parts]


def decode(name: str, data: bytes) -> Image.Image:
    """An image file's bytes as RGB, as `Classifier.predict` sees the file.

    Raises:
        ImageError: it is no image, is damaged, or has more than MOST_PIXELS; nothing of the latter is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            opened = Image.open(io.BytesIO(data), formats=readable_formats())
        large = opened.width * opened.height > MOST_PIXELS
    except Image.DecompressionBombError:  # Pillow's own limit, several times as high
        large = True
    except Exception as error:  # Pillow's plugins raise nearly anything on a damaged file
        raise ImageError(f"Cannot read {name}: it is no image, or damaged ({type(error).__name__})") from error
    if large:
        raise ImageError(f"Cannot use {name}: it has more than {MOST_PIXELS / 1e6:.0f} million pixels; make it smaller")
    return to_image(opened, name)


# ---- answers
# ------------------------------------------------------------------------------------------------------------


def answer(clf: Classifier, name: str, data: bytes) -> dict[str, object]:
    """The answer to one image and why, as plain data.

    Raises:
        ImageError: see `decode`.
    """
    found = clf.explain(decode(name, data))
    return {
        "file": name,
        "label": found.label,
        "probability": found.probability,
        "unsure": found.probability < clf.threshold_,
        "probabilities": listed(found.probabilities),
        "experts": [asdict(expert) for expert in found.experts],
    }


def listed(probabilities: Mapping[Label, float]) -> list[dict[str, object]]:
    """Probabilities as JSON has them, the most probable first; labels stay texts or whole numbers."""
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    return [{"label": label, "probability": p} for label, p in ranked]


def answers(clf: Classifier, files: Sequence[tuple[str, bytes]], largest: int) -> list[dict[str, object]]:
    """One entry per file, in order: label and probabilities, or the error."""
    entries, images = [], []
    for name, data in files:
        try:
            if len(data) > largest:
                raise ImageError(f"Cannot use {name}: {too_large(largest)}")
            images.append(clf.preprocess(decode(name, data)))  # its pixels need not stay until all are decoded
            entries.append({"file": name})
        except ImageError as error:
            entries.append({"file": name, "error": str(error)})
    table, labels = clf.predict_proba(images) if images else [], clf.classes_.tolist()
    for entry, row in zip([entry for entry in entries if "error" not in entry], table, strict=True):
        best = int(row.argmax())
        entry |= {"label": labels[best], "probability": float(row[best]), "unsure": bool(row[best] < clf.threshold_)}
        entry["probabilities"] = listed(dict(zip(labels, row.tolist(), strict=True)))
    return entries


def about(clf: Classifier, max_bytes: int) -> dict[str, object]:
    """What `/model` says."""
    from .. import __version__

    model = clf.model
    return {
        "method": model.method,
        "backbone": model.backbone.name,
        "classes": clf.classes_.tolist(),
        "experts": [group[0] for group in model.groups] if hasattr(model, "route") else [],
        "temperature": clf.temperature_,
        "threshold": clf.threshold_,
        "figures": clf.figures_.get("held_out") or {},
        "limits": {"bytes": max_bytes, "pixels": MOST_PIXELS, "files": MOST_FILES},
        "versions": {"mocoop": __version__, "torch": torch.__version__},
    }


# ---- the application
# ----------------------------------------------------------------------------------------------------


def build_app(
    clf: Classifier, max_bytes: int, hosts: frozenset[str] | None = LOOPBACK, most_waiting: int = MOST_WAITING
) -> FastAPI:
    """The application around a trained classifier.

    Args:
        clf: it is only read; max_bytes: of one image file.
        hosts: names that the server may be called by, None = any; most_waiting: see `Turns`.
    """
    turns = Turns(most_waiting)

    @asynccontextmanager
    async def life(app: FastAPI):  # noqa: ANN202
        await turns.take(clf.predict_proba, [Image.new("RGB", (64, 64))])  # so that the first who asks need not wait
        yield
        turns.pool.shutdown(wait=False, cancel_futures=True)

    def limit(path: str) -> tuple[int, str]:
        images = BATCH_BODY if path == "/predict/batch" else 1
        return images * max_bytes + FORM, too_large(max_bytes, images)

    app = FastAPI(title="mocoop", lifespan=life, openapi_url=None)  # its pages of documents load from elsewhere
    app.add_middleware(Guard, hosts=hosts, limit=limit)

    @app.exception_handler(HTTPError)  # (also what Starlette itself refuses: fastapi's HTTPException is one of these)
    async def refused(_: Request, error: HTTPError) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "waiting": turns.waiting}

    @app.get("/model")
    async def model() -> dict:
        return about(clf, max_bytes)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        files = await files_of(request)
        if len(files) > 1:
            raise HTTPException(400, f"expected one image, found {len(files)}; /predict/batch takes several")
        if len(files[0][1]) > max_bytes:
            raise HTTPException(413, too_large(max_bytes))
        return JSONResponse(await turns.take(answer, clf, *files[0]))

    @app.post("/predict/batch")
    async def predict_batch(request: Request) -> JSONResponse:
        return JSONResponse({"results": await turns.take(answers, clf, await files_of(request), max_bytes)})

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "page.html")

    for name in PAGE_FILES:
        app.add_api_route(f"/{name}", lambda name=name: FileResponse(PAGE / name), methods=["GET"])

    return app
