"""A FastAPI application with an `AsyncBackend`: calls, events, and a report that is streamed to the browser.

Run it with ``uvicorn examples.backends.fastapi_app:app``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

from juggler.backend import AsyncBackend
from juggler.errors import BrokerUnavailable, CallFailed, Expired


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncBackend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), call_timeout=5) as backend:
        app.state.backend = backend
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/price/{name}")
async def price(name: str) -> dict:
    return {"price": await app.state.backend.call("shop.price", name)}


@app.post("/orders/{name}", status_code=201)
async def order(name: str, x_user: str | None = Header(None)) -> dict:
    placed = await app.state.backend.call("shop.order", name, by=x_user)
    return {"order": placed, "watching": await app.state.backend.publish("orders", {"order": placed})}


@app.get("/report")
async def report() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        # A browser that goes away ends this generator, which cancels the call.
        async with app.state.backend.stream("shop.report") as stream:
            async for line in stream:
                yield f"{line}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.exception_handler(CallFailed)
@app.exception_handler(Expired)
@app.exception_handler(BrokerUnavailable)
async def failed(request: Request, error: Exception) -> JSONResponse:
    status = {CallFailed: 502, Expired: 504}.get(type(error), 503)
    return JSONResponse({"error": str(error)}, status)
