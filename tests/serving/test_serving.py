"""`frost serve`: a foreign client gets the images of `frost reconstruct` to the bit, and no client ends the server."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.networks.image.rcan import RCAN, RCANParams
from frost.reconstruction.live import is_slice_by_slice, load_models, new_masks, reconstruct_folder
from frost.serving import session
from frost.serving.protocol import PIECE, BoundedReader
from frost.serving.server import Limits, Server
from frost.serving.session import Settings
from tests.paths import ROOT
from tests.processes import PATIENCE, until
from tests.scans import mrd

with warnings.catch_warnings():  # its import changes the filters
    import ismrmrd
    from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer

COILS, ROWS, COLUMNS = 3, 32, 24
N_SCANS = int(os.environ.get("SERVE_SCANS", "6"))  # in a row; `SERVE_SCANS=100` before a release
CONFIG, HEADER, CLOSE, TEXT, ACQUISITION, IMAGE, WAVEFORM = 1, 3, 4, 5, 1008, 1022, 1026
MEMORY = 64 << 20
OBLIQUE = {"slice_dir": (-0.48, -0.64, 0.6), "read_dir": (-0.8, 0.6, 0.0), "phase_dir": (0.36, 0.48, 0.8)}


@pytest.fixture(scope="module")
def of_neighbours(workspace):
    """Networks whose image of a slice depends on the slice beside it."""
    return load_models(workspace.root / "models", torch.device("cpu"))


@pytest.fixture(scope="module")
def models(of_neighbours):
    """Networks that need one slice at a time, as those that come with Frost."""
    torch.manual_seed(0)
    sizes = {"features": 8, "groups": 1, "blocks": 1, "block": "plain", "reduction": 4, "residual_scaling": 1.0}
    rcan = RCAN(RCANParams(**sizes, unshuffle=2, residual=True, checkpointing="none", segments=1), 3).eval()
    torch.nn.init.normal_(rcan.tail.weight, std=0.02)
    return replace(of_neighbours, rcan=rcan, inputs=("varnet", "grappa", "sense"))


@pytest.fixture
def serve(models):
    """Starts servers; each has its log, a list of lines."""
    servers = []

    def start(models=models, memory=MEMORY, **limits):
        log = []
        settings = Settings(models, new_masks(models, 2.0, 0.3), memory)
        server = Server("127.0.0.1", 0, settings, Limits(**({"connections": 4} | limits)), log.append)
        server.lines = log
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def connect(server):
    return socket.create_connection(("127.0.0.1", getattr(server, "port", server)), timeout=PATIENCE)


def logged(server, n=1):
    """The lines of its log, once there are as many as are due: a client has its answer a moment before."""
    until(lambda: len(server.lines) >= n)
    assert len(server.lines) == n, server.lines
    return server.lines


def connections():
    """Threads of any server that serve or read one."""
    return [one for one in threading.enumerate() if re.search("process_request_thread|_fill", one.name)]


# ---- scans


def xml(**more):
    limits = "".join(f"<{name}><minimum>0</minimum><maximum>{last}</maximum></{name}>" for name, last in more.items())
    return mrd.header((2 * ROWS, COLUMNS), (ROWS, COLUMNS)).replace("</encodingLimits>", f"{limits}</encodingLimits>")


UNDERSAMPLED = [x for x in range(COLUMNS) if x % 2 == 0 or 8 <= x < 16]


@pytest.fixture
def scan(make_kspace):
    """The header and lines of a scan, each slice ended by flag 8: with noise, slices out of order, an oblique pose."""

    def make(n_slices=3, columns=range(COLUMNS), seed=0, averages=1, order=None, flags=True, posed=True, noise=True):
        kspace = make_kspace(n_slices, COILS, 2 * ROWS, COLUMNS, noise=0.004, seed=seed).numpy() * 1e3
        rng, lines = np.random.default_rng(seed), []
        if noise:
            lines.append(mrd.line(rng.normal(size=(COILS, 256)) + 1j * rng.normal(size=(COILS, 256)), flags=(19,)))
        for i in range(n_slices) if order is None else order:
            position = np.add(np.multiply(OBLIQUE["slice_dir"], 6.0 * i), (3, -4, 5))
            pose = OBLIQUE | {"position": position} if posed else {}
            for average in range(averages):
                more = {"slice": i, "average": average, **pose}
                for x in columns:
                    last = flags and x == columns[-1]
                    lines.append(mrd.line(kspace[i, ..., x] * (1 + average), x, (8,) if last else (), **more))
        return xml(slice=n_slices - 1, average=averages - 1), lines

    return make


def acquisitions(lines):
    """As the `ismrmrd` package has them."""
    for head, _, values in lines:
        samples = values.view(np.complex64).reshape(int(head["active_channels"]), -1)
        one = ismrmrd.Acquisition.from_array(
            samples, flags=int(head["flags"]), center_sample=int(head["center_sample"]),
            sample_time_us=float(head["sample_time_us"]), **{name: tuple(head[name].tolist()) for name in mrd.POSE},
        )  # fmt: skip
        for name in head["idx"].dtype.names:
            setattr(one.idx, name, int(head["idx"][name]))
        yield one


def reconstructed(models, folder, name, text, lines):
    """Images and headers of `frost reconstruct --format mrd` of the same scan in a file."""
    file = mrd.write(folder / f"{name}.h5", text, lines)
    done = reconstruct_folder(models, file, folder / "out", 2.0, 0.3, "none", formats=["mrd"])
    assert not done.failed
    with ismrmrd.File(str(folder / "out" / f"{name}.mrd"), "r") as written:
        return list(written["dataset/image_0"].images)


# ---- clients


def exchange(server, name, text, lines):
    """The client of the `ismrmrd` package; everything that came back until CLOSE."""
    with connect(server) as connection, connection.makefile("rwb") as stream:
        answer = ProtocolSerializer(stream)
        answer.serialize(ConfigFile(name))
        answer.serialize(ConfigText("<configuration/>"))
        stream.write(struct.pack("<HI", HEADER, len(text)) + text.encode())
        for line in acquisitions(lines):
            answer.serialize(line)
        answer.serialize("a remark of the client")
        answer.close()
        return list(ProtocolDeserializer(stream).deserialize())


def images_of(answers):
    assert all(isinstance(answer, ismrmrd.Image) for answer in answers), [a for a in answers if isinstance(a, str)]
    return sorted(answers, key=lambda image: image.image_index)


def check_same(found, expected):
    """To the bit, headers and texts too."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one.data.dtype == np.float32 and one.data.max() > 0
        np.testing.assert_array_equal(one.data, other.data)
        ours, theirs = (bytes(image.getHead())[:-4] for image in (one, other))  # the last is the length of its text
        assert ours == theirs, (str(one.getHead()), str(other.getHead()))
        assert dict(one.meta) == dict(other.meta)


