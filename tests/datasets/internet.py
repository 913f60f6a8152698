"""A loopback internet: serves files under any host name, with ranges, and misbehaves on request."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

# On one line, as Google sends it.
CONFIRM = (
    "<html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t"></form></body></html>'
)


class Internet:
    """Files by "host/path?query". Faults by the same key, used up one by one:

    an int cuts the connection after so many bytes, a tuple (status, body) answers with that.
    """

    def __init__(self):
        self.files, self.faults, self.requests = {}, {}, []
        internet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                internet.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def connect(self, monkeypatch):
        """Send every request of this process here, whatever its host."""
        get, base = requests.Session.get, f"http://127.0.0.1:{self.server.server_port}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(
            requests.Session, "get", lambda self, url, **kw: get(self, base + url.split("://")[1], **kw)
        )

    def drive(self, file_id, content, confirm=False):
        """Put a file on Google Drive; large ones there are given out only after a page that asks for confirmation."""
        self.files[f"drive.google.com/uc?id={file_id}"] = CONFIRM.format(id=file_id) if confirm else content
        self.files[f"drive.usercontent.google.com/download?id={file_id}&confirm=t"] = content

    def answer(self, handler):
        key = handler.path[1:]
        asked = handler.headers.get("Range")
        self.requests.append((key, asked))
        faults = self.faults.get(key, [])
        fault = faults.pop(0) if faults else None
        content = self.files.get(key)
        status, content = fault if isinstance(fault, tuple) else (200, content) if content else (404, "no such file")
        attachment = "google" in key and isinstance(content, bytes)
        kind = "text/html" if isinstance(content, str) else "application/octet-stream"
        content = content.encode() if isinstance(content, str) else content
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and status == 200 else 0
        handler.send_response(206 if start else status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("ETag", f'"{hash(content)}"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if attachment:
            handler.send_header("Content-Disposition", 'attachment; filename="x"')
        handler.end_headers()
        body = content[start:]
        try:
            handler.wfile.write(body[:fault] if isinstance(fault, int) else body)
        except OSError:  # the other side has gone
            pass

    def close(self):
        self.server.shutdown()
        self.server.server_close()
