"""LiB, Less is Better: a ranked lexicon of subwords, words and multi-word chunks, learned online; see `learn`."""
