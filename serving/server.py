"""The application on a port of this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket

from ..classifier.classifier import Classifier
from ..toolbox.dassl.errors import WrongValue, optional

MOST_CONNECTIONS = 256
GRACE_SECONDS = 5  # for requests under way when the server is ended


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address or a name of this machine; port: 0 = any that is free.

    Raises:
        OSError: the port is in use, or may not be used; the host is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:  # (gaierror is one)
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise OSError(f"port {port} of {host} {why}: give another --port (0 = any that is free) or --host") from error


def serve(clf: Classifier, host: str, port: int, max_mb: float) -> None:
    """Answer requests until Ctrl-C.

    Args:
        clf: trained; host, port: see `bind`; max_mb: of one image file, in MB (2^20 bytes).

    Raises:
        MissingPackage: the extra `serve` is not installed; OSError: see `bind`.
        WrongValue: max_mb is not above 0.
    """
    for module in ("fastapi", "python_multipart"):
        optional(module, "serve")
    uvicorn = optional("uvicorn", "serve")
    from .app import LOOPBACK, build_app

    if not 0 < max_mb <= 1024:
        raise WrongValue(f"--max-mb: expected a number above 0, at most 1024, found {max_mb:g}")
    with bind(host, port) as listening:
        local = is_loopback(host)
        app = build_app(clf, int(max_mb * 2**20), LOOPBACK | {host} if local else None)
        shown = f"[{host}]" if ":" in host else host
        if not local:
            print(f"Warning: whoever can reach {shown} over the network can use this server; it asks for no password.")
        print(f"{clf.model.method}, {len(clf.classes_)} classes: http://{shown}:{listening.getsockname()[1]}")
        print("Ctrl-C ends it.", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # it has ended in peace, and passes on what ended it
            print("Stopped.")
