"""The models of a server: one bundle, or a folder of them, loaded and unloaded while it runs.

A *repository* is a folder with bundles one or two levels down: ``DIR/<anything>/manifest.json`` or
``DIR/<model>/<version>/manifest.json``. A model is called what its manifests call it, wherever they lie;
several bundles of one name are versions of one model. A folder whose name is a number is that version;
the others, sorted by name, take the numbers from 1 that are left. A bundle by itself is version 1. The
highest version is the newest, which a request gets that does not say.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splitter.errors import BundleError, SplitterError, StaleBundleError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import MANIFEST, Manifest
from splitter.serving.protocol import one_line
from splitter.serving.server.loading import Loaded, Loader
from splitter.serving.server.status import LateError, NotReadyError, NotServedError
from splitter.serving.server.tail import Tail
from splitter.serving.wire import shown

_log = logging.getLogger(__name__)

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
LOADING, UNLOADING = "LOADING", "UNLOADING"


@dataclass(frozen=True)
class Place:
    """A bundle in the folder, whether it can be loaded or not."""

    name: str
    version: str
    folder: Path


@dataclass(frozen=True)
class State:
    """What has become of a place: one of the protocol's states, and why it is not ready."""

    place: Place
    state: str = UNAVAILABLE
    reason: str = "not loaded"
    loaded: Loaded | None = None


Models = Mapping[str, Mapping[str, State]]


@dataclass(frozen=True)
class View:
    """The models at one moment; replaced whole, so that requests read it without a lock."""

    models: Models = field(default_factory=dict)
    """By name, and by version."""
    newest: Mapping[str, tuple[Loaded, ...]] = field(default_factory=dict)
    """Those that are ready, by name, the newest first."""

    @classmethod
    def of(cls, models: Models) -> View:
        """Sort them."""
        newest = {
            name: tuple(
                state.loaded
                for _, state in sorted(versions.items(), key=lambda item: -int(item[0]))
                if state.state == READY and state.loaded is not None
            )
            for name, versions in models.items()
        }
        return cls(models, newest)


class Repository:
    """Thread-safe. Requests find their tail here; loading and unloading is done one at a time."""

    def __init__(self, source: str | os.PathLike[str], loader: Loader) -> None:
        self.folder = Path(source)
        self.is_single = not _is_repository(self.folder)
        self.view = View()
        self._loader = loader
        self._changing = threading.Lock()

    def load_all(self) -> None:
        """Load what the folder holds; a single bundle must load, of several those that can.

        Raises
        ------
        SplitterError
            The single bundle cannot be loaded; or the folder holds none.
        """
        if self.is_single:
            loaded = self._loader.load(Bundle.open(self.folder, role="server"), "1")
            place = Place(loaded.name, "1", self.folder)
            self._set([State(place, READY, "", loaded)])
            return
        places = find(self.folder)
        for place in places:
            self._set([self._load(place)])

    def find(self, name: str, version: str = "") -> Loaded:
        """A version that is ready, the newest where none is named.

        Raises
        ------
        NotServedError
            There is no such model or version.
        NotReadyError
            It is not loaded.
        """
        view = self.view
        ready = view.newest.get(name, ())
        if not version and ready:
            return ready[0]
        versions = view.models.get(name)
        if versions is None:
            raise NotServedError(f"no model is named {shown(name)}; {_have(view.models)}")
        if not version:
            reasons = "; ".join(one_line(state.reason)[:200] for state in versions.values())
            raise NotReadyError(f"model {name!r} has no version that is ready ({reasons})")
        state = versions.get(version)
        if state is None:
            known = ", ".join(map(repr, versions))
            raise NotServedError(f"model {name!r} has no version {shown(version)}, only {known}")
        if state.state != READY or state.loaded is None:
            raise NotReadyError(f"model {name!r} version {version} is not ready ({state.reason})")
        return state.loaded

    def tail(
        self, name: str, version: str, bundle: str | None, cut: str | None
    ) -> tuple[Loaded, Tail]:
        """The tail that a request means.

        Raises
        ------
        NotServedError, NotReadyError
            As ``find``.
        StaleBundleError
            The device's bundle, or its cut, is not served.
        """
        loaded = self.find(name, version)
        if bundle is None:
            if cut is None or cut in loaded.tails or version:
                return loaded, loaded.tail(cut)
            others = (other for other in self.view.newest[name] if cut in other.tails)
            loaded = next(others, loaded)
            return loaded, loaded.tail(cut)
        if loaded.manifest.digest != bundle and not version:
            ready = self.view.newest.get(name, ())
            loaded = next((other for other in ready if other.manifest.digest == bundle), loaded)
        if loaded.manifest.digest != bundle:
            known = [loaded] if version else self.view.newest.get(name, ())
            digests = ", ".join(repr(other.manifest.digest) for other in known)
            raise StaleBundleError(
                f"the device has bundle {shown(bundle)}, the server {digests}; "
                "copy one bundle to both, and load it or start the server again"
            )
        return loaded, loaded.tail(cut)

    def ready(self) -> list[Loaded]:
        """Everything that takes requests."""
        return [loaded for versions in self.view.newest.values() for loaded in versions]

    def index(self) -> list[State]:
        """Everything in the folder, loaded or not, by name and version."""
        known = {(s.place.name, s.place.version): s for s in self._states()}
        if not self.is_single:
            for place in find(self.folder):
                known.setdefault((place.name, place.version), State(place))
        return [known[key] for key in sorted(known, key=lambda key: (key[0], int(key[1])))]

    def load(self, name: str) -> None:
        """Load every version of a model that the folder holds now, and drop those that it no longer does.

        Versions whose bundle has not changed stay as they are, others take over when they are warm.

        Raises
        ------
        NotServedError
            The folder has no such model.
        BundleError
            No version, or not every one, can be loaded; those that can are.
        """
        with self._changing:
            places = [place for place in self._places() if place.name == name]
            if not places:
                known = {place.name for place in self._places()}
                raise NotServedError(f"no model is named {shown(name)}; {_have(known)}")
            old = dict(self.view.models.get(name, {}))
            fresh = [place for place in places if not _is_ready(old.get(place.version))]
            self._set(State(place, LOADING, "being loaded") for place in fresh)
            states = []
            for place in places:
                before = old.get(place.version)
                state = before if _is_current(before, place) else self._load(place)
                assert state is not None
                states.append(state)
            self._replace(name, states)
            kept = {id(state.loaded) for state in states}
            _close(s.loaded for s in old.values() if s.loaded and id(s.loaded) not in kept)
            failed = [state for state in states if state.state != READY]
            if failed:
                reasons = "; ".join(f"version {s.place.version}: {s.reason}" for s in failed)
                raise BundleError(f"model {name!r} cannot be loaded whole: {reasons}")

    def unload(self, name: str, timeout_s: float) -> None:
        """Take no more requests for a model, let those that run end, and forget it.

        Raises
        ------
        NotServedError
            There is no such model.
        LateError
            Requests still ran after ``timeout_s``; the model goes when they have ended.
        """
        with self._changing:
            versions = self.view.models.get(name)
            if versions is None:
                raise NotServedError(f"no model is named {shown(name)}; {_have(self.view.models)}")
            states = list(versions.values())
            self._replace(name, [State(s.place, UNLOADING, "being unloaded") for s in states])
            try:
                _close((s.loaded for s in states if s.loaded is not None), timeout_s)
            finally:
                self._replace(name, [State(s.place, UNAVAILABLE, "unloaded") for s in states])

    def _load(self, place: Place) -> State:
        try:
            bundle = Bundle.open(place.folder, role="server")
            loaded = self._loader.load(bundle, place.version)
        except (SplitterError, OSError) as exc:
            reason = one_line(exc)
            _log.warning("%s version %s is not served: %s", place.name, place.version, reason)
            return State(place, UNAVAILABLE, reason)
        return State(place, READY, "", loaded)

    def _places(self) -> list[Place]:
        if self.is_single:
            return [state.place for state in self._states()]
        return find(self.folder)

    def _states(self) -> list[State]:
        return [state for versions in self.view.models.values() for state in versions.values()]

    def _set(self, states: Iterable[State]) -> None:
        models = {name: dict(versions) for name, versions in self.view.models.items()}
        for state in states:
            models.setdefault(state.place.name, {})[state.place.version] = state
        self.view = View.of(models)

    def _replace(self, name: str, states: Iterable[State]) -> None:
        models = {**self.view.models, name: {s.place.version: s for s in states}}
        self.view = View.of(models)


