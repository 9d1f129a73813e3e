"""Writing a bundle: locked, component by component, resumable, and renamed into place when whole.

Beside a target `B` stand, while an export runs or after it was killed:
    .B.lock      flock held by the running export; the kernel drops it when the process dies
    .B.partial/  the staging directory: finished packages, each with its record under .records/, and .work/ for the
                 package being written, which never counts
    .B.old/      the replaced bundle, for the moment between two renames
A package is moved out of .work/ whole and recorded afterwards, so what a record names is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from typing_extensions import Self

from sfmobile.bundle.digest import digest_tree
from sfmobile.bundle.directory import (
    GOLDEN_FOLDER,
    MANIFEST_FILE,
    REPORTS_FOLDER,
    TOKENIZER_FOLDER,
    Bundle,
    BundleError,
    check_file,
    read_manifest,
)
from sfmobile.bundle.manifest import ComponentName, ComponentRecord, FileRecord, Manifest
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.files import DISK_FULL, StrictModel, json_text, read_model, replacing

RECORDS_FOLDER = ".records"
WORK_FOLDER = ".work"


class DirectoryLock:
    """An exclusive lock on a path that dies with its process. Raises `UnavailableError` if another holds it."""

    def __init__(self, path: Path, subject: Path) -> None:
        self.path = path
        self.subject = subject
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock without waiting."""
        while True:
            file = self.path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise UnavailableError(
                    f"Another export (process {holder}) is writing '{self.subject}'; wait for it to finish or choose "
                    "another directory."
                ) from error
            # The previous holder may have unlinked the file between our open and our flock.
            if self.path.exists() and os.fstat(file.fileno()).st_ino == self.path.stat().st_ino:
                break
            file.close()
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Drop the lock and remove its file."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


class BundleWriter:
    """Builds one bundle. A context manager: holds the lock, and leaves finished components for a rerun on any error."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.staging = target.parent / f".{target.name}.partial"
        self._old = target.parent / f".{target.name}.old"
        self._lock = DirectoryLock(target.parent / f".{target.name}.lock", target)

    def __enter__(self) -> Self:
        if not self.target.name:
            raise UsageError(f"'{self.target}' can't be a bundle's name; name a directory, such as 'my-bundle'.")
        with disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            with disk_errors(self.target):
                check_target(self.target)
                self._recover()
                self.replaced()
                (self.staging / RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
                remove(self.staging / WORK_FOLDER)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.staging.is_dir():
            remove(self.staging / WORK_FOLDER)
            if not any((self.staging / RECORDS_FOLDER).glob("*.json")):
                remove(self.staging)
        self._lock.release()

    def reusable(self, name: ComponentName, source_sha256: str, options_sha256: str) -> ComponentRecord | None:
        """The finished component of this source and these options, if one exists whole (every checksum is compared).

        Looks in the staging directory, then in the bundle being replaced, whose files are linked over.
        """
        record = self._staged_record(name)
        if record is not None and _same_origin(record, source_sha256, options_sha256):
            if self._is_whole(self.staging, record):
                return record
            self.discard(name)
        record = self._replaced_record(name)
        if record is None or not _same_origin(record, source_sha256, options_sha256):
            return None
        if not self._is_whole(self.target, record):
            return None
        self.adopt(name, record)
        return record

    def replaced(self) -> Manifest | None:
        """Manifest of the bundle that stands at the target, if a readable one does.

        Raises `BundleError` if a later sfmobile wrote it: replacing what one can't read would lose it.
        """
        try:
            return read_manifest(self.target)
        except BundleError as error:
            if error.reason == "future_schema":
                raise
            return None

    def adopt(self, name: ComponentName, record: ComponentRecord) -> None:
        """Take a component over from the bundle being replaced (hard links where the file system has them)."""
        self.discard(name)
        with disk_errors(self.target):
            for relative in record.files:
                _link_or_copy(self.target / relative, self.staging / relative)
            self._write_record(name, record)

    @contextmanager
    def component(self, name: ComponentName, package: str) -> Iterator[Path]:
        """A path to write `package` to; on success it is moved into the staging directory, otherwise removed.

        Call `finish` with the component's record afterwards.
        """
        self.discard(name)
        work = self.staging / WORK_FOLDER / name
        remove(work)
        with disk_errors(self.target):
            work.mkdir(parents=True)
            try:
                yield work / package
                for entry in sorted(work.iterdir()):
                    remove(self.staging / entry.name)
                    entry.rename(self.staging / entry.name)
            finally:
                remove(work)

    def finish(self, name: ComponentName, record: ComponentRecord) -> None:
        """Declare a component complete. From here on a rerun reuses it."""
        with disk_errors(self.target):
            self._write_record(name, record)

    def discard(self, name: ComponentName) -> None:
        """Forget a staged component and remove its files."""
        record = self._staged_record(name)
        remove(self.staging / RECORDS_FOLDER / f"{name}.json")
        if record is not None:
            for path in {relative.split("/")[0] for relative in record.files}:
                remove(self.staging / path)

    def folder(self, name: str, write: Callable[[Path], None]) -> dict[str, FileRecord]:
        """Let `write` fill the folder `name` of the bundle anew; returns the digests of what it wrote."""
        path = self.staging / name
        remove(path)
        with disk_errors(self.target):
            path.mkdir(parents=True)
            write(path)
            return digest_tree(self.staging, name)

    def adopt_files(self, files: Mapping[str, FileRecord]) -> bool:
        """Take files over from the bundle being replaced; False, and nothing taken, if one of them is not whole."""
        try:
            for relative, file in files.items():
                check_file(self.target, relative, file, "full")
        except BundleError:
            return False
        for folder in {relative.split("/")[0] for relative in files}:
            remove(self.staging / folder)
        with disk_errors(self.target):
            for relative in files:
                _link_or_copy(self.target / relative, self.staging / relative)
        return True

    def preview(self, manifest: Manifest) -> Bundle:
        """The unfinished bundle, for what must run it before it is complete (golden vectors)."""
        return Bundle(self.staging, manifest)

    def commit(self, manifest: Manifest) -> Bundle:
        """Write the manifest, put the bundle in place of the target, and return it.

        Reports of a replaced bundle are kept if everything they speak of is unchanged; files in it that no bundle
        owns (a note, a picture) are always kept.
        """
        replaced = self.replaced()
        with disk_errors(self.target):
            write_durably(self.staging / MANIFEST_FILE, manifest)
            self._remove_strangers(manifest)
            if self.target.exists():
                if replaced is None or not same_content(replaced, manifest):
                    remove(self.target / REPORTS_FOLDER)
                self.target.rename(self._old)
            self.staging.rename(self.target)
            self._finish_replacement()
        return Bundle(self.target, manifest)

    def _recover(self) -> None:
        """Repair what a kill inside `commit` left behind."""
        if self._old.exists() and not self.target.exists():
            self._old.rename(self.target)
        if self.target.is_dir():
            self._finish_replacement()

    def _finish_replacement(self) -> None:
        """Move what the replaced bundle doesn't own, and reports still valid, into the new one; drop the rest."""
        remove(self.target / RECORDS_FOLDER)
        if not self._old.exists():
            return
        try:
            owned = owned_entries(read_manifest(self._old))
        except BundleError:
            owned = {MANIFEST_FILE}
        for entry in sorted(self._old.iterdir()):
            destination = self.target / entry.name
            if entry.name not in owned and not destination.exists():
                entry.rename(destination)
        remove(self._old)

    def _remove_strangers(self, manifest: Manifest) -> None:
        """Drop from the staging directory what the manifest doesn't own, such as components no longer asked for.

        Records stay until the directory is in place: a kill between two renames must not cost the finished work.
        """
        owned = owned_entries(manifest) | {RECORDS_FOLDER}
        for entry in sorted(self.staging.iterdir()):
            if entry.name not in owned:
                remove(entry)

    def _staged_record(self, name: ComponentName) -> ComponentRecord | None:
        path = self.staging / RECORDS_FOLDER / f"{name}.json"
        try:
            return read_model(path, ComponentRecord, "the record of a component", "it is made again")
        except ArtifactError:
            return None

    def _replaced_record(self, name: ComponentName) -> ComponentRecord | None:
        manifest = self.replaced()
        return None if manifest is None else manifest.components.get(name)

    def _is_whole(self, root: Path, record: ComponentRecord) -> bool:
        try:
            for relative, file in record.files.items():
                check_file(root, relative, file, "full")
        except BundleError:
            return False
        return True

    def _write_record(self, name: ComponentName, record: ComponentRecord) -> None:
        write_durably(self.staging / RECORDS_FOLDER / f"{name}.json", record)


