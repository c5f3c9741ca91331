"""A page on this machine on which a person labels the frames of recorded episodes."""

from __future__ import annotations

import io
import json
import webbrowser
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hilrl_cli.errors import UserError
from hilrl_data.bags import finished_episodes, read_info, read_steps
from hilrl_reward.labels import episode_labels, observations, read_labels, write_labels
from hilrl_ros.contract import Contract
from hilrl_ros.messages import observation_arrays

PAGE = Path(__file__).with_name("label_page.html")
_KINDS = ("labels", "demos", "episodes")


class Episodes:
    """The recorded episodes of a run (or of a folder), their frames and their labels.

    Args:
        folder: The run, or a folder of recorded episodes.
        contract: That they were recorded under.

    Raises:
        UserError: There are none.
        BagError: They were recorded under another contract.
    """

    def __init__(self, folder: Path, contract: Contract):
        self.contract = contract
        folders = [folder / kind for kind in _KINDS if (folder / kind).is_dir()] or [folder]
        self.paths = {f"{f.name}/{path.name}": path for f in folders for path in finished_episodes(f)}
        if not self.paths:
            raise UserError(
                f"{folder}: holds no recorded episode; record some with record:=all or `hilrl record`"
            )
        if not contract.cameras:
            raise UserError("there is nothing to see: the task names no `cameras`")
        for path in self.paths.values():
            read_info(path, contract.hash())
        self.steps = lru_cache(maxsize=4)(self._steps)

    def _steps(self, name: str) -> list:
        return list(read_steps(self.paths[name]))

    def describe(self, name: str) -> dict[str, Any]:
        """Return an episode's steps, and their labels: success by step, only where there is one."""
        steps, labels = self.steps(name), read_labels(self.paths[name])
        labels = episode_labels(steps, self.contract) if labels is None else labels
        return {"steps": [seen.step for seen in observations(steps)], "labels": labels}

    def picture(self, name: str, step: int) -> bytes:
        """Return the frame of a step as PNG, its cameras side by side."""
        seen = next(seen for seen in observations(self.steps(name)) if seen.step == step)
        images = [pixels[..., -3:] for pixels in observation_arrays(seen, self.contract)["images"].values()]
        height = max(pixels.shape[0] for pixels in images)
        row = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0))) for p in images]
        png = io.BytesIO()
        Image.fromarray(np.concatenate(row, 1)).save(png, "png")
        return png.getvalue()

    def save(self, name: str, labels: dict[int, bool]) -> None:
        """Write an episode's labels."""
        write_labels(self.paths[name], labels)


def make_server(episodes: Episodes, port: int) -> ThreadingHTTPServer:
    """Return the page's server, on this machine alone; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """The page, the list of episodes, an episode, a frame."""
            kind, _, rest = self.path.lstrip("/").partition("/")
            if kind == "":
                self._answer(PAGE.read_bytes(), "text/html; charset=utf-8")
            elif kind == "episodes":
                self._answer(json.dumps(list(episodes.paths)).encode(), "application/json")
            elif kind == "episode":
                self._answer(json.dumps(episodes.describe(rest)).encode(), "application/json")
            elif kind == "frame":
                name, _, step = rest.rpartition("/")
                self._answer(episodes.picture(name, int(step)), "image/png")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            """The labels of an episode, {step: success}."""
            # a page of another site cannot send this type unasked
            if self.headers["Content-Type"] != "application/json":
                self.send_error(415)
                return
            labels = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.path.lstrip("/").partition("/")[2]
            episodes.save(name, {int(step): bool(success) for step, success in labels.items()})
            self._answer(b"{}", "application/json")

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def parse_request(self) -> bool:
            """Refuse what was not asked of this machine by its own name (a page that rebinds its name to it)."""
            if not super().parse_request():
                return False
            if self.headers["Host"] not in (
                f"127.0.0.1:{self.server.server_port}",
                f"localhost:{self.server.server_port}",
            ):
                self.send_error(403)
                return False
            return True

        def log_message(self, *arguments: object) -> None:
            """Say nothing: the terminal is the person's."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(
            f"port {port} cannot be opened ({error.strerror}); choose another with --port"
        ) from None


def serve(folder: Path, contract: Contract, port: int) -> int:
    """Show the page until ctrl-C."""
    server = make_server(Episodes(folder, contract), port)
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"{address} shows the episodes; labels are saved as you paint. ctrl-C: done")
    webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0
