"""The local page: what it shows, whom it refuses, and that it works in a browser without a network."""

import http.client
import json
import shutil
import threading
import time
import urllib.request
from types import SimpleNamespace

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.app.cli import main
from tokenlayer.app.serve.cutting import LONGEST_BYTES, compare_languages, cut_text, labels
from tokenlayer.core.errors import BadOption, BadText, MissingExtra
from tokenlayer.models.tokenizer_files import load_tokenizer

FALLS = bpe("stable", "move")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tokens_tile_the_text_in_every_family(family, tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / family, FAMILIES[family]()))
    for text in SENTENCES.values():
        found = cut_text(tokenizer, text)
        assert [t["id"] for t in found["tokens"]] == tokenizer.encode(text)
        assert found["bytes"] == len(text.encode())
        ends = [0, *(t["end"] for t in found["tokens"])]
        assert [t["start"] for t in found["tokens"]] == ends[:-1]
        assert ends == sorted(ends)
        if not tokenizer.vocab.lossy:
            assert ends[-1] == len(text.encode())


def test_broken_characters_and_unknown_ones_are_marked():
    found = cut_text(bpe(), "é")
    assert [(t["hex"], t["text"]) for t in found["tokens"]] == [("c3", "\\xc3"), ("a9", "\\xa9")]
    unknown = cut_text(load_wordpiece(), "☃")
    assert unknown["tokens"][0]["kind"] == "unknown"
    assert cut_text(bpe(), "") == {"tokens": [], "count": 0, "bytes": 0}


def load_wordpiece():
    return type(FALLS)(json.loads(FAMILIES["wordpiece"]()), where="wordpiece")


