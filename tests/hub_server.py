# SPDX-License-Identifier: Apache-2.0
"""A small Hub on this machine: as much of its protocol as publishing and loading a model take, with a real history."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


LARGE = (".safetensors", ".png", ".pkl", ".bin")  # kept by git LFS, sent apart from the commit


@dataclass
class Repository:
    """A branch `main`, and every commit as the whole of its files."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        history = f"{self.main} {len(self.commits)} {sorted((name, digest(data)) for name, data in files.items())}"
        self.main = hashlib.sha1(history.encode()).hexdigest()
        self.commits[self.main] = files
        return self.main

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.main]


class Refusal(Exception):
    """An answer that is not 200, with the headers in which the Hub explains it."""

    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class HubServer(ThreadingHTTPServer):
    """
    `users` maps tokens to user names. `received` lists the large files that arrived whole, in order. Where
    `drop_after` is a number, a connection that sends a larger file is cut off after so many bytes, `drops` times;
    where `commits_left` is one, connections are cut off instead of taking more commits than that.
    """

    daemon_threads = True

    def __init__(self, users: dict[str, str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[str] = []
        self.requests: list[str] = []
        self.drop_after: int | None = None
        self.drops = 0
        self.commits_left: int | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    ROUTES = [
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/([^/]+/[^/]+)", "describe"),
        ("GET", r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", "describe"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", "list_files"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "sort_out_large"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "ask_for_large"),
        ("PUT", r"/lfs/(\w+)", "receive_large"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "give"),
    ]

    def answer_request(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        # Read before any refusal: the connection is used again. Of a large file the handler may read a part.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))) if self.command == "POST" else b""
        try:
            for method, pattern, name in self.ROUTES:
                if (match := re.fullmatch(pattern, path)) and re.fullmatch(method, self.command):
                    return getattr(self, name)(*(unquote(part) for part in match.groups() if part is not None))
            raise Refusal(404, f"this small Hub does not know {self.command} {path}")
        except Refusal as refusal:
            self.answer(
                json.dumps({"error": refusal.message}).encode(),
                {"X-Error-Message": refusal.message, "X-Error-Code": refusal.code},
                refusal.status,
            )

    do_GET = do_HEAD = do_POST = do_PUT = answer_request

    # Who asks for what

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.server.users.get(token)

    def repository(self, repo_id: str, write: bool = False) -> Repository:
        user, repository = self.user(), self.server.repositories.get(repo_id)
        if repository is None or (repository.private and repository.owner != user):
            # To those without a token the Hub does not tell what it hides from what it lacks.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and repository.owner != user:
            raise Refusal(403, "you don't have write access to this repository")
        return repository

    def files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(repo_id)
        commit = repository.main if revision == "main" else revision
        if commit not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, repository.commits[commit]

    # Repositories

    def create(self) -> None:
        request, user = json.loads(self.body), self.user()
        owner = request.get("organization") or user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if request["name"].endswith(".ipynb"):
            raise Refusal(400, 'Invalid repo name: a name cannot end with ".ipynb"')
        if owner != user:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo_id = f"{owner}/{request['name']}"
        url = {"url": f"{self.server.url}/{repo_id}"}
        if repo_id in self.server.repositories:
            self.answer_json({"error": "You already created this model repo", **url}, 409)
        else:
            repository = Repository(owner, private=request.get("visibility") == "private")
            repository.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
            self.server.repositories[repo_id] = repository
            self.answer_json(url)

    def validate(self) -> None:
        if "\nlicense: unheard-of\n" in json.loads(self.body)["content"]:
            raise Refusal(400, '"license" must be one of [apache-2.0, mit, ...]')
        self.answer_json({"errors": [], "warnings": []})

    def describe(self, repo_id: str, revision: str = "main") -> None:
        commit, files = self.files(repo_id, revision)
        card = files.get("README.md", b"").decode()
        self.answer_json(
            {
                "id": repo_id,
                "sha": commit,
                "private": self.server.repositories[repo_id].private,
                "siblings": [{"rfilename": name} for name in files],
                **dict(re.findall(r"^(pipeline_tag|library_name): (.+)$", card, re.MULTILINE)),
            }
        )

    def list_files(self, repo_id: str, revision: str, under: str | None = None) -> None:
        _, files = self.files(repo_id, revision)
        files = {name: data for name, data in files.items() if under is None or name.startswith(f"{under}/")}
        if not files:
            raise Refusal(404, f"{under} does not exist on {revision}", "EntryNotFound")
        self.answer_json([describe_file(name, data) for name, data in files.items()])

    # Uploads

    def sort_out_large(self, repo_id: str, revision: str) -> None:
        held = self.repository(repo_id, write=True).files
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            mode = "lfs" if path.endswith(LARGE) else "regular"
            oid = describe_file(path, held[path])["oid"] if path in held else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer_json({"files": answers})

    def ask_for_large(self, repo_id: str) -> None:
        self.repository(repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.objects:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        self.answer_json({"transfer": "basic", "objects": objects})

    def receive_large(self, oid: str) -> None:
        size, server = int(self.headers["Content-Length"]), self.server
        if server.drop_after is not None and size > server.drop_after and server.drops:
            server.drops -= 1
            self.rfile.read(server.drop_after)
            self.close_connection = True
            return
        data = self.rfile.read(size)
        if digest(data) != oid:
            raise Refusal(400, "the object is not what it was announced as")
        server.objects[oid] = data
        server.received.append(oid)
        self.answer(b"")

    def commit(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id, write=True)
        if self.server.commits_left is not None:
            if self.server.commits_left == 0:
                self.close_connection = True
                return
            self.server.commits_left -= 1
        files = dict(repository.files)
        for line in self.body.splitlines():
            operation, value = (entry := json.loads(line))["key"], entry["value"]
            if operation == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif operation == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        self.answer_json({"commitUrl": f"{self.server.url}/{repo_id}/commit/{commit}", "commitOid": commit})

    # Downloads

    def give(self, repo_id: str, revision: str, path: str) -> None:
        if self.repository(repo_id).gated:
            raise Refusal(403, f"Access to model {repo_id} is restricted", "GatedRepo")
        commit, files = self.files(repo_id, revision)
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        file = describe_file(path, files[path])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file["oid"]}"'}
        if "lfs" in file:
            headers |= {"X-Linked-Etag": f'"{file["lfs"]["oid"]}"', "X-Linked-Size": str(file["size"])}
        self.answer(files[path], headers)

    # HTTP

    def answer_json(self, content, status: int = 200) -> None:
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        pass


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe_file(path: str, data: bytes) -> dict:
    """A file as the Hub lists it; git names a large one by its pointer, which names it by its SHA-256."""
    described = {"type": "file", "path": path, "size": len(data)}
    content = data
    if path.endswith(LARGE):
        described["lfs"] = {"oid": digest(data), "size": len(data), "pointerSize": 134}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest(data)}\nsize {len(data)}\n"
        content = pointer.encode()
    return {**described, "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
