"""A Hugging Face Hub of one model on this machine, for tests; standard library only.

  fake_hub.py DIRECTORY --ready FILE [--log FILE] [--repo acme/nano] [--token T] [--moved DIRECTORY] [--mirror] [--page N] [--faults JSON]

FILE of --ready appears once it listens, and holds the endpoint. It speaks what a client of the Hub sees: model info, listings
with Link pages, resolve with a relative 307 (small files) or a 302 to another port (weights), ranges, ETags. --log gets a
JSON line for every request. With --mirror the next page of a listing is said to be at huggingface.co. With --moved the branch main becomes that directory after it was looked up once.

A fault is {"at": "info"|"tree"|"resolve"|"cache"|"cdn", "do": ..., "times": n (default: always), "file": part of the name}, with "do" one of
  status    "status", "headers", "body"      another answer
  cut       "bytes"                          the connection ends after so many bytes of the body
  stall     "bytes"                          so many bytes, then nothing more
  drip      "rate"                           bytes a second
  flip                                       the last byte that is sent is another one
  short                                      the file is said, and sent, one byte shorter
  whole                                      the range is ignored
  html                                       200, and a page for people
  gzip                                       says that the body is compressed
  loop, away, down                           redirects: to itself, to ftp:, to http of nobody
  commit                                     another X-Repo-Commit
  etag                                       another ETag
  names     "names", "size"                  the listing has these as well, each of that size
  text      "text"                           the answer is this text
  huge      "bytes"                          the answer is so long
"""
import argparse
import hashlib
import http.server
import json
import os
import pathlib
import threading
import time
import urllib.parse

LARGE = (".safetensors", "tokenizer.json")


class Commit:
    def __init__(self, directory):
        self.files = {}
        for path in sorted(pathlib.Path(directory).iterdir()):
            if path.is_file():
                self.files[path.name] = self.entry(path)
        text = json.dumps([(n, e["oid"], e["size"]) for n, e in self.files.items()])
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    @staticmethod
    def entry(path):
        size = path.stat().st_size
        git, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
        with open(path, "rb") as f:
            while chunk := f.read(1 << 20):
                git.update(chunk)
                sha256.update(chunk)
        entry = {"type": "file", "path": path.name, "size": size, "oid": git.hexdigest(), "place": path}
        if path.name.endswith(LARGE):
            entry["lfs"] = {"oid": sha256.hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def digest(self, name):
        entry = self.files[name]
        return entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]