def check_target(target: Path) -> None:
    """Raise `UsageError` unless `target` is absent, an empty directory, or a bundle (which may be replaced)."""
    if target.is_symlink():
        raise UsageError(f"'{target}' is a symbolic link; name the directory it points to.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"'{target}' is a file; name a directory for the bundle.")
    if any(target.iterdir()) and not (target / MANIFEST_FILE).is_file():
        raise UsageError(
            f"'{target}' is not empty and not a bundle; choose another directory, so that nothing of yours is replaced."
        )


def same_content(one: Manifest, other: Manifest) -> bool:
    """Whether a report about `one` also speaks of `other`: same files and same constants."""
    ignored = {"golden", "tools", "options"}
    return one.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)


def owned_entries(manifest: Manifest) -> set[str]:
    """Top-level names in a bundle directory that the bundle itself wrote."""
    owned = {MANIFEST_FILE, TOKENIZER_FOLDER, GOLDEN_FOLDER}
    for component in manifest.components.values():
        owned.update(relative.split("/")[0] for relative in component.files)
    for tokenizer in manifest.tokenizers.values():
        owned.update(relative.split("/")[0] for relative in tokenizer.files)
    return owned


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden directory into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UnavailableError(
                f"The disk became full while writing '{target}'; free some space and run the same command again: "
                "components already finished are kept."
            ) from error
        if isinstance(error, PermissionError):
            raise UnavailableError(
                f"'{error.filename or target}' may not be written (permission denied); choose another directory."
            ) from error
        raise


def write_durably(path: Path, record: StrictModel) -> None:
    """Write a record so that it is either old or new and complete, even if the power fails. Raises `OSError`."""
    with replacing(path, durable=True) as draft:
        draft.write_text(json_text(record), encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, link or directory tree if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_disk(directory: Path, needed: int) -> None:
    """Raise `UnavailableError` if the file system of `directory` has fewer than `needed` bytes free."""
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UnavailableError(
            f"Writing '{directory}' needs about {needed / 1e9:.2f} GB of disk but only {free / 1e9:.2f} GB are free on "
            f"'{existing}'; free some space or choose another directory."
        )


def _same_origin(record: ComponentRecord, source_sha256: str, options_sha256: str) -> bool:
    return record.source_sha256 == source_sha256 and record.options_sha256 == options_sha256


def _link_or_copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(source, destination)
