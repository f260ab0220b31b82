#!/usr/bin/env python3
"""A chat client written from docs/protocol.md and /openapi.json alone, as a test of both.

Run it against a node: CHAT_TEST_URL=http://127.0.0.1:8080 python3 tests/protocol/client.py
It prints one line per check, and ends with 1 and a sentence if the node does not do what the documents say.
"""

import http.client
import json
import os
import random
import re
import string
import sys
import time
import uuid
from urllib.parse import quote, urlsplit

from websocket import BINARY, Closed, WebSocket

URL = os.environ.get("CHAT_TEST_URL", "").rstrip("/")
used = set()


class Failed(Exception):
    pass


def check(condition, sentence):
    if not condition:
        raise Failed(sentence)


def request(method, path, token=None, body=None, template=None, expect=200, headers=None):
    """An HTTP request; `template` is its path in /openapi.json."""
    used.add((method.lower(), template or path.split("?")[0]))
    parts = urlsplit(URL)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=40)
    headers = dict(headers or {})
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if body is not None and "Content-Type" not in headers:
        headers["Content-Type"] = "application/json"
    payload = None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
    connection.request(method, path, payload, headers)
    answer = connection.getresponse()
    text = answer.read()
    kind = answer.headers.get("Content-Type", "")
    connection.close()
    value = json.loads(text) if text and "json" in kind else None
    wanted = expect if isinstance(expect, tuple) else (expect,)
    check(answer.status in wanted, f"{method} {path} answered {answer.status} {text[:300]!r}, not {expect}")
    if answer.status >= 400:
        check(kind.startswith("application/problem+json"), f"{method} {path}: an error of type {kind}")
        check(value["status"] == answer.status and value["detail"] and value["type"], f"{method} {path}: {value}")
    return value


def refused(code, status, method, path, **options):
    problem = request(method, path, expect=status, **options)
    check(problem["code"] == code, f"{method} {path} was refused as {problem['code']}, not {code}")


