"""Where an exported file goes: names, links, modes, and what is left when it is interrupted."""

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import keras
import pytest

from keras_hoyer import _destination as destination
from keras_hoyer._destination import check_destination, ending_in_order, replacing
from keras_hoyer.exporters import ExportError, export, load_sparse_weights

pytestmark = pytest.mark.default_backend

ROOT = Path(__file__).parents[1]
FORMATS = ["npz", "keras", "safetensors"]
ODD_NAMES = [
    *("a[1]", "b[", "c]", "d*", "e?", "f g", "ü-名", "h\\i", "-j", "~k", "l'm\"", "n\no"),
    "p" * 240,
]


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])


def put(path, content=b"new"):
    with replacing(path) as place:
        made = place.folder / "made"
        made.write_bytes(content)
        place.fill(made)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def skip_without(format):
    if format == "safetensors":
        pytest.importorskip("safetensors")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_may_be_anything_that_the_file_system_takes(tmp_path, model, name):
    folder = tmp_path / name
    folder.mkdir()
    result = export(model, folder / f"{name}.npz")
    assert [p.name for p in folder.iterdir()] == [f"{name}.npz"]
    load_sparse_weights(model, result.path)


@pytest.mark.parametrize("name", ["a[1]", "b*?", "c\\d"])
def test_tensorflow_never_sees_a_pattern_in_the_folder_that_it_writes_to(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with replacing(folder / "x.tflite") as place:
        assert not destination.PATTERN_CHARACTERS & set(str(place.folder))
        assert place.folder.resolve().parent == folder  # one file system, for an atomic move
        outer = place.folder.parent
    assert not list(folder.iterdir()) and not outer.exists()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a process takes its time")
def test_a_folder_with_brackets_takes_a_tflite_file(tmp_path, model):
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path / "runs[1]*?"
    folder.mkdir()
    assert export(model, folder / "m[2].tflite").path.exists()
    assert [p.name for p in folder.iterdir()] == ["m[2].tflite"]


def test_a_path_may_be_relative_and_without_a_folder(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(model, "m.npz").path == Path("m.npz")
    assert (tmp_path / "m.npz").exists()


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, model):
    with pytest.raises(ValueError, match=r"argument `filepath`.*too long"):
        export(model, tmp_path / f"{'n' * 260}.npz")
    with pytest.raises(ValueError, match=r"argument `filepath`.*null"):
        export(model, f"{tmp_path}/a\0b.npz")


@pytest.mark.parametrize("format", FORMATS)
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path, model, format):
    skip_without(format)
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / f"v1.{format}", tmp_path / f"latest.{format}"
    target.write_bytes(b"old")
    link.symlink_to(Path("real") / target.name)
    result = export(model, link)
    assert link.is_symlink() and target.read_bytes() == link.read_bytes() != b"old"
    assert result.path == link and result.bytes == target.stat().st_size
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_links_to_links_to_nothing_and_in_a_circle(tmp_path):
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "target"
    first.symlink_to(second)
    second.symlink_to(target)
    put(first)
    assert target.read_bytes() == b"new" and first.is_symlink() and second.is_symlink()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(ValueError, match=r"argument `filepath`"):
        put(tmp_path / "round")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "target")
    with pytest.raises(ValueError, match=r"argument `filepath`.*a folder that exists"):
        put(tmp_path / "nowhere")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_a_new_file_has_the_mode_that_any_new_file_has(tmp_path, model, format, mask):
    skip_without(format)
    before = os.umask(mask)
    try:
        export(model, tmp_path / f"m.{format}")
        assert mode_of(tmp_path / f"m.{format}") == 0o666 & ~mask
    finally:
        os.umask(before)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", [0o664, 0o600, 0o640, 0o755])
def test_an_older_files_mode_is_kept(tmp_path, model, format, mode):
    skip_without(format)
    path = tmp_path / f"m.{format}"
    path.write_bytes(b"old")
    path.chmod(mode)
    export(model, path)
    assert mode_of(path) == mode and path.read_bytes() != b"old"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_an_older_files_owner_and_group_are_kept(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    path.chmod(0o664)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (12345, 23456, 0o664)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_read_only_files_and_folders_are_refused(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(ValueError, match=r"argument `filepath`.*read-only"):
        put(path)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ValueError, match=r"argument `filepath`.*can be written"):
            put(tmp_path / "other")
    finally:
        tmp_path.chmod(0o755)


def test_folders_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name, reason in [("", "a folder"), ("pipe", "a pipe"), ("device", "a device")]:
        with pytest.raises(ValueError, match=f"argument `filepath`. Expected a file.*{reason}"):
            check_destination(tmp_path / name)
    assert not Path("/dev/null").is_file()


def test_an_older_file_is_as_it_was_when_anything_fails(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), replacing(path) as place:
            (place.folder / "made").write_bytes(b"new")
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and path.read_bytes() == b"old"


@pytest.fixture
def nearly_full_disk():
    # That no file may be large stands for it.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_fails_in_the_same_words_for_every_format(tmp_path, format, nearly_full_disk):
    skip_without(format)
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(400)])
    (tmp_path / f"m.{format}").write_bytes(b"old")
    with pytest.raises(ExportError, match=r"'write'.*File too large") as caught:
        export(model, tmp_path / f"m.{format}")
    assert caught.value.step == "write"
    assert [p.name for p in tmp_path.iterdir()] == [f"m.{format}"]
    assert (tmp_path / f"m.{format}").read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_is_asked_to_end_leaves_no_folder_and_ends_so(tmp_path, number):
    target = tmp_path / "a[b]" / "m"
    target.parent.mkdir()
    code = f"""
        import signal, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "keras_hoyer")!r})
        import _destination as destination

        # As in a terminal, also where the tests run in the background.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with destination.replacing({str(target)!r}) as place:
            (place.folder / "made").write_bytes(b"new")
            print(place.folder, flush=True)
            try:
                time.sleep(60)
            except Exception:
                print("was caught", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == -number and not rest
    assert not list(target.parent.iterdir()) and not folder.parent.exists()


def test_handlers_are_given_back_and_others_are_left_alone():
    def mine(number, frame):
        pass

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    try:
        for number, handler in zip(numbers, (signal.SIG_DFL, mine), strict=True):
            signal.signal(number, handler)
        with ending_in_order():
            with ending_in_order():
                pass
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGHUP) is mine
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is mine
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_thread_may_export(tmp_path, model):
    errors = []

    def work():
        try:
            export(model, tmp_path / "m.npz")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors and (tmp_path / "m.npz").exists()


def test_a_file_that_cannot_be_moved_leaves_nothing(tmp_path, model, monkeypatch):
    def busy(*args):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(destination.os, "replace", busy)
    with pytest.raises(ExportError, match=r"'write'.*busy"):
        export(model, tmp_path / "m.npz")
    assert not list(tmp_path.iterdir())
