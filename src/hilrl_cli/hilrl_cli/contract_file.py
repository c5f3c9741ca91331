"""A robot's contract file with other values in it; comments, order and everything else stay as they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError


def edited(text: str, change: Callable[[Any], None]) -> str:
    """Return a contract's YAML after a change.

    Args:
        text: The file's text.
        change: Changes the mapping that the file holds, in place; lists that it puts in are written on one line.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    # as the file is written, and not as the library would
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    data = yaml.load(text)
    change(data)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def in_line(value: Any) -> Any:
    """Return plain lists and mappings as such that are written in one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        made = CommentedMap({key: in_line(item) for key, item in value.items()})
    elif isinstance(value, list | tuple):
        made = CommentedSeq(in_line(item) for item in value)
    else:
        return value
    made.fa.set_flow_style()
    return made


def check_out(out: Path) -> None:
    """Refuse what no contract can be written to.

    Raises:
        UserError: It has another ending, or lies in a folder that is not there or not to be written to.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out is {out}, expected a name that ends in .yaml")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"--out is {out}, expected a file in a folder that can be written to")


def write(out: Path, text: str) -> None:
    """Write a contract once it is seen to be one.

    Raises:
        UserError: It cannot be written, or is none.
    """
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract

    check_out(out)
    new = out.with_name(f".{out.name}.new.yaml")
    try:
        new.write_text(text)
        load_contract(new)
        new.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    except ContractError as error:
        raise UserError(f"the changed contract would not fit: {error}") from None
    finally:
        new.unlink(missing_ok=True)
