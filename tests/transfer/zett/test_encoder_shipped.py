"""The hypernetwork for all-MiniLM-L6-v2 in the repository."""

from pathlib import Path

import pytest

from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.files import load_hypernet, vocab_digest

FOLDER = Path(__file__).parents[3] / "hypernets" / "all-minilm-l6-v2"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="hypernets/ is not part of an installed package")
def test_it_is_small_and_whole():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 15e6
    saved = load_hypernet(FOLDER)
    assert saved.vocab_digest == vocab_digest(load_tokenizer(FOLDER).vocab)
    assert (saved.network.config.dim, saved.network.config.tied) == (384, True)
    assert {"model", "texts", "steps", "seconds"} <= saved.about.keys()