CASES = {
    "full": {},
    "undersampled": {"columns": UNDERSAMPLED},
    "averages": {"averages": 2},
    "interleaved": {"order": (2, 0, 1)},
    "without flags": {"flags": False},
    "without pose and noise": {"posed": False, "noise": False},
}


@pytest.mark.parametrize("case", CASES)
def test_a_foreign_client_gets_the_images_of_the_file_to_the_bit(models, serve, scan, tmp_path, case):
    text, lines = scan(**CASES[case])
    expected = reconstructed(models, tmp_path, "leg-7.a", text, lines)
    server = serve()
    found = images_of(exchange(server, "leg-7.a.xml", text, lines))
    check_same(found, expected)
    posed = CASES[case].get("posed", True)
    assert posed == np.allclose(found[1].read_dir, OBLIQUE["read_dir"]) == ("nominal" not in str(found[1].meta))
    when = "0 of them as they were whole" if case == "without flags" else "sent, as they were whole"
    (line,) = logged(server)
    assert "leg-7.a: 3 images of 32 x 24 " in line and when in line


def test_the_image_of_a_slice_comes_while_the_next_is_measured(models, serve, scan, tmp_path):
    """The protocol by hand, as python-ismrmrd-server has it."""
    text, lines = scan(n_slices=2)
    expected = reconstructed(models, tmp_path, "scan", text, lines)
    half = next(k for k, line in enumerate(lines) if line[0]["flags"] == 1 << 7) + 1
    server, images = serve(), []
    with connect(server) as connection, connection.makefile("rb") as stream:
        content = text.encode() + b"\0"
        connection.sendall(struct.pack("<HI", HEADER, len(content)) + content)
        for part in (lines[:half], lines[half:]):
            for line in acquisitions(part):
                connection.sendall(struct.pack("<H", ACQUISITION) + line.to_bytes())
            (kind,) = struct.unpack("<H", stream.read(2))
            assert kind == IMAGE
            images.append(ismrmrd.Image.deserialize_from(stream.read))
        connection.sendall(struct.pack("<H", CLOSE))
        assert stream.read() == struct.pack("<H", CLOSE)
    check_same(images, expected)


