"""Explaining rows: the shares that are shown are the plan's, tokens are found by bytes, name or cutting."""

import pytest
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.core.errors import BadOption, TokenLayerError
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.explain import explain, token_ids
from tokenlayer.transfer.initialisers import make_plan
from tokenlayer.transfer.target import prepare_target


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    model = model_with_tokenizer("tied_llama", folder / "model")
    return model, write(folder / "target", FAMILIES["unigram"]())


def plan_of(folders, init):
    target = prepare_target(*(load_tokenizer(folder) for folder in folders))
    return target, make_plan(init, target.pair, 3)


@pytest.mark.parametrize("init", ["pieces", "copy-gaussian", "random"])
def test_shares_are_those_of_the_plan(folders, init):
    target, plan = plan_of(folders, init)
    ids = [i for i in target.pair.target.text_ids() if "\ufffd" not in target.pair.target.names[i]][:40]
    report = explain(*folders, [target.pair.target.names[i] for i in ids], init=init, seed=3)
    noisy = set() if plan.noise is None else set(plan.noise.rows.tolist())
    shown = {row["id"]: row for row in report.data["rows"]}
    assert set(shown) == set(ids)
    for i, row in shown.items():
        shares = {plan.old_vocab if one["id"] is None else one["id"]: one["share"] for one in row["sources"]}
        assert shares == plan.shares(i)
        assert (row["rule"], row["noise"]) == (plan.origin[i], i in noisy)
    assert {m.source: m.value for m in report.metrics} == plan.counts()


def test_the_largest_shares_come_first_and_the_rest_is_summed(folders):
    target, plan = plan_of(folders, "pieces")
    long = max(range(plan.new_vocab), key=lambda i: len(plan.shares(i)))
    shares = plan.shares(long)
    assert len(shares) > 2
    rows = explain(*folders, [target.pair.target.names[long]], top=1).table("rows").rows
    largest = max(shares, key=shares.get)
    assert rows[0] == (
        target.pair.target.label(long), "pieces", target.pair.source.label(largest), shares[largest],
    )  # fmt: skip
    assert rows[1][:3] == ("", "", f"and {len(shares) - 1} more")
    assert rows[0][3] + rows[1][3] == pytest.approx(1)


def test_a_mean_row_and_a_row_of_zeros_are_called_so(folders):
    target, plan = plan_of(folders, "mean")
    token = target.pair.target.names[plan.origin.index("mean")]
    assert explain(*folders, [token], init="mean").table("rows").rows[0][2:] == ("the mean row", 1.0)
    drawn = plan_of(folders, "random")[1].origin.index("random")
    zeros = explain(*folders, [target.pair.target.names[drawn]], init="random").table("rows").rows[0]
    assert zeros[1:] == ("random", "nothing: zeros", 0.0)


def test_a_token_is_found_by_its_bytes_then_by_its_name_then_cut(folders):
    target = load_tokenizer(folders[1])
    i = next(i for i in target.vocab.text_ids() if target.vocab.tokens[i].startswith(b" ") and i > 10)
    assert token_ids(target, target.vocab.tokens[i].decode()) == [i]
    assert token_ids(target, target.vocab.names[i]) == [i]
    control = target.vocab.control_ids()[0]
    assert token_ids(target, target.vocab.names[control]) == [control]
    assert token_ids(target, "Some words in a row.") == target.encode("Some words in a row.")
    report = explain(*folders, ["Some words in a row."])
    assert [row["id"] for row in report.data["rows"]] == list(dict.fromkeys(target.encode("Some words in a row.")))


@pytest.mark.parametrize(
    ("tokens", "options", "said"),
    [
        ([], {}, "no token to explain"),
        (["a", ""], {}, "a token to explain is empty"),
        (["a"], {"top": 0}, "top is 0, expected at least 1"),
        (["a"], {"init": "piece"}, "init is 'piece', expected one of:"),
        (["a"], {"init": "wechsel"}, "init wechsel needs aligned vectors"),
    ],
)
def test_what_cannot_be_explained_is_refused(folders, tokens, options, said):
    with pytest.raises(BadOption, match=said) as caught:
        explain(*folders, tokens, **options)
    assert caught.value.hint


def test_a_missing_model_is_named(folders, tmp_path):
    with pytest.raises(TokenLayerError, match="nowhere"):
        explain(tmp_path / "nowhere", folders[1], ["a"])


def test_the_best_start_is_picked_by_auto(folders):
    assert explain(*folders, ["a"], init="auto").settings["init"] == "pieces"
