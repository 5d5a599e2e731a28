"""The hypernetwork against a plain NumPy forward and against RoBERTa of transformers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenlayer.core.errors import BadOption
from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig

SMALL = HypernetConfig(6, tied=True, vocab_size=20, hidden=8, inner=12, layers=2, heads=2, longest=4)
PIECES = [[3], [4, 5, 6], [7, 8], [3, 3, 3, 3], [19], [0, 1]]


def network(config=SMALL, seed=1):
    """A network in which every parameter takes part: none is zero."""
    made = Hypernet(config, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return made.eval()


def source(config=SMALL, seed=2):
    return torch.randn(config.vocab_size, config.input_dim, generator=torch.Generator().manual_seed(seed))


# --- a NumPy forward, token by token ----------------------------------------------------------------------------------


def np_gelu(x, *, tanh):
    if tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def np_norm(x, state, name, eps):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def np_linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def np_projector(x, state, name):
    h = np_gelu(np_linear(x, state, f"{name}.inner"), tanh=True)
    return np_norm(x + np_gelu(np_linear(h, state, f"{name}.outer"), tanh=True), state, f"{name}.norm", 1e-6)


def np_layer(x, state, name, heads):
    width = x.shape[1] // heads
    q, k, v = (np_linear(x, state, f"{name}.{part}") for part in ("query", "key", "value"))
    seen = np.zeros_like(x)
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        scores = q[:, at] @ k[:, at].T / math.sqrt(width)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        seen[:, at] = shares / shares.sum(-1, keepdims=True) @ v[:, at]
    x = np_norm(x + np_linear(seen, state, f"{name}.out"), state, f"{name}.norm", 1e-5)
    h = np_gelu(np_linear(x, state, f"{name}.inner"), tanh=False)
    return np_norm(x + np_linear(h, state, f"{name}.outer"), state, f"{name}.last_norm", 1e-5)


def np_forward(made, rows, pieces, language=None):
    config, found = made.config, []
    state = {name: value.double().numpy() for name, value in made.state_dict().items()}
    rows = rows.double().numpy()
    for ids in pieces:
        x = np.stack(
            [
                rows[i] * state["in_scaler.weight"] + state["in_scaler.shift"]
                if i < config.vocab_size
                else state["fallback.weight"][i - config.vocab_size]
                for i in ids
            ]
        )
        x = np_projector(np_linear(x, state, "project"), state, "project_block")
        x = x + state["position.weight"][: len(ids)] + state["kind"]
        if language is not None:
            x = np.vstack([x, state["language.weight"][language]])
        x = np_norm(x, state, "norm", 1e-5)
        for layer in range(config.layers):
            x = np_layer(x, state, f"layers.{layer}", config.heads)
        hidden = x[0]
        outs = [np_linear(np_projector(hidden, state, "head_block"), state, "head")]
        scalers = ["scaler"]
        if not config.tied:
            outs.append(np_linear(np_projector(hidden, state, "output_block"), state, "output_head"))
            scalers.append("output_scaler")
        outs = [o * state[f"{s}.weight"] + state[f"{s}.shift"] for o, s in zip(outs, scalers, strict=True)]
        if config.arch == "residual":
            base = np.mean([rows[i] if i < config.vocab_size else rows.mean(0) for i in ids], axis=0)
            outs = [o + base[n * config.dim : (n + 1) * config.dim] for n, o in enumerate(outs)]
        bias = np_linear(hidden, state, "bias_head")[0] if config.bias else None
        found.append((*outs, bias))
    return found


@pytest.mark.parametrize("arch", ["paper", "residual"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("languages", [(), ("en", "de")])
def test_the_network_is_the_plain_formula(arch, tied, languages):
    config = replace(SMALL, arch=arch, tied=tied, languages=languages, bias=True, extra=3)
    made, rows = network(config), source(config)
    pieces = [*PIECES, [20], [5, 22, 6]]
    language = 1 if languages else None
    found = made(Packed.of_lists(pieces), rows, language)
    for at, wanted in enumerate(np_forward(made, rows, pieces, language)):
        np.testing.assert_allclose(found.rows[at].detach(), wanted[0], rtol=1e-4, atol=1e-4)
        if not tied:
            np.testing.assert_allclose(found.output_rows[at].detach(), wanted[1], rtol=1e-4, atol=1e-4)
        assert found.bias[at].item() == pytest.approx(wanted[-1], abs=1e-4)


def test_packed_rows_are_those_of_a_padded_roberta():
    import transformers

    settings = transformers.RobertaConfig(
        vocab_size=2,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
        type_vocab_size=1,
        attn_implementation="eager",
    )
    theirs = transformers.RobertaModel(settings, add_pooling_layer=False).eval()
    made, rows = network(), source()
    from tokenlayer.transfer.zett.files import published_names

    state, names = theirs.state_dict(), published_names(SMALL)
    mine = made.state_dict()
    for name, other in names.items():
        if other.startswith("model."):
            value = mine[name]
            if name == "position.weight":
                value = torch.cat([value, torch.zeros(16 - len(value), 8)])
            state[other.removeprefix("model.")] = value[None] if name == "kind" else value
    theirs.load_state_dict(state)
    longest = max(map(len, PIECES))
    x = torch.randn(len(PIECES), longest, 8)  # padding holds anything: it must not be seen
    real = torch.zeros(len(PIECES), longest, dtype=torch.bool)
    for n, ids in enumerate(PIECES):
        x[n, : len(ids)] = made.project_block(made.project(made.in_scaler(rows[torch.tensor(ids)])))
        real[n, : len(ids)] = True
    places = torch.arange(longest).expand(len(PIECES), -1)
    wanted = theirs(inputs_embeds=x, attention_mask=real, position_ids=places).last_hidden_state[:, 0]
    torch.testing.assert_close(made.read(Packed.of_lists(PIECES), rows), wanted, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_the_others():
    made, rows = network(), source()
    whole = made(Packed.of_lists(PIECES), rows).rows
    for at, ids in enumerate(PIECES):
        torch.testing.assert_close(made(Packed.of_lists([ids]), rows).rows[0], whole[at], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[1], made(Packed.of_lists([[4, 6, 5]]), rows).rows[0], atol=1e-3)


def test_every_position_learns():
    made = network()
    made(Packed.of_lists([[1, 2, 3, 4]]), source()).rows.square().sum().backward()
    assert (made.position.weight.grad[:4].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_predictions_begin_with_mean_and_spread_of_the_rows(tied):
    config = replace(SMALL, tied=tied, vocab_size=300)
    rows = source(config) * torch.arange(1, config.input_dim + 1) + 5
    made = Hypernet(config)
    anchors = Packed.of_lists([[i, (7 * i) % 300] for i in range(256)])
    made.fit_scalers(rows, anchors)
    seen = made.in_scaler(rows)
    torch.testing.assert_close(seen.mean(0), torch.zeros(config.input_dim), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std(0), torch.full((config.input_dim,), 0.02), rtol=1e-3, atol=1e-5)
    found = made(anchors, rows)
    pairs = [(found.rows, rows[:, :6])] + ([] if tied else [(found.output_rows, rows[:, 6:])])
    for predicted, real in pairs:
        torch.testing.assert_close(predicted.mean(0), real.mean(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(predicted.std(0), real.std(0), rtol=1e-3, atol=1e-3)
    fixed = [name for name, p in made.named_parameters() if not p.requires_grad]
    assert len(fixed) == (4 if tied else 6)
    assert all("scaler" in name for name in fixed)


def test_the_residual_form_begins_at_the_mean_of_the_pieces():
    config = replace(SMALL, arch="residual", extra=1)
    rows = source(config)
    made = Hypernet(config)
    pieces = Packed.of_lists([*PIECES, [20, 3]])
    made.fit_scalers(rows, pieces)
    wanted = torch.stack([*(rows[torch.tensor(ids)].mean(0) for ids in PIECES), (rows.mean(0) + rows[3]) / 2])
    torch.testing.assert_close(made(pieces, rows).rows, wanted)
    torch.testing.assert_close(made.scaler.weight, rows.std(0))


def test_a_residual_network_that_keeps_single_pieces_copies_them_and_changes_the_others():
    config = replace(SMALL, arch="residual", extra=1, keep_single=True)
    rows = source(config)
    made = network(config)
    pieces = Packed.of_lists([[3], [3, 4], [20], [7]])
    found = made(pieces, rows).rows
    assert torch.equal(found[[0, 3]], rows[[3, 7]])
    added = (found - made.mean_rows(pieces, rows))[[1, 2]]  # a byte without a token is no known piece
    assert added.norm(dim=1).min() > 0.1
    with pytest.raises(BadOption, match="keep_single"):
        replace(config, arch="paper")


def test_sizes_are_the_paper_s():
    config = HypernetConfig.for_model(2048, tied=False, vocab_size=32_000)
    with torch.device("meta"):
        count = sum(p.numel() for p in _without_draw(config).parameters())
    assert 165e6 < count < 175e6  # TinyLlama's published file has 682 MB of float32
    assert HypernetConfig.for_model(4096, tied=False, vocab_size=32_000).heads == 32
    assert HypernetConfig.for_model(576, tied=True, vocab_size=49_152).heads == 9
    assert HypernetConfig.for_model(128, tied=True, vocab_size=9).heads == 4
    assert HypernetConfig.for_model(100, tied=True, vocab_size=9).heads == 2


def _without_draw(config):
    class Undrawn(Hypernet):
        def _draw(self, generator):
            pass

    return Undrawn(config)


@pytest.mark.parametrize(
    ("pieces", "language", "said"),
    [
        ([[1], []], None, "has no pieces, or more than the 4"),
        ([[1] * 5], None, "has no pieces, or more than the 4"),
        ([[1]], 0, "language is 0, this hypernetwork has 0 languages"),
    ],
)
def test_bad_input_is_refused(pieces, language, said):
    with pytest.raises(BadOption, match=said):
        network()(Packed.of_lists(pieces), source(), language)


def test_a_network_with_languages_needs_one_that_it_knows():
    made = network(replace(SMALL, languages=("en", "de")))
    for number in (None, 2):
        with pytest.raises(BadOption, match=f"language is {number}, this hypernetwork has 2 languages") as caught:
            made(Packed.of_lists([[1]]), source(), number)
    assert "en, de" in str(caught.value.__notes__)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "papre"}, "arch is 'papre'"),
        ({"heads": 3}, "hidden is 8, expected a multiple"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_bad_shapes_are_refused(changes, said):
    with pytest.raises(BadOption, match=said):
        replace(SMALL, **changes)
