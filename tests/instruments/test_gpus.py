"""GPUs are named by UUIDs, hidden ones are left out with the reason, and where they hang is read from the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.errors import ParamsError
from djinn_checks.instruments.board import Board, open_counters
from djinn_checks.instruments.gpus import Gpu, HostGpus, choose_gpus, find_hidden
from djinn_checks.instruments.many_counters import ManyCounters, name_board
from djinn_checks.instruments.node_memory import map_memory
from djinn_checks.instruments.topology import cpus_of, find_shared_port, list_nodes, read_path

UUIDS = ["GPU-aaaa", "GPU-bbbb", "GPU-abcd"]


def gpu(uuid: str, left_out: str = "") -> Gpu:
    return Gpu(
        uuid=uuid, name="made", max_generation=5, max_width=16, numa_node=0, path=None, nvlinks=None, left_out=left_out
    )


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2,0", [0, 2]),
        ("GPU-bbbb", [1]),
        ("GPU-ab,GPU-b", [1, 2]),
        ("GPU-a,1", []),  # two begin so: CUDA stops there
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
    ],
)
def test_what_cuda_does_not_see_is_known(listed: str | None, seen: list[int]) -> None:
    variables = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    why = find_hidden(UUIDS, variables)
    assert [number for number, reason in enumerate(why) if not reason] == seen
    assert all("hides it" in reason for reason in why if reason)


def test_all_leaves_out_what_cannot_be_driven_and_a_name_does_not() -> None:
    found = HostGpus(gpus=(gpu("GPU-1"), gpu("GPU-2", "it is partitioned (MIG)"), gpu("GPU-3")), pairs=())
    driven, left_out = choose_gpus(found, "all")
    assert [one.uuid for one in driven] == ["GPU-1", "GPU-3"]
    assert left_out == {"GPU-2": "it is partitioned (MIG)"}
    assert [one.uuid for one in choose_gpus(found, "")[0]] == ["GPU-1"]
    driven, left_out = choose_gpus(found, ["GPU-3"])
    assert left_out["GPU-1"] == "it was not asked for"
    with pytest.raises(ParamsError, match="GPU-2: it is partitioned"):
        choose_gpus(found, ["GPU-2"])
    with pytest.raises(ParamsError, match=r"got GPU-9"):
        choose_gpus(found, ["GPU-9"])
    with pytest.raises(ParamsError, match="each UUID once"):
        choose_gpus(found, ["GPU-1", "GPU-1"])


def make_device(folder: Path, *path: str, width: int = 16, speed: str = "32.0 GT/s PCIe") -> Path:
    place = folder.joinpath("real", *path)
    place.mkdir(parents=True, exist_ok=True)
    (place / "current_link_speed").write_text(f"{speed}\n")
    (place / "current_link_width").write_text(f"{width}\n")
    (folder / path[-1]).symlink_to(place)
    return place


def test_a_switch_above_two_gpus_is_found_in_the_kernels_tree(tmp_path: Path) -> None:
    root, switch = "0000:00:01.0", "0000:01:00.0"
    make_device(tmp_path, root)
    make_device(tmp_path, root, switch, width=8, speed="16.0 GT/s PCIe")
    for number in (2, 3):
        make_device(tmp_path, root, switch, f"0000:02:0{number}.0")
        make_device(tmp_path, root, switch, f"0000:02:0{number}.0", f"0000:0{number + 1}:00.0")
    paths = [read_path(f"0000:0{number}:00.0", tmp_path) for number in (3, 4)]
    assert None not in paths
    first, second = (path for path in paths if path is not None)
    assert [port.address for port in first.ports] == ["0000:02:02.0", switch, root]
    shared = find_shared_port([first, second])
    assert shared is not None
    assert (shared.address, shared.generation, shared.width) == (switch, 4, 8)
    assert find_shared_port([first]) is None
    assert read_path("0000:99:00.0", tmp_path) is None


def test_access_control_is_read_where_it_can_be(tmp_path: Path) -> None:
    place = make_device(tmp_path, "0000:00:01.0")
    make_device(tmp_path, "0000:00:01.0", "0000:01:00.0")
    config = bytearray(512)
    config[0x100:0x104] = (0x0001 | 1 << 16 | 0x140 << 20).to_bytes(4, "little")
    config[0x140:0x144] = (0x000D | 1 << 16).to_bytes(4, "little")
    config[0x146] = 0b1100
    assert read_path("0000:01:00.0", tmp_path).acs_redirects is None  # type: ignore[union-attr]
    (place / "config").write_bytes(config)
    assert read_path("0000:01:00.0", tmp_path).acs_redirects is True  # type: ignore[union-attr]


def test_nodes_and_their_processors_are_read_from_the_kernel(tmp_path: Path) -> None:
    for number, total in ((0, 100), (1, 0), (2, 50)):
        node = tmp_path / f"node{number}"
        node.mkdir()
        (node / "meminfo").write_text(f"Node {number} MemTotal:  {total} kB\n")
        (node / "cpulist").write_text("0-2,8\n")
    assert list_nodes(tmp_path) == [0, 2]
    assert cpus_of(2, tmp_path) == {0, 1, 2, 8}
    assert list_nodes(tmp_path / "none") == [0]


def test_memory_is_had_whether_or_not_it_can_be_bound() -> None:
    memory = map_memory(2**20, node=0)
    memory.array[:] = 7
    assert memory.array.nbytes == 2**20
    assert memory.node in (None, *list_nodes())
    assert not map_memory(4096).bound


def test_one_process_reads_many_links_and_each_reading_moves_some_bytes(tmp_path: Path) -> None:
    boards = [tmp_path / f"board-{number}" for number in range(3)]
    for number, path in enumerate(boards):
        Board(path).count(received=256 * 10**6 * number)
    with ManyCounters([name_board(path) for path in boards], hz=200.0) as counters:
        series = counters.read()
    assert counters.reasons == ["", "", ""]
    assert all(one is not None and len(one.t_s) > 0 for one in series)
    first = [int(one.raw.rx[0]) for one in series if one is not None]
    assert [value // 10**6 for value in first] == [0, 276, 552]
    read = open_counters(boards[0])
    assert read()[0] < read()[0]
