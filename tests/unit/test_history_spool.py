"""The spool, written by us and read as if written by an enemy."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
from zlib import crc32

import pytest

from dask_site.history import reading, records, spool
from dask_site.history.spool import SpoolError, SpoolWriter, read_spool


def end(how="closed"):
    return {"k": "end", "t": 1.0, "how": how}


def sample(pool="cpu"):
    return {"k": "usage", "t": 1.0, "pool": pool, "threads": {"busy": 1.0}}


def span(name):
    return {"k": "span", "t": 1.0, "id": name, "name": [name], "enqueued": 1.0}


def line(values):
    body = values if isinstance(values, bytes) else json.dumps(values).encode()
    return b"%08x %b\n" % (crc32(body), body)


def good(number=1, **more):
    return line({"v": 1, "c": "c", "q": number, "t": 1.0, "k": "end", "how": "x", **more})


def files(folder):
    return sorted(p for p in folder.iterdir() if p.name.endswith(spool.SUFFIX))


def all_of(folder):
    return [record for path in files(folder) for record, _ in read_spool(path)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def test_constants_are_those_of_the_records():
    assert (reading.VERSION, reading.MOST_BYTES) == (records.VERSION, records.MOST_BYTES)


def test_what_is_written_is_read(folder):
    writer = SpoolWriter(folder, "c1")
    assert writer.write([span("a"), sample()]) == [0, 1]
    assert writer.write([end()]) == [0]
    found = all_of(folder)
    assert [(r.k, r.c, r.q) for r in found] == [
        ("span", "c1", 1),
        ("usage", "c1", 2),
        ("end", "c1", 3),
    ]
    assert os.stat(folder).st_mode & 0o7777 == 0o700
    assert os.stat(files(folder)[0]).st_mode & 0o7777 == 0o600


def test_every_truncation_parses_to_exactly_its_complete_records(tmp_path):
    whole = b"".join(good(number, how="x" * number) for number in range(1, 12))
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    path = tmp_path / "a.spool"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        reading = read_spool(path)
        complete = [place for place in ends if place <= cut]
        assert [offset for _, offset in reading] == complete
        assert reading.bad == 0
        assert reading.offset == (complete[-1] if complete else 0)


def test_reading_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "a.spool"
    path.write_bytes(good(1) + good(2)[:-5])
    first = read_spool(path)
    assert [r.q for r, _ in first] == [1]
    with path.open("ab") as file:
        file.write(good(2)[-5:] + good(3))
    descriptor = os.open(path, os.O_RDONLY)
    assert [r.q for r, _ in read_spool(descriptor, first.offset)] == [2, 3]
    os.close(descriptor)  # it was left open
    assert [r.q for r, _ in read_spool(path, path.stat().st_size)] == []


BAD = {
    "garbage": b"\x00\xff\xfe" * 50 + b"\n",
    "empty": b"\n",
    "another checksum": b"00000000 {}\n",
    "no record": line({"k": "nothing"}),
    "no object": line([1, 2]),
    "a key twice": line(b'{"v":1,"c":"c","q":1,"q":2,"t":1.0,"k":"end","how":"x"}'),
    "NaN": line(b'{"v":1,"c":"c","q":1,"t":NaN,"k":"end","how":"x"}'),
    "Infinity": line(b'{"v":1,"c":"c","q":1,"t":1e999,"k":"end","how":"x"}'),
    "deep": line(b"[" * 100_000),
    "deep and closed": line(b'{"v":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a huge number": line(b'{"v":1,"c":"c","q":' + b"9" * 5000 + b',"t":1.0,"k":"end","how":"x"}'),
    "not UTF-8": line(b'{"v":1,"c":"c","q":1,"t":1.0,"k":"end","how":"\xff"}'),
    "half a surrogate": line(b'{"v":1,"c":"c","q":1,"t":1.0,"k":"end","how":"\\ud800"}'),
    "NUL": line(b'{"v":1,"c":"c","q":1,"t":1.0,"k":"end","how":"a\\u0000"}'),
    "another's file name": line({"v": 1, "c": "../../x", "q": 1, "t": 1.0, "k": "end", "how": "x"}),
    "too long": good(2, pad="x" * records.MOST_BYTES),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_counted_and_spoils_itself_only(tmp_path, what):
    path = tmp_path / "a.spool"
    path.write_bytes(good(1) + BAD[what] + good(3))
    reading = read_spool(path)
    assert [record.q for record, _ in reading] == [1, 3]
    assert reading.bad == 1
    assert reading.why
    assert reading.offset == path.stat().st_size


def test_backslashes_before_a_u_are_no_nul(tmp_path):
    path = tmp_path / "a.spool"
    path.write_bytes(good(1, how=r"\u0000"))
    assert [record.how for record, _ in read_spool(path)] == [r"\u0000"]


def test_a_line_of_a_gigabyte_costs_neither_memory_nor_a_second_reading(tmp_path):
    path = tmp_path / "a.spool"
    path.write_bytes(good(1))
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.truncate(file.tell() + 2**28)  # a hole
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reading = read_spool(path)
    assert [record.q for record, _ in reading] == [1]
    assert reading.bad == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert reading.offset == path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\n" + good(2))
    assert [record.q for record, _ in read_spool(path, reading.offset)] == [2]


def test_links_fifos_sockets_folders_and_second_names_are_refused(tmp_path):
    real = tmp_path / "real"
    real.write_bytes(good())
    (tmp_path / "link").symlink_to(real)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    begun = time.monotonic()
    for name in ("link", "fifo", "folder", "socket"):
        with pytest.raises(SpoolError, match=f"{name} is no regular file"):
            read_spool(tmp_path / name)
    assert time.monotonic() - begun < 1
    os.link(real, tmp_path / "second")
    with pytest.raises(SpoolError, match="several names"):
        read_spool(real)
    with pytest.raises(FileNotFoundError):
        read_spool(tmp_path / "nothing")


def test_refused_files_are_closed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(SpoolError):
            read_spool(tmp_path / "fifo")
    (tmp_path / "a").write_bytes(good())
    list(read_spool(tmp_path / "a"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_of_others_is_not_written_to(tmp_path, folder):
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    writer = SpoolWriter(folder, "c")
    assert writer.write([end()]) == []
    assert "only you may write" in str(writer.problem)
    assert not files(folder)


def test_no_link_is_followed_to_a_spool_folder(tmp_path, folder):
    folder.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert SpoolWriter(link, "c").write([end()]) == [0]
    assert not files(folder)
    assert len(files(tmp_path / "link.1")) == 1


def test_below_a_setgid_folder_the_group_may_read(tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o3773)
    before = os.umask(0o077)
    try:
        assert SpoolWriter(parent / "me", "c").write([end()]) == [0]
    finally:
        os.umask(before)
    assert os.stat(parent / "me").st_mode & 0o7777 == 0o2750
    assert os.stat(files(parent / "me")[0]).st_mode & 0o040


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "x" * 200, "a b"])
def test_names_that_are_no_file_names(folder, name):
    with pytest.raises(ValueError, match="spool file"):
        SpoolWriter(folder, name)


def test_nobody_elses_file_is_appended_to(folder):
    folder.mkdir(mode=0o700)
    (folder / "c.0.spool").write_bytes(b"theirs")
    assert SpoolWriter(folder, "c").write([end()]) == [0]
    assert (folder / "c.0.spool").read_bytes() == b"theirs"
    assert (folder / "c.1.spool").exists()


def test_files_rotate_and_are_read_in_turn(folder):
    writer = SpoolWriter(folder, "c", rotate=1000)
    for number in range(50):
        assert writer.write([span(f"s{number}")]) == [0]
    assert len(files(folder)) > 3
    assert all(path.stat().st_size < 1200 for path in files(folder))
    assert sorted(r.q for r in all_of(folder)) == list(range(1, 51))


def test_a_file_that_was_taken_away_is_followed_by_another(folder):
    writer = SpoolWriter(folder, "c")
    writer.write([span("a")])
    files(folder)[0].unlink()
    assert writer.write([span("b")]) == [0]
    assert [r.id for r in all_of(folder)] == ["b"]


def test_samples_go_first_then_spans_and_the_end_always_fits(folder):
    most = 100_000
    writer = SpoolWriter(folder, "c", most_bytes=most)
    while writer.write([sample()]):
        pass
    assert most * 0.7 < files(folder)[0].stat().st_size <= most * 0.75
    assert "no room" in str(writer.problem)
    spans = 0
    while writer.write([span(f"s{spans}")], at_once=True):
        spans += 1
    assert spans > 50
    assert writer.write([sample(), span("s"), end()], at_once=True) == [2]
    assert files(folder)[0].stat().st_size <= most


def test_all_clusters_of_a_folder_share_its_bytes(folder):
    one = SpoolWriter(folder, "one", folder_bytes=100_000)
    while one.write([sample()]):
        pass
    other = SpoolWriter(folder, "other", folder_bytes=100_000)
    assert other.write([sample()]) == []
    assert other.write([span("s")], at_once=True) == [0]
    files(folder)[0].unlink()
    other._counted = -1000
    assert other.write([sample()], at_once=True) == [0]


def test_a_record_that_is_too_long_or_no_json_is_left_out(folder):
    writer = SpoolWriter(folder, "c")
    too_long = end("x" * reading.MOST_BYTES)
    records = [too_long, {"k": "end", "t": float("nan")}, {"k": object()}, end()]
    assert writer.write(records) == [3]
    assert len(all_of(folder)) == 1


FULL = """
    import json, os, resource, sys
    from dask_site.history.spool import SpoolWriter
    folder = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    writer = SpoolWriter(folder, "c")
    span = lambda n: {"k": "span", "t": 1.0, "id": f"s{n}", "name": ["n"], "enqueued": 1.0}
    written, number = [], 0
    for turn in range(60):
        batch = [span(number + i) for i in range(7)]
        if turn == 30:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        if turn == 20:
            assert writer.problem is not None
            assert writer.write(batch) == [], "it waits before it tries again"
        done = writer.write(batch, at_once=True)
        written += [batch[i]["id"] for i in done]
        number += 7
    assert writer.problem is None
    print(json.dumps(written))
