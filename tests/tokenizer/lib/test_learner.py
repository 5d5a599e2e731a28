"""The fast learner against the steps written down, and each point that is easy to get wrong."""

import json
import random
from dataclasses import replace

import pytest
from tests.tokenizer.lib.oracle import Oracle

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.tokenizer.lib import learner as module
from tokenlayer.tokenizer.lib import ranked
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.kernel import FREE, LEXICON, NODES
from tokenlayer.tokenizer.lib.learner import LibLearner, articles
from tokenlayer.tokenizer.lib.memory import Memory


def random_articles(seed, *, letters="abc", sentences=6, articles=9):
    draw = random.Random(seed)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(5)]
    return [["".join(draw.choices(words, k=draw.randint(0, 6))) for _ in range(sentences)] for _ in range(articles)]


def flat(texts):
    return [sentence for article in texts for sentence in article]


def random_config(seed):
    draw = random.Random(seed)
    return LibConfig(
        in_rate=draw.choice([0.25, 0.5, 1.0]),
        out_rate=draw.choice([1e-4, 0.05, 0.3, 1.0]),
        life=draw.choice([1, 2, 3, 10]),
        update_rate=draw.choice([0.0, 0.1, 0.5, 1.0]),
        longest_chunk=draw.choice([None, 5, 64]),
        inspect_context=draw.random() < 0.8,
        seed=seed,
    )


def both(seed, compiled=False):
    config = random_config(seed)
    return Oracle(config), LibLearner(config, compiled=compiled)


def same(oracle, learner):
    assert learner.chunks == oracle.lexicon
    assert learner.probation == {chunk: (life, context) for chunk, (life, context) in oracle.probation.items()}
    assert learner.rewards == oracle.rewards


def run(oracle, learner, articles):
    for article in articles:
        oracle.read(article)
        learner.read(article)
        same(oracle, learner)
        oracle.end_article()
        learner.end_article()
        same(oracle, learner)
    assert learner.lexicon == oracle.trained()


@pytest.mark.parametrize("seed", range(50))
def test_equals_the_oracle_after_every_step(seed):
    run(*both(seed), random_articles(seed))


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_oracle_where_characters_are_unknown_for_long(seed):
    config = replace(random_config(seed), life=1, out_rate=1.0)  # characters are forgotten again and again
    run(Oracle(config), LibLearner(config, compiled=False), random_articles(seed, letters="abcdefghij"))


@pytest.mark.slow  # compiling takes longer than all other tests together, when it was not done before
def test_compiled_loops_equal_the_oracle():
    pytest.importorskip("numba")
    for seed in (3, 4):
        run(*both(seed, compiled=True), random_articles(seed))


