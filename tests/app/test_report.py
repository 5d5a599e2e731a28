import html
import re
import sys
from html.parser import HTMLParser

import pytest
from tests.app.full_report import full_report

from tokenlayer.app import report as report_files
from tokenlayer.app.cli import main
from tokenlayer.app.render import ROWS_SHOWN, render
from tokenlayer.app.report import rewrite_page, write_page, write_report_files
from tokenlayer.app.report.card import model_card
from tokenlayer.app.report.page import html_page
from tokenlayer.core.errors import MissingExtra
from tokenlayer.core.report import Report


class Page(HTMLParser):
    """Text, tags and attributes of a page; counts tags that are left open."""

    VOID = {"meta", "br", "hr", "link", "img", "input", "path", "rect"}

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.open = [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page():
    return html_page(full_report())


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_page_has_every_section_in_order(page):
    assert headings(page) == [
        "Tokens saved",
        "Bits per byte, before and after",
        "Where the new rows come from",
        "Length of tokens",
        "The same text in both tokenizers: tr",
        "Greedy continuations",
        "Checked",
        "Worst cases",
        "Special roles",
        "All numbers",
        "Settings",
        "What to run next",
    ]
    assert page.count("<svg ") == 4


def test_page_says_the_numbers_as_text(page):
    text = Page(page).text
    for words in ("1.4312 1.9027 +0.4715 (+32.9 %)", "+53.8 %", "20 511 64.1 %", "was 49 152", "muvaffakiyet"):
        assert words in text
    assert "268 tokens have no spelling in the source" in text
    assert "tokenlayer 0.1.0 · torch 2.13.0" in text
    assert full_report().settings["command"] in text


def test_page_is_one_file_that_fetches_nothing(page):
    assert len(page.encode()) < 400_000
    tags = Page(page).tags
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in tags}
    addresses = [attrs[name] for _, attrs in tags for name in ("src", "href", "xlink:href") if name in attrs]
    assert all(address.startswith("#") for address in addresses)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_page_is_well_formed_and_its_names_are_unique(page):
    parsed = Page(page)
    assert parsed.open == []
    names = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#(.*?)\)", page))
    assert used <= set(names)


def test_page_turns_dark_and_the_drawings_with_it(page):
    assert "prefers-color-scheme: dark" in page
    for drawing in re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}", drawing)
        assert "font-family" not in drawing
        assert 'aria-hidden="true"' in drawing


def test_page_shows_hostile_text_as_text(page):
    text = Page(page).text
    assert "<i>güzel</i>" in text
    assert "<b>|x|</b>" in text
    assert "\\u202e\\x1b[31m" in text
    assert "<i>" not in page


def test_sample_covers_the_text_and_says_ids_and_bytes(page):
    spans = re.findall(r'<span title="id (\d+) · bytes ([0-9a-f ]+)">(.*?)</span>', page, flags=re.DOTALL)
    cut = full_report().data["sample"]
    assert [int(i) for i, _, _ in spans] == [i for side in ("source", "target") for _, i in cut[side]]
    shown = [html.unescape(text).replace("⏎\n", "\n") for _, _, text in spans]
    assert shown == [text for side in ("source", "target") for text, _ in cut[side]]
    assert all(bytes.fromhex(raw).decode() == text for (_, raw, _), text in zip(spans, shown, strict=True))


def test_half_characters_have_no_bytes_to_show():
    report = Report("x", data={"sample": {"text name": "t", "source": [["\ufffd", 1]], "target": [["\ud800", 2]]}})
    page = html_page(report)
    assert '<span title="id 1">\ufffd</span>' in page
    assert "\\ud800" in page


def test_a_character_in_several_tokens_is_shown_once_with_the_bytes_of_each():
    cut = [["e", 1, "65"], ["\ufffd", 2, "c5"], ["\ufffdit", 3, "9f6974"]]
    page = html_page(Report("x", data={"sample": {"text name": "t", "source": cut, "target": [["eşit", 9]]}}))
    spans = re.findall(r'<span title="(.*?)">(.*?)</span>', page)
    assert spans == [
        ("id 1 · bytes 65", "e"),
        ("id 2 · bytes c5", "·"),
        ("id 3 · bytes 9f 69 74", "şit"),
        ("id 9 · bytes 65 c5 9f 69 74", "eşit"),
    ]


def test_what_is_not_there_is_left_out():
    page = html_page(Report("nothing yet"))
    assert headings(page) == []
    assert "<svg" not in page


def test_page_is_the_same_every_time(page):
    assert html_page(full_report()) == page


def test_long_tables_say_what_is_left_out():
    report = Report("x")
    report.add_table("texts", ["text"], [(str(i),) for i in range(500)])
    assert "… and 300 more rows in tokenlayer.json." in html_page(report)


