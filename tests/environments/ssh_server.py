"""An ssh server as a process of its own: lets one key in, runs commands, forwards connections to sockets.

python tests/environments/ssh_server.py FOLDER     (with host, a private key, and key.pub in it; prints its port)
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncssh


class Server(asyncssh.SSHServer):
    """Forwards to any socket of this machine."""

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True


async def run_command(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """Run what is asked for in a shell, connected to the client's streams."""
    child = subprocess.Popen(
        ["/bin/sh", "-c", process.command or "exit 1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    process.exit(await asyncio.to_thread(child.wait))


async def serve(folder: Path) -> None:
    listener = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[str(folder / "host")],
        authorized_client_keys=str(folder / "key.pub"),
        process_factory=run_command,
        encoding=None,
    )
    print(listener.get_port(), flush=True)
    await listener.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
