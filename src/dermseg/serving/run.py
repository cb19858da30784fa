"""Starts and stops the service: one process or several, on uvicorn."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from dermseg.errors import InputError
from dermseg.serving.api import create_app
from dermseg.serving.config import ServiceConfig
from dermseg.serving.inference import Inference
from dermseg.serving.limits import BoundedHttp
from dermseg.serving.monitoring import logging_config

BACKLOG = 1024  # connections that wait to be accepted; beyond it the kernel refuses
KEEP_ALIVE = 30  # seconds that an idle connection is kept
WORKER_SILENCE = 60  # seconds


def run(
    config: ServiceConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    log_level: str = "info",
    announce: Callable[[str], object] = print,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted and return.

    Args:
        config: What is served, and its limits.
        host: The address to listen on.
        port: Its port; 0 takes a free one.
        workers: Processes; each loads the bundles, and has limits of its own.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        announce: Takes the line that says where the service is, once it listens.

    Raises:
        InputError: If the address cannot be listened on.
        BundleError: If a bundle cannot be used.
    """
    with _listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="dermseg-metrics-") as shared:
        several = workers > 1
        server = uvicorn.Config(
            partial(_worker, config, Path(shared)) if several else partial(create_app, config),
            factory=True,
            workers=workers,
            http=BoundedHttp,
            lifespan="on",
            ws="none",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            # uvicorn kills a worker that says nothing for so long, as one that is still importing does not.
            timeout_worker_healthcheck=WORKER_SILENCE,
            # A little longer than the service's own, which tells clients what becomes of their requests.
            timeout_graceful_shutdown=math.ceil(config.drain) + 2,
            log_config=logging_config(log_level),
            log_level=log_level,
        )
        # What cannot be used is said here, before any process is started.
        if several:
            asyncio.run(Inference(config).close())
        else:
            server.load()
        announce(f"dermseg serves {', '.join(config.bundles)} at {_address(host, listener)} (try /docs)")
        # uvicorn raises the signal again when it is done, for which there is nothing left to do.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            if several:
                Multiprocess(server, sockets=[listener]).run()
            else:
                uvicorn.Server(server).run(sockets=[listener])
        except KeyboardInterrupt:
            pass


def _worker(config: ServiceConfig, shared: Path) -> ASGIApp:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return create_app(config, shared)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, which would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # A name that is not found has a number of its own, which is no system error's.
        number = None if isinstance(error, socket.gaierror) else error.errno
        reason = os.strerror(number) if number else error.strerror or str(error)
        raise InputError(f"{host} port {port} cannot be listened on: {reason}; try another --port or --host") from error


def _address(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
