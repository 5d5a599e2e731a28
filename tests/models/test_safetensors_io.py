import json
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models import safetensors_io, safetensors_write
from tokenlayer.models.safetensors_io import BITS, TensorInfo, parse_header, read_header, read_tensor, same_values
from tokenlayer.models.safetensors_write import FILE_BLOCK, build_header, write_safetensors

HERE = Path("x.safetensors")
names = st.text(max_size=8).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
BYTE_DTYPES = sorted(name for name, bits in BITS.items() if bits % 8 == 0)


def infos(entries, file=HERE):
    """Tensors one after the other, as if they lay in `file` from byte 0."""
    at, found = 0, {}
    for name, (dtype, shape) in entries.items():
        stop = at + torch.Size(shape).numel() * BITS[dtype] // 8
        found[name] = TensorInfo(name, dtype, shape, file, at, stop)
        at = stop
    return found, at


@given(
    st.dictionaries(names, st.tuples(st.sampled_from(BYTE_DTYPES), shapes), max_size=6),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.integers(0, 20),
)
def test_a_header_comes_back_as_it_was_built(entries, metadata, filling):
    parts, size = infos(entries)
    raw = build_header(parts, metadata, filling=8 * filling)
    assert len(raw) % 8 == 0
    assert int.from_bytes(raw[:8], "little") == len(raw) - 8
    header = parse_header(raw[8:], size, HERE)
    assert header.metadata == metadata
    found = {name: (info.dtype, info.shape, info.start - len(raw)) for name, info in header.tensors.items()}
    assert found == {name: (info.dtype, info.shape, info.start) for name, info in parts.items()}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_our_error(raw):
    with suppress(BadCheckpoint):
        parse_header(raw, 8, HERE)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda x: st.lists(x) | st.dictionaries(names, x)))
def test_any_json_is_a_header_or_our_error(content: Any):
    for entry in (content, {"dtype": "F32", "shape": content, "data_offsets": content}):
        with suppress(BadCheckpoint):
            parse_header(json.dumps({"a": entry}).encode(), 8, HERE)


def test_every_dtype_reads_as_the_library_reads_it(tmp_path: Path):
    tensors = {
        str(dtype): torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    } | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 7)}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = read_tensor(header.tensors[name])
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)


@given(st.lists(st.tuples(st.sampled_from(["F64", "F32", "BF16"]), shapes, st.booleans()), max_size=6))
def test_what_we_write_the_library_reads(tmp_path_factory: pytest.TempPathFactory, entries):
    """Tensors from memory mixed with byte ranges of a file, in any order of dtypes."""
    folder = tmp_path_factory.mktemp("mixed")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"t{i}": torch.randn(shape, generator=generator).to(safetensors_io.FLOATS[dtype])
        for i, (dtype, shape, _) in enumerate(entries)
    }
    write_safetensors(folder / "first.safetensors", tensors, {})
    stored = read_header(folder / "first.safetensors").tensors
    parts = {f"t{i}": tensors[f"t{i}"] if fresh else stored[f"t{i}"] for i, (*_, fresh) in enumerate(entries)}
    write_safetensors(folder / "second.safetensors", parts, {"format": "pt"})
    for file in ("first", "second"):
        found = load_file(folder / f"{file}.safetensors")
        assert found.keys() == tensors.keys()
        assert all(
            torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
        )


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path: Path):
    """Whatever the order given: three half numbers before a double would put it out of place."""
    parts = {"half": torch.ones(3).half(), "single": torch.ones(3), "double": torch.ones(1).double()}
    write_safetensors(tmp_path / "a.safetensors", parts, {})
    for info in read_header(tmp_path / "a.safetensors").tensors.values():
        assert info.start % (BITS[info.dtype] // 8) == 0


def test_tensors_that_are_views_are_written_as_they_look(tmp_path: Path):
    square = torch.arange(16.0).reshape(4, 4)
    write_safetensors(tmp_path / "a.safetensors", {"turned": square.T, "part": square[1:3, ::2]}, {})
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["turned"], square.T)
    assert torch.equal(found["part"], square[1:3, ::2])


def test_nothing_is_written_into_an_existing_file(tmp_path: Path):
    """It might be a hard link to somebody's weights."""
    (tmp_path / "a.safetensors").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_safetensors(tmp_path / "a.safetensors", {}, {})
    assert (tmp_path / "a.safetensors").read_bytes() == b"precious"


