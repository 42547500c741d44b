"""A minimal ASGI application for gunicorn: as much MCP as the clients of bench/lossless speak, and nothing behind it.

`POST` answers `initialize` with a session and `tools/call` with the message that it was sent, `GET` holds an event stream
open, `POST /stall?SECONDS` blocks the event loop.
"""

import asyncio
import json
import os
import time

JSON = [(b"content-type", b"application/json")]
SERVICE_S = float(os.environ.get("SERVICE_MS", "0")) / 1000


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http" and scope["method"] == "GET":
        await stream(receive, send)
    elif scope["type"] == "http":
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        if scope["path"] == "/stall":
            await answer(send, 202, b"{}")
            asyncio.get_running_loop().call_later(0.05, time.sleep, float(scope["query_string"]))
        else:
            await rpc(json.loads(body), send)


async def lifespan(receive, send):
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def rpc(request, send):
    if "id" not in request:
        await answer(send, 202, b"")
        return
    headers = []
    if request["method"] == "initialize":
        headers = [(b"mcp-session-id", b"one")]
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "echo", "version": "1"}}
    else:
        await asyncio.sleep(SERVICE_S)
        result = {"content": [{"type": "text", "text": request["params"]["arguments"]["message"]}]}
    body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
    await answer(send, 200, body, headers)


async def answer(send, status, body, headers=()):
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def stream(receive, send):
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.ensure_future(receive())
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b": here\n\n", "more_body": True})
            await asyncio.wait([gone], timeout=1)
    finally:
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})
