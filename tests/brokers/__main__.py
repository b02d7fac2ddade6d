"""Starts every real server and prints its address until interrupted: `python -m tests.brokers [name ...]`."""

import signal
import sys
import threading

from tests.brokers import SERVERS, Server, Unavailable


def main(wanted: list[str]) -> int:
    """Starts the servers, prints a shell line for each, waits for SIGINT or SIGTERM, stops them.

    Args:
        wanted: Names; all where empty.

    Returns:
        The exit status: 1 where a server could not be had.
    """
    unknown = set(wanted) - {kind.name for kind in SERVERS}
    if unknown:
        print(
            f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(kind.name for kind in SERVERS)}",
            file=sys.stderr,
        )
        return 2
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    running: list[Server] = []
    status = 0
    for kind in SERVERS:
        if wanted and kind.name not in wanted:
            continue
        server = kind()
        try:
            server.start()
        except Unavailable as error:
            print(f"# {kind.name}: {error}", flush=True)
            server.stop()
            status = 1
        else:
            running.append(server)
            print(f"export {kind.variable}={server.url}    # {server.origin}, pid {server.pid}", flush=True)
    if running:
        print("# running until interrupted (Ctrl-C)", flush=True)
        over.wait()
    for server in reversed(running):
        server.stop()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