class Hub:
    def __init__(self, options):
        self.options = options
        self.commits = [Commit(options.directory)] + ([Commit(options.moved)] if options.moved else [])
        self.looked_up = 0
        self.faults = json.loads(options.faults)
        self.lock = threading.Lock()
        self.log = open(options.log, "a", buffering=1) if options.log else None
        self.port = self.cdn_port = 0

    def fault(self, at, name, kinds=None):
        """The fault that applies now; counts it."""
        with self.lock:
            for fault in self.faults:
                if (fault["at"] == at and fault.get("file", "") in name and fault.get("times", 1) > 0
                        and (kinds is None or fault["do"] in kinds)):
                    if "times" in fault:
                        fault["times"] -= 1
                    return fault
        return None

    def find(self, revision):
        with self.lock:
            if revision == "main":
                found = self.commits[-1 if self.looked_up else 0]
                self.looked_up += 1
                return found
        return next((c for c in self.commits if c.sha == revision), None)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None
    is_cdn = False

    def log_message(self, *args):
        pass

    def note(self):
        if self.hub.log:
            line = {"port": "cdn" if self.is_cdn else "hub", "method": self.command, "path": self.path,
                    "range": self.headers.get("Range"), "token": self.headers.get("Authorization")}
            with self.hub.lock:
                self.hub.log.write(json.dumps(line) + "\n")

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value, **headers):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.note()
        try:
            if self.is_cdn:
                self.cdn()
            else:
                self.main()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # -- The Hub itself

    def main(self):
        repo, path = self.hub.options.repo, urllib.parse.urlsplit(self.path).path
        token = self.hub.options.token
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            bad = "Authorization" in self.headers
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header" if bad else "Repository not found")
            return
        api, resolve, cache = f"/api/models/{repo}", f"/{repo}/resolve/", f"/api/resolve-cache/models/{repo}/"
        if path == api or path.startswith(api + "/revision/"):
            self.info(urllib.parse.unquote(path[len(api) + len("/revision/"):]) or "main")
        elif path.startswith(api + "/tree/"):
            self.tree(urllib.parse.unquote(path[len(api) + len("/tree/"):]))
        elif path.startswith(resolve):
            self.resolve(*path[len(resolve):].split("/", 1))
        elif path.startswith(cache):
            self.file("cache", *path[len(cache):].split("/", 1))
        else:
            self.answer(401 if not token else 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

    def simple_fault(self, at, name=""):
        fault = self.hub.fault(at, name, {"status", "text", "huge", "loop", "away", "down", "html", "stall"})
        if not fault:
            return False
        kind = fault["do"]
        if kind == "status":
            self.answer(fault["status"], fault.get("body", "").encode(), **fault.get("headers", {}))
        elif kind == "text":
            self.answer(200, fault["text"].encode())
        elif kind == "huge":
            self.answer(200, b" " * fault["bytes"])
        elif kind == "html":
            self.answer(200, b"<html><body>Please log in to this network.</body></html>", Content_Type="text/html")
        elif kind == "stall" and at in ("info", "tree"):
            time.sleep(fault.get("seconds", 60))
            self.close_connection = True
        elif kind == "stall":
            self.stalled = fault
            return False
        else:
            where = {"loop": self.path, "away": "ftp://127.0.0.1/x", "down": "http://127.0.0.1:9/x"}[kind]
            self.answer(302, Location=where)
        return True

    def info(self, revision):
        if self.simple_fault("info"):
            return
        commit = self.hub.find(revision)
        if not commit:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
            return
        self.answer_json({"id": self.hub.options.repo, "sha": commit.sha, "private": False, "gated": False, "disabled": False,
                          "lastModified": "2026-01-01T00:00:00.000Z", "siblings": [{"rfilename": n} for n in commit.files]})

    def tree(self, revision):
        if self.simple_fault("tree"):
            return
        commit = self.hub.find(revision)
        if not commit:
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        entries = [{k: v for k, v in e.items() if k != "place"} for e in commit.files.values()]
        entries.append({"type": "directory", "path": "figures", "size": 0, "oid": "0" * 40})
        fault = self.hub.fault("tree", "", {"names"})
        for name in fault["names"] if fault else []:
            entries.append({"type": "file", "path": name, "size": fault.get("size", 1), "oid": "0" * 40})
        page = self.hub.options.page
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + page < len(entries):
            # A mirror may pass on what the Hub that it mirrors says.
            endpoint = "https://huggingface.co" if self.hub.options.mirror else f"http://127.0.0.1:{self.hub.port}"
            headers["Link"] = f'<{endpoint}{self.path.split("?")[0]}?recursive=false&cursor={start + page}>; rel="next"'
        self.answer_json(entries[start:start + page], **headers)

    def words(self, commit, name):
        digest = commit.digest(name)
        fault = self.hub.fault("resolve", name, {"commit", "etag"})
        kind = fault["do"] if fault else ""
        return {"X_Repo_Commit": "f" * 40 if kind == "commit" else commit.sha, "ETag": f'"{"e" * len(digest) if kind == "etag" else digest}"'}

    def resolve(self, revision, name):
        name = urllib.parse.unquote(name)
        commit = self.hub.find(revision)
        if not commit or name not in commit.files:
            self.answer(404, X_Error_Code="EntryNotFound" if commit else "RevisionNotFound")
            return
        if self.simple_fault("resolve", name):
            return
        words = self.words(commit, name)
        if "lfs" in commit.files[name]:
            words["X_Linked_Etag"] = words["ETag"]
            self.answer(302, Location=f"http://localhost:{self.hub.cdn_port}/{commit.sha}/{name}?Signature=secret-{time.time_ns()}",
                        X_Linked_Size=commit.files[name]["size"], **words)
        elif self.command == "HEAD":
            self.file("cache", commit.sha, name)
        else:
            self.answer(307, Location=f"/api/resolve-cache/models/{self.hub.options.repo}/{commit.sha}/{name}", **words)

    # -- Content

    def cdn(self):
        _, revision, name = urllib.parse.urlsplit(self.path).path.split("/", 2)
        self.file("cdn", revision, name)

    def span(self, size, fault):
        """First and last byte that are asked for; None: all."""
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes=") or fault == "whole":
            return None
        first, last = wanted[len("bytes="):].split("-")
        return int(first), min(int(last), size - 1) if last else size - 1

    def file(self, at, revision, name):
        self.stalled = None
        if self.simple_fault(at, name):
            return
        commit, fault = self.hub.find(revision), self.stalled or self.hub.fault(at, name, {"cut", "drip", "flip", "short", "whole", "gzip"}) or {}
        kind = fault.get("do")
        entry = commit.files[name]
        size = entry["size"] - (kind == "short")
        span = self.span(size, kind)
        first, last = span or (0, size - 1)
        if first >= size and size > 0:
            self.answer(416, Content_Range=f"bytes */{size}")
            return
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if at == "cache":
            self.send_header("X-Repo-Commit", commit.sha)
        self.send_header("ETag", f'"{commit.digest(name)}"' if at == "cache" else f'"cdn-{commit.digest(name)[:8]}"')
        self.send_header("Accept-Ranges", "bytes")
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(entry["place"], first, last + 1, kind, fault)

    def send_body(self, path, at, end, kind, fault):
        stop = at + fault["bytes"] if kind in ("cut", "stall") else end
        step = max(1, fault["rate"] // 10) if kind == "drip" else 1 << 20
        with open(path, "rb") as f:
            if not kind:  # as fast as this machine can
                self.wfile.flush()
                self.connection.sendfile(f, at, end - at)
                return
            f.seek(at)
            while at < min(stop, end):
                chunk = bytearray(f.read(min(step, min(stop, end) - at)))
                at += len(chunk)
                if kind == "flip" and at == end:
                    chunk[-1] ^= 1
                self.wfile.write(chunk)
                if kind == "drip":
                    time.sleep(0.1)
        if stop < end:
            self.wfile.flush()
            if kind == "stall":
                time.sleep(fault.get("seconds", 60))
            self.connection.shutdown(2)
            self.close_connection = True


def serve(hub, is_cdn):
    handler = type("Bound", (Handler,), {"hub": hub, "is_cdn": is_cdn})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that go away are what is tested
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--ready", required=True)
    parser.add_argument("--log")
    parser.add_argument("--repo", default="acme/nano")
    parser.add_argument("--token", default="")
    parser.add_argument("--moved")
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--page", type=int, default=4)
    parser.add_argument("--faults", default="[]")
    options = parser.parse_args()
    hub = Hub(options)
    hub.cdn_port = serve(hub, True)
    hub.port = serve(hub, False)
    with open(options.ready + ".tmp", "w") as f:
        f.write(f"http://127.0.0.1:{hub.port}")
    os.rename(options.ready + ".tmp", options.ready)
    parent = os.getppid()
    while os.getppid() == parent:  # a test that was killed leaves nothing behind
        time.sleep(0.2)


if __name__ == "__main__":
    main()
