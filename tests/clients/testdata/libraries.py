"""Python's HTTP clients and the SDKs on them: one JSON object per case on stdout."""

import asyncio
import json
import urllib.error
import urllib.request

import aiohttp
import anthropic
import httpx
import requests
import websockets
import websockets.sync.client

API, DENIED = "https://api.test", "https://denied.test"


def report(client, case, call):
    try:
        text = call()
    except Exception as e:  # what a person would see, which is the whole chain
        text = f"{type(e).__name__}: {e}"
        while e := e.__cause__ or e.__context__:
            text += f"; from {type(e).__name__}: {e}"
    print(json.dumps({"client": client, "case": case, "text": str(text)}), flush=True)


def three(client, get):
    """get(url) returns the body, whatever the status."""
    report(client, "allowed", lambda: get(f"{API}/v1/echo/{client}"))
    report(client, "path", lambda: get(f"{API}/v2/{client}"))
    report(client, "host", lambda: get(f"{DENIED}/{client}"))


def with_urllib(url):
    try:
        return urllib.request.urlopen(url, timeout=10).read().decode()
    except urllib.error.HTTPError as e:
        return e.read().decode()


def with_aiohttp(trust_env):
    async def get(url):
        async with aiohttp.ClientSession(trust_env=trust_env) as session, session.get(url, headers={"x-api-key": "postern"}) as r:
            return await r.text()

    return lambda url: asyncio.run(get(url))


def with_httpx_async(url):
    async def get():
        async with httpx.AsyncClient() as c:
            return (await c.get(url)).text

    return asyncio.run(get())


def events(get_lines):
    """The second event comes when the first was acknowledged."""
    name, got = "python", []
    for line in get_lines(f"{API}/v1/events/{name}"):
        if line.startswith("data: "):
            got.append(line.removeprefix("data: "))
        if len(got) == 1 and line:
            requests.get(f"{API}/v1/ack/{name}", timeout=10)
    return got


def stream_lines(url):
    with httpx.stream("GET", url, timeout=20) as r:
        yield from r.iter_lines()


def socket(url):
    with websockets.sync.client.connect(url, open_timeout=10) as ws:
        ws.send("hello")
        return ws.recv(timeout=10)


def socket_async(url):
    async def talk():
        async with websockets.connect(url, open_timeout=10) as ws:
            await ws.send("hello")
            return await ws.recv()

    return asyncio.run(talk())


def sdk(base):
    client = anthropic.Anthropic(base_url=base, max_retries=0, timeout=20)
    with client.messages.stream(model="claude-test", max_tokens=64, messages=[{"role": "user", "content": "hi"}]) as s:
        pieces = list(s.text_stream)
    assert len(pieces) > 2, pieces
    return "".join(pieces)


def sdk_async(base):
    async def ask():
        async with anthropic.AsyncAnthropic(base_url=base, max_retries=0, timeout=20) as client:
            m = await client.messages.create(model="claude-test", max_tokens=64, messages=[{"role": "user", "content": "hi"}])
            return m.content[0].text

    return asyncio.run(ask())


three("urllib", with_urllib)
three("requests", lambda url: requests.get(url, timeout=10, headers={"x-api-key": "postern"}).text)
three("httpx", lambda url: httpx.get(url, headers={"x-api-key": "postern"}).text)
three("httpx-async", with_httpx_async)
three("aiohttp", with_aiohttp(False))
three("aiohttp-proxy", with_aiohttp(True))
report("httpx", "events", lambda: events(stream_lines))
for name, talk in ("websockets", socket), ("websockets-async", socket_async):
    report(name, "allowed", lambda: talk(f"wss://ws.test/v1/{name}"))
    report(name, "path", lambda: talk(f"wss://ws.test/v2/{name}"))
    report(name, "host", lambda: talk(f"wss://denied.test/{name}"))
for name, ask in ("anthropic", sdk), ("anthropic-async", sdk_async):
    report(name, "gateway", lambda: ask("http://localhost:8080"))
    report(name, "allowed", lambda: ask(API))
    report(name, "gateway-path", lambda: ask("http://localhost:8080/v2"))
    report(name, "path", lambda: ask(f"{API}/v2"))
    report(name, "host", lambda: ask(DENIED))