def find(folder: Path) -> list[Place]:
    """The bundles of a repository; one whose manifest cannot be read is named after its folder."""
    named: dict[str, list[Path]] = {}
    for path in sorted((*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*/*/{MANIFEST}"))):
        place = path.parent
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue  # a bundle that is being written
        try:
            name = Manifest.load(place).name
        except BundleError:
            name = (place if place.parent == folder else place.parent).name
        named.setdefault(name, []).append(place)
    return [place for name, paths in sorted(named.items()) for place in _versions(name, paths)]


def _versions(name: str, folders: list[Path]) -> list[Place]:
    taken: dict[str, Path] = {}
    for path in folders:
        if _is_version(path.name):
            taken.setdefault(path.name, path)
    number = 0
    for path in folders:
        if path not in taken.values():
            number += 1
            while str(number) in taken:
                number += 1
            taken[str(number)] = path
    return [Place(name, version, taken[version]) for version in sorted(taken, key=int)]


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 18


def _is_repository(folder: Path) -> bool:
    if (folder / MANIFEST).exists():
        return False
    return any(folder.glob(f"*/{MANIFEST}")) or any(folder.glob(f"*/*/{MANIFEST}"))


def _is_ready(state: State | None) -> bool:
    return state is not None and state.state == READY


def _is_current(state: State | None, place: Place) -> bool:
    """Whether what is loaded is what lies there."""
    if state is None or state.loaded is None or state.state != READY:
        return False
    try:
        return Manifest.load(place.folder).digest == state.loaded.manifest.digest
    except BundleError:
        return False


def _have(models: Iterable[str]) -> str:
    names = ", ".join(map(repr, sorted(models)))
    return f"this server has {names}" if names else "this server has none"


def _close(loaded: Iterable[Loaded], timeout_s: float = 0.0) -> None:
    until = time.monotonic() + timeout_s
    late = [one for one in loaded if not one.close(max(0.0, until - time.monotonic()))]
    if late and timeout_s:
        raise LateError(
            f"requests of model {late[0].name!r} still run; it goes when they have ended"
        )