def test_too_long_and_broken_texts_are_refused():
    with pytest.raises(BadText, match=f"has {LONGEST_BYTES + 2} bytes, expected at most {LONGEST_BYTES}") as caught:
        cut_text(FALLS, "é" * (LONGEST_BYTES // 2 + 1))
    assert caught.value.hint
    with pytest.raises(BadText, match="half of a surrogate pair at character 1"):
        cut_text(FALLS, "a\ud800")


def test_languages_are_counted_against_the_first():
    rows = compare_languages([bpe("hallo"), bpe()], [("en", "hallo"), ("de", "hallo hallo"), ("xx", "")])
    assert [[c["tokens"] for c in row["counts"]] for row in rows] == [[1, 5], [3, 11], [0, 0]]
    assert rows[1]["counts"][1] == {"tokens": 11, "bytes_per_token": 1.0, "premium": 2.2}
    assert rows[2]["counts"][0] == {"tokens": 0, "bytes_per_token": None, "premium": 0.0}
    assert compare_languages([bpe()], [("a", ""), ("b", "x")])[1]["counts"][0]["premium"] is None
    with pytest.raises(BadOption, match="65 texts, expected at most 64"):
        compare_languages([bpe()], [("a", "b")] * 65)


def test_names_are_short_and_do_not_repeat():
    given = ["/x/gpt2/tokenizer.json", "/y/gpt2/tokenizer.json", "models/llama/", "one.tokenizer.json", "org/name"]
    assert labels(given) == ["gpt2", "gpt2 (2)", "llama", "one", "name"]


@pytest.fixture(scope="module")
def page():
    """A running server; `ask(path, body, **headers)` gives status, headers and content."""
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    from tokenlayer.app.serve.server import make_app, open_socket

    taken = open_socket(0)
    port = taken.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app([FALLS, bpe("moves", "table")], port), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)

    def ask(path, body=None, *, method=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        sent = {"Host": f"127.0.0.1:{port}"} | ({"Content-Type": "application/json"} if body is not None else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    yield SimpleNamespace(ask=ask, port=port, address=f"http://127.0.0.1:{port}/")
    server.should_exit = True
    thread.join(30)
    taken.close()


def test_the_page_is_one_file_that_names_no_other(page):
    status, headers, content = page.ask("/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    text = content.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert urllib.request.urlopen(page.address, timeout=20).status == 200


def test_texts_are_cut_by_every_tokenizer(page):
    status, _, content = page.ask("/api/cut", json.dumps({"text": "#movestable"}))
    assert status == 200
    first, second = json.loads(content)
    assert [t["text"] for t in first["tokens"]] == ["#", "move", "stable"]
    assert [t["text"] for t in second["tokens"]] == ["#", "moves", "table"]
    assert json.loads(page.ask("/api/tokenizers")[2])[0]["name"] == "tiny"
    _, _, content = page.ask("/api/compare", json.dumps({"texts": [["en", "table"], ["de", "moves table"]]}))
    first, _ = json.loads(content)
    assert first["counts"][1]["tokens"] == 1


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": "evil.example"}, "the request is for 'evil.example'"),
        ({"Host": "127.0.0.1"}, "the request is for '127.0.0.1'"),
        ({"Origin": "https://evil.example"}, "another page"),
        ({"Origin": "null"}, "another page"),
        ({"Sec_Fetch_Site": "cross-site"}, "another page"),
        ({"Sec_Fetch_Site": "same-site"}, "another page"),
        ({"Content_Type": "text/plain"}, "expected application/json"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, "expected application/json"),
    ],
)
def test_other_pages_and_other_names_are_refused(page, headers, said):
    status, answered, content = page.ask("/api/cut", json.dumps({"text": "x"}), **headers)
    assert status == 403
    assert said in json.loads(content)["error"]
    assert "access-control-allow-origin" not in answered
    if "Content_Type" not in headers:
        assert page.ask("/", **headers)[0] == 403


def test_the_own_page_may_ask(page):
    for name in ("127.0.0.1", "localhost"):
        here = f"{name}:{page.port}"
        asked = page.ask("/api/cut", '{"text": "x"}', Host=here, Origin=f"http://{here}", Sec_Fetch_Site="same-origin")
        assert asked[0] == 200


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/../../etc/passwd", "/page.html", "/docs", "/openapi.json", "/static/x"]
)
def test_no_path_of_a_browser_reaches_a_file(page, path):
    assert page.ask(path)[0] == 404
    assert page.ask("/api/cut", json.dumps({"text": path, "tokenizer": path}))[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("not json", "is not JSON"),
        ("[]", "has no 'text'"),
        ('{"text": 3}', "has no 'text'"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        (json.dumps({"text": "x" * (LONGEST_BYTES + 1)}), "expected at most"),
        (json.dumps({"text": "x" * 9 * LONGEST_BYTES}), "the request has more than"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_bad_requests_are_answered_with_what_is_wrong(page, body, said):
    status, _, content = page.ask("/api/cut", body)
    assert status == 400
    assert said in json.loads(content)["error"]


def test_bad_comparisons_are_refused_and_addresses_know_their_methods(page):
    for body in ("{}", '{"texts": []}', '{"texts": ["en"]}', '{"texts": [["en", 3]]}'):
        status, _, content = page.ask("/api/compare", body)
        assert (status, "has no 'texts'" in content.decode()) in ((400, True), (200, False))
    assert page.ask("/api/cut")[0] == 405
    assert page.ask("/", "{}")[0] == 405


def test_a_taken_port_and_no_port_are_refused(page):
    from tokenlayer.app.serve.server import open_socket

    with pytest.raises(BadOption, match=f"port {page.port} of 127.0.0.1 cannot be had") as caught:
        open_socket(page.port)
    assert "--port" in caught.value.hint
    with pytest.raises(BadOption, match="port is 70000"):
        open_socket(70_000)


def test_the_socket_is_of_this_machine_alone():
    from tokenlayer.app.serve.server import open_socket

    with open_socket(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"


def test_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
    pytest.importorskip("uvicorn")
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(tmp_path / "none.json"), "--port", "0"])
    assert stopped.value.code == 2
    assert "none.json" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        main(["serve", "x"])
    assert "pip install 'tokenlayer[serve]'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    from tokenlayer.app.serve.server import make_app

    with pytest.raises(MissingExtra, match="needs fastapi"):
        make_app([], 1)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium: playwright's own, or that of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"there is no Chromium to start: {str(error).splitlines()[0]}")
        yield found
        found.close()


def test_the_page_works_in_a_browser_without_a_network(page, browser):
    asked, errors = [], []
    tab = browser.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.address)
    tab.wait_for_selector(".token")
    tab.fill("#text", "#movestable <b>é</b>\n")
    tab.wait_for_selector(".token:has-text('⏎')")
    boxes = tab.query_selector_all(".cut")
    cuts = [[t.inner_text() for t in box.query_selector_all(".token")][:3] for box in boxes]
    assert cuts == [["#", "move", "stable"], ["#", "moves", "table"]]
    assert "\\xc3" in boxes[0].inner_text()
    assert tab.query_selector(".tokens b") is None  # text is text, never markup
    boxes[0].query_selector_all(".token")[2].hover()
    assert "73 74 61 62 6c 65" in tab.inner_text("#said")
    colours = {
        t.evaluate("e => getComputedStyle(e).backgroundColor") for t in boxes[0].query_selector_all(".token")[:3]
    }
    assert len(colours) == 3
    tab.click("#compare")
    tab.wait_for_selector("#counts td")
    assert len(tab.query_selector_all("#counts tr")) == 9
    assert "1.00 x" in tab.inner_text("#counts")
    tab.fill("#text", "x" * (LONGEST_BYTES + 1))
    tab.wait_for_selector("#error:has-text('expected at most')")
    assert all(url.startswith((page.address, "data:")) for url in asked)
    assert [e for e in errors if "400" not in e] == []
