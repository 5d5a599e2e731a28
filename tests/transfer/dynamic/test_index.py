"""The likeliest next tokens: all logits, or an index of the output rows."""

import builtins
import json
import shutil

import pytest
import torch

from tokenlayer.core.errors import BadCheckpoint, BadOption, MissingExtra
from tokenlayer.models.losses import Head
from tokenlayer.models.outside_rows import HeadRows
from tokenlayer.transfer.dynamic.index import ExactSearch, IndexConfig, IndexSearch, build_index, load_index, rescored

DIM = 8
KINDS = [
    IndexConfig("screen", rank=9, looked=60),
    IndexConfig("hnsw", wide=300),
    IndexConfig("ivf", lists=10, probes=0.6),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def long_and_short_rows(count=600):
    """Rows whose lengths differ: the nearest by direction is often not the one with the largest product."""
    return normal(count, DIM) * torch.linspace(0.2, 3.0, count)[:, None]


def states(count=300):
    """What hidden states are like: mostly in few directions."""
    return normal(count, DIM, seed=9) * torch.linspace(1.0, 0.1, DIM)


def built(rows, bias, config):
    return build_index(rows, bias, config, "rows", states=states())


def head(rows, bias=None, adjust=lambda logits: logits):
    return Head(HeadRows(rows, bias), adjust, len(rows))


@pytest.mark.parametrize("with_bias", [False, True])
def test_exact_search_gives_the_largest_logits_and_the_total(with_bias):
    rows, hidden = long_and_short_rows(50), normal(3, DIM, seed=1)
    bias = normal(50, seed=2) if with_bias else None
    one = head(rows, bias, lambda logits: 5 * torch.tanh(logits / 5))
    found = ExactSearch().find(one, hidden, 4, temperature=0.5)
    slow = 5 * torch.tanh((hidden @ rows.T + (0 if bias is None else bias)) / 5)
    torch.testing.assert_close(found.logits, slow.sort(dim=1, descending=True).values[:, :4])
    assert torch.equal(found.ids, slow.argsort(dim=1, descending=True)[:, :4])
    torch.testing.assert_close(found.total_nats, slow.exp().sum(dim=1).log())
    torch.testing.assert_close(found.tempered_nats, (slow / 0.5).exp().sum(dim=1).log())


def test_equal_logits_come_by_id():
    rows = torch.zeros(6, DIM)
    assert ExactSearch().find(head(rows), torch.ones(1, DIM), 6).ids.tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
@pytest.mark.parametrize("with_bias", [False, True])
def test_an_index_finds_the_largest_product_not_the_nearest_direction(config, with_bias):
    rows, hidden = long_and_short_rows(), normal(200, DIM, seed=1)
    bias = 3 * normal(len(rows), seed=2) if with_bias else None
    search = built(rows, bias, config)
    found = search.find(head(rows, bias), hidden, 20)
    logits = hidden @ rows.T + (0 if bias is None else bias)
    best = logits.argmax(dim=1)
    assert (found.ids[:, 0] == best).float().mean() > 0.97
    by_direction = (hidden @ torch.nn.functional.normalize(rows).T).argmax(dim=1)
    assert (by_direction == best).float().mean() < 0.8  # the hard case


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_what_an_index_finds_has_the_true_logits_of_the_head(config):
    rows, hidden, bias = long_and_short_rows(), normal(5, DIM, seed=1), normal(600, seed=2)
    one = head(rows, bias, lambda logits: 3 * torch.tanh(2 * logits / 3))  # scaled, then capped
    found = built(rows, bias, config).find(one, hidden, 20)
    torch.testing.assert_close(found.logits, one.logits(hidden).gather(1, found.ids))
    assert (found.logits.diff(dim=1) <= 0).all()
    assert found.total_nats is None
    assert found.tempered_nats is None  # twenty terms are no total


def test_rows_that_an_index_did_not_find_have_no_logit():
    rows, hidden = long_and_short_rows(30), normal(1, DIM)
    found = rescored(head(rows), hidden, torch.tensor([[3, -1]]))
    assert found[0, 1] == -torch.inf
    torch.testing.assert_close(found[0, 0], hidden[0] @ rows[3])


def test_an_index_that_finds_nothing_gives_way_to_all_logits():
    class Nothing:
        nlist, nprobe = 1, 1

        def search(self, queries, count):
            return None, torch.full((len(queries), count), -1).numpy()

    rows, hidden = long_and_short_rows(30), normal(2, DIM)
    found = IndexSearch(Nothing(), IndexConfig("ivf"), "rows").find(head(rows), hidden, 3)
    assert torch.equal(found.ids, ExactSearch().find(head(rows), hidden, 3).ids)


def test_fewer_rows_than_candidates_are_all_found():
    rows = long_and_short_rows(5)
    found = build_index(rows, None, IndexConfig("hnsw"), "rows").find(head(rows), normal(1, DIM), 20)
    assert sorted(found.ids[0].tolist()) == list(range(5))


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_saved_index_finds_the_same(config, tmp_path):
    rows, hidden = long_and_short_rows(), normal(20, DIM, seed=1)
    search = built(rows, None, config)
    search.save(tmp_path)
    again = load_index(tmp_path, "rows")
    assert again.config == config
    assert torch.equal(again.find(head(rows), hidden, 20).ids, search.find(head(rows), hidden, 20).ids)


def test_an_index_of_other_rows_or_another_file_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, seed in ((one, 0), (other, 1)):
        folder.mkdir()
        build_index(normal(50, DIM, seed=seed), None, IndexConfig("hnsw"), f"rows {seed}").save(folder)
    with pytest.raises(BadCheckpoint, match="was built for other rows"):
        load_index(one, "rows 1")
    shutil.copy(other / "index.faiss", one / "index.faiss")
    with pytest.raises(BadCheckpoint, match="is not the file that index.json speaks of"):
        load_index(one, "rows 0")
    about = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps(about | {"settings": {"kind": "hnsw", "depth": 3}}))
    with pytest.raises(BadCheckpoint, match="other settings than this version knows"):
        load_index(other, "rows 1")
    (other / "index.json").write_text(json.dumps(about | {"format": "x/9"}))
    with pytest.raises(BadCheckpoint, match="has the format 'x/9'"):
        load_index(other, "rows 1")


