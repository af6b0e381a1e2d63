"""A webhook receiver of its own process: `python webhook_child.py PORT FILE`.

What it answers 204 to is in the file, a request a line, and would survive its end.
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, body + b"\n")
        os.fsync(descriptor)
        os.close(descriptor)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
