from functools import partial

import pytest

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.data.shards import ShardFailed, map_shards


def write(shard, path, log=None):
    if log is not None:
        log.append(shard)
    if shard == "bad":
        raise BadText("the text is bad", hint="mend it")
    if shard == "worse":
        path.write_text("half")
        raise KeyError("lost")
    if shard != "nothing":
        path.write_text(str(shard) * 2)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_one_file_a_shard_and_finished_ones_stay(tmp_path):
    log = []
    step = partial(write, log=log)
    assert map_shards(step, {"a": "1"}, tmp_path / "out") == [tmp_path / "out" / "a"]
    found = map_shards(step, {"b": "2", "a": "1"}, tmp_path / "out")
    assert [p.read_text() for p in found] == ["22", "11"]
    assert log == ["1", "2"]


@pytest.mark.parametrize(
    ("shard", "message", "hint"),
    [
        ("bad", "shard b: the text is bad", "mend it"),
        ("worse", "shard b: KeyError: 'lost'", "finished shards are kept"),
        ("nothing", "shard b: FileNotFoundError: the step wrote nothing", "finished shards are kept"),
    ],
)
def test_errors_name_the_shard_and_keep_the_rest(tmp_path, shard, message, hint):
    with pytest.raises(ShardFailed, match=message) as caught:
        map_shards(write, {"a": "1", "b": shard, "c": "3"}, tmp_path)
    assert hint in caught.value.hint
    assert names(tmp_path) == ["a"]
    map_shards(write, {"a": "1", "b": "2", "c": "3"}, tmp_path)
    assert names(tmp_path) == ["a", "b", "c"]


def test_workers_write_the_same_files(tmp_path):
    import shutil

    shards = {}
    for n in range(4):
        (tmp_path / f"in{n}").write_text(f"{n}\n" * n)
        shards[f"s{n}"] = str(tmp_path / f"in{n}")
    one = map_shards(shutil.copy, shards, tmp_path / "one")
    two = map_shards(shutil.copy, shards, tmp_path / "two", workers=2)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    (tmp_path / "in3").unlink()
    with pytest.raises(ShardFailed, match="shard s3: FileNotFoundError"):
        map_shards(shutil.copy, shards, tmp_path / "three", workers=2)
    assert names(tmp_path / "three") == ["s0", "s1", "s2"]


def test_bad_arguments(tmp_path):
    with pytest.raises(BadOption, match="backend is 'ray', expected one of: local"):
        map_shards(write, {"a": "1"}, tmp_path, backend="ray")
    with pytest.raises(BadOption, match="workers is 0"):
        map_shards(write, {"a": "1"}, tmp_path, workers=0)
    for name in ("a/b", "", ".hidden"):
        with pytest.raises(BadOption, match="is not a plain file name"):
            map_shards(write, {name: "1"}, tmp_path)