def test_screening_follows_the_states_not_the_rows():
    rows = normal(400, DIM) * torch.tensor([9.0] * 4 + [1.0] * 4)  # long where hidden states are nearly nothing
    hidden = normal(500, DIM, seed=1) * torch.tensor([0.01] * 4 + [1.0] * 4)
    search = build_index(rows, None, IndexConfig("screen", rank=4, looked=20), "rows", states=hidden[:300])
    best = (hidden[300:] @ rows.T).argmax(dim=1)
    assert (search.find(head(rows), hidden[300:], 1).ids[:, 0] == best).float().mean() > 0.97


def test_screening_scores_more_rows_than_it_returns():
    rows, hidden = long_and_short_rows(), 5 * states(400)[300:]
    best = (hidden @ rows.T).argmax(dim=1)

    def hits(looked):
        search = built(rows, None, IndexConfig("screen", rank=2, looked=looked))
        found = search.find(head(rows), hidden, 2)
        assert found.ids.shape == (100, 2)
        return int((found.ids[:, 0] == best).sum())

    assert hits(100) > hits(2)


def test_without_states_screening_keeps_all_directions():
    rows, hidden, bias = long_and_short_rows(), normal(200, DIM, seed=1), normal(600, seed=2)
    search = build_index(rows, bias, IndexConfig("screen", rank=1, looked=20), "rows")
    best = (hidden @ rows.T + bias).argmax(dim=1)
    assert (search.find(head(rows, bias), hidden, 1).ids[:, 0] == best).float().mean() > 0.97


def test_a_folder_without_an_index_is_searched_exactly(tmp_path):
    assert isinstance(load_index(tmp_path, "rows"), ExactSearch)


def test_few_rows_need_no_index_unless_asked():
    assert IndexConfig.named("auto", 199_999).kind == "exact"
    assert IndexConfig.named("auto", 200_000).kind != "exact"
    assert IndexConfig.named("hnsw", 10).kind == "hnsw"
    assert isinstance(build_index(normal(5, DIM), None, IndexConfig("exact"), ""), ExactSearch)


def test_a_missing_faiss_names_the_extra(monkeypatch):
    real = builtins.__import__

    def no_faiss(name, *rest, **more):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_faiss)
    with pytest.raises(MissingExtra, match="needs faiss") as caught:
        build_index(normal(5, DIM), None, IndexConfig("hnsw"), "")
    assert "tokenlayer[ann]" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "hsnw"}, "index is 'hsnw', expected one of: exact, screen, ivf, hnsw"),
        ({"wide": 0}, "wide is 0"),
        ({"rank": 0}, "rank is 0"),
        ({"looked": 0}, "looked is 0"),
        ({"lists": 0}, "lists is 0"),
        ({"probes": 0.0}, "probes is 0"),
        ({"probes": 1.5}, "probes is 1.5"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(BadOption, match=says):
        IndexConfig(**settings)
