"""What a power cut would leave, at each moment of a command: read from its system calls, as strace writes them down.

A small model of POSIX: what was written to a file is there after a power cut once fsync(2) of the file has returned, a
name once fsync of its directory has, and everything once syncfs(2) of the filesystem has. Anything else may be there or
not, in any combination. Programs that write where no path can be seen (umoci, through a mount) are taken for having
written to everything, until the next syncfs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath as Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CALLS: Final = (
    "execve,exit_group,open,openat,creat,write,pwrite64,writev,pwritev,ftruncate,fallocate,copy_file_range,sendfile,"
    "fsync,fdatasync,syncfs,sync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,mknod,mknodat,"
    "unlink,unlinkat,rmdir"
)
"""What strace must be asked for."""

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"(?:-?\d+|AT_FDCWD)<([^>]*)>")
_WRITES: Final = frozenset({"write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "sendfile"})
_SYNCS: Final = frozenset({"fsync", "fdatasync", "syncfs", "sync"})
_RENAMES: Final = ("rename", "renameat", "renameat2")
_UNSEEN: Final = "/umoci"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded.

    Attributes:
        process: Who made it.
        name: Which.
        begins: Whether this is its beginning; else its end. A call that nothing came between has both at once.
        text: Its arguments.
    """

    process: str
    name: str
    begins: bool
    text: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that it names, absolute: relative ones begin at the descriptor before them."""
        found: list[Path] = []
        base = Path("/")
        for match in re.finditer(rf"{_DESCRIPTOR.pattern}|{_QUOTED.pattern}", self.text):
            if match[1] is not None:
                base = Path(match[1])
            else:
                found.append(base / match[2])
        return tuple(found)

    def descriptor(self, position: int = 0) -> Path | None:
        """Return the path of an open file among its arguments."""
        found = _DESCRIPTOR.findall(self.text)
        return Path(found[position]) if position < len(found) else None


def calls(trace: Iterable[str]) -> Iterator[Call]:
    """Yield the beginnings and ends of the calls that succeeded, in order (strace -f -y)."""
    lines = list(trace)
    pending: dict[str, tuple[int, str]] = {}
    succeeded: dict[int, str] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        process, resumed, rest, name, text = match.groups()
        if resumed is None and text.endswith("<unfinished ...>"):
            pending[process] = (number, text.removesuffix("<unfinished ...>"))
        elif resumed is None:
            succeeded |= {number: text} if _succeeded(text) else {}
        elif process in pending:
            begun, beginning = pending.pop(process)
            if _succeeded(rest):
                succeeded[begun] = succeeded[number] = beginning + rest
    for number, text in sorted(succeeded.items()):
        process, resumed, _, name, whole = _LINE.match(lines[number]).groups()  # type: ignore[union-attr] # it matched
        if resumed is None:
            yield Call(process, name, True, text)
            if not whole.endswith("<unfinished ...>"):
                yield Call(process, name, False, text)
        else:
            yield Call(process, resumed, False, text)


def _succeeded(text: str) -> bool:
    result = text.rpartition(" = ")[2]
    return not result.startswith(("-1", "?"))


@dataclass(eq=False, slots=True)
class _Node:
    """A file, or a directory with its names: how often it changed, and how many of these changes are durable."""

    changes: int = 0
    durable: int = 0
    names: dict[str, int] = field(default_factory=dict)

    def change(self, name: str | None = None) -> None:
        self.changes += 1
        if name is not None:
            self.names[name] = self.changes

    @property
    def is_durable(self) -> bool:
        return self.durable == self.changes


class Disk:
    """What is on the disk, and what of it would survive a power cut."""

    def __init__(self) -> None:
        self._nodes: dict[Path, _Node] = {}
        self._syncs: dict[str, dict[_Node, int]] = {}
        self._everything = _Node()  # whatever was written where no path was seen
        self._effects: dict[str, Callable[[Call], None]] = {
            "execve": self._started,
            **dict.fromkeys(_WRITES, lambda call: self._changed(call.descriptor())),
            "copy_file_range": lambda call: self._changed(call.descriptor(1)),
            **dict.fromkeys(("open", "openat", "creat"), self._opened),
            **dict.fromkeys(_RENAMES, lambda call: self._renamed(*call.paths)),
            **dict.fromkeys(("link", "linkat"), lambda call: self._linked(*call.paths)),
            **dict.fromkeys(("unlink", "unlinkat", "rmdir"), lambda call: self._unlinked(call.paths[0])),
            **dict.fromkeys(("symlink", "symlinkat"), lambda call: self._named(call.paths[-1])),
            **dict.fromkeys(("mkdir", "mkdirat", "mknod", "mknodat"), lambda call: self._named(call.paths[0])),
        }

    def do(self, call: Call) -> None:
        """Take note of a call: changes count from its beginning, and durable is only what was there at that time."""
        if call.name in _SYNCS:
            self._sync(call)
        elif call.begins and call.name in self._effects:
            self._effects[call.name](call)

    def has_durable_content(self, path: Path) -> bool:
        """Whether a file, or all that is in a directory, would survive."""
        below = [node for place, node in self._nodes.items() if place == path or path in place.parents]
        return all(node.is_durable for node in below)

    def has_durable_name(self, path: Path) -> bool:
        """Whether the last change of a name, to be there or not, would survive."""
        directory = self._nodes.get(path.parent)
        return directory is None or directory.names.get(path.name, 0) <= directory.durable

    def has(self, path: Path) -> bool:
        """Whether something that was written here has a name now."""
        return path in self._nodes

    def named_in(self, directory: Path) -> Iterator[Path]:
        """Yield the paths in a directory whose names have changed."""
        node = self._nodes.get(directory)
        yield from (directory / name for name in (node.names if node else ()))

    @property
    def has_seen_all(self) -> bool:
        """Whether nothing was written where no path was seen since everything was made durable."""
        return self._everything.is_durable

    def _node(self, path: Path) -> _Node:
        return self._nodes.setdefault(path, _Node())

    def _changed(self, path: Path | None) -> None:
        if path is not None and path.is_absolute() and path.parts[1:2] != ("dev",):
            self._node(path).change()

    def _named(self, path: Path) -> None:
        self._node(path.parent).change(path.name)

    def _started(self, call: Call) -> None:
        if _UNSEEN in call.text:
            self._everything.change()

    def _linked(self, old: Path, new: Path) -> None:
        self._nodes[new] = self._node(old)
        self._named(new)

    def _unlinked(self, path: Path) -> None:
        self._nodes.pop(path, None)
        self._named(path)

    def _opened(self, call: Call) -> None:
        path = call.paths[0]
        if call.name == "creat" or "O_CREAT" in call.text:
            if path not in self._nodes:
                self._named(path)
            self._node(path)
        if "O_TRUNC" in call.text:
            self._changed(path)

    def _renamed(self, old: Path, new: Path) -> None:
        moved = {place: node for place, node in self._nodes.items() if place == old or old in place.parents}
        for place in [place for place in self._nodes if place in moved or place == new or new in place.parents]:
            del self._nodes[place]
        self._nodes |= {new / place.relative_to(old): node for place, node in moved.items()}
        self._named(old)
        self._named(new)

    def _sync(self, call: Call) -> None:
        if call.begins:
            path = call.descriptor()
            every = call.name in {"sync", "syncfs"}
            nodes = {self._everything, *self._nodes.values()} if every else {self._node(path)} if path else set()
            self._syncs[call.process] = {node: node.changes for node in nodes}
        else:
            for node, changes in self._syncs.pop(call.process, {}).items():
                node.durable = max(node.durable, changes)


def torn_by_power_cuts(trace: Iterable[str], root: Path, *others: Path) -> list[str]:
    """Return what a power cut at some moment of a command would leave torn, or take back after it was reported.

    Args:
        trace: What strace wrote of it.
        root: The store.
        others: What else the command makes visible: a directory, a file.
    """
    disk = Disk()
    rules = _Rules(disk, root, others)
    found: list[str] = []
    main = ""
    for call in calls(trace):
        main = main or call.process
        if call.begins:
            found += rules.broken_by(call)
            if call.process == main and call.name == "write" and call.text.startswith("1<"):
                found += rules.broken_when_reported()
        disk.do(call)
    return [*dict.fromkeys([*found, *rules.broken_when_reported()])]


class _Rules:
    """What must be durable when."""

    def __init__(self, disk: Disk, root: Path, others: tuple[Path, ...]) -> None:
        self._disk = disk
        self._index = root / "images/index.json"
        self._blobs = root / "images/blobs/sha256"
        self._snapshots = root / "snapshots"
        self._pods = root / "pods"
        self._places = (root, self._index.parent, self._blobs, self._snapshots, self._pods)
        self._others = others
        self._visible = (
            (root, re.compile("version|pods|snapshots|images")),
            (self._index.parent, re.compile("oci-layout|index.json")),
            (self._blobs, re.compile("[0-9a-f]{64}")),
            (self._snapshots, re.compile("[0-9a-f]{64}|driver.json")),
            (self._pods, re.compile(".*")),
        )

    def broken_by(self, call: Call) -> Iterator[str]:
        """Yield the rules that a call breaks as it begins."""
        match call.name:
            case "rename" | "renameat" | "renameat2" | "link" | "linkat":
                old, new = call.paths
                # A link that proves that there can be some is of no image, and gone at once.
                if self._is_visible(new) and old.name != "probe":
                    yield from self._torn_if_named(old, new)
                if call.name.startswith("rename"):
                    yield from self._lost_if_gone(old)
            case "unlink" | "unlinkat":
                yield from self._lost_if_gone(call.paths[0])
            case "open" | "openat" | "creat" if "O_CREAT" in call.text and self._is_visible(call.paths[0]):
                yield f"{call.paths[0]} is written where all can see it"

    def broken_when_reported(self) -> Iterator[str]:
        """Yield what was done, and may be undone by a power cut."""
        pods = self._disk.named_in(self._pods)
        for place in (*self._places, *pods):
            for path in self._disk.named_in(place):
                # That a blob or snapshot is gone need not last: what is there again is garbage, and whole.
                lasts = place not in (self._blobs, self._snapshots) and self._is_visible(path)
                if lasts and not self._disk.has_durable_name(path):
                    yield f"{path} is reported before its name is durable"
        for path in self._others:
            if not self._disk.has_durable_name(path):
                yield f"{path} is reported before its name is durable"

    def _torn_if_named(self, old: Path, new: Path) -> Iterator[str]:
        if not self._disk.has_durable_content(old):
            yield f"{new} gets its name before its content is durable"
        if (new.parent == self._snapshots or new in self._others) and not self._disk.has_seen_all:
            yield f"{new} gets its name before what a program wrote there is durable"
        needed: Iterable[Path] = ()
        if new == self._index:
            needed = filter(self._disk.has, self._disk.named_in(self._blobs))
        elif new.name == "pod.json":
            needed = filter(self._is_visible, self._disk.named_in(self._snapshots))
            if not self._disk.has_durable_content(new.parent):
                yield f"{new} gets its name before what is beside it is durable"
        for path in needed:
            if not self._disk.has_durable_name(path):
                yield f"{new} gets its name before that of {path} is durable"

    def _lost_if_gone(self, path: Path) -> Iterator[str]:
        if path.parent == self._blobs and not self._disk.has_durable_name(self._index):
            yield f"{path} goes before the index that does not list it is durable"

    def _is_visible(self, path: Path) -> bool:
        if path in self._others:
            return True
        in_pod = path.parent.parent == self._pods and path.name in {"pod.json", "config.json"}
        return in_pod or any(path.parent == place and names.fullmatch(path.name) for place, names in self._visible)
