"""A milvus-lite server in a process of its own, and a proxy that loses, holds back and cuts what passes."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading

SERVER = """
import sys, threading
from milvus_lite.adapter.grpc.server import start_server_in_thread
kept = start_server_in_thread(sys.argv[1], port=int(sys.argv[2]))
print(kept[2], flush=True)
threading.Event().wait()
"""


class Server:
    """The server; the port is the same after it was killed and started again."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, 0, None
        self.start()

    def start(self):
        command = [sys.executable, "-c", SERVER, str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @contextlib.contextmanager
    def stopped(self):
        """It is there, takes connections, and never answers."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class Proxy:
    """Passes bytes between clients and ports, which take turns, as long as nothing else was said."""

    def __init__(self, *ports):
        self._ports, self._tries, self._pairs, self._mutex = itertools.cycle(ports), len(ports), set(), threading.Lock()
        self.lose_answer = False  # the next bytes of the server are lost, and with them the connection
        self.left = None  # bytes of clients that pass before all connections are cut, for good
        self.held = threading.Event()  # set: what the server says passes
        self.held.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self):
        self._end(self._listener)
        self.held.set()
        while self._threads:
            self.cut()
            self._threads.pop(0).join()
        self._listener.close()

    def cut(self):
        """Ends all connections."""
        with self._mutex:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            self._end(*pair)

    @staticmethod
    def _end(*sockets):
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.left is not None and self.left <= 0:
                    client.close()
                    continue
                server = self._connected()
                if server is None:
                    client.close()
                    continue
                with self._mutex:
                    self._pairs.add((client, server))
                for work, pair in ((self._asks, (client, server)), (self._answers, (server, client))):
                    self._threads.append(threading.Thread(target=self._pass, args=(work, *pair)))
                    self._threads[-1].start()

    def _connected(self):
        for _ in range(self._tries):
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", next(self._ports)))

    def _pass(self, work, source, target):
        with contextlib.suppress(OSError):
            while (data := source.recv(65_536)) and work(data, target):
                pass
        self._end(source, target)
        source.close()

    def _asks(self, data, server):
        if self.left is not None:
            self.left -= len(data)
            if self.left <= 0:
                self.cut()
                return False
        server.sendall(data)
        return True

    def _answers(self, data, client):
        self.held.wait()
        if self.lose_answer:
            self.lose_answer = False
            return False
        client.sendall(data)
        return True
