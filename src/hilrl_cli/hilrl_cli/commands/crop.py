"""hilrl crop: what part of a camera's picture the policy sees, chosen on recorded frames."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hilrl_cli import environment
from hilrl_cli.contract_file import edited, in_line, write
from hilrl_cli.errors import UserError
from hilrl_cli.lines import Lines

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
SHOWN = 4  # frames that a choice is made on, from all over the recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument(
        "recording", type=Path, help="folder of a run, of its recorded episodes, or of one of them"
    )
    parser.add_argument(
        "--robot", default="so101", help="robot contract: a name from config/robots or a path"
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="CAMERA=X,Y,WIDTH,HEIGHT",
        help="crop of a camera in pixels, instead of the mouse or a question; may be given for each",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="contract to write (default: <robot>_cropped.yaml in this folder), and a .png of before and after",
    )


def run(arguments: argparse.Namespace) -> int:
    """Choose a crop for each recorded camera, write the contract."""
    environment.enter()
    from hilrl_ros.config import find_config
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract

    try:
        source = find_config("robots", arguments.robot)
        contract, _ = load_contract(arguments.robot)
    except ContractError as error:
        raise UserError(str(error)) from None
    given = dict(parse(word, tuple(contract.cameras)) for word in arguments.box)
    frames = {name: recorded(arguments.recording, camera.topic) for name, camera in contract.cameras.items()}
    frames = {name: pictures for name, pictures in frames.items() if pictures}
    if not frames or set(given) - set(frames):
        missing = next(iter(set(given) - set(frames)), ", ".join(contract.cameras) or "any camera")
        raise UserError(
            f"{arguments.recording} holds no frames of {missing}: record with a task whose `cameras` name it"
        )
    mouse, lines = not given and has_screen(), Lines()
    chosen: dict[str, Box | None] = {}
    for name in given or frames:
        crop = contract.cameras[name].crop
        if name in given:
            chosen[name] = inside(given[name], frames[name][0], name)
        elif mouse:
            chosen[name] = Selection(name, frames[name], crop).wait()
        else:
            chosen[name] = asked(name, frames[name][0], crop, lines)
    out = arguments.out or Path(f"{contract.robot}_cropped.yaml")
    write(out, with_crops(source.read_text(), chosen))
    picture = out.with_suffix(".png")
    draw(picture, {n: frames[n] for n in chosen}, chosen, {n: contract.cameras[n].size for n in chosen})
    for name, crop in chosen.items():
        height, width = contract.cameras[name].size
        print(
            f"{name}: {list(crop) if crop else 'all of it'}{squeezed(crop, frames[name][0], height, width)}"
        )
    print(f"Written to {out} ({picture} shows before and after). Use it with robot:={out}")
    return 0


def recorded(folder: Path, topic: str) -> list[np.ndarray]:
    """Frames of a camera, uint8 [height, width, 3], from all over a recording; none where it was not recorded."""
    from hilrl_data.bags import BagError, episode_folders, finished_episodes, read_images
    from hilrl_ros.images import to_rgb

    try:
        if (folder / "metadata.yaml").exists():
            episodes = [folder]
        else:
            episodes = finished_episodes(folder / "demos") or episode_folders(folder)
        some = [episodes[i] for i in np.unique(np.linspace(0, len(episodes) - 1, SHOWN).astype(int))]
        each = [read_images(episode, topic) for episode in some]
    except BagError as error:
        raise UserError(str(error)) from None
    images = [
        images[int(where * (len(images) - 1))]
        for images, where in zip(each, np.linspace(0, 1, len(each)), strict=True)
        if images
    ]
    return [to_rgb(image) for image in images]


def parse(word: str, cameras: tuple[str, ...]) -> tuple[str, Box]:
    """Return camera and box of `front=40,20,80,80`."""
    name, _, numbers = word.partition("=")
    if name not in cameras:
        raise UserError(
            f"--box {word}: the robot has no camera '{name}'; it has {', '.join(cameras) or 'none'}"
        )
    return name, box_of(numbers, f"--box {word}")


def box_of(text: str, where: str) -> Box:
    """Return x, y, width, height of four numbers with commas or spaces between them."""
    words = text.replace(",", " ").split()
    if len(words) != 4 or not all(word.isdecimal() for word in words) or "0" in words[2:]:
        raise UserError(f"{where}: expected four whole numbers of pixels: x y width height")
    x, y, width, height = map(int, words)
    return x, y, width, height


def inside(box: Box, frame: np.ndarray, name: str) -> Box:
    """Return the box if it lies in the frame."""
    (x, y, width, height), (rows, columns) = box, frame.shape[:2]
    if x + width > columns or y + height > rows:
        raise UserError(f"the box {list(box)} does not lie in {name}'s picture of {columns}x{rows}")
    return box


def asked(name: str, frame: np.ndarray, crop: Box | None, lines: Lines) -> Box | None:
    """Ask for a box until one fits; enter alone keeps what is there."""
    rows, columns = frame.shape[:2]
    print(f"{name} is {columns}x{rows} pixels, the policy sees {list(crop) if crop else 'all of it'}.")
    while True:
        answer = lines.ask("x y width height of the crop, or enter to keep it:")
        if not answer:
            return crop
        try:
            return inside(box_of(answer, answer), frame, name)
        except UserError as error:
            print(error)


def has_screen() -> bool:
    """Whether a window can be opened here."""
    from matplotlib import pyplot as plt

    figure = plt.figure()
    plt.close(figure)
    return figure.canvas.required_interactive_framework is not None


class Selection:
    """A window in which the mouse draws the box on the mean of the frames; enter or closing it is the end.

    Attributes:
        box: What is drawn now, None for all of the picture.
    """

    def __init__(self, name: str, frames: list[np.ndarray], crop: Box | None):
        from matplotlib import pyplot as plt
        from matplotlib.widgets import RectangleSelector

        self.box, self._shape = crop, frames[0].shape
        self.figure, axes = plt.subplots(num=f"hilrl crop: {name}")
        axes.imshow(np.mean(frames, axis=0).astype(np.uint8))
        axes.set_title(f"{name}: draw the part that the policy shall see, then press enter")
        self.selector = RectangleSelector(axes, self.drawn, useblit=False, interactive=True)
        if crop:
            x, y, width, height = crop
            self.selector.extents = (x, x + width, y, y + height)
        self.figure.canvas.mpl_connect("key_press_event", self.key)

    def drawn(self, *_) -> None:
        """Take the rectangle that was drawn, within the picture."""
        x0, x1, y0, y1 = self.selector.extents
        rows, columns = self._shape[:2]
        x0, x1 = (int(np.clip(round(v), 0, columns)) for v in (x0, x1))
        y0, y1 = (int(np.clip(round(v), 0, rows)) for v in (y0, y1))
        self.box = (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None

    def key(self, event) -> None:
        """End with enter."""
        if event.key == "enter":
            from matplotlib import pyplot as plt

            plt.close(self.figure)

    def wait(self) -> Box | None:
        """Show the window until it is closed; return the box."""
        from matplotlib import pyplot as plt

        plt.show(block=True)
        return self.box


def with_crops(text: str, crops: dict[str, Box | None]) -> str:
    """Return a contract's YAML with other crops; everything else, comments too, stays."""

    def change(data) -> None:
        for name, crop in crops.items():
            data["cameras"][name]["crop"] = in_line(list(crop)) if crop else None

    return edited(text, change)