def test_files_are_written(tmp_path):
    report = full_report()
    flags = {"model": "M", "tokenizer": "T", "out": "O", "eval": ["a:tr"], "dtype": None, "seed": 4}
    write_report_files(report, tmp_path, flags=flags)
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "report.html", "tokenlayer.json", "tokenlayer.toml"}
    assert Report.load(tmp_path / "tokenlayer.json").to_json() == report.to_json()
    found, page = rewrite_page(tmp_path)
    assert page.read_text() == html_page(found)


def test_the_written_settings_repeat_the_run(tmp_path, monkeypatch):
    from tokenlayer.app import api

    calls = []
    monkeypatch.setattr(api, "swap", lambda *args, **options: calls.append((args, options)) or Report("x"))
    for file in ((), ("--config", str(tmp_path / "tokenlayer.toml"))):
        typed = (
            ()
            if file
            else ("swap", "M", "T", "--out", str(tmp_path), "--eval", "a:tr", "--seed", "4", "--dtype", "bfloat16")
        )
        with pytest.raises(SystemExit) as stop:
            main(typed or ("swap", *file))
        assert stop.value.code == 0
        (model, tokenizer, out), options = calls[-1]
        flags = {"model": model, "tokenizer": tokenizer, "out": str(out), **options}
        report = Report("x")
        write_report_files(report, tmp_path, flags={k: v for k, v in flags.items() if k != "quiet"})
        assert report.settings["command"] == (
            f"tokenlayer swap M T --out {tmp_path} --eval a:tr --dtype bfloat16 --seed 4"
        )
        assert {"python", "torch", "transformers"} <= set(report.settings["versions"])
    assert calls[0] == calls[1]


def test_without_the_extra_the_page_is_missing_and_says_how(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = full_report()
    write_report_files(report, tmp_path)
    assert not (tmp_path / "report.html").exists()
    sentence = report.warnings[-1]
    assert sentence.startswith("no report.html: the page with plots needs matplotlib, which is not installed")
    assert "pip install 'tokenlayer[report]'" in sentence
    assert sentence in Report.load(tmp_path / "tokenlayer.json").warnings
    with pytest.raises(MissingExtra):
        write_page(report, tmp_path)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match="Jinja2"):
        write_page(report, tmp_path)


def test_lone_surrogates_survive_the_json_file(tmp_path):
    report = Report("x", data={"text": "\ud800"})
    report_files.write_report_files(report, tmp_path)
    assert Report.load(tmp_path / "tokenlayer.json").data["text"] == "\ud800"


def test_card_has_front_matter_and_everything_a_reader_asks():
    card = model_card(full_report())
    head, body = card.split("---\n", 2)[1:]
    assert head.splitlines() == [
        "library_name: transformers",
        'base_model: "HuggingFaceTB/SmolLM2-135M"',
        "tags:",
        "- tokenlayer",
        "- vocabulary-transfer",
        '- "pieces"',
    ]
    for words in (
        "$ tokenlayer swap HuggingFaceTB/SmolLM2-135M turkish-32k",
        "| bits per byte | tr | 1.4312 | 1.9027 | +0.4715 (+32.9 %) | 20 000 |",
        "- the same ids after reloading, 300 texts",
        "- 268 tokens have no spelling",
        "| bos | \\<\\|im\\_start\\|\\> | 1 |",
        "tokenlayer 0.1.0, torch 2.13.0",
        "Gee et al.",
    ):
        assert words in body


def test_card_names_no_base_model_that_the_hub_cannot_know(tmp_path):
    report = full_report()
    for model in (str(tmp_path), "./folder", "model.gguf", ""):
        report.settings["model"] = model
        assert "base_model" not in model_card(report)
    assert model_card(Report("bare")).startswith("---\nlibrary_name: transformers\n")


def test_terminal_tables(capsys, monkeypatch):
    report = Report("title\x1b[2J")
    report.add("bits per byte", 1.5, "bits", source="[bold]a.txt[/bold]")
    report.add_table("many", ["token", "id"], [("\x1b[31m[red]", i) for i in range(ROWS_SHOWN + 5)], note="note [x]")
    report.add_table("none", ["token"], [])
    render(report)
    out, err = capsys.readouterr()
    assert out.count("\\x1b[31m[red]") == ROWS_SHOWN
    assert "[bold]a.txt[/bold]" in out
    assert "... and 5 more rows, all in --json" in out
    assert "note [x]" in out
    assert "none" not in out
    assert "\x1b" not in out + err
    assert err == "title\\x1b[2J\n"


def test_long_cells_are_folded_not_cut(capsys):
    report = Report("x")
    report.add_table("t", ["a", "b"], [("x" * 300, "y" * 300)])
    render(report, quiet=True)
    out, err = capsys.readouterr()
    assert (out.count("x"), out.count("y")) == (300, 300)
    assert err == ""
