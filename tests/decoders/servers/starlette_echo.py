"""python starlette_echo.py PORT: what Starlette (FastAPI), behind uvicorn, makes of a request."""
import json, sys
import uvicorn
from starlette.requests import Request
from starlette.responses import Response


def latin(s):
    return s.encode("utf-8", "surrogateescape").decode("latin-1")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    r = Request(scope)
    query = {}
    for name, value in r.query_params.multi_items():
        query.setdefault(latin(name), []).append(latin(value))
    await Response(json.dumps({"path": latin(scope["path"]), "query": query}))(scope, receive, send)


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
