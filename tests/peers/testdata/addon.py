"""The policy of the benchmark for mitmproxy."""

import json
import os

from mitmproxy import http

LOG = open(os.environ["PEERS_LOG"], "a", buffering=65536)
KEY = os.environ["PEERS_KEY"]


def allowed(host):
    return host == "bench.test" or host.endswith(".bench.test")


def http_connect(flow):
    if not allowed(flow.request.host) or flow.request.port != 443:
        flow.response = http.Response.make(403)


def requestheaders(flow):
    r = flow.request
    if not allowed(r.host) or r.method not in ("GET", "POST") or not r.path.startswith("/v1/"):
        flow.response = http.Response.make(403, b"blocked")
        return
    r.headers["x-api-key"] = KEY


def responseheaders(flow):
    if "event-stream" in flow.response.headers.get("content-type", ""):
        flow.response.stream = True


def response(flow):
    r = flow.request
    LOG.write(json.dumps({"t": r.timestamp_start, "m": r.method, "h": r.host, "p": r.path, "rc": flow.response.status_code}) + "\n")
