"""A chat-completions endpoint on this machine, whose answers and faults a test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server sends: a message's content, or another status, or raw bytes."""

    content: str | None = '{"score": 7}'
    status: int = 200
    error: str = "no"
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    finish_reason: str = "stop"
    usage: Any = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    )
    content_type: str = "application/json"


NOW = {"retry-after-ms": "5"}  # a client that honours it tries again at once


class ChatServer:
    """``with ChatServer(answer) as server:`` where ``answer(request, number) -> Reply``; number counts from 0.

    Attributes:
        requests: the bodies that came, in order.
        headers: their headers.
        most_at_once: the largest number of requests that were open at the same time.
        connections: how many clients are connected.
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply] | None = None) -> None:
        self.answer = answer or (lambda request, number: Reply())
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._open = self.connections = 0
        self._lock = threading.Lock()

    def __enter__(self) -> ChatServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server.connections += 1

            def finish(self) -> None:
                with server._lock:
                    server.connections -= 1
                super().finish()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(body)
                    server.headers.append({k.lower(): v for k, v in self.headers.items()})
                    server._open += 1
                    server.most_at_once = max(server.most_at_once, server._open)
                try:
                    if self.path != "/v1/chat/completions":
                        reply = Reply(status=404, error=f"no {self.path}")
                    else:
                        reply = server.answer(body, number)
                    time.sleep(reply.seconds)
                finally:
                    with server._lock:
                        server._open -= 1
                self.send(reply)

            def send(self, reply: Reply) -> None:
                if reply.raw is not None:
                    data = reply.raw
                elif reply.status != 200:
                    data = json.dumps(
                        {"error": {"message": reply.error, "type": "invalid_request_error"}}
                    ).encode()
                else:
                    message = {"role": "assistant", "content": reply.content}
                    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
                    whole = {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 0,
                        "model": "m",
                        "choices": [choice],
                    }
                    data = json.dumps({**whole, "usage": reply.usage}).encode()
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Type", reply.content_type)
                    self.send_header("Content-Length", str(len(data)))
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client had had enough

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # 5 by default: a burst of clients would be turned away

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def said(request: dict[str, Any]) -> str:
    """Everything that a request tells the model, in one text."""
    return "\n".join(message["content"] for message in request["messages"])
