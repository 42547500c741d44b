"""The three servers that bench/lossless compares: each is started, asked for its workers, told to reload, and ended, by the
same names. What is said of processes is read from /proc."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECRET = "bench-only-5c0e3a1f-9d7b-4f26-8a53-d1e90b7c64f2"
# Milliseconds that a call takes behind the proxy, or in gunicorn's application.
SERVICE_MS = 4
GUNICORN = "gunicorn==27.0.1"
GUNICORN_AT = ROOT / "tests" / ".cache" / "gunicorn"
NGINX = """
daemon off; worker_processes {workers}; pid {dir}/pid; error_log {dir}/error.log;
worker_rlimit_nofile 8192; worker_shutdown_timeout 30s;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 75s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s;
  upstream mcp {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=2048;
    location / {{
      proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 1h;
    }}
  }}
}}
"""


def fail(why):
    sys.exit(f"bench: {why}")


def until(what, limit, look):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.005)
    fail(f"waited {limit} s in vain for {what}")


def free_port():
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def alive(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def cpu_seconds(pid):
    """What its threads have run, to the nanosecond."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def private_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.M)) / 1024


def resident_mib(pid):
    return int(re.search(r"^VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]) / 1024


def wait_listening(port, process, log):
    def look():
        if process.poll() is not None:
            fail(f"{log} says why it ended:\n{log.read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False

    until(f"port {port}", 60, look)


class Server:
    """Common to the three. `recycle` is how many requests a worker serves; 0 = for ever."""

    path, token, echo = "/mcp", "none", "echo"

    def __init__(self, bench, workers, recycle=0):
        self.bench, self.count, self.recycle = bench, workers, recycle
        self.directory = bench.new_directory(self.name)
        self.port = free_port()
        self.log = self.directory / "log"
        self.start()
        until(f"{workers} workers of {self.name}", 90, lambda: len(self.workers()) == workers)

    def spawn(self, command, environment=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=self.directory,
            )  # fmt: skip
        self.bench.running.append(self)

    @property
    def pid(self):
        return self.process.pid

    def workers(self):
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if alive(int(pid))]

    def hup(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        """At once: nobody is connected any more."""
        self.bench.running.remove(self)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Forkgate(Server):
    name, echo, faults = "forkgate", "fast__echo", False

    def start(self):
        self.binary = self.bench.binaries / ("forkgate-faults" if self.faults else "forkgate")
        self.admin = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "GATEWAY_BIND": f"127.0.0.1:{self.port}",
            "GATEWAY_ADMIN_BIND": f"127.0.0.1:{self.admin}",
            "GATEWAY_STATE_DIR": str(self.directory / "state"),
            "GATEWAY_WORKERS": str(self.count),
            "GATEWAY_MAX_REQUESTS": str(self.recycle),
            "GATEWAY_MAX_REQUESTS_JITTER": str(self.recycle // 2),
            "GATEWAY_RECYCLE_MIN_INTERVAL": "0.1",
            # Streams leave their worker at once: at most half of the workers drain at a time, and 1 000 are to be replaced.
            "GATEWAY_STREAM_DRAIN": "0.1",
            "GATEWAY_JWT_SECRET": SECRET,
            "SSRF_ALLOW_LOCALHOST": "true",
            "GATEWAY_FAULTS": "1",
        }
        self.spawn([self.binary, "serve"], self.environment)
        wait_listening(self.port, self.process, self.log)
        until("forkgate to be ready", 60, self.ready)
        self.token = self.make_token()
        if self.count <= 8:
            self.register()

    def ready(self):
        try:
            return self.status()["ready"] == self.count
        except (subprocess.CalledProcessError, ValueError):
            return False

    def run(self, *words):
        done = subprocess.run([self.binary, *words], env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    def make_token(self, *more):
        return self.run("token", "create", "--sub", "bench", "--ttl", "1d", *more).strip()

    def register(self):
        headers = {"Authorization": f"Bearer {self.make_token('--admin')}", "Content-Type": "application/json"}
        body = json.dumps({"name": "fast", "url": f"http://127.0.0.1:{self.bench.upstream}/mcp"}).encode()
        url = f"http://127.0.0.1:{self.port}/v1/gateways"
        urllib.request.urlopen(urllib.request.Request(url, headers=headers, data=body), timeout=10).close()
        until("the tool", 30, lambda: all(self.bench.probe(self) for _ in range(10)))

    def status(self):
        return json.loads(self.run("ctl", "status", "--json"))

    def recycled(self):
        return self.status()["recycles"]["max_requests"]

    def upgrade(self):
        """In place: the master becomes the program at its path, which is the same one here."""
        self.process.send_signal(signal.SIGUSR2)

    def stall(self, seconds):
        url = f"http://127.0.0.1:{self.port}/_fault/stall?seconds={seconds}"
        urllib.request.urlopen(urllib.request.Request(url, data=b""), timeout=10).close()

    how_stalled = "a poll that blocks"


class StallingForkgate(Forkgate):
    faults = True


class Gunicorn(Server):
    name = "gunicorn"

    def start(self):
        command = [GUNICORN_AT / "bin" / "gunicorn", "--workers", self.count, "--worker-class", "asgi", "--reuse-port"]
        command += ["--bind", f"127.0.0.1:{self.port}", "--chdir", ROOT / "bench", "--keep-alive", 75]
        command += ["--max-requests", self.recycle, "--max-requests-jitter", self.recycle // 2]
        command += ["--graceful-timeout", 30, "--worker-tmp-dir", "/dev/shm", "--no-control-socket", "echo_app:app"]
        self.spawn(command, os.environ | {"SERVICE_MS": str(SERVICE_MS)})
        wait_listening(self.port, self.process, self.log)
        until("gunicorn to serve", 60, lambda: self.bench.probe(self))

    def recycled(self):
        return self.log.read_text().count("Booting worker") - self.count

    def stall(self, seconds):
        url = f"http://127.0.0.1:{self.port}/stall?{seconds}"
        urllib.request.urlopen(urllib.request.Request(url, data=b""), timeout=10).close()

    how_stalled = "`time.sleep` in the application"


class Nginx(Server):
    name = "nginx"

    def start(self):
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if nginx is None:
            fail("nginx is not installed (apt-get install nginx-light)")
        text = NGINX.format(dir=self.directory, workers=self.count, upstream=self.bench.upstream, port=self.port)
        (self.directory / "nginx.conf").write_text(text)
        self.reloads = 0
        self.spawn([nginx, "-c", self.directory / "nginx.conf", "-e", self.directory / "error.log"])
        wait_listening(self.port, self.process, self.log)

    def recycled(self):
        return self.reloads * self.count

    def hup(self):
        self.reloads += 1
        super().hup()

    def stall(self, seconds):
        stopped = self.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        self.bench.later(seconds, lambda: os.kill(stopped, signal.SIGCONT))

    how_stalled = "SIGSTOP"


def install_gunicorn():
    done = GUNICORN_AT.with_suffix(".done")
    if not done.exists() or done.read_text() != GUNICORN:
        shutil.rmtree(GUNICORN_AT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", GUNICORN_AT], check=True)
        pip = [GUNICORN_AT / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", GUNICORN]
        subprocess.run(pip, check=True)
        done.write_text(GUNICORN)


def versions():
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or "nginx"
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr
    return {"gunicorn": GUNICORN.replace("==", " "), "nginx": said.strip().replace("nginx version: nginx/", "nginx ")}
