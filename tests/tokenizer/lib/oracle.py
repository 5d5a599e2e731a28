"""LiB written down step by step with strings, lists and dictionaries: slow, obvious, and on its own."""

from tokenlayer.core.seeds import numpy_generator


class Oracle:
    def __init__(self, config):
        self.config = config
        self.draws = numpy_generator(config.seed, "lib")
        self.lexicon = []
        self.probation = {}  # chunk -> [life, context or None]
        self.rewards = []

    def matches(self, text):
        """The chunks of the lexicon that a text begins with, shortest first."""
        known = set(self.lexicon)
        return [text[:n] for n in range(1, len(text) + 1) if text[:n] in known]

    def longest(self, text):
        return (self.matches(text) or [""])[-1]

    def forced(self, text):
        return self.longest(text) or text[:1]

    def memorise(self, chunk, context):
        limit = self.config.longest_chunk
        if chunk and chunk not in self.lexicon and not (limit and len(chunk) > limit):
            self.lexicon.append(chunk)
            self.probation[chunk] = [self.config.life, context]

    def read(self, article):
        for sentence in article:
            self.read_sentence(sentence)

    def read_sentence(self, sentence):
        pending, path, at = {}, [], 0
        while at < len(sentence):
            self.evaluate(pending, sentence, at)
            smaller, chunk = ["", "", *self.matches(sentence[at:])][-2:]
            for one in pending.values():
                one[1].append(chunk or sentence[at])
            before, last = ["", "", *path][-2:]
            if chunk in self.probation:
                self.meet_again(sentence, at, chunk, before, last)
            if chunk:
                if len(chunk) > 1 and smaller:
                    pending[chunk] = [at + len(smaller), [chunk], [smaller]]
                if self.draws.random() < self.config.in_rate:
                    self.memorise(last + chunk, (before, self.forced(sentence[at + len(chunk) :])))
            else:
                chunk = sentence[at]
                self.memorise(chunk, (last, self.forced(sentence[at + 1 :])))
            path.append(chunk)
            at += len(chunk)

    def meet_again(self, sentence, at, chunk, before, last):
        context = self.probation[chunk][1]
        if context is None or not self.config.inspect_context:
            del self.probation[chunk]
            return
        old_last, old_next = context
        rest = sentence[at + len(chunk) :]
        follows = self.forced(rest)
        if not (old_last or old_next or last or follows):
            return
        same_left = old_last and last and (last.endswith(old_last) or old_last.endswith(last))
        same_right = old_next and follows and (follows.startswith(old_next) or old_next.startswith(follows))
        if same_left:
            self.memorise(last + chunk, (before, follows))
        if same_right:
            self.memorise(chunk + follows, (last, self.forced(rest[len(follows) :])))
        if not same_left and not same_right:
            self.rewards.append((chunk, -1))
            del self.probation[chunk]

    def evaluate(self, pending, sentence, at):
        for chunk, (end, default, other) in list(pending.items()):
            while end < at:
                other.append(self.forced(sentence[end:]))
                end += len(other[-1])
            pending[chunk][0] = end
            if end == at:
                if self.better(other, default):
                    self.rewards += [(other[0], -1), (chunk, 1)]
                else:
                    self.rewards.append((chunk, -1))
                del pending[chunk]

    def better(self, other, default):
        ranks = {chunk: rank for rank, chunk in enumerate(self.lexicon)}
        sums = [sum(ranks[c] for c in path if c in ranks) for path in (other, default)]
        return len(other) < len(default) or (len(other) == len(default) and sums[0] < sums[1])

    def end_article(self):
        gone = set()
        if self.config.forgets:
            for chunk in list(self.probation):
                self.probation[chunk][0] -= 1
                if self.probation[chunk][0] < 1:
                    del self.probation[chunk]
                    gone.add(chunk)
            self.lexicon = [chunk for chunk in self.lexicon if chunk not in gone]
        if self.config.reranks:
            for chunk, way in self.rewards:
                if chunk not in gone and chunk in self.lexicon:
                    self.move(chunk, way)
        self.rewards = []
        for chunk in self.lexicon[int((1 - self.config.out_rate) * len(self.lexicon)) :]:
            self.probation.setdefault(chunk, [self.config.life, None])

    def move(self, chunk, way):
        at = self.lexicon.index(chunk)
        to = at + way * (int(at * self.config.update_rate) + 1)
        if at == 0:
            return
        del self.lexicon[at]
        if to > len(self.lexicon):
            self.probation.pop(chunk, None)
        else:
            self.lexicon.insert(max(to, 0), chunk)

    def trained(self):
        return [chunk for chunk in self.lexicon if chunk not in self.probation]

    def tokenize(self, text, lexicon, compat=False):
        """The two-path rule on one line of text with a finished lexicon."""
        self.lexicon, found = list(lexicon), []
        while text:
            smaller, chunk = ["", "", *self.matches(text)][-2:]
            if not smaller:
                path = [text[0] if compat else chunk or text[0]]
            else:
                default, other = [chunk], [smaller]
                while len("".join(default)) != len("".join(other)):
                    shorter = min(default, other, key=lambda path: len("".join(path)))
                    shorter.append(self.forced(text[len("".join(shorter)) :]))
                path = other if self.better(other, default) else default
            found += path
            text = text[len("".join(path)) :]
        return found
