"""As much of the Hugging Face Hub as one repository needs: a server of this machine for huggingface_hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "a" * 40
REPOSITORY = "me/model"


class Hub(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.path.removeprefix(f"/api/models/{REPOSITORY}"):
            case "/api/repos/create":
                self._json({"url": f"http://127.0.0.1/{REPOSITORY}"})
            case "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            case "/preupload/main":
                names = [each["path"] for each in json.loads(body)["files"]]
                plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._json({"files": [{"path": name, **plain} for name in names]})
            case "/commit/main":
                self._commit(map(json.loads, body.splitlines()))
            case _:
                self._json({"error": "not here"}, 404)

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path == f"/api/models/{REPOSITORY}/revision/main":
            self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": each} for each in self.files]})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            oids = {each: hashlib.sha1(content).hexdigest() for each, content in self.files.items()}
            self._json(
                [{"type": "file", "path": each, "size": len(self.files[each]), "oid": oids[each]} for each in oids]
            )
        elif path == f"/{REPOSITORY}/resolve/{COMMIT}/{name}" and name in self.files:
            self._answer(self.files[name], ETag=f'"{hashlib.sha256(self.files[name]).hexdigest()}"')
        else:
            self._json({"error": "not here"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def _commit(self, lines):
        for line in lines:
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://127.0.0.1/{REPOSITORY}/commit/{COMMIT}"
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _json(self, value, code=200):
        self._answer(json.dumps(value).encode(), code)

    def _answer(self, body, code=200, **headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def _entry(name, content):
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def hub() -> Iterator[str]:
    """The address of a hub of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
