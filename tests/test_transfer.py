"""One file over HTTP: what an honest server has is what lies on disk, whatever happens on the way."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermseg.data.archive import Progress
from dermseg.data.transfer import ENOUGH, PIECE, STRETCH, Patience, ResumingDownloader, _Session
from dermseg.errors import DataError, DermsegError, InputError
from tests.file_server import Answer, FileServer, serving

CONTENT = bytes(range(256)) * 1200
FILE = "/data/file.zip"
QUICK = Patience(attempts=4, pause=0.0, timeout=5.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving(monkeypatch) as server:
        server.files[FILE] = CONTENT
        yield server


class Fetcher:
    """Fetches the file, with everything that was told meanwhile."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server, self.part, self.output = server, folder / "file.zip.part", folder / "file.zip"
        self.lines: list[str] = []
        self.progress: list[tuple[str, int, int | None]] = []
        self.resumed = False
        self.most = STRETCH

    def __call__(self, patience: Patience = QUICK, url: str | None = None, progress: Progress | None = None) -> bytes:
        def note(title: str, done: int, total: int | None) -> None:
            self.progress.append((title, done, total))

        downloader = ResumingDownloader(
            self.part, patience, progress or note, self.lines.append, lambda path: None, most=self.most
        )
        try:
            downloader(url or self.server.address + FILE, self.output, None)
        finally:
            self.resumed = downloader.resumed
        return self.output.read_bytes()

    def fails(self, error: type[DermsegError] = DataError, **arguments: object) -> str:
        with pytest.raises(error) as caught:
            self(**arguments)  # type: ignore[arg-type]
        assert not self.output.exists()
        return str(caught.value)


@pytest.fixture
def fetch(server: FileServer, tmp_path: Path) -> Fetcher:
    return Fetcher(server, tmp_path)


# What goes well


def test_fetches_a_file_and_says_how_far_it_is(fetch: Fetcher) -> None:
    assert fetch() == CONTENT
    assert fetch.progress[0] == ("file.zip", 0, len(CONTENT))
    assert fetch.progress[-1] == ("file.zip", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in fetch.progress] == sorted({done for _, done, _ in fetch.progress})
    assert not fetch.resumed


def test_fetches_what_has_no_announced_length(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(chunked=True)]
    assert fetch() == CONTENT
    assert fetch.progress[-1] == ("file.zip", len(CONTENT), None)


def test_follows_redirects(server: FileServer, fetch: Fetcher) -> None:
    server.script["/moved"] = [Answer(302, {"Location": "/again"}, b"")]
    server.script["/again"] = [Answer(307, {"Location": server.address + FILE}, b"")]
    assert fetch(url=server.address + "/moved") == CONTENT


def test_goes_through_the_proxy_of_the_environment(
    server: FileServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    server.files["http://data.invalid/file.zip"] = CONTENT
    assert fetch(url="http://data.invalid/file.zip") == CONTENT


# What breaks off


@pytest.mark.parametrize("validator", ["etag", "date"])
def test_a_cut_connection_goes_on_where_it_broke(server: FileServer, fetch: Fetcher, validator: str) -> None:
    server.validator = validator
    server.script[FILE] = [Answer(cut_after=200_000), Answer(cut_after=70_000)]
    assert fetch() == CONTENT
    assert fetch.resumed
    first, second, third = server.log
    assert first.range is None
    for request, sent in ((second, first.sent), (third, first.sent + second.sent)):
        assert request.range is not None
        start = int(request.range[len("bytes=") : -1])
        assert sent - 2 * PIECE <= start <= sent
        assert request.if_range in server.mark(CONTENT).values()
        assert request.status == 206
    assert "file.zip: the connection was cut; trying again in 0 s" in fetch.lines
    assert any("goes on after" in line for line in fetch.lines)


def test_a_later_process_goes_on_too(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(cut_after=200_000)]
    fetch.fails(patience=Patience(attempts=1))
    kept = fetch.part.stat().st_size
    assert kept > 0
    assert fetch() == CONTENT
    assert server.asked(FILE) == [None, f"bytes={kept}-"]
    assert server.log[-1].sent == len(CONTENT) - kept


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(CONTENT) - 1), max_size=3), ranges=st.booleans(), marked=st.booleans())
def test_any_cuts_give_the_same_file(
    server: FileServer, fetch: Fetcher, cuts: list[int], ranges: bool, marked: bool
) -> None:
    for path in fetch.part.parent.iterdir():
        path.unlink()
    server.ranges, server.validator = ranges, "etag" if marked else ""
    server.script[FILE] = [Answer(cut_after=cut) for cut in cuts]
    assert fetch() == CONTENT


