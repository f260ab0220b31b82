"""A WebSocket client (RFC 6455) in a hundred lines of the standard library: text and binary frames, ping, close."""

import base64
import hashlib
import json
import os
import socket
import struct
import time
from urllib.parse import urlsplit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Closed(Exception):
    """The server closed the connection."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed with {code} {reason}".strip())
        self.code = code


class WebSocket:
    def __init__(self, url, subprotocol="chat.v1.json", headers=(), timeout=15):
        parts = urlsplit(url)
        if parts.scheme != "ws":
            raise ValueError(f"this client speaks ws only, not {url}")
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path or '/'} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        if subprotocol:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        lines.extend(f"{name}: {value}" for name, value in headers)
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = self._until(b"\r\n\r\n").decode()
        self.status = int(head.split(" ", 2)[1])
        answer = {}
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(":")
            answer[name.strip().lower()] = value.strip()
        if self.status != 101:
            raise Closed(self.status, "no upgrade")
        expected = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        assert answer.get("sec-websocket-accept") == expected, "the server did not prove that it speaks WebSocket"
        if subprotocol:
            assert answer.get("sec-websocket-protocol") == subprotocol, "the server did not choose the subprotocol"

    def _read(self, count):
        while len(self.buffer) < count:
            data = self.socket.recv(65536)
            if not data:
                raise Closed(1006, "connection lost")
            self.buffer += data
        head, self.buffer = self.buffer[:count], self.buffer[count:]
        return head

    def _until(self, mark):
        while mark not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                raise Closed(1006, "connection lost")
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    def send_raw(self, payload, opcode=TEXT):
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        repeated = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
        self.socket.sendall(head + mask + masked)

    def send(self, frame):
        self.send_raw(json.dumps(frame).encode())

    def receive(self, timeout=10):
        """The next frame as (type, fields). Answers pings on the way."""
        deadline = time.monotonic() + timeout
        message = b""
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            first, second = self._read(2)
            opcode, length = first & 0x0F, second & 0x7F
            assert not second & 0x80, "a server must not mask its frames"
            if length == 126:
                (length,) = struct.unpack("!H", self._read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._read(8))
            payload = self._read(length)
            if opcode == PING:
                self.send_raw(payload, PONG)
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                raise Closed(code, payload[2:].decode())
            elif opcode != PONG:
                message += payload
                if first & 0x80:
                    frame = json.loads(message)
                    assert len(frame) == 1, f"a frame has one key, not {list(frame)}"
                    return next(iter(frame.items()))

    def close(self):
        try:
            self.send_raw(struct.pack("!H", 1000), CLOSE)
        except OSError:
            pass
        self.socket.close()

    def cut(self):
        """Ends the connection without a word, as a lost network does."""
        self.socket.close()
