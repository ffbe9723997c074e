"""python echo.py PORT SERVER: what urllib, werkzeug (Flask) or Django make of a request."""
import json, sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

port, server = int(sys.argv[1]), sys.argv[2]


def latin(s):
    """Bytes as JSON can hold them: a character each."""
    return (s if isinstance(s, bytes) else s.encode("utf-8", "surrogateescape")).decode("latin-1")


def grouped(pairs):
    query = {}
    for name, value in pairs:
        query.setdefault(latin(name), []).append(latin(value))
    return query


def answer(path, pairs):
    return json.dumps({"path": latin(path), "query": grouped(pairs)}).encode()


def urllib_app(environ, start):
    from urllib.parse import parse_qsl
    start("200 OK", [])
    return [answer(environ["PATH_INFO"].encode("latin-1"), parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))]


def werkzeug_app(environ, start):
    from werkzeug.wrappers import Request
    r = Request(environ)
    start("200 OK", [])
    return [answer(r.path, r.args.items(multi=True))]


def django_app():
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import re_path
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", APPEND_SLASH=False, MIDDLEWARE=[])
    django.setup()

    def echo(request):
        return HttpResponse(answer(request.path_info, [(k, v) for k, vs in request.GET.lists() for v in vs]))

    globals()["urlpatterns"] = [re_path(r"(?s).*", echo)]
    from django.core.wsgi import get_wsgi_application
    return get_wsgi_application()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


app = {"urllib": urllib_app, "werkzeug": werkzeug_app}.get(server) or django_app()
make_server("127.0.0.1", port, app, handler_class=Quiet).serve_forever()
