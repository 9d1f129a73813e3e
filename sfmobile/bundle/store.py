"""Writing a bundle: locked, component by component, resumable, and renamed into place when whole.

Beside a target `B` stand, while an export runs or after it was killed:
    .B.lock      flock held by the running export; the kernel drops it when the process dies
    .B.partial/  the staging directory: finished packages, each with its record under .records/, and .work/ for the
                 package being written, which never counts
    .B.old/      the replaced bundle, until what it holds besides its own files is moved into the new one
A package is moved out of .work/ whole and recorded afterwards, so what a record names is complete. The new bundle and
the old one change places in one step; where the system can't do that, `B` is absent between two renames.

Of a bundle that is replaced only files that its manifest records are removed, and reports that no longer hold. These
names can be guessed, so none of them may be a link.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from typing_extensions import Self

from sfmobile.bundle.digest import digest_tree
from sfmobile.bundle.directory import (
    MANIFEST_FILE,
    REPORT_FILES,
    REPORTS_FOLDER,
    Bundle,
    BundleError,
    check_constants,
    check_file,
    read_manifest,
    replaced_path,
)
from sfmobile.bundle.manifest import ComponentName, ComponentRecord, FileRecord, Manifest
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.files import DISK_FULL, StrictModel, exchange, json_text, read_model, replacing

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
            file = self._opened()
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

    def _opened(self) -> IO[str]:
        """The lock's file, which anybody who may write beside the bundle could have put there: no link, no pipe."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
                raise
            raise _foreign(self.path) from error
        status = os.fstat(descriptor)
        # A second name of the file would be that of somebody's own.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise _foreign(self.path)
        return os.fdopen(descriptor, "a+", encoding="utf-8")

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
        self._old = replaced_path(target)
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
                self._refuse_links()
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
            # With a manifest and without records it's the replaced bundle, whose files are still to be moved.
            records = any((self.staging / RECORDS_FOLDER).glob("*.json"))
            if not records and not (self.staging / MANIFEST_FILE).exists():
                remove(self.staging)
        self._lock.release()

    def may_reuse(self, name: ComponentName, options_sha256: str) -> bool:
        """Whether a finished component of these options is there; of which source is another question."""
        records = (self._staged_record(name), self._replaced_record(name))
        return any(record is not None and record.options_sha256 == options_sha256 for record in records)

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
            for path in {relative.split("/")[0] for relative in record.files}:
                remove(self.staging / path)
            for relative in record.files:
                link_or_copy(self.target / relative, self.staging / relative)
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
                link_or_copy(self.target / relative, self.staging / relative)
        return True

    def preview(self, manifest: Manifest) -> Bundle:
        """The unfinished bundle, for what must run it before it is complete (golden vectors)."""
        return Bundle(self.staging, manifest)

    def commit(self, manifest: Manifest) -> Bundle:
        """Write the manifest, put the bundle in place of the target, and return it.

        Reports of a replaced bundle are kept if everything they speak of is unchanged; files in it that its manifest
        doesn't record (a note, a picture) are always kept. Raises `UsageError` if such a file stands where one of the
        new bundle belongs, and `BundleError` for a constant that makes no sense: what is written can be read.
        """
        check_constants(manifest, self.target / MANIFEST_FILE)
        replaced = self.replaced()
        with disk_errors(self.target):
            if replaced is not None:
                self._refuse_clashes(manifest, replaced)
            write_durably(self.staging / MANIFEST_FILE, manifest)
            self._remove_strangers(manifest)
            if self.target.exists():
                if exchange(self.staging, self.target):
                    self.staging.rename(self._old)
                else:
                    self.target.rename(self._old)
                    self.staging.rename(self.target)
            else:
                self.staging.rename(self.target)
            self._finish_replacement()
        return Bundle(self.target, manifest)

    def _recover(self) -> None:
        """Repair what a kill inside `commit` left behind."""
        if self._old.exists() and not self.target.exists():
            self._old.rename(self.target)
        # Only a bundle that has just come into its place has records, and then it's the old one that has none.
        exchanged = (self.target / RECORDS_FOLDER).is_dir() and not (self.staging / RECORDS_FOLDER).exists()
        if exchanged and (self.staging / MANIFEST_FILE).is_file() and not self._old.exists():
            self.staging.rename(self._old)
        if self.target.is_dir():
            self._finish_replacement()

    def _refuse_links(self) -> None:
        for path in (self.staging, self.staging / RECORDS_FOLDER, self._old):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise _foreign(path)

    def _refuse_clashes(self, manifest: Manifest, replaced: Manifest) -> None:
        """Raise `UsageError` if a file of the new bundle would take the place of one that is the user's."""
        recorded = Bundle(self.target, replaced).files()
        for relative in sorted(Bundle(self.staging, manifest).files().keys() - recorded.keys()):
            path = self.target / relative
            above = [folder for folder in path.parents if self.target in folder.parents]
            taken = next((one for one in above if os.path.lexists(one) and not one.is_dir()), path)
            if os.path.lexists(taken):
                raise UsageError(
                    f"'{taken}' is not of the bundle that is replaced, and the new one has a file of that name; move "
                    "it away and run the same command again: what is exported is kept."
                )

    def _finish_replacement(self) -> None:
        """Move what the replaced bundle doesn't own, and reports still valid, into the new one; drop the rest."""
        if self._old.exists():
            owned = {MANIFEST_FILE}
            with suppress(BundleError):
                old = read_manifest(self._old)
                owned.update(Bundle(self._old, old).files())
                if not same_content(old, read_manifest(self.target)):
                    owned.update(f"{REPORTS_FOLDER}/{name}" for name in REPORT_FILES)
            _move_others(self._old, self.target, owned)
            # The manifest goes last: without it a rerun after a kill would take what is left for the user's.
            for entry in self._old.iterdir():
                if entry.name != MANIFEST_FILE:
                    remove(entry)
            remove(self._old)
        remove(self.target / RECORDS_FOLDER)

    def _remove_strangers(self, manifest: Manifest) -> None:
        """Drop from the staging directory what the manifest doesn't own, such as components no longer asked for.

        Records stay until the directory is in place: a kill between two renames must not cost the finished work.
        """
        files = Bundle(self.staging, manifest).files()
        owned = {MANIFEST_FILE, RECORDS_FOLDER, *(relative.split("/")[0] for relative in files)}
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
    """Raise `UsageError` unless `target` is absent, an empty directory, or a bundle (which may be replaced).

    A bundle is what has a bundle's manifest: web applications have a file of that name too. Raises `BundleError` for
    that of a later sfmobile.
    """
    if target.is_symlink():
        raise UsageError(f"'{target}' is a symbolic link; name the directory it points to.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"'{target}' is a file; name a directory for the bundle.")
    if not any(target.iterdir()):
        return
    try:
        read_manifest(target)
    except BundleError as error:
        if error.reason == "future_schema":
            raise
        raise UsageError(
            f"'{target}' is not empty and not a whole bundle; choose another directory, so that nothing of yours is "
            f"replaced. ({error})"
        ) from error


def same_content(one: Manifest, other: Manifest) -> bool:
    """Whether a report about `one` also speaks of `other`: same files and same constants."""
    ignored = {"golden", "tools", "options"}
    return one.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)


def _foreign(path: Path) -> UsageError:
    return UsageError(f"'{path}' is not what an export leaves behind but a link or another file; remove it.")


def _move_others(source: Path, target: Path, owned: set[str], below: str = "") -> None:
    """Move all that is below `source` but for the `owned` files to the same place below `target`."""
    for entry in sorted((source / below).iterdir()):
        relative = f"{below}{entry.name}"
        destination = target / relative
        if relative in owned:
            continue
        if not os.path.lexists(destination) and not any(path.startswith(f"{relative}/") for path in owned):
            destination.parent.mkdir(parents=True, exist_ok=True)
            entry.rename(destination)
        elif entry.is_dir() and not entry.is_symlink():
            _move_others(source, target, owned, f"{relative}/")


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


def link_or_copy(source: Path, destination: Path) -> None:
    """A second name of a file where the file system has those, else a copy; makes the folders above.

    Raises `OSError`.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(source, destination)