def test_more_slices_than_the_header_announces_come_at_the_end(models, serve, scan, tmp_path):
    """Or fewer than could be: then nothing of what it announces counts."""
    _, lines = scan()
    for name, text in (("few", xml(slice=0)), ("many", xml(slice=65535, phase=65535, contrast=65535, set=65535))):
        server, expected = serve(), reconstructed(models, tmp_path, name, text, lines)
        check_same(images_of(exchange(server, name, text, lines)), expected)
        assert f"3 images of 32 x 24 sent, {1 if name == 'few' else 0} of them as they were whole" in logged(server)[0]


def test_networks_that_need_neighbours_wait_for_the_whole_scan(of_neighbours, serve, scan, tmp_path):
    assert not is_slice_by_slice(of_neighbours)
    text, lines = scan()
    server = serve(of_neighbours)
    check_same(images_of(exchange(server, "a", text, lines)), reconstructed(of_neighbours, tmp_path, "a", text, lines))
    assert "0 of them as they were whole" in logged(server)[0]


def test_many_scans_in_a_row(models, serve, scan, tmp_path):
    """Every one with other numbers: none is an answer to another."""
    server = serve()
    for k in range(N_SCANS):
        text, lines = scan(n_slices=1 + k % 2, seed=k, columns=UNDERSAMPLED)
        expected = reconstructed(models, tmp_path, f"scan{k}", text, lines)
        check_same(images_of(exchange(server, f"scan{k}", text, lines)), expected)
    assert not any("error" in line for line in logged(server, N_SCANS))
    until(lambda: not connections())


