"""Writes goldens.json: random requests and how botocore signs them (S3SigV4Auth for s3, SigV4Auth elsewhere). Needs botocore; version in the file."""
import datetime, json, os, random, sys
import botocore, botocore.auth, botocore.awsrequest, botocore.credentials
from urllib.parse import quote

rng = random.Random(4)
alphabet = "abcXYZ019-._~ /+&=?%$!*'()@:,;äß中"


def word(n, letters=alphabet):
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, n)))


cases = []
for index in range(50):
    service = rng.choice(["s3"] * 4 + ["execute-api"])
    host = rng.choice(["bucket.s3.eu-west-1.amazonaws.com", "127.0.0.1:9000", "minio.example.org", "s3.cn-north-1.amazonaws.com.cn"])
    path = "/" + "/".join(quote(word(12).replace("/", ""), safe="-._~") for _ in range(rng.randint(1, 4)))
    query = "&".join(quote(word(6), safe="-._~") + "=" + quote(word(8), safe="-._~") for _ in range(rng.choice([0, 0, 1, 4])))
    headers = {"Range": "bytes=%d-%d" % (index, index * 1000)} if rng.random() < 0.4 else {}
    if rng.random() < 0.3:
        headers["X-Amz-Meta-Note"] = "  two   spaces " + word(5, "abc")
    token = word(200, "abcdefgh/+=") if rng.random() < 0.4 else None
    key, secret = word(20, "ABCDEFGHIJ"), word(40, "abcdefgh/+XYZ")
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=rng.randint(0, 10**9))
    unsigned = service == "s3" and rng.random() < 0.5

    request = botocore.awsrequest.AWSRequest(rng.choice(["GET", "HEAD"]), "https://%s%s%s" % (host, path, "?" + query if query else ""), headers=dict(headers))
    request.context["client_config"] = None
    request.context["payload_signing_enabled"] = not unsigned
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth

    class Frozen(datetime.datetime):
        @classmethod
        def utcnow(cls):
            return when.replace(tzinfo=None)

        @classmethod
        def now(cls, tz=None):
            return when

    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: when.replace(tzinfo=None) if remove_tzinfo else when
    if service != "s3":
        request.headers["X-Amz-Content-SHA256"] = botocore.auth.EMPTY_SHA256_HASH
    auth = kind(botocore.credentials.Credentials(key, secret, token), service, "eu-west-1")
    if unsigned:
        auth._should_sha256_sign_payload = lambda request: False
    auth.add_auth(request)
    signed_path = auth._normalize_url_path(path) if service != "s3" else path
    cases.append({
        "method": request.method, "host": host, "path": signed_path, "query": query, "headers": headers, "key": key, "secret": secret, "token": token or "", "service": service,
        "payload": request.headers["X-Amz-Content-SHA256"], "time": int(when.timestamp()), "date": request.headers["X-Amz-Date"],
        "authorization": request.headers["Authorization"],
    })
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens.json"), "w") as out:
    json.dump({"source": "botocore " + botocore.__version__ + ", by make.py", "region": "eu-west-1", "cases": cases}, out, indent=1)