@pytest.mark.slow  # compiling takes longer than all other tests together, when it was not done before
def test_plain_and_compiled_loops_meet_in_one_run(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(module, "COMPILE_CHARS", 100)
    config, sentences = replace(random_config(7), article=6), flat(random_articles(7))
    switched, plain = LibLearner(config).fit(sentences), LibLearner(config, compiled=False).fit(sentences)
    assert switched._memory.compiled
    assert switched.state() == plain.state()


def test_the_nodes_of_forgotten_chunks_are_used_again():
    config = LibConfig(in_rate=1.0, life=1, out_rate=0.0, seed=5)
    learner = LibLearner(config, compiled=False)
    used = []
    for seed in range(12):
        learner.partial_fit(random_articles(seed, sentences=20, articles=1)[0])
        t = learner._memory.tables
        made, free = t.counts[NODES], t.counts[FREE]
        used.append(made - free)
        alive = [node for node in range(1, made) if t.parent[node] >= 0]
        assert len(alive) == made - free - 1
        leaves = [n for n in alive if t.children[n] == 0 and t.depth[n] > 1]
        assert all(t.rank[n] >= 0 or t.expires[n] or t.uses[n] for n in leaves)
    assert t.counts[NODES] < sum(used) / 2


def test_a_rank_moves_by_a_tenth_and_one():
    memory = Memory()
    nodes = memory.add([chr(1000 + n) for n in range(150)])
    rules = module._rules(LibConfig(out_rate=0.0))
    memory._ensure("rewards", 3)
    for way in (nodes[100], -nodes[20], -nodes[149]):
        memory.loops.reward(memory.tables, way)
    memory.end_article(rules)
    order = list(memory.tables.order[: memory.tables.counts[LEXICON]])
    assert order.index(nodes[100]) == 100 - 11
    assert order.index(nodes[20]) == 20 + 3
    assert nodes[149] not in order  # past the tail
    assert len(order) == 149


@pytest.mark.parametrize("seed", range(3))
def test_many_moves_to_one_place_lay_the_blocks_out_anew(seed):
    draw, memory, size = random.Random(seed), Memory(), 300
    order = memory.add([chr(1000 + n) for n in range(size)])
    moves = [draw.choice(order[150:]) for _ in range(3 * ranked.FULL * 10)]
    memory._ensure("rewards", len(moves))
    for node in moves:
        memory.loops.reward(memory.tables, node)
    memory.end_article(module._rules(LibConfig(update_rate=0.5, out_rate=0.0)))
    for node in moves:
        at = order.index(node)
        if at:
            order.insert(max(at - int(at * 0.5) - 1, 0), order.pop(at))
    assert list(memory.tables.order[:size]) == order


def test_state_survives_saving_as_json():
    config = replace(random_config(11), out_rate=0.3, life=3)
    texts = random_articles(11, articles=10)
    whole = LibLearner(config, compiled=False)
    for article in texts:
        whole.partial_fit(article)
    half = LibLearner(config, compiled=False)
    for article in texts[:5]:
        half.partial_fit(article)
    assert half.probation
    resumed = LibLearner.from_state(json.loads(json.dumps(half.state())), compiled=False)
    for article in texts[5:]:
        resumed.partial_fit(article)
    assert resumed.state() == whole.state()


def test_the_seed_decides():
    texts = flat(random_articles(2))
    one, same_seed, other = (LibLearner(LibConfig(seed=s), compiled=False).fit(texts) for s in (1, 1, 2))
    assert one.state() == same_seed.state()
    assert one.chunks != other.chunks


def test_one_draw_for_each_chunk_that_matched():
    learner = LibLearner(LibConfig(in_rate=0.0, inspect_context=False), compiled=False)
    learner.partial_fit(["abc"])
    assert learner.drawn == 0  # three characters that were new
    learner.partial_fit(["abcabc"])
    assert learner.drawn == 6


def test_articles_are_read_once_or_round_and_round():
    assert list(articles("abcde", 2, None)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(articles("abc", 2, 4)) == [["a", "b"], ["c"], ["a", "b"], ["c"]]


def test_chunks_have_a_longest_length_and_a_long_line_needs_no_recursion():
    learner = LibLearner(LibConfig(in_rate=1.0, longest_chunk=5), compiled=False)
    for _ in range(5):
        learner.partial_fit(["ab" * 600])
    assert max(map(len, learner.chunks)) <= 5


def test_a_long_sentence_is_cut_with_a_warning(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_SENTENCE", 10)
    with pytest.warns(UserWarning, match="a sentence of 25 characters is cut after 10"):
        learner = LibLearner(compiled=False).fit(["x" * 25])
    assert learner.chars == 25


@pytest.mark.parametrize(
    ("name", "value"), [("in_rate", 1.5), ("out_rate", -0.1), ("update_rate", 2.0), ("life", 0), ("article", 0)]
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(BadOption, match=f"{name} is {value:g}, expected"):
        LibConfig(**{name: value})


def test_nothing_to_read():
    with pytest.raises(BadText, match="no text to learn from"):
        LibLearner(compiled=False).fit(["", ""])


def test_bytes_that_are_no_text():
    with pytest.raises(BadText, match="not UTF-8 at byte 2: 0xff"):
        LibLearner(compiled=False).partial_fit([b"ab\xff"])
    with pytest.raises(BadText, match="at character 1"):
        LibLearner(compiled=False).partial_fit(["a\ud800"])
    assert LibLearner(compiled=False).partial_fit(["é".encode()]).chunks == ["é"]
