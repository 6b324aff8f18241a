#!/usr/bin/env python3
"""A fleet of Janus servers in one file: router, registry keeper and, if asked to, autoscaler. An example, and what tests
run against; nothing but Python's own library.

    director.py --listen 10.77.0.1:7000 --redis 10.77.0.1:6379 \\
        --server janus-1,ws://10.77.0.1:8188,http://10.77.0.1:7088/admin,janus-1.pid --server …

The registry, in Redis, is the truth about cordons; everything else in it is written here:

    sfu:servers            set: servers that are offered
    sfu:{server}:alive     as long as it answers, for 3 s at a time
    sfu:{server}           hash: headroom, sessions, participants
    sfu:{server}:cordoned  there: no new rooms
    room:{room}:server     where a room is

POST /join {"room", "participant", "size"} answers {"url", "room", "server"}: a room that is somewhere stays there, cordoned
or not; a new one goes to the server with the most headroom. GET /metrics/{server} is Prometheus text.

Its autoscaler (--scale-in-after SECONDS, counted from the first join) takes the server with the fewest participants away:
policy drain cordons, waits for the last session and sends SIGTERM; policy terminate does not wait.
"""

import argparse
import http.server
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
import zlib

ALIVE_MS = 3000
EVERY_S = 0.25
# An empty room is taken down so long after its last participant.
LINGER_S = 2.0
PLUGIN = "janus.plugin.videoroom"


