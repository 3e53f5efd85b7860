"""A server of a small model for storage_http_test: plain HTTP, an S3-like store that verifies signatures, and a hub, with faults on request.

The first part of a path names the fault: /good/…, /slow/…, /flaky/… (see FAULTS). Prints its port and serves until its input ends. Python's standard library; signatures
are verified with botocore where that is installed.
"""
import hashlib, http.server, json, os, random, re, socket, struct, sys, threading, time, urllib.parse

try:
    import botocore.auth, botocore.awsrequest, botocore.credentials
except ImportError:
    botocore = None

SIZE = 3 * 1024 * 1024 + 321
CONTENT = random.Random(6).randbytes(SIZE)
WORDS = {"config.json": b'{"model_type": "deepseek_v3"}', "tokenizer.json": b"{}", "empty.txt": b""}
FILES = {"model.bin": CONTENT, **WORDS}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN, KEY, SECRET = "hf_secret", "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
counts, lock, log = {}, threading.Lock(), []


def count(name):
    with lock:
        counts[name] = counts.get(name, 0) + 1
        return counts[name]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def raw(self, data):
        self.close_connection = True
        self.wfile.write(data)
        self.wfile.flush()

    def answer(self, status, headers=(), body=b"", length=True):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        with lock:
            log.append({"path": self.path, "range": self.headers.get("Range"), "authorization": self.headers.get("Authorization"), "host": self.headers.get("Host")})
        try:
            self.route()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def route(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/log":
            with lock:
                text = json.dumps(log)
                log.clear()
            return self.answer(200, body=text.encode())
        if path.startswith("/bucket/"):
            return self.s3(path)
        if path.startswith("/hub/"):
            return self.hub(path[4:])
        parts = path.split("/")
        fault, name = parts[1], urllib.parse.unquote(parts[-1])
        if name not in FILES or fault == "empty":
            return self.answer(404, body=b"no such file")
        self.file(fault, name, FILES[name])

    def asked_range(self, body):
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return None
        first = int(match[1])
        return first, min(int(match[2]) if match[2] else len(body) - 1, len(body) - 1)

    def file(self, fault, name, body, etag=None, extra=()):
        etag = etag or '"%s"' % hashlib.md5(body).hexdigest()
        asked = self.asked_range(body)
        probing = asked == (0, 0)
        key = "%s %s %s" % (fault, name, self.headers.get("Range"))
        headers = [("ETag", etag), ("Last-Modified", "Sun, 22 Nov 2026 09:00:00 GMT"), ("Accept-Ranges", "bytes"), *extra]
        if fault == "always500":
            return self.answer(500, body=b"out of order")
        if fault == "echo":
            return self.answer(403, body=("you sent %s \x1b[2J" % self.headers.get("Authorization")).encode())
        if fault == "private":
            return self.answer(403, body=b"keep out")
        if fault == "login":
            import base64
            good = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:pass").decode()
            if not good:
                return self.answer(401, [("WWW-Authenticate", "Basic")], b"who are you")
        if fault == "garbage":
            return self.raw(b"\x00\x01this is not http\r\n\r\n")
        if fault == "hugeheader":
            return self.raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 60000) for i in range(40)) + b"\r\n")
        if fault == "nolength":
            return self.answer(200, headers, body, length=False)
        if fault == "norange":
            return self.answer(200, headers, body)
        if fault == "loop":
            return self.answer(302, [("Location", self.path)])
        if fault == "ftp":
            return self.answer(302, [("Location", "ftp://127.0.0.1/x")])
        if fault == "elsewhere":
            return self.answer(302, [("Location", "http://localhost:%d/good/%s?signature=1" % (self.server.server_port, name))])
        if fault == "relative":
            return self.answer(302, [("Location", "../good/" + name)])
        if fault == "flaky" and count(key) <= 2:
            return self.answer(500, body=b"not now")
        if fault == "busy" and count(key) == 1:
            return self.answer(503, [("Retry-After", "1")], b"later")
        if asked is None and len(body) > 0 or asked and asked[0] >= len(body):
            if asked:
                return self.answer(416, [("Content-Range", "bytes */%d" % len(body))])
            return self.answer(200, headers, body)
        if not body:
            return self.answer(416, [("Content-Range", "bytes */0"), *headers])
        first, last = asked
        part = body[first:last + 1]
        if fault == "silent":
            time.sleep(30)
        if not probing:
            if fault == "wrongrange":
                first, last = first + 1, last + 1
            if fault == "othersize":
                body = body + b"x"
            if fault == "changed" and count("changed") > 1:
                headers[0] = ("ETag", '"another"')
            if fault == "whole":
                return self.answer(200, headers, body)
            if fault == "zipped":
                headers.append(("Content-Encoding", "gzip"))
            if fault == "reset" and count(key) == 1:
                return self.reset()
            if fault == "gone":
                return self.answer(404, body=b"it was here")
        self.send_response(206)
        for header in headers:
            self.send_header(*header)
        if fault != "nocontentrange" or probing:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, last, len(body)))
        if fault == "toolong" and not probing:
            self.close_connection = True
            self.send_header("Connection", "close")
            part += b"more"
        else:
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if probing:
            return self.wfile.write(part)
        if fault == "cut" and len(part) > 100000:  # half of what is asked for, again and again
            self.wfile.write(part[:len(part) // 2 + 1])
            self.close_connection = True
            return
        if fault == "drip":
            for at in range(100):
                self.wfile.write(part[at:at + 1])
                self.wfile.flush()
                time.sleep(0.1)
            return
        if fault == "stall" or (fault == "stallonce" and count(fault) == 1):
            self.wfile.write(part[:len(part) // 2])
            self.wfile.flush()
            time.sleep(30)
            return
        if fault in ("slow", "slowhub"):
            for at in range(0, len(part), 65536):
                self.wfile.write(part[at:at + 65536])
                self.wfile.flush()
                time.sleep(0.02)
            return
        self.wfile.write(part)

    def s3(self, path):
        name = urllib.parse.unquote(path.split("/")[-1])
        if not self.signature_is_good():
            return self.answer(403, [("Content-Type", "application/xml")], b"<Error><Code>SignatureDoesNotMatch</Code><Message>check your key</Message></Error>")
        if name not in FILES or not path.startswith("/bucket/a%20model/v1%2B/"):
            return self.answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        self.file("good", name, FILES[name])

    def signature_is_good(self):
        given = self.headers.get("Authorization", "")
        match = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d+)/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})", given)
        if not match or match[1] != KEY:
            return False
        if abs(time.time() - time.mktime(time.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) + time.timezone) > 300:
            return False
        if botocore is None:
            return True
        request = botocore.awsrequest.AWSRequest(self.command, "http://%s%s" % (self.headers["Host"], self.path))
        for header in match[4].split(";"):
            if header != "host":
                request.headers[header] = self.headers[header]
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        request.context["client_config"] = None
        auth = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(KEY, SECRET, self.headers.get("X-Amz-Security-Token")), "s3", match[3])
        canonical = auth.canonical_request(request)
        return auth.signature(auth.string_to_sign(request, canonical), request) == match[5]

    def hub(self, path):
        if path.startswith("/cdn/"):  # signed links: a token must not come here
            if self.headers.get("Authorization"):
                return self.answer(400, body=b"a token came to the store")
            if "signature=good" not in self.path:
                return self.answer(403, body=b"link expired")
            name = path.split("/")[-1]
            return self.file("slowhub" if "slow" in path else "good", name, FILES[name])
        if re.fullmatch(r"/api/models/org/\w+/revision/(main|refs%2Fpr%2F1)", path):
            return self.answer(200, body=json.dumps({"sha": COMMIT}).encode())
        match = re.fullmatch(r"/org/(\w+)/resolve/([^/]+)/([^/]+)", path)
        if not match:
            return self.answer(404, [("X-Error-Code", "RepoNotFound"), ("X-Error-Message", "Repository not found")])
        kind, revision, name = match.groups()
        if kind == "gated" and self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.answer(401, [("X-Error-Code", "GatedRepo"), ("X-Error-Message", "Access to model org/gated is restricted")])
        if revision not in ("main", COMMIT, "refs%2Fpr%2F1"):
            return self.answer(404, [("X-Error-Code", "RevisionNotFound"), ("X-Error-Message", "Invalid rev id: " + revision)])
        commit = [] if kind == "oldhub" else [("X-Repo-Commit", COMMIT)]
        if name not in FILES:
            return self.answer(404, commit + [("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "Entry not found")])
        if name in WORDS:
            return self.file("good", name, FILES[name], '"%s"' % hashlib.sha1(FILES[name]).hexdigest(), commit)
        sha = hashlib.sha256(FILES[name]).hexdigest() if kind != "spoilt" else "0" * 64
        where = "http://localhost:%d/hub/cdn/%s/%s?signature=good" % (self.server.server_port, kind, name)
        self.answer(302, commit + [("X-Linked-Size", str(len(FILES[name]))), ("X-Linked-Etag", '"%s"' % sha), ("ETag", '"%s"' % sha), ("Location", where)])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


if __name__ == "__main__":  # storage_server.py FOLDER: what is served is written there, to compare with
    for name, body in FILES.items():
        with open(os.path.join(sys.argv[1], name), "wb") as out:
            out.write(body)
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, "botocore" if botocore else "plain", flush=True)
    sys.stdin.read()
    os._exit(0)