def test_a_file_that_changed_is_not_joined_to_the_old_part(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(cut_after=200_000)]
    fetch.fails(patience=Patience(attempts=1))
    server.files[FILE] = changed = CONTENT[::-1]
    assert fetch() == changed
    assert [request.status for request in server.log] == [200, 200]
    assert any("new version" in line for line in fetch.lines)


def test_a_part_that_a_careless_server_joins_is_refused(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(cut_after=200_000)]
    fetch.fails(patience=Patience(attempts=1))
    kept = fetch.part.stat().st_size
    changed = CONTENT[::-1]
    span = {"Content-Range": f"bytes {kept}-{len(changed) - 1}/{len(changed)}"}
    server.script[FILE] = [Answer(206, server.mark(changed) | span, changed[kept:])]
    server.files[FILE] = changed
    assert fetch() == changed


@pytest.mark.parametrize("span", ["bytes 0-9/307200", "bytes 1-2/3", "nonsense", ""])
def test_another_range_than_was_asked_for_is_refused(server: FileServer, fetch: Fetcher, span: str) -> None:
    server.script[FILE] = [Answer(cut_after=200_000), Answer(206, {"Content-Range": span}, b"0123456789")]
    assert fetch() == CONTENT
    assert any("another part than was asked for" in line for line in fetch.lines)


def test_a_range_that_nobody_asked_for_is_refused(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(206, {"Content-Range": "bytes 0-9/10"}, b"0123456789")]
    assert fetch() == CONTENT


@pytest.mark.parametrize("validator", ["weak", ""])
def test_without_a_safe_mark_it_starts_again(server: FileServer, fetch: Fetcher, validator: str) -> None:
    server.validator = validator
    server.script[FILE] = [Answer(cut_after=200_000)]
    assert fetch() == CONTENT
    assert server.asked(FILE) == [None, None]


def test_a_server_without_ranges_starts_again(server: FileServer, fetch: Fetcher) -> None:
    server.ranges = False
    server.script[FILE] = [Answer(cut_after=200_000)]
    assert fetch() == CONTENT
    assert [request.status for request in server.log] == [200, 200]


def test_a_complete_part_needs_no_server(server: FileServer, fetch: Fetcher) -> None:
    assert fetch() == CONTENT
    assert fetch.part.exists()  # until the caller has checked the hash
    fetch.output.unlink()
    assert fetch() == CONTENT
    assert len(server.log) == 1


def test_nothing_beyond_a_part_of_unknown_length_means_complete(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(chunked=True)]
    fetch()
    fetch.output.unlink()
    assert fetch() == CONTENT
    assert [request.status for request in server.log] == [200, 416]


def test_a_part_longer_than_the_file_is_dropped(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(chunked=True)]
    fetch()
    fetch.output.unlink()
    with fetch.part.open("ab") as file:
        file.write(b"more")
    assert fetch() == CONTENT
    assert [request.status for request in server.log] == [200, 416, 200]


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '{"url": 1}', None])
def test_a_part_without_its_state_is_dropped(server: FileServer, fetch: Fetcher, state: str | None) -> None:
    fetch.part.write_bytes(b"anything")
    if state is not None:
        fetch.part.with_name("file.zip.part.json").write_text(state)
    assert fetch() == CONTENT
    assert server.asked(FILE) == [None]


def test_a_part_from_another_address_is_dropped(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(cut_after=200_000)]
    fetch.fails(patience=Patience(attempts=1))
    server.files["/mirror/file.zip"] = CONTENT
    assert fetch(url=server.address + "/mirror/file.zip") == CONTENT
    assert server.asked("/mirror/file.zip") == [None]