class Redis:
    """One connection, one command at a time (RESP2)."""

    def __init__(self, address):
        self.address, self.lock, self.file = address, threading.Lock(), None

    def __call__(self, *words):
        with self.lock:
            try:
                if self.file is None:
                    self.file = socket.create_connection(self.address, timeout=2).makefile("rwb")
                parts = [str(w).encode() for w in words]
                head = b"*%d\r\n" % len(parts)
                self.file.write(head + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
                self.file.flush()
                return self.answer()
            except OSError:
                self.file = None
                raise

    def answer(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:].strip()
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            return self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest.decode()


class Server:
    def __init__(self, text, secret):
        self.name, self.url, self.admin, self.pid_file = text.split(",")
        self.secret, self.participants, self.sessions, self.alive = secret, 0, 0, False

    def ask(self, request, timeout=1.0):
        body = dict(request, transaction="director", admin_secret=self.secret)
        request = urllib.request.Request(self.admin, json.dumps(body).encode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            answer = json.load(answer)
        if answer.get("janus") != "success":
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def plugin(self, **request):
        return self.ask({"janus": "message_plugin", "plugin": PLUGIN, "request": request})["response"]


class Director:
    def __init__(self, args):
        host, port = args.redis.split(":")
        self.redis = Redis((host, int(port)))
        self.args, self.lock = args, threading.Lock()
        self.servers = {s.name: s for s in (Server(t, args.admin_secret) for t in args.server)}
        # Joins that the servers' own counts do not show yet: when they were answered.
        self.pending = {name: [] for name in self.servers}
        self.empty_since, self.first_join = {}, None

    def join(self, room, size):
        with self.lock:
            self.first_join = self.first_join or time.monotonic()
            name = self.redis("GET", f"room:{room}:server")
            if name not in self.servers or not self.servers[name].alive:
                name = self.place(size)
                if name is None:
                    return None
                self.redis("SET", f"room:{room}:server", name)
            server, number = self.servers[name], zlib.crc32(room.encode()) + 1
            # One that is there already is fine, too.
            server.plugin(request="create", room=number, description=room, publishers=size + 8, bitrate=0, fir_freq=0,
                          audiocodec="opus", videocodec="vp8,h264", notify_joining=False, audiolevel_event=False,
                          transport_wide_cc_ext=True, **({"admin_key": self.args.admin_key} if self.args.admin_key else {}))
            self.pending[name].append(time.monotonic())
            self.empty_since.pop((name, room), None)
            return {"url": server.url, "room": number, "server": name}

    def headroom(self, server):
        now = time.monotonic()
        self.pending[server.name] = [t for t in self.pending[server.name] if t > now - 1.0]
        return self.args.capacity - server.participants - len(self.pending[server.name])

    def place(self, size):
        def fits(s):
            return s.alive and not self.redis("EXISTS", f"sfu:{s.name}:cordoned") and self.headroom(s) > 0
        open_ones = [s for s in self.servers.values() if fits(s)]
        return max(open_ones, key=self.headroom).name if open_ones else None

    def look(self, server):
        """Once in a while: what a server says goes into the registry."""
        try:
            server.sessions = len(server.ask({"janus": "list_sessions"})["sessions"])
            rooms = server.plugin(request="list")["list"]
            server.participants = sum(r["num_participants"] for r in rooms)
        except urllib.error.URLError as e:
            # A server that refuses connections has ended; one that does not answer keeps what time it has left.
            ended = isinstance(e.reason, ConnectionRefusedError)
            if ended or not self.redis("EXISTS", f"sfu:{server.name}:alive"):
                self.lost(server)
            return
        except (OSError, RuntimeError):
            if not self.redis("EXISTS", f"sfu:{server.name}:alive"):
                self.lost(server)
            return
        server.alive = True
        self.redis("SET", f"sfu:{server.name}:alive", 1, "PX", ALIVE_MS)
        self.redis("SADD", "sfu:servers", server.name)
        self.redis("HSET", f"sfu:{server.name}", "headroom", max(self.headroom(server), 0),
                   "sessions", server.sessions, "participants", server.participants)
        self.tidy(server, rooms)

    def lost(self, server):
        server.alive, server.participants, server.sessions = False, 0, 0
        self.redis("SREM", "sfu:servers", server.name)
        self.redis("DEL", f"sfu:{server.name}:alive", f"sfu:{server.name}")
        for key in self.redis("KEYS", "room:*:server"):
            if self.redis("GET", key) == server.name:
                self.redis("DEL", key)

    def tidy(self, server, rooms):
        now = time.monotonic()
        for room in rooms:
            name = room["description"]
            if self.redis("GET", f"room:{name}:server") != server.name:
                continue
            if room["num_participants"] > 0:
                self.empty_since.pop((server.name, name), None)
                continue
            since = self.empty_since.setdefault((server.name, name), now)
            if now - since > LINGER_S:
                with self.lock:
                    if (server.name, name) in self.empty_since:
                        del self.empty_since[server.name, name]
                        self.redis("DEL", f"room:{name}:server")
                        key = {"secret": self.args.admin_key} if self.args.admin_key else {}
                        server.plugin(request="destroy", room=room["room"], **key)

    def keep(self, server):
        while True:
            try:
                self.look(server)
            except Exception as e:  # A registry that is away now may be back in a moment.
                print(f"{server.name}: {e!r}", flush=True)
            time.sleep(EVERY_S)

    def scale_in(self):
        while self.first_join is None or time.monotonic() < self.first_join + self.args.scale_in_after:
            time.sleep(0.1)
        server = min((s for s in self.servers.values() if s.alive), key=lambda s: s.participants)
        print(f"scale-in: {server.name} with {server.participants} participants", flush=True)
        self.redis("SET", f"sfu:{server.name}:cordoned", 1)
        if self.args.policy == "drain":
            while server.ask({"janus": "list_sessions"})["sessions"]:
                time.sleep(0.2)
        with open(server.pid_file) as f:
            os.kill(int(f.read()), signal.SIGTERM)
        print(f"scale-in: {server.name} terminated", flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    director = None
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            answer = self.director.join(wanted["room"], wanted["size"])
        except Exception as e:
            return self.answer(502, {"error": repr(e)})
        self.answer(200, answer) if answer else self.answer(503, {"error": "no server takes a new room"})

    def do_GET(self):
        server = self.director.servers.get(self.path.rsplit("/", 1)[-1])
        if server is None or not server.alive:
            return self.answer(404, {"error": "no such server, or it does not live"})
        text = f"sfu_sessions {server.sessions}\nsfu_participants {server.participants}\n"
        self.send(200, "text/plain; version=0.0.4", text.encode())

    def answer(self, status, what):
        self.send(status, "application/json", json.dumps(what).encode())

    def send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Api(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    p = argparse.ArgumentParser(description="Router, registry keeper and autoscaler of a fleet of Janus servers.")
    p.add_argument("--listen", required=True)
    p.add_argument("--redis", required=True)
    p.add_argument("--server", action="append", required=True, metavar="NAME,URL,ADMIN,PID_FILE")
    p.add_argument("--capacity", type=int, default=100, help="participants a server takes")
    p.add_argument("--scale-in-after", type=float, metavar="SECONDS")
    p.add_argument("--policy", choices=["drain", "terminate"], default="drain")
    args = p.parse_args()
    # Not on the command line, which everybody can see.
    args.admin_secret = os.environ.get("JANUS_ADMIN_SECRET", "")
    args.admin_key = os.environ.get("JANUS_ADMIN_KEY", "")
    director = Director(args)
    for server in director.servers.values():
        threading.Thread(target=director.keep, args=(server,), daemon=True).start()
    if args.scale_in_after is not None:
        threading.Thread(target=director.scale_in, daemon=True).start()
    Handler.director = director
    host, port = args.listen.split(":")
    Api((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
