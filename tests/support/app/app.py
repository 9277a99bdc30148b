"""The application of the end-to-end tests: says back what reached it, on any path, and counts requests per path."""

from collections import Counter

from fastapi import FastAPI, Request

app = FastAPI(openapi_url=None)
count: Counter[str] = Counter()


@app.get("/healthz")
def healthz():
    return {"status": "ok"}


@app.get("/_count")
def counted():
    return dict(count)


@app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def echo(request: Request):
    raw = request.scope["raw_path"].decode("latin-1")
    count[raw] += 1
    return {
        "method": request.method,
        "path": raw,
        "decoded": request.scope["path"],
        "query": request.scope["query_string"].decode("latin-1"),
        # Pairs, in the order they came: a header given twice must show twice. Latin-1 keeps every byte.
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
        "body_bytes": len(await request.body()),
        "port": request.scope["server"][1],
    }
