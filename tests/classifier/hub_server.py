"""A stand-in for the Hugging Face Hub on this machine: what huggingface_hub calls to make, write and read a model."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_stand_in"


class Hub:
    """What there is: repository -> file -> bytes; `private` repositories; `requests` that came, and `agents`."""

    def __init__(self):
        self.repos, self.private, self.requests, self.url = {}, set(), [], ""


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def send(self, status, body=b"", headers=()):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(data), **dict(headers)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def knows(self):
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_POST(self):
            hub.requests.append(f"POST {self.path}")
            data = self.body()
            if self.path == "/api/validate-yaml":
                return self.send(200, {"errors": [], "warnings": []})
            if not self.knows():
                return self.send(401, {"error": "Invalid credentials"})
            if self.path == "/api/repos/create":
                return self.create(json.loads(data))
            repo, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
            if action == "preupload":
                paths = [entry["path"] for entry in json.loads(data)["files"]]
                return self.send(
                    200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
                )
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.send(200, {"commitUrl": f"{hub.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

        def create(self, asked):
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "somebody":
                return self.send(403, {"error": "You don't have the rights to create a model under this namespace"})
            known = repo in hub.repos
            hub.repos.setdefault(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repo)
            self.send(409 if known else 200, {"url": f"{hub.url}/{repo}"})

        def do_GET(self):
            hub.requests.append(f"{self.command} {self.path}")
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            repo, revision, name = found.groups() if found else ("", "", "")
            if repo not in hub.repos or (repo in hub.private and not self.knows()):
                return self.send(404 if self.knows() else 401, b"", {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if name not in hub.repos[repo]:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            data = hub.repos[repo][name]
            tag = hashlib.sha256(data).hexdigest()
            self.send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

        do_HEAD = do_GET

    return Handler


@contextmanager
def stand_in():
    """A hub that listens on this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