"""


def test_what_counts_as_written_is_there_though_files_could_not_grow(folder):
    code = textwrap.dedent(FULL)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    written = json.loads(done.stdout)
    reading = read_spool(files(folder)[0])
    assert [record.id for record, _ in reading] == written
    assert reading.bad <= 1
    assert 150 < len(written) < 400


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_file_system_loses_nothing_that_was_written(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(tmp_path)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        writer = SpoolWriter(tmp_path / "spool", "c")
        written, number = [], 0
        (tmp_path / "filler").write_bytes(b"x" * 40_000)
        for turn in range(400):
            if turn == 300:
                assert writer.problem is not None
                assert getattr(writer.problem, "errno", None) == errno.ENOSPC
                (tmp_path / "filler").unlink()
            batch = [span(f"s{number + i}") for i in range(3)]
            written += [batch[i]["id"] for i in writer.write(batch, at_once=True)]
            number += 3
        writer.close()
        found = [record.id for record in all_of(tmp_path / "spool")]
        assert found == written
        assert f"s{number - 1}" in found or len(found) > 200
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def refuse(*_):
    raise OSError(errno.EDQUOT, "quota")


def test_the_writer_gives_up_on_nothing_and_comes_back(folder, monkeypatch):
    writer = SpoolWriter(folder, "c")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "write", refuse)
    pauses = []
    for _ in range(9):
        assert writer.write([end()]) == []
        pauses.append(round(writer._not_before - now[0]))
        assert writer.write([end()]) == []
        now[0] = writer._not_before + 0.1
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    monkeypatch.undo()
    assert writer.write([end()], at_once=True) == [0]
    assert writer.problem is None