def squeezed(crop: Box | None, frame: np.ndarray, height: int, width: int) -> str:
    """A remark where the crop has another shape than what the policy sees."""
    w, h = crop[2:] if crop else (frame.shape[1], frame.shape[0])
    return "" if abs(w / h / (width / height) - 1) < 0.1 else f", squeezed into {width}x{height}"


def draw(
    path: Path,
    frames: dict[str, list[np.ndarray]],
    crops: dict[str, Box | None],
    sizes: dict[str, tuple[int, int]],
) -> None:
    """Draw, for each camera, recorded frames with the crop and beside each what the policy sees of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from hilrl_ros.images import crop_and_resize

    columns = 2 * max(map(len, frames.values()))
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(frames)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(frames), columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for row, (name, pictures) in zip(grid, frames.items(), strict=True):
        row[0].set_title(f"{name}, recorded")
        row[1].set_title(f"the policy's {sizes[name][1]}x{sizes[name][0]}")
        for i, picture in enumerate(pictures):
            row[2 * i].imshow(picture)
            if crops[name]:
                x, y, width, height = crops[name]
                row[2 * i].add_patch(
                    Rectangle((x - 0.5, y - 0.5), width, height, fill=False, color="tab:red", linewidth=2)
                )
            row[2 * i + 1].imshow(crop_and_resize(picture, crops[name], sizes[name]), interpolation="nearest")
    figure.savefig(path, dpi=100)
