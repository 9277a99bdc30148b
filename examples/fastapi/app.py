"""A FastAPI application without a line of auth code.

Who is calling comes in headers that HAProxy sets from Tollgate's answer, and that no client can set: HAProxy strips
them, in every spelling, before it asks. A request that arrives here was already allowed and counted.

Listen on an address that only HAProxy can reach. Each answer names the worker that gave it.
"""

import os

from fastapi import FastAPI, Request

app = FastAPI(title="Acme")

IDENTITY = ("user", "subject", "email", "name", "groups", "issuer", "client")


def answer(request: Request, **body) -> dict:
    server = request.scope.get("server") or ("", 0)
    return {**body, "worker": {"port": server[1], "pid": os.getpid()}}


def identity(request: Request) -> dict:
    return {part: value for part in IDENTITY if (value := request.headers.get(f"x-auth-{part}")) is not None}


@app.get("/healthz")
def healthz(request: Request):
    return answer(request, status="ok")


@app.get("/public/hello")
def hello(request: Request):
    return answer(request, hello=request.headers.get("x-auth-user", "stranger"))


@app.get("/v1/whoami")
def whoami(request: Request):
    return answer(request, identity=identity(request))


@app.get("/v1/items")
def items(request: Request):
    groups = request.headers.get("x-auth-groups", "").split(",")
    return answer(request, items=["anvil", "rocket skates"] + (["giant magnet"] if "paid" in groups else []))


@app.get("/admin/stats")
def stats(request: Request):
    return answer(request, stats={"items": 3}, seen_by=request.headers.get("x-auth-user"))
