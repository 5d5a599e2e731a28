"""Rows of units."""

import pytest
import torch
from tests.tiny_swaps import model_with_tokenizer

from tokenlayer.core.errors import BadCheckpoint, BadOption
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.dynamic.rows import UnitRows
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import SavedHypernet
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig
from tokenlayer.transfer.zett.predict import source_table

UNITS = [b"the cat", b"zzzz", "ünter".encode(), b"the cat", bytes([0xFF, 0xFE])]


@pytest.fixture(scope="module", params=["tied_llama", "untied_llama"])
def given(request, tmp_path_factory) -> tuple[ByteVocab, torch.Tensor, bool, SavedHypernet]:
    """A vocabulary, its rows, whether they are tied, and a drawn hypernetwork."""
    source = model_with_tokenizer(request.param, tmp_path_factory.mktemp("rows") / "model")
    checkpoint, vocab = open_checkpoint(source), load_tokenizer(source).vocab
    names = checkpoint.rows
    table = source_table(checkpoint.read(names.input), checkpoint.read(names.output) if names.output else None)
    tied = not names.output
    shape = HypernetConfig(
        names.dim, tied, len(vocab), hidden=8, inner=12, layers=1, heads=2, extra=Decomposer(vocab, 7).extra
    )
    return vocab, table, tied, SavedHypernet(Hypernet(shape, seed=1).eval())


def test_a_hypernetwork_gives_each_unit_its_rows_whatever_else_is_asked(given):
    vocab, table, tied, hypernet = given
    rows = UnitRows(vocab, table, tied=tied, hypernet=hypernet)
    found = rows(UNITS)
    pieces, _ = Decomposer(vocab, 7).pieces(UNITS)
    with torch.inference_mode():
        wanted = hypernet.network(pieces, table[: len(vocab)])
    torch.testing.assert_close(found.rows, wanted.rows)
    assert (found.output_rows is None) == tied
    torch.testing.assert_close(rows(UNITS[1:2]).rows, found.rows[1:2])
    torch.testing.assert_close(found.rows[0], found.rows[3])


def test_fvt_is_the_mean_of_all_pieces(given):
    vocab, table, tied, _ = given
    rows = UnitRows(vocab, table, tied=tied, method="fvt")
    long = b"the cat the cat the cat the cat"
    ids = vocab.spell(long)
    assert len(ids) > 7  # more than a network would read
    found = rows([long])
    torch.testing.assert_close(found.rows[0], table[ids, : rows.dim].mean(dim=0))
    if not tied:
        torch.testing.assert_close(found.output_rows[0], table[ids, rows.dim :].mean(dim=0))


def test_random_rows_depend_on_the_bytes_alone(given):
    vocab, table, tied, _ = given
    rows = UnitRows(vocab, table, tied=tied, method="random")
    found = rows(UNITS)
    assert torch.equal(found.rows[0], found.rows[3])
    assert torch.equal(rows(UNITS[2:]).rows[0], found.rows[2])
    assert not torch.equal(found.rows[0], found.rows[1])
    other = UnitRows(vocab, table, tied=tied, method="random", seed=1)
    assert not torch.equal(other(UNITS).rows, found.rows)


def test_digest_tells_models_networks_and_methods_apart(given):
    vocab, table, tied, hypernet = given
    again = SavedHypernet(Hypernet(hypernet.network.config, seed=2).eval())
    digests = {
        UnitRows(vocab, table, tied=tied, hypernet=hypernet).digest,
        UnitRows(vocab, table, tied=tied, hypernet=again).digest,
        UnitRows(vocab, table + 1e-3, tied=tied, hypernet=hypernet).digest,
        UnitRows(vocab, table, tied=tied, method="fvt").digest,
        UnitRows(vocab, table, tied=tied, method="random").digest,
    }
    assert len(digests) == 5
    assert UnitRows(vocab, table, tied=tied, hypernet=hypernet).digest in digests


def test_no_units_are_no_rows(given):
    vocab, table, tied, hypernet = given
    for method in ("hypernet", "fvt", "random"):
        found = UnitRows(vocab, table, tied=tied, method=method, hypernet=hypernet)([])
        assert found.rows.shape == (0, table.shape[1] if tied else table.shape[1] // 2)


def test_bad_input(given):
    vocab, table, tied, hypernet = given
    with pytest.raises(BadOption, match="none was given") as error:
        UnitRows(vocab, table, tied=tied)
    assert "--method fvt" in str(error.value.hint)
    with pytest.raises(BadOption, match="method"):
        UnitRows(vocab, table, tied=tied, method="mean")
    with pytest.raises(BadOption, match="languages"):
        UnitRows(vocab, table, tied=tied, hypernet=hypernet, language="de")
    with pytest.raises(BadCheckpoint, match="width"):
        UnitRows(vocab, torch.cat([table, table], dim=1), tied=tied, hypernet=hypernet)
    broken = table.clone()
    broken[5, 1] = float("nan")
    with pytest.raises(BadCheckpoint, match="row 5 .* is not finite"):
        UnitRows(vocab, broken, tied=tied, hypernet=hypernet)