def test_a_disk_without_hard_links_will_do(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*arguments: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", link)
    assert fetch() == CONTENT
    assert not fetch.part.exists()


# What fails


def test_tries_end(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(cut_after=10)] * 9
    assert fetch.fails() == "file.zip: the connection was cut, 4 times in a row"
    assert len(server.log) == QUICK.attempts


def test_tries_that_bring_enough_do_not_count(server: FileServer, fetch: Fetcher) -> None:
    server.files[FILE] = content = bytes(6 * ENOUGH)
    server.script[FILE] = [Answer(cut_after=ENOUGH + 3 * PIECE)] * 4
    assert fetch(patience=Patience(attempts=2, pause=0)) == content


def test_pauses_double_and_the_server_may_ask_for_more(
    server: FileServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("dermseg.data.transfer.time.sleep", pauses.append)
    busy = Answer(503, {}, b"")
    asking = [Answer(503, {"Retry-After": after}, b"") for after in ("7", "3600", "Fri, 31 Dec 1999 23:59:59 GMT")]
    server.script[FILE] = [busy, busy, *asking]
    assert fetch(patience=Patience(attempts=6, pause=1, longest_pause=60)) == CONTENT
    assert pauses == [1, 2, 7, 60, 16]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failing_server_is_asked_again(server: FileServer, fetch: Fetcher, status: int) -> None:
    server.script[FILE] = [Answer(status, {}, b"sorry")] * 2
    assert fetch() == CONTENT


def test_a_server_that_keeps_failing_is_named_with_its_answer(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(500, {}, b"")] * 9
    assert fetch.fails() == "file.zip: the server answered 500 Internal Server Error, 4 times in a row"


@pytest.mark.parametrize(("status", "said"), [(401, "Unauthorized"), (403, "Forbidden"), (404, "Not Found")])
def test_a_refusal_is_final(server: FileServer, fetch: Fetcher, status: int, said: str) -> None:
    server.script[FILE] = [Answer(status, {}, b"no")] * 2
    assert fetch.fails() == f"file.zip: the server answered {status} {said}"
    assert len(server.log) == 1


def test_a_web_page_is_no_file_and_spares_the_part(server: FileServer, fetch: Fetcher) -> None:
    page = Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Please log in</html>")
    server.script[FILE] = [Answer(cut_after=200_000), page]
    assert fetch.fails() == "file.zip: the server sent a web page (HTML), not the file"
    kept = fetch.part.stat().st_size
    assert fetch() == CONTENT
    assert server.asked(FILE)[-1] == f"bytes={kept}-"


def test_encoded_content_is_refused(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(headers={"Content-Encoding": "gzip"})]
    assert fetch.fails() == "file.zip: the server sent it encoded as gzip, though asked not to"


@pytest.mark.parametrize("announced", [len(CONTENT) + 1, STRETCH])
def test_a_length_that_never_comes(server: FileServer, fetch: Fetcher, announced: int) -> None:
    server.validator = ""
    server.script[FILE] = [Answer(headers={"Content-Length": str(announced)})] * 9
    assert "times in a row" in fetch.fails()


def test_a_file_larger_than_the_disk_is_not_begun(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(headers={"Content-Length": str(10**18)})]
    assert fetch.fails(InputError).startswith("file.zip needs 1e+09 GB in")
    assert not fetch.part.exists()


def test_a_file_without_end_is_given_up_and_dropped(server: FileServer, fetch: Fetcher) -> None:
    fetch.most = 200_000
    server.script[FILE] = [Answer(chunked=True)]
    assert fetch.fails() == "file.zip: the server sends more than 0.0002 GB, the most that is expected"
    assert 200_000 < fetch.progress[-1][1] <= 200_000 + PIECE
    assert list(fetch.part.parent.iterdir()) == []


def test_a_file_that_is_announced_as_too_large_is_not_begun(server: FileServer, fetch: Fetcher) -> None:
    fetch.most = len(CONTENT) - 1
    assert fetch.fails().startswith("file.zip: the server sends more than")
    assert fetch.progress == []
    fetch.most += 1
    assert fetch() == CONTENT


def test_a_rest_without_end_is_given_up_too(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(chunked=True, cut_after=200_000), Answer(chunked=True)]
    fetch.most = 250_000
    assert fetch.fails().startswith("file.zip: the server sends more than")
    assert server.asked(FILE)[1] is not None
    assert not fetch.part.exists()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_disk_that_fills_up_meanwhile_ends_it(
    server: FileServer, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    usage = namedtuple("usage", "total used free")
    free = iter([10**9, 10**9, 20_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, next(free)))
    monkeypatch.setattr("dermseg.data.transfer.STRETCH", 100_000)
    server.script[FILE] = [Answer(chunked=chunked)]
    assert f" GB in {fetch.part.parent}, where 2e-05 GB are free; make room" in fetch.fails(InputError)
    assert 200_000 <= fetch.part.stat().st_size <= 200_000 + 2 * PIECE  # to go on with once there is room


def test_a_silent_server_is_given_up(server: FileServer, fetch: Fetcher) -> None:
    server.script[FILE] = [Answer(delay=0.6)] * 2
    begun = time.monotonic()
    message = fetch.fails(patience=Patience(attempts=2, pause=0, timeout=0.2))
    assert message == "file.zip: the server does not answer, 2 times in a row"
    assert time.monotonic() - begun < 3


def test_no_server_at_all(fetch: Fetcher) -> None:
    message = fetch.fails(url="http://127.0.0.1:9/file.zip", patience=Patience(attempts=1))
    assert message == "file.zip: there is no connection to the server, once"


def test_redirects_in_a_circle_end(server: FileServer, fetch: Fetcher) -> None:
    server.script["/circle"] = [Answer(302, {"Location": "/circle"}, b"")] * 99
    assert fetch.fails(url=server.address + "/circle") == "file.zip: the server sends on more than 10 times"
    assert len(server.log) == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file.zip", "data:,text", "FILE:/etc/passwd"])
def test_redirects_lead_to_the_web_alone(server: FileServer, fetch: Fetcher, target: str) -> None:
    server.script["/moved"] = [Answer(302, {"Location": target}, b"")]
    message = fetch.fails(url=server.address + "/moved")
    assert message.startswith(f"the server sends on from http to {target.partition(':')[0].lower()}:")
    assert len(server.log) == 1


@pytest.mark.parametrize(
    ("origin", "target", "followed"),
    [
        ("https", "http://data.invalid/b", False),
        ("https", "//data.invalid/b", True),
        ("https", "/b", True),
        ("https", "https://data.invalid/b", True),
        ("http", "https://data.invalid/b", True),
        ("http", "http://data.invalid/b", True),
    ],
)
def test_what_is_encrypted_stays_so(origin: str, target: str, followed: bool) -> None:
    response = requests.Response()
    response.raw = io.BytesIO()
    response.status_code, response.url = 302, f"{origin}://data.invalid/a"
    response.headers["Location"] = target
    with _Session() as session:
        if followed:
            assert session.get_redirect_target(response) == target
        else:
            with pytest.raises(DataError, match="from https to http:, which is not followed"):
                session.get_redirect_target(response)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "http://[", "nothing"])
def test_what_is_no_address_fails_at_once(fetch: Fetcher, url: str) -> None:
    assert fetch.fails(url=url).startswith("file.zip: ")


def test_a_check_that_fails_drops_the_part(server: FileServer, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise DataError(f"{path.name} is not it")

    downloader = ResumingDownloader(tmp_path / "file.zip.part", QUICK, lambda *_: None, lambda _: None, refuse)
    with pytest.raises(DataError, match=r"^file.zip.part is not it$"):
        downloader(server.address + FILE, tmp_path / "file.zip", None)
    assert list(tmp_path.iterdir()) == []


def test_the_state_beside_a_part_says_what_it_is_of(server: FileServer, fetch: Fetcher) -> None:
    fetch()
    state = json.loads(fetch.part.with_name("file.zip.part.json").read_text())
    etag = server.mark(CONTENT)["ETag"]
    assert state == {"url": server.address + FILE, "validator": etag, "total": len(CONTENT)}