def test_two_clients_at_once_get_each_their_own(models, serve, scan, tmp_path):
    scans = {name: scan(seed=seed) for seed, name in enumerate(("one", "two"))}
    expected = {name: reconstructed(models, tmp_path, name, *of) for name, of in scans.items()}
    server, found = serve(), {}

    def client(name):
        found[name] = exchange(server, name, *scans[name])

    threads = [threading.Thread(target=client, args=(name,)) for name in scans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in scans:
        check_same(images_of(found[name]), expected[name])


# ---- faults


def head(samples=64, coils=3, dimensions=0):
    one = ismrmrd.AcquisitionHeader()
    one.number_of_samples, one.active_channels, one.trajectory_dimensions = samples, coils, dimensions
    return struct.pack("<H", ACQUISITION) + bytes(one)


def with_header(content, text=None):
    text = (text or xml()).encode()
    return struct.pack("<HI", HEADER, len(text)) + text + content


FAULTS = {
    "no stream": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", r"message 17735 is of no known kind"),
    "nothing": (b"", r"the client went away in the number of a message, 0 of 2 bytes"),
    "a header of 4 GiB": (struct.pack("<HI", HEADER, 2**32 - 1), r"declares 4294967295 bytes of text; at most 4194304"),
    "a line of 34 GB": (with_header(head(65535, 65535)), r"an acquisition declares 34358689800 bytes"),
    "a trajectory of 17 GB": (with_header(head(65535, 1, 65535)), r"a trajectory declares 17179344900 bytes"),
    "an image of a terabyte": (
        struct.pack("<H", IMAGE) + bytes(198) + struct.pack("<Q", 1 << 40), r"acquisitions \(1008\) are needed"
    ),
    "an array of a terabyte": (struct.pack("<HHHHQ", 1030, 5, 0, 1, 1 << 40), r"message 1030 is an image or an array"),
    "a waveform of 17 GB": (
        struct.pack("<H", WAVEFORM) + bytes(ismrmrd.WaveformHeader(number_of_samples=65535, channels=65535)),
        r"a waveform declares 17179344900 bytes",
    ),
    "cut in a line": (with_header(head() + b"12"), r"the client went away in an acquisition, 2 of 1536 bytes"),
    "cut between lines": (with_header(head() + bytes(1536)), r"the client went away in the number of a message"),
    "a line before the header": (head() + bytes(1536), r"an acquisition came before the XML header"),
    "two headers": (with_header(with_header(b"")), r"a second XML header"),
    "no XML": (with_header(b"", "no XML"), r"not XML"),
    "a bomb of entities": (with_header(b"", '<!DOCTYPE x [<!ENTITY a "aa">]><x>&a;</x>'), r"XML with a DOCTYPE"),
    "no line": (with_header(struct.pack("<H", CLOSE)), r"no acquisition came"),
    "closed at once": (struct.pack("<H", CLOSE), r"closed before the XML header"),
    "a line of no samples": (with_header(head(0, 0) + struct.pack("<H", CLOSE)), r"lies outside|declares 0 coils"),
    "radial": (
        with_header(head() + bytes(1536) + struct.pack("<H", CLOSE), xml().replace("cartesian", "radial")),
        r"trajectory 'radial'; only Cartesian",
    ),
    "control characters": (
        struct.pack("<H", CONFIG) + b"a\x1b[31m\nb".ljust(1024, b"\0") + struct.pack("<H", CLOSE), r"a__31m_b: closed"
    ),
}  # fmt: skip


def spoil(server, content, half_closed=True):
    """What the server answers to these bytes."""
    with connect(server) as connection:
        connection.sendall(content)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return stream.read()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_in_the_log_and_the_server_lives(models, serve, scan, tmp_path, fault):
    content, message = FAULTS[fault]
    server = serve()
    answer = spoil(server, content)
    (line,) = logged(server)
    assert re.search(message, line) and line.isprintable(), line
    (kind, n), text = struct.unpack("<HI", answer[:6]), answer[6:-2]
    assert (kind, n) == (TEXT, len(text)) and re.search(message, text.decode())
    assert answer[-2:] == struct.pack("<H", CLOSE)
    text, lines = scan(n_slices=1)
    assert len(images_of(exchange(server, "after", text, lines))) == 1


def test_a_client_that_goes_away_in_the_middle_or_before_its_images(models, serve, scan, monkeypatch):
    text, lines = scan()
    server, gone, reconstructed = serve(), threading.Event(), session.reconstructed

    def after_it_has_gone(*arguments, **more):
        gone.wait(PATIENCE)
        return reconstructed(*arguments, **more)

    monkeypatch.setattr(session, "reconstructed", after_it_has_gone)
    for part in (lines[:10], lines):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            connection.sendall(with_header(b"", text))
            for line in acquisitions(part):
                connection.sendall(struct.pack("<H", ACQUISITION) + line.to_bytes())
            if part is lines:
                connection.sendall(struct.pack("<H", CLOSE))
    gone.set()
    assert all("the client went away" in line for line in logged(server, 2)), server.lines
    assert len(images_of(exchange(server, "after", text, lines))) == 3


def test_more_than_the_memory_of_a_connection_is_refused_before_it_is_kept(serve, scan):
    server = serve(memory=600_000)
    text, lines = scan(averages=6)
    answers = exchange(server, "large", text, lines)
    message = r"an acquisition declares \d+ bytes, after 59\d{4}; one connection may send 600000 \(--memory\)"
    assert re.search(message, answers[-1]) and re.search(message, logged(server)[0])
    small = scan(n_slices=1)
    assert len(images_of(exchange(server, "small", *small))) == 1


def test_a_few_lines_may_not_declare_a_slice_that_no_memory_is_there_for(serve, scan):
    server = serve()
    text = mrd.header((1024, 1024), (1024, 1024))
    lines = [mrd.line(np.ones((COILS, 16), np.complex64), x, centre=8) for x in (511, 512)]
    message = r"declares slices of 25165824 bytes; at most 4194304, 1/16 of --memory"
    assert re.search(message, exchange(server, "large", text, lines)[-1]) and re.search(message, logged(server)[0])
    assert len(images_of(exchange(server, "small", *scan(n_slices=1)))) == 1


def test_declared_bytes_are_no_memory_until_they_come():
    """A client that declares much and sends little: no piece is wanted that is larger than `PIECE`."""
    wanted = []
    read = BoundedReader(lambda n: (wanted.append(n), b"x")[1] if len(wanted) < 5 else b"", 1 << 50)
    with pytest.raises(InputError, match=r"the client went away in all, 5 of 1099511627776 bytes"):
        read(1 << 40, "all")
    assert max(wanted) == PIECE


def test_too_many_connections_are_told_to_come_again(serve, scan):
    server = serve(connections=1)
    with connect(server) as first:
        first.sendall(with_header(b""))
        until(lambda: server._free._value == 0)
        with connect(server) as second, second.makefile("rb") as stream:
            assert list(ProtocolDeserializer(stream).deserialize()) == ["the server is busy; try again later"]
    assert "1 connections are open (--connections)" in logged(server, 2)[0]
    text, lines = scan(n_slices=1)
    until(lambda: server._free._value == 1)
    assert len(images_of(exchange(server, "after", text, lines))) == 1


def test_a_silent_client_is_given_up(serve):
    server = serve(patience=0.2)
    with connect(server), connect(server) as slow:
        slow.sendall(with_header(head()))
        assert all("nothing came or went for 0.2 s" in line for line in logged(server, 2))


@pytest.mark.parametrize("late", ["a line of a slice that was sent", "noise", "another mask"])
def test_an_image_that_later_lines_change_is_called_back(serve, scan, late):
    text, lines = scan(noise=False)
    rng = np.random.default_rng(0)
    more = {
        "a line of a slice that was sent": [
            mrd.line(lines[3][2].view(np.complex64).reshape(COILS, -1) * 2, 3, slice=0)
        ],
        "noise": [mrd.line(rng.normal(size=(COILS, 256)) + 1j * rng.normal(size=(COILS, 256)), flags=(19,))],
        "another mask": [],
    }[late]
    if late == "another mask":
        lines = [line for line in lines if line[0]["idx"]["slice"] < 2 or line[0]["idx"]["kspace_encode_step_1"] != 3]
    server = serve()
    answers = exchange(server, "scan", text, [*lines, *more])
    message = {"another mask": "slice 2 was measured on other lines"}.get(late, "do not use its image")
    assert message in answers[-1] and message in logged(server)[0]
    assert answers[-1].startswith("error: ")


def test_a_fault_of_the_program_itself_ends_one_connection(models, serve, scan, monkeypatch):
    server = serve()
    monkeypatch.setattr("frost.serving.session.reconstructed", lambda *_, **__: 1 / 0)
    text, lines = scan(n_slices=1)
    assert exchange(server, "scan", text, lines) == ["error: scan: ZeroDivisionError: division by zero"]
    monkeypatch.undo()
    assert len(images_of(exchange(server, "scan", text, lines))) == 1 and len(logged(server, 2)) == 2


def test_any_bytes_at_all_are_one_line(serve):
    server, rng = serve(), np.random.default_rng(0)
    valid = with_header(b"".join([head() + bytes(1536)] * 3) + struct.pack("<H", CLOSE))
    for k in range(30):
        content = bytearray(valid)
        for place in rng.integers(0, len(content), 1 + k):
            content[place] = rng.integers(0, 256)
        spoil(server, bytes(content))
        logged(server, k + 1)
    assert all(line.isprintable() for line in server.lines)


# ---- the command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_in_one_line(workspace, scan, tmp_path, models, number):
    command = [sys.executable, "-m", "frost", "serve", "--port", "0", "--models", str(workspace.root / "models")]
    command += ["--acceleration", "2", "--center-fraction", "0.3", "--device", "cpu"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        first = server.stderr.readline()
        port = int(re.search(r"listening on 127\.0\.0\.1:(\d+), networks ", first)[1])
        text, lines = scan(n_slices=1)
        assert len(images_of(exchange(port, "knee", text, lines))) == 1
        with connect(port) as left_open:
            left_open.sendall(b"\1")
            rest = [server.stderr.readline()]  # a client has its answer a moment before
            server.send_signal(number)
            rest += server.communicate(timeout=PATIENCE)[1].splitlines()
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 128 + number and len(rest) == 2, rest
    assert "knee: 1 images of 32 x 24 sent" in rest[0] and rest[1].startswith("stopped: images that were sent")


def test_a_port_that_is_taken_is_one_line(serve, workspace):
    command = [sys.executable, "-m", "frost", "serve", "--port", str(serve().port)]
    command += ["--models", str(workspace.root / "models"), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: --host \S+ --port \d+: cannot listen there: .*\n", done.stderr)
