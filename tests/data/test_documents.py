import gzip
import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadText, MissingExtra
from tokenlayer.data.documents import Documents, ReadOptions, Source, parse_eval_spec, parse_source

pa = pytest.importorskip("pyarrow", reason="the [data] extra is not installed")


def texts(*sources, **rest):
    return [d.text for d in Documents([str(s) for s in sources], **rest)]


def zst(path, data):
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(data)
    return path


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("file.txt", Source("file.txt")),
        ("en:texts/en.txt.zst", Source("texts/en.txt.zst", "en")),
        ("python=2:code/", Source("code/", "python", 2.0)),
        ("zh-Hant=0.5:/a/b.jsonl", Source("/a/b.jsonl", "zh-Hant", 0.5)),
        ("./odd:name.txt", Source("./odd:name.txt")),
        ("-", Source("-")),
        ("en:-", Source("-", "en")),
        ("hf:org/name:train", Source("hf:org/name:train")),
        ("tr:hf:org/name,tr:train", Source("hf:org/name,tr:train", "tr")),
    ],
)
def test_source_grammar(spec, wanted):
    assert parse_source(spec) == wanted


def test_an_existing_path_wins_over_a_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "en:x.txt").write_text("a")
    assert parse_source("en:x.txt") == Source("en:x.txt")
    assert parse_eval_spec("en:x.txt") == Source("en:x.txt")


def test_labels(tmp_path):
    assert Source("a/b/news.tr.txt.zst").label == "news.tr"
    assert Source("-").label == "stdin"
    assert Source(str(tmp_path)).label == tmp_path.name
    assert Source("x.txt", "en").label == "en"
    assert Source("hf:org/name").label == "org/name"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a=x:b", "has weight 'x', expected a number"),
        ("a=0:b", "weight 0"),
        ("a=nan:b", "weight nan"),
        ("", "is empty"),
    ],
)
def test_bad_sources(spec, message):
    with pytest.raises(BadOption, match=message):
        parse_source(spec)


def test_eval_spec(tmp_path):
    (tmp_path / "a:b.txt").write_text("x")
    assert parse_eval_spec(f"{tmp_path}/a:b.txt:tr") == Source(f"{tmp_path}/a:b.txt", "tr")
    assert parse_eval_spec(f"{tmp_path}/a:b.txt").group == ""
    with pytest.raises(BadText, match="nothing.txt does not exist") as caught:
        parse_eval_spec("nothing.txt:tr")
    assert caught.value.hint == "the form is FILE or FILE:LANG, for example news.txt:tr"