def test_the_body_keeps_its_place_within_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that file systems that share blocks need not copy it."""
    body = {f"layer{i}": torch.full((700, 3), float(i)) for i in range(3)}
    save_file({"a_table": torch.zeros(100, 3), **body}, tmp_path / "a.safetensors")
    old = read_header(tmp_path / "a.safetensors").tensors
    copy, starts = safetensors_write._copy_some, []

    def noted(source, target, start, count):
        starts.append(start)
        return copy(source, target, start, count)

    monkeypatch.setattr(safetensors_write, "_copy_some", noted)
    write_safetensors(tmp_path / "b.safetensors", {"a_table": torch.zeros(334, 3), **{k: old[k] for k in body}}, {})
    assert [start % FILE_BLOCK for start in starts[1:]] == [0]
    new = read_header(tmp_path / "b.safetensors").tensors
    assert all((new[name].start - old[name].start) % FILE_BLOCK == 0 for name in body)
    assert all(torch.equal(load_file(tmp_path / "b.safetensors")[name], tensor) for name, tensor in body.items())


def test_a_large_body_is_not_held_in_memory(tmp_path: Path):
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(build_header({"body": TensorInfo("body", "U8", (200_000_000,), HERE, 0, 200_000_000)}, {}))
        file.truncate(file.tell() + 200_000_000)
    old = read_header(tmp_path / "a.safetensors").tensors
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_safetensors(tmp_path / "b.safetensors", {"table": torch.ones(10, 4), **old}, {})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert read_header(tmp_path / "b.safetensors").tensors["body"].bytes == 200_000_000
    (tmp_path / "b.safetensors").unlink()


def test_equal_and_other_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safetensors_io, "BLOCK_BYTES", 16)
    table = torch.arange(30.0).reshape(10, 3)
    changed = table.clone()
    changed[9, 2] += 1
    tensors = {"a": table, "b": table.clone(), "c": changed, "d": table.double(), "e": table.reshape(3, 10).clone()}
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_header(tmp_path / "a.safetensors").tensors
    assert [name for name in tensors if same_values(found["a"], found[name])] == ["a", "b"]


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = [
    (
        {"a": entry(shape=[2**40, 2**40])},
        "tensor 'a' of shape \\[1099511627776, 1099511627776\\] and dtype F32 needs over 2",
    ),
    ({"a": entry(shape=[2**62, 4])}, "needs over 2\\*\\*64 bytes|needs [0-9]+ bytes, its data_offsets span 8"),
    ({"a": entry(shape=[2**64])}, "has the shape \\[18446744073709551616\\], expected whole numbers from 0"),
    ({"a": entry(shape=[-1])}, "has the shape \\[-1\\], expected whole numbers from 0"),
    ({"a": entry(shape=[2.0])}, "has the shape \\[2.0\\]"),
    ({"a": entry(shape=[True, 2])}, "has the shape \\[True, 2\\]"),
    ({"a": entry(offsets=[0, 2**60])}, "data_offsets \\[0, 1152921504606846976\\] outside 0 to 8"),
    ({"a": entry(offsets=[8, 0])}, "data_offsets \\[8, 0\\] outside 0 to 8"),
    ({"a": entry(offsets=[-8, 0])}, "data_offsets \\[-8, 0\\] outside"),
    ({"a": entry(offsets=[0])}, "data_offsets \\[0\\] outside"),
    ({"a": entry(dtype="F33")}, "tensor 'a' has the unknown dtype 'F33'"),
    ({"a": entry(dtype=["F32"])}, "tensor 'a' has the unknown dtype \\['F32'\\]"),
    ({"a": {"dtype": "F32"}}, "entry of tensor 'a' must have exactly dtype, shape and data_offsets"),
    ({"a": 3}, "entry of tensor 'a' must have exactly"),
    ({"a": entry(), "b": entry()}, "tensor 'b' starts at data byte 0 and overlaps the tensor before it"),
    ({"a": entry(shape=[1], offsets=[4, 8])}, "tensor 'a' starts at data byte 4 and leaves a gap before it"),
    ({"a": entry(shape=[1], offsets=[0, 4])}, "its tensors end at data byte 4, but 8 bytes of data follow"),
    ({"__metadata__": {"x": 1}, "a": entry()}, "its __metadata__ is not an object of strings"),
    ([1], "its header is a JSON list, expected an object"),
]


@pytest.mark.parametrize("content, text", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, content: Any, text: str):
    raw = json.dumps(content).encode()
    file = tmp_path / "bad.safetensors"
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    with pytest.raises(BadCheckpoint, match=text) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"{file} is not a sound safetensors file: ")
    assert "download or save the file again" in caught.value.hint
    with pytest.raises(SafetensorError), safe_open(file, "pt"):
        pass


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "it has 0 bytes, too few for a header"),
        (
            (2**60).to_bytes(8, "little") + b"{}",
            "announces a header of 1,152,921,504,606,846,976 bytes, at most",
        ),
        (
            (100_000_001).to_bytes(8, "little") + b"{}",
            "announces a header of 100,000,001 bytes, at most 100,000,000",
        ),
        ((900).to_bytes(8, "little") + b"{}", "announces a header of 900 bytes, but the file has 10 bytes"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "its header is not valid JSON"),
        ((60_000).to_bytes(8, "little") + b"[" * 60_000, "its header is not valid JSON"),
        ((9006).to_bytes(8, "little") + b'{"a":' + b"1" * 9000 + b"}", "its header is not valid JSON"),
        ((15).to_bytes(8, "little") + b'{"a":{},"a":{}}', "its header holds the name 'a' twice"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer, not the weights"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, text: str):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=text):
        read_header(tmp_path / "bad.safetensors")


def test_every_cut_of_a_file_is_noticed(tmp_path: Path):
    save_file({"a": torch.arange(6.0), "b": torch.arange(3.0)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for stop in range(len(whole)):
        (tmp_path / "a.safetensors").write_bytes(whole[:stop])
        with pytest.raises(BadCheckpoint, match="is not a sound safetensors file"):
            read_header(tmp_path / "a.safetensors")


def test_a_file_that_shrinks_while_we_work_is_noticed(tmp_path: Path):
    save_file({"a": torch.arange(100.0)}, tmp_path / "a.safetensors")
    stored = read_header(tmp_path / "a.safetensors").tensors
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-4])
    with pytest.raises(BadCheckpoint, match="tensor 'a' ends 4 bytes past the end of the file"):
        read_tensor(stored["a"])
    with pytest.raises(BadCheckpoint, match="while it was copied, expected"):
        write_safetensors(tmp_path / "b.safetensors", stored, {})


def test_numbers_that_are_not_floats_are_not_read(tmp_path: Path):
    save_file({"a": torch.arange(6).to(torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(BadCheckpoint, match=r"tensor 'a' of .* has dtype I8, expected one of: F64, F32, F16, BF16"):
        read_tensor(read_header(tmp_path / "a.safetensors").tensors["a"])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(BadCheckpoint, match=r"cannot read .*no\.safetensors: No such file or directory"):
        read_header(tmp_path / "no.safetensors")