class Person:
    """A user with one device, and the copy of its conversations that section 6 asks for."""

    def __init__(self, name):
        self.handle = name + "".join(random.choices(string.ascii_lowercase + string.digits, k=10))
        self.password = uuid.uuid4().hex
        body = {"handle": self.handle, "password": self.password, "name": name, "device_name": "python"}
        self.take_tokens(request("POST", "/v1/accounts", body=body, expect=(200, 201)))
        self.socket = None
        self.cursor = None
        self.messages = {}
        self.reactions = {}
        self.conversations = {}
        self.pending = []
        self.request_id = 0

    def take_tokens(self, tokens):
        self.id, self.token = tokens["user_id"], tokens["access_token"]
        self.refresh_token = tokens["refresh_token"]

    def hello(self, **changes):
        return {"hello": {"versions": [1], "token": self.token, **({"cursor": self.cursor} if self.cursor else {}), **changes}}

    def connect(self):
        self.socket = WebSocket(websocket_url())
        self.socket.send(self.hello())
        kind, welcome = self.socket.receive()
        check(kind == "welcome", f"hello was answered by {kind}: {welcome}")
        check(welcome["version"] == 1 and welcome["user_id"] == self.id, f"welcome is wrong: {welcome}")
        check(welcome["heartbeat_interval_ms"] > 0 and welcome["limits"]["text_chars"] > 0, "welcome lacks limits")
        return welcome

    def take(self, kind, fields):
        """Applies a frame by the rules of section 6: duplicates, versions, cursor."""
        if kind == "message":
            self.take_message(fields)
        elif kind == "reactions":
            self.take_reactions(fields["message_id"], fields["reactions"])
        elif kind == "room":
            for message in fields["messages"]:
                self.take_message(message)
        elif kind == "conversation":
            known = self.conversations.get(fields["conversation_id"])
            if known is None or int(fields["version"]) >= int(known["version"]):
                self.conversations[fields["conversation_id"]] = fields
        elif kind in ("cursor", "reconnect"):
            self.cursor = fields["cursor"]

    def take_message(self, message):
        known = self.messages.get(message["message_id"])
        if known is None or int(message["version"]) >= int(known["version"]):
            self.messages[message["message_id"]] = message
        if "reactions" in message:
            self.take_reactions(message["message_id"], message["reactions"])

    def take_reactions(self, message_id, reactions):
        known = self.reactions.get(message_id)
        if known is None or int(reactions["version"]) >= int(known["version"]):
            self.reactions[message_id] = reactions

    def next(self, timeout=10):
        kind, fields = self.socket.receive(timeout)
        self.take(kind, fields)
        return kind, fields

    def wait(self, what, condition, timeout=15):
        """Reads frames until the condition holds for one of them, or, with none read, for the copy."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                kind, fields = self.next(max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                raise Failed(f"{self.handle} waited {timeout} s for {what} in vain") from None
            if condition(kind, fields):
                return fields

    def ask(self, kind, expect="ack", **fields):
        self.request_id += 1
        number = self.request_id
        self.socket.send({kind: {"request_id": number, **fields}})
        answers = ("ack", "error", "presence_snapshot")
        seen = {}

        def answered(kind, fields):
            seen["kind"] = kind
            return kind in answers and fields.get("request_id") == number

        fields = self.wait(f"the answer to {kind}", answered)
        check(seen["kind"] == expect, f"{kind} was answered by {seen['kind']}: {fields}")
        return fields

    def send(self, conversation, text, client_message_id=None, retry=False):
        return self.ask(
            "send",
            conversation_id=conversation,
            client_message_id=client_message_id or str(uuid.uuid4()),
            retry=retry,
            type="text",
            body={"text": text},
        )

    def send_http(self, conversation, text, client_message_id=None, retry=False, expect=(200, 201)):
        body = {
            "client_message_id": client_message_id or str(uuid.uuid4()),
            "retry": retry,
            "type": "text",
            "body": {"text": text},
        }
        path = f"/v1/conversations/{conversation}/messages"
        template = "/v1/conversations/{conversation_id}/messages"
        return request("POST", path, self.token, body, template, expect=expect)

    def sync(self, wait_ms=0):
        cursor = f"&cursor={quote(self.cursor, safe='')}" if self.cursor else ""
        answer = request("GET", f"/v1/sync?wait_ms={wait_ms}{cursor}", self.token)
        for frame in answer["frames"]:
            check(len(frame) == 1, f"a frame has one key, not {list(frame)}")
            self.take(*next(iter(frame.items())))
        self.cursor = answer["cursor"]
        check(len(self.cursor) <= 400, "a cursor is longer than 400 characters")
        return answer

    def sync_until(self, what, condition, wait_ms=2000, timeout=20):
        deadline = time.monotonic() + timeout
        while not condition():
            check(time.monotonic() < deadline, f"{self.handle} polled {timeout} s for {what} in vain")
            time.sleep(self.sync(wait_ms)["retry_after_ms"] / 1000)

    def text(self, message_id):
        message = self.messages.get(message_id)
        return message and message["body"] and message["body"].get("text")


def websocket_url():
    return request("GET", "/v1/discovery")["websocket_url"]


def accounts():
    ann, ben = Person("ann"), Person("ben")
    refused("handle_taken", 409, "POST", "/v1/accounts", body={"handle": ann.handle, "password": "long enough"})
    refused("wrong_credentials", 401, "POST", "/v1/sessions", body={"handle": ann.handle, "password": "not the one"})
    refused("unauthenticated", 401, "GET", "/v1/me")
    refused("unauthenticated", 401, "GET", "/v1/me", token="forged")
    refused("malformed_request", 400, "POST", "/v1/sessions", body="{")
    refused("unsupported_media_type", 415, "POST", "/v1/sessions", body="x", headers={"Content-Type": "text/plain"})
    ann.take_tokens(request("POST", "/v1/sessions/refresh", body={"refresh_token": ann.refresh_token}))
    check(request("GET", "/v1/me", ann.token)["handle"] == ann.handle, "the refreshed token names somebody else")
    return ann, ben


def direct(ann, ben):
    body = {"kind": "direct", "user_id": ben.id}
    first = request("POST", "/v1/conversations", ann.token, body, expect=(200, 201))
    again = request(
        "POST", "/v1/conversations", ben.token, {"kind": "direct", "user_id": ann.id}, expect=(200, 201)
    )
    check(first["conversation_id"] == again["conversation_id"], "two people have two direct conversations")
    return first["conversation_id"]


def websocket_chat(ann, ben, conversation):
    check(ann.connect()["outcome"] == "new", "a connection without cursor is not new")
    ben.connect()
    own = str(uuid.uuid4())
    ack = ann.send(conversation, "hello", own)
    check(ack["seq"] >= 1 and ack["message_id"] and ack["created_at"], f"the ack lacks something: {ack}")
    got = ben.wait("the message", lambda kind, f: kind == "message" and f["message_id"] == ack["message_id"])
    check(got["body"] == {"text": "hello"} and got["client_message_id"] == own, f"the message is wrong: {got}")
    check(got["sender_id"] == ann.id and got["seq"] == ack["seq"], f"the message is wrong: {got}")
    repeated = ann.send(conversation, "hello", own, retry=True)
    check(repeated["message_id"] == ack["message_id"], "a repeated send made a second message")
    check(ack["message_id"] not in ann.messages, "the sending connection got a copy besides the ack")

    answer = ben.send(conversation, "hi")
    ann.wait("the answer", lambda kind, f: kind == "message" and f["message_id"] == answer["message_id"])
    check(int(answer["message_id"]) > int(ack["message_id"]), "a later message has a smaller id")
    check(answer["seq"] == ack["seq"] + 1, "seq has a hole")

    target = {"conversation_id": conversation, "message_id": ack["message_id"]}
    ann.ask("edit", **target, body={"text": "hello, Ben"})
    ben.wait("the edit", lambda kind, f: ben.text(ack["message_id"]) == "hello, Ben")
    check(ben.messages[ack["message_id"]].get("edited_at"), "an edited message lacks edited_at")
    ben.ask("react", **target, emoji="👍", remove=False)
    ann.wait("the reaction", lambda kind, f: ack["message_id"] in ann.reactions)
    items = ann.reactions[ack["message_id"]]["items"]
    check(items == [{"emoji": "👍", "user_ids": [ben.id]}], f"the reactions are {items}")
    ben.ask("react", **target, emoji="👍", remove=True)
    ann.wait("the end of the reaction", lambda kind, f: not ann.reactions[ack["message_id"]]["items"])
    ben.ask("read", conversation_id=conversation, seq=answer["seq"])
    ann.wait("the read mark", lambda kind, f: kind == "read" and f["user_id"] == ben.id and f["seq"] == answer["seq"])
    ben.socket.send({"typing": {"conversation_id": conversation, "active": True}})
    ann.wait("typing", lambda kind, f: kind == "typing" and f["user_id"] == ben.id and f["active"])
    ann.ask("delete", **target)
    ben.wait("the deletion", lambda kind, f: ben.messages[ack["message_id"]].get("deleted"))
    check(ben.messages[ack["message_id"]]["body"] is None, "a deleted message has a body")
    error = ann.ask("edit", expect="error", **target, body={"text": "too late"})
    check(error["code"] == "message_deleted", f"editing a deleted message was refused as {error['code']}")
    error = ben.ask("edit", expect="error", conversation_id=conversation, message_id="1", body={"text": "x"})
    check(error["code"] == "not_found", f"editing what does not exist was refused as {error['code']}")

    ann.socket.send({"heartbeat": {}})
    ann.wait("the heartbeat's answer", lambda kind, f: kind == "heartbeat" and f["server_time"] > 0)
    ann.ask("presence", expect="presence_snapshot")
    long = ben.send(conversation, "ü" * 100_000)
    got = ann.wait("the long text", lambda kind, f: kind == "message" and f["message_id"] == long["message_id"])
    check(len(got["body"]["text"]) == 100_000, "a long text arrived shorter")
    error = ben.ask(
        "send", expect="error", conversation_id=conversation, client_message_id=str(uuid.uuid4()),
        type="text", body={"text": "x" * 100_001},
    )
    check(error["code"] == "too_large", f"a text over the limit was refused as {error['code']}")


def resume(ann, ben, conversation):
    """What is sent while a device is away arrives after its cursor, once, in order, on another connection."""
    ben.wait("a cursor", lambda kind, f: kind == "cursor", timeout=75)
    before = dict(ben.messages)
    ben.socket.cut()
    sent = [ann.send(conversation, f"while away {n}")["message_id"] for n in range(5)]
    sent.append(ann.send_http(conversation, "by HTTP")["message_id"])
    welcome = ben.connect()
    check(welcome["outcome"] == "resumed", f"a fresh cursor was answered by {welcome['outcome']}")
    ben.wait("what it missed", lambda kind, f: all(m in ben.messages for m in sent))
    order = [m for m in ben.messages if m in sent and m not in before]
    check(order == sent, f"missed messages came in the order {order}, not {sent}")


def polls(ann, ben, conversation):
    """The same cursor goes on by long poll, poll and server-sent events."""
    ben.socket.close()
    first = ann.send(conversation, "to a poll")["message_id"]
    ben.sync_until("the message", lambda: first in ben.messages, wait_ms=0)
    # A long poll that waits is answered by what happens meanwhile.
    started = time.monotonic()
    import threading

    def later():
        time.sleep(1)
        ann.send_http(conversation, "to a long poll")

    thread = threading.Thread(target=later)
    thread.start()
    ben.sync_until(
        "the long poll's message",
        lambda: any(ben.text(m) == "to a long poll" for m in ben.messages),
        wait_ms=20_000,
    )
    thread.join()
    check(time.monotonic() - started < 15, "a long poll was not answered when something happened")
    last = ann.send(conversation, "to a stream")["message_id"]
    events(ben, last)
    check(ben.connect()["outcome"] == "resumed", "the cursor of a stream does not go on on a WebSocket")
    refused("invalid_cursor", 400, "GET", "/v1/sync?wait_ms=0&cursor=nonsense", token=ben.token)


def events(person, wanted):
    used.add(("get", "/v1/events"))
    parts = urlsplit(URL)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    path = f"/v1/events?cursor={quote(person.cursor, safe='')}"
    connection.request("GET", path, headers={"Authorization": f"Bearer {person.token}", "Accept": "text/event-stream"})
    answer = connection.getresponse()
    check(answer.status == 200, f"GET /v1/events answered {answer.status}")
    check(answer.headers["Content-Type"].startswith("text/event-stream"), "events are not an event stream")
    first, cursors = None, 0
    while wanted not in person.messages or not cursors:
        line = answer.readline()
        check(line, "the event stream ended early")
        if line.startswith(b"data:"):
            kind, fields = next(iter(json.loads(line[5:]).items()))
            first = first or kind
            cursors += kind == "cursor"
            person.take(kind, fields)
    check(first == "welcome", f"an event stream began with {first}")
    connection.close()


def bad_frames(ann):
    def closed_by(payload, opcode=1, hello=False):
        socket = WebSocket(websocket_url())
        if hello:
            socket.send(ann.hello())
            socket.receive()
        code = None
        try:
            socket.send_raw(payload, opcode)
            while True:
                kind, fields = socket.receive()
                code = fields["code"] if kind == "error" else code
        except Closed as closed:
            return closed.code, code

    def expect(name, got, number, code):
        check(got[0] == number, f"{name} was closed with {got[0]}, not {number}")
        check(got[1] == code, f"{name} was refused as {got[1]}, not {code}")

    dumped = lambda frame: json.dumps(frame).encode()
    expect("a first frame that is no hello", closed_by(dumped({"heartbeat": {}})), 3500, "hello_expected")
    expect("a forged token", closed_by(dumped(ann.hello(token="forged"))), 3501, "unauthenticated")
    expect("version 99", closed_by(dumped(ann.hello(versions=[99]))), 3503, "unsupported_version")
    expect("a cursor of nobody", closed_by(dumped(ann.hello(cursor="nonsense"))), 3500, "invalid_cursor")
    expect("a binary frame", closed_by(b"\x80", BINARY, hello=True), 3505, "wrong_encoding")
    check(closed_by(b" " * 1_500_000, hello=True)[0] == 3504, "a frame over the limit was not closed with 3504")

    socket = WebSocket(websocket_url(), subprotocol=None)
    socket.send(ann.hello())
    check(socket.receive()[0] == "welcome", "no subprotocol does not mean JSON")
    for frame, code in [
        (b"{", "malformed_request"),
        (b'{"send": {"request_id": 5}}', "malformed_request"),
        (b'{"fly": {}}', "unknown_frame"),
    ]:
        socket.send_raw(frame)
        while True:
            kind, fields = socket.receive()
            if kind == "error":
                break
        check(fields["code"] == code, f"{frame!r} was refused as {fields['code']}, not {code}")
    socket.close()


def groups(ann, ben, conversation):
    eve = Person("eve")
    eve_path = f"/v1/conversations/{conversation}/messages"
    template = "/v1/conversations/{conversation_id}/messages"
    refused("not_found", 404, "GET", eve_path, token=eve.token, template=template)
    body = {"kind": "group", "request_id": str(uuid.uuid4()), "name": "Climbing", "members": [ben.id]}
    group = request("POST", "/v1/conversations", ann.token, body, expect=(200, 201))
    again = request("POST", "/v1/conversations", ann.token, body, expect=(200, 201))
    check(group["conversation_id"] == again["conversation_id"], "a repeated creation made a second group")
    group_id = group["conversation_id"]
    sent = ann.send(group_id, "welcome all")
    ben.wait("the group's message", lambda kind, f: sent["message_id"] in ben.messages)
    check(group_id in ben.conversations, "a new group was not announced")
    history = request("GET", f"/v1/conversations/{group_id}/messages?limit=10", ben.token, template=template)
    ids = [int(message["message_id"]) for message in history["messages"]]
    check(ids == sorted(ids, reverse=True) and int(sent["message_id"]) in ids, "history is not newest first")
    lists = request("GET", "/v1/conversations?limit=50", ben.token)["items"]
    head = next((h for h in lists if h["conversation"]["conversation_id"] == group_id), None)
    check(head and head["unread"] == head["last_seq"] - head["read_seq"] > 0, f"the list's head is wrong: {head}")


def documented():
    document = request("GET", "/openapi.json")
    check(document["openapi"].startswith("3.1"), f"the document is OpenAPI {document['openapi']}, not 3.1")
    listed = {(method, path) for path, item in document["paths"].items() for method in item}
    missing = {(m, p) for m, p in used if (m, p) not in listed}
    check(not missing, f"/openapi.json does not list {sorted(missing)}")


def logout(ann):
    request("DELETE", "/v1/sessions/current", ann.token, expect=(200, 204))
    try:
        while True:
            ann.next()
    except Closed as closed:
        check(closed.code == 3502, f"a logout closed the connection with {closed.code}, not 3502")
    refused("unauthenticated", 401, "POST", "/v1/sessions/refresh", body={"refresh_token": ann.refresh_token})


def main():
    check(re.match(r"^http://[^/]+$", URL), "set CHAT_TEST_URL to the address of a node, such as http://127.0.0.1:8080")
    count = 0

    def step(name, function, *arguments):
        nonlocal count
        started = time.monotonic()
        result = function(*arguments)
        count += 1
        print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
        return result

    ann, ben = step("accounts, tokens, problems", accounts)
    conversation = step("one direct conversation per pair", direct, ann, ben)
    step("chat by WebSocket", websocket_chat, ann, ben, conversation)
    step("resume after a lost connection", resume, ann, ben, conversation)
    step("the same cursor by poll, long poll and events", polls, ann, ben, conversation)
    step("frames that must be refused", bad_frames, ann)
    step("groups, history, other people's conversations", groups, ann, ben, conversation)
    step("/openapi.json lists what was used", documented)
    step("logout", logout, ann)
    print(f"{count} protocol checks passed")


if __name__ == "__main__":
    try:
        main()
    except (Failed, Closed, AssertionError, OSError) as error:
        print(f"failed: {error or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