def test_blank_lines_part_documents_and_bytes_stay(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffeins\r\nzwei\r\n\r\n\n\nnul\0 \n  \nend".encode())
    assert texts(path) == ["\ufeffeins\r\nzwei", "nul\0 \n  \nend"]
    assert texts(path, options=ReadOptions(document="line"))[:2] == ["\ufeffeins", "zwei"]
    assert texts(path, options=ReadOptions(document="file")) == [path.read_bytes().decode()]


def test_ids_groups_and_tally(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    documents = Documents([f"en:{tmp_path}/a.txt"], options=ReadOptions(document="line"))
    assert [(d.group, d.id) for d in documents] == [("en", "a.txt#0"), ("en", "a.txt#2")]
    assert (documents.tally.documents, documents.tally.bytes, documents.tally.empty) == (2, 6, 1)
    assert documents.tally.warnings() == ["1 empty documents were skipped"]


def test_all_formats_give_the_same_texts(tmp_path):
    from pyarrow import parquet

    wanted = ["eins", "zwei ü\n\n", "三"]
    lines = "".join(json.dumps({"text": t, "n": 1}) + "\n" for t in wanted).encode()
    (tmp_path / "a.jsonl").write_bytes(lines + b"\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    zst(tmp_path / "c.jsonl.zst", lines)
    parquet.write_table(pa.table({"text": [*wanted, None]}), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        assert texts(tmp_path / name) == wanted, name
    assert texts(tmp_path) == wanted * 4


def test_two_zstd_frames_are_one_file(tmp_path):
    one = zst(tmp_path / "one.txt.zst", b"a\n\n").read_bytes()
    (tmp_path / "two.txt.zst").write_bytes(one + zst(tmp_path / "b.txt.zst", b"b\n").read_bytes())
    assert texts(tmp_path / "two.txt.zst") == ["a", "b"]


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the [data] extra is not installed")
    one = datasets.Dataset.from_dict({"text": ["a", "", "b"], "n": [1, 2, 3]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(str(tmp_path / "many"))
    assert texts(tmp_path / "one") == ["a", "b"]
    assert texts(f"hf:{tmp_path}/many:test") == ["a"]
    with pytest.raises(BadText, match="has the splits train, test"):
        texts(tmp_path / "many")
    with pytest.raises(BadText, match="has no field 'body'; it has: text, n"):
        texts(tmp_path / "one", options=ReadOptions(field="body"))


def test_code_folder(tmp_path):
    (tmp_path / "b.py").write_text("x = 1\n\n\ny\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("z\n")
    (tmp_path / "bin.py").write_bytes(b"a\0b")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    (tmp_path / "huge.py").write_text("#" * 2000)
    (tmp_path / "no.exe").write_text("no")
    for hidden in (".git", "__pycache__"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "x.py").write_text("no")
    documents = Documents([str(tmp_path)], options=ReadOptions(max_file_bytes=1000))
    assert [(d.id, d.text) for d in documents] == [("b.py", "x = 1\n\n\ny\n"), ("sub/a.py", "z\n")]
    assert documents.tally.skipped == {"binary": 1, "not UTF-8": 1, "larger than 0.001 MB": 1}
    assert (
        f"1 files were skipped because they are not UTF-8, the first is {tmp_path}/latin.py"
        in documents.tally.warnings()
    )
    (tmp_path / "n.md").write_text("md")
    (tmp_path / "table.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "x.py.gz").write_bytes(gzip.compress(b"no"))
    assert texts(tmp_path)[-1] == "z\n"
    assert Documents([str(tmp_path)]).sources[0].label == tmp_path.name
    assert texts(tmp_path, options=ReadOptions(suffixes=(".md",))) == ["md"]


def test_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\n\nb\n")))
    assert [(d.text, d.id) for d in Documents(["-"])] == [("a", "stdin#0"), ("b", "stdin#1")]
    with pytest.raises(BadOption, match="standard input is named twice"):
        Documents(["-", "en:-"])


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n\nb\xffd\n")
    with pytest.raises(BadText, match=r"a\.txt is not UTF-8: byte 0xff at offset 7") as caught:
        texts(path)
    assert "errors='replace'" in caught.value.hint
    documents = Documents([str(path)], options=ReadOptions(errors="replace"))
    assert [d.text for d in documents] == ["good", "b\ufffdd"]
    assert documents.tally.warnings() == ["1 documents had bytes that are not UTF-8; they were replaced by U+FFFD"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops", r"a\.jsonl:2 is not JSON: Expecting property name"),
        (b"[1]", r"a\.jsonl:2 is a JSON list, expected an object with field 'text'"),
        (b'{"body": 1, "id": 2}', r"a\.jsonl:2 has no field 'text'; it has: body, id"),
        (b'{"text": 3}', r"a\.jsonl:2: field 'text' is int, expected text"),
        (b'{"text": "a\\ud800"}', r"a\.jsonl:2: character 1 of field 'text' is half of a surrogate pair \(\\ud800\)"),
        (b'{"text": "\xff"}', r"a\.jsonl:2 is not UTF-8: byte 0xff at offset 24"),
        (b"[" * 100_000, r"a\.jsonl:2 is not JSON"),
    ],
)
def test_bad_json_lines(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line)
    with pytest.raises(BadText, match=message):
        texts(tmp_path / "a.jsonl")


def test_bad_parquet(tmp_path):
    from pyarrow import parquet

    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    parquet.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(BadText, match="cannot read .*bad.parquet as Parquet"):
        texts(tmp_path / "bad.parquet")
    with pytest.raises(BadText, match="has no field 'text'; it has: body, n"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(BadText, match="column 'n' is int64, expected string"):
        texts(tmp_path / "a.parquet", options=ReadOptions(field="n"))


def test_damaged_and_missing_files(tmp_path):
    whole = zst(tmp_path / "a.txt.zst", b"abc\n" * 10_000).read_bytes()
    (tmp_path / "a.txt.zst").write_bytes(whole[:-5])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"abc" * 1000)[:-12])
    for name in ("a.txt.zst", "b.txt.gz"):
        with pytest.raises(BadText, match=f"cannot read .*{name}"):
            texts(tmp_path / name)
    with pytest.raises(BadText, match=r"gone\.txt does not exist"):
        texts("gone.txt")


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = zst(tmp_path / "a.txt.zst", b"abc")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"reading \.zst files needs pyarrow") as caught:
        texts(path)
    assert caught.value.hint == "pip install 'tokenlayer[data]'"


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"document": "lines"}, "document is 'lines'"),
        ({"errors": "ignore"}, "errors is 'ignore'"),
        ({"suffixes": ("py",)}, "suffix 'py' has no dot"),
    ],
)
def test_bad_options(rest, message):
    with pytest.raises(BadOption, match=message):
        ReadOptions(**rest)


def lines_file(path, n):
    path.write_text("".join(f"document {i} of {path.stem}\n\n" for i in range(n)))
    return path


def test_a_sample_is_seeded_bounded_and_spread(tmp_path):
    path = lines_file(tmp_path / "a.txt", 2000)
    once = texts(path, limit_bytes=8000, seed=1)
    assert once == texts(path, limit_bytes=8000, seed=1)
    assert once != texts(path, limit_bytes=8000, seed=2)
    size = sum(map(len, once))
    assert 7000 < size <= 8000
    assert int(once[-1].split()[1]) > 1500


def test_one_long_document_is_sampled_in_parts(tmp_path):
    (tmp_path / "a.txt").write_text("one two three four\n" * 20_000)
    found = texts(tmp_path / "a.txt", limit_bytes=50_000)
    assert 30_000 < sum(map(len, found)) <= 50_000
    assert len(found) > 5


def test_weights_scale_what_is_read(tmp_path):
    a, b = lines_file(tmp_path / "a.txt", 1000), lines_file(tmp_path / "b.txt", 1000)
    twice = Documents([f"a=2:{a}", f"b=0.5:{b}"])
    groups = [d.group for d in twice]
    assert groups.count("a") == 2000
    assert abs(groups.count("b") - 500) < 5 * (1000 * 0.25) ** 0.5  # five standard deviations of the binomial
    size = {"a": 0, "b": 0}
    for d in Documents([f"a=3:{a}", f"b:{b}"], limit_bytes=20_000):
        size[d.group] += len(d.text)
    assert 2.5 < size["a"] / size["b"] < 3.5


def test_a_limit_above_the_size_reads_everything(tmp_path):
    path = lines_file(tmp_path / "a.txt", 100)
    assert texts(path, limit_bytes=10**9) == texts(path)


def test_a_stream_of_unknown_size_gives_its_first_bytes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abc\n\n" * 1000)))
    assert sum(map(len, texts("-", limit_bytes=100))) == 99


def test_reading_is_lazy_and_reports_progress(tmp_path):
    path = lines_file(tmp_path / "a.txt", 5_000)
    seen = []
    stream = iter(Documents([str(path)], progress=seen.append))
    next(stream)
    assert sum(seen) < 100
    assert sum(seen) + sum(len(d.text) for d in stream) == sum(seen)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.txt")
        path.write_bytes(data)
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            with pytest.raises(BadText):
                texts(path, options=ReadOptions(document="file"))
        else:
            assert texts(path, options=ReadOptions(document="file")) == ([whole] if whole else [])
            assert "\n".join(texts(path, options=ReadOptions(document="line"))).replace("\r", "") == "\n".join(
                line for line in whole.replace("\r", "").split("\n") if line
            )
