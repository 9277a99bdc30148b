"""An application with something to guard, which keeps what reached each handler: by path, in a mounted application, and
by host. It has no auth code; the rules of the test say who may reach what."""

from fastapi import FastAPI, Request
from starlette.routing import Host

app = FastAPI(openapi_url=None)
mounted = FastAPI(openapi_url=None)
hosted = FastAPI(openapi_url=None)
reached: dict[str, list[str]] = {"admin": [], "mounted": [], "hosted": [], "public": [], "other": []}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def note(handler: str, request: Request):
    raw = request.scope["raw_path"].decode("latin-1")
    reached[handler].append(f"{request.method} {raw} host {request.headers.get('host')}")
    return {"handler": handler, "raw": raw}


@app.get("/healthz")
def healthz():
    return {"status": "ok"}


@app.get("/_reached")
def what_was_reached():
    return reached


@app.api_route("/admin/secret", methods=METHODS)
@app.api_route("/admin", methods=METHODS)
@app.api_route("/admin/{rest:path}", methods=METHODS)
def admin(request: Request):
    return note("admin", request)


@app.api_route("/public/{rest:path}", methods=METHODS)
def public(request: Request):
    return note("public", request)


@mounted.api_route("/secret", methods=METHODS)
@mounted.api_route("/secret/{rest:path}", methods=METHODS)
def inner(request: Request):
    return note("mounted", request)


@hosted.api_route("/{rest:path}", methods=METHODS)
def by_host(request: Request):
    return note("hosted", request)


app.mount("/mounted", mounted)
# A host is looked at before any path.
app.router.routes.insert(0, Host("admin.example", app=hosted))


@app.api_route("/{rest:path}", methods=METHODS)
def other(request: Request):
    return note("other", request)

