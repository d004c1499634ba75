"""The page, served by the real command: real uploads, its outputs, and what it must refuse."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from made import a_result
from networks import SPECS, a_classifier, music
from shared import GENRES, RATE, free_port

from genre_cls import GenreClassifier, Prediction, __main__, app
from genre_cls.app import Controller
from genre_cls.errors import UserError
from genre_cls.extras import how_to_install

gradio_client = pytest.importorskip("gradio_client")

Refusal = Callable[[Path], str]


@dataclass(frozen=True)
class Page:
    """A running page."""

    port: int
    folder: Path
    classifier: GenreClassifier
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def kept(self) -> list[Path]:
        """Files kept from uploads."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def get(self, path: str, **headers: str) -> Any:
        return urlopen(Request(self.address + path, headers=headers), timeout=30)

    def asked_for(self, **file: str) -> bytes:
        """The answer to a request to classify a file that was not uploaded."""
        body = json.dumps({"data": [file | {"meta": {"_type": "gradio.FileData"}}]}).encode()
        request = Request(self.address + "gradio_api/call/classify", body, {"Content-Type": "application/json"})
        event = json.load(urlopen(request, timeout=30))["event_id"]
        return bytes(self.get(f"gradio_api/call/classify/{event}").read())


@pytest.fixture(scope="module")
def page(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page as a user opens it, on the best of the small configurations; it must leave nothing behind."""
    folder, log = tmp_path_factory.mktemp("uploads"), tmp_path_factory.mktemp("log") / "log.txt"
    port, store = free_port(), trained.folder / "mlruns"
    surroundings = {"TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"}  # a proxy that does not know the page
    with log.open("wb") as out, subprocess.Popen(
        [sys.executable, "-m", "genre_cls", "app", "--tracking", str(store), "--port", str(port)],
        cwd=trained.folder, env=os.environ | surroundings, stdout=out, stderr=out,
    ) as process:  # fmt: skip
        while b"open http" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield Page(port, folder, GenreClassifier.load(tracking=store), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0 and not list(folder.iterdir())


STUB = (
    "import sys\nfrom types import ModuleType\nfrom genre_cls import app\n"
    "sys.modules['gradio'] = ModuleType('gradio')\n"
    "app._check_address = app._controller = app._page = lambda *_, **__: None\n"
    "app._launch, app.FORGET = lambda *_: 'http://here', 0.2\n"
    "app.main()"
)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command's process with a page of nothing, whose temporary folder is in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", STUB], env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as shells do for background jobs
    ) as process:  # fmt: skip
        try:
            assert process.stderr and process.stderr.readline() == "open http://here (Ctrl-C ends it)\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_page_and_remove_its_folder(
    number: signal.Signals, stub: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert list(tmp_path.iterdir()) and stub.stderr
    stub.send_signal(number)
    assert stub.wait(60) == 0 and stub.stderr.read() == "" and not list(tmp_path.iterdir())


def test_while_the_page_is_served_old_parts_of_uploads_are_deleted(stub: subprocess.Popen[str], tmp_path: Path) -> None:
    (folder,) = tmp_path.iterdir()
    for _ in range(2):
        new, part = folder / "new", folder / "tmpname"
        new.touch()
        os.utime(new, (0, 0))
        new.rename(part)
        while part.exists():
            assert stub.poll() is None
            time.sleep(0.05)


@pytest.fixture(scope="module")
def client(page: Page) -> Any:
    return gradio_client.Client(page.address, verbose=False)


@pytest.fixture
def classify(client: Any) -> Callable[[Path], Any]:
    """The outputs for an upload: genres, genres over time, similar tracks, first clip, genre, evidence."""
    return lambda path: client.predict(gradio_client.handle_file(str(path)), api_name="/classify")


@pytest.fixture
def refusal(classify: Callable[[Path], Any]) -> Refusal:
    """Why the page refuses an upload."""

    def why(path: Path) -> str:
        with pytest.raises(gradio_client.exceptions.AppError) as error:
            classify(path)
        return str(error.value)

    return why


def noise(path: Path, seconds: float = 2, rate: int = RATE) -> Path:
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.2, round(seconds * rate)), rate)
    return path


def test_an_upload_is_ranked_as_by_the_classifier(page: Page, classify: Callable[[Path], Any], tmp_path: Path) -> None:
    for path in (noise(tmp_path / "a.wav"), music(tmp_path / "b.ogg", 5)):
        genres, *_ = classify(path)
        shown = [(one["label"], one["confidence"]) for one in genres["confidences"]]
        assert [genre for genre, _ in shown] == [genre for genre, _ in page.classifier.predict(path).ranked]
        np.testing.assert_allclose([p for _, p in shown], [p for _, p in page.classifier.predict(path).ranked])


def test_an_upload_is_shown_with_its_genres_over_time_and_similar_tracks(
    classify: Callable[[Path], Any], tmp_path: Path
) -> None:
    genres, over_time, similar, clip, genre, evidence = classify(noise(tmp_path / "a.wav"))
    assert genre == genres["label"] == GENRES[0] and evidence is None
    assert all(picture["plot"].startswith("data:image/") for picture in (over_time, clip))
    assert similar["headers"] == app.COLUMNS and len(similar["data"]) == app.N_SIMILAR
    shares = [int(row[0].removesuffix(" %")) for row in similar["data"]]
    assert shares == sorted(shares, reverse=True) and shares[0] > 50
    nearest = similar["data"][:3]
    assert {track.split("/")[0] for _, track, *_ in nearest} == {row[2] for row in nearest} == {GENRES[0]}


@pytest.mark.parametrize(
    ("n", "dataset", "sentence"),
    [
        (4, "my music", "It is classified by 4 models trained on my music. "),
        (1, "demo", "It is classified by 1 model trained on the synthetic demo set only, never on real music. "),
        (20, "gtzan", "It is classified by 20 models trained on gtzan. "),
    ],
)
def test_the_page_names_the_number_of_models_and_their_dataset(n: int, dataset: str, sentence: str) -> None:
    controller = SimpleNamespace(classifier=SimpleNamespace(n_networks=n, dataset=dataset))
    text = app._introduction(cast(Controller, controller))
    assert sentence in text and text.endswith("the file is deleted once classified.")


def test_the_evidence_for_a_genre_is_plotted_on_request(client: Any, classify: Any, tmp_path: Path) -> None:
    classify(noise(tmp_path / "a.wav", 0.6))
    assert client.predict(GENRES[1], api_name="/explain")["plot"].startswith("data:image/")


def test_an_upload_that_cannot_be_classified_is_reported_and_the_page_keeps_running(
    page: Page, classify: Any, refusal: Refusal, tmp_path: Path
) -> None:
    (tmp_path / "diary.wav").write_text("Dear diary")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "long.flac", np.zeros(16 * 60 * 1000), 1000)
    (tmp_path / "empty.mp3").touch()
    assert refusal(tmp_path / "diary.wav") == "diary.wav: Format not recognised"
    assert refusal(tmp_path / "silent.wav") == "silent.wav: is silent"
    assert refusal(tmp_path / "long.flac").startswith(
        "long.flac: lasts 16.0 min, more than the 15 min that the page takes"
    )
    assert refusal(noise(tmp_path / "short.wav", 0.1)).startswith("short.wav: lasts less than the 0.5 s")
    assert refusal(tmp_path / "empty.mp3") == "empty.mp3: is an empty file"
    assert classify(noise(tmp_path / "a.wav"))[0]["label"] == GENRES[0]
    assert "Traceback" not in page.log.read_text()


def test_an_upload_that_is_too_large_is_cut_off(page: Page) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        size = len(head) + (app.LARGEST + 50) * 10**6
        connection.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
            + head
        )
        block = bytes(10**6)
        try:
            for _ in range(app.LARGEST + 50):
                connection.sendall(block)
        except (BrokenPipeError, ConnectionResetError):  # it does not wait for the rest
            return
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413") and b"exceeded maximum allowed size" in answer


def test_an_upload_that_breaks_off_is_no_error_and_forgotten(page: Page) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    before = set(page.kept)
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + bytes(10**5)
        )
        while not (parts := set(page.kept) - before):
            time.sleep(0.1)
    page.get("").close()  # which comes after the end of the upload
    (part,) = parts
    app._forget_broken_off(part.parent)
    assert part.exists() and "Traceback" not in page.log.read_text()
    os.utime(part, (0, 0))
    app._forget_broken_off(part.parent)
    assert set(page.kept) == before


def test_uploads_are_deleted_once_classified(page: Page, classify: Any, refusal: Refusal, tmp_path: Path) -> None:
    classify(noise(tmp_path / "a.wav"))
    (tmp_path / "diary.wav").write_text("Dear diary")
    refusal(tmp_path / "diary.wav")
    assert page.kept == []


def test_a_file_that_was_not_uploaded_is_neither_read_nor_deleted(page: Page, tmp_path: Path) -> None:
    own = noise(tmp_path / "own.wav")
    answer = page.asked_for(path=str(own))
    assert answer.startswith(b"event: error") and b"confidence" not in answer and own.exists()


@pytest.mark.parametrize("address", ["https://192.0.2.1/a.wav", "http://localhost/a.wav"])
def test_an_address_instead_of_an_upload_is_not_requested(page: Page, address: str) -> None:
    answer = page.asked_for(path=address, url=address)
    assert answer.startswith(b"event: error") and b"only uploads are classified, no addresses" in answer


def test_names_of_files_are_escaped_in_html(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "<img src=x onerror=alert(1)>.wav").touch()
    assert "<" not in refusal(tmp_path / "<img src=x onerror=alert(1)>.wav")
    (tmp_path / "a & b.wav").touch()
    with pytest.raises(UserError, match=r"^<b>\.wav: was uploaded twice, and deleted when "):
        Controller(a_classifier(SPECS["another rate"]), "nowhere").classify(str(tmp_path / "<b>.wav"))


def test_only_this_machine_is_served_and_only_by_its_own_name(page: Page) -> None:
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", page.port), timeout=5):
        pass
    with pytest.raises(HTTPError, match="400"):
        page.get("", Host="elsewhere.example")


def test_cross_site_requests_are_refused(page: Page) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
    upload = Request(page.address + "gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
    upload.add_header("Sec-Fetch-Site", "cross-site")
    before = page.kept
    with pytest.raises(HTTPError, match="403") as refusal:
        urlopen(upload, timeout=30)
    assert page.kept == before and refusal.value.headers["Content-Security-Policy"] == app.POLICY


def test_the_page_requests_nothing_from_other_machines(page: Page) -> None:
    with page.get("") as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert policy == app.POLICY and "http" not in policy
    with page.get("theme.css") as answer:
        text += answer.read().decode()
    asked = re.findall(r"<script[^>]*\bsrc=[\"']([^\"']*)|<link[^>]*\bhref=[\"']([^\"']*)|url\(([^)]*)", text)
    assert asked and not [one for one in map("".join, asked) if re.match(r"[\"']?(https?:)?//", one)]


def test_the_newest_report_is_shown_in_a_frame_that_runs_no_scripts(client: Any) -> None:
    shown = client.predict(api_name="/results")
    assert shown.startswith("<iframe sandbox ") and "Which features and which CNN" in shown
    assert "<script" not in shown and "<table" not in shown  # all of it is in the attribute


def test_without_a_report_or_tracks_the_page_says_so(tmp_path: Path) -> None:
    controller = Controller(a_classifier(SPECS["another rate"]), str(tmp_path / "<no> store"))
    shown = controller.results()
    assert "No report in " in shown and "<no>" not in shown and not list(tmp_path.iterdir())
    upload = noise(tmp_path / "a.wav")
    assert controller.classify(str(upload))[2] == [] and not upload.exists()
    with pytest.raises(UserError, match="no file was uploaded"):
        controller.classify(None)
    with pytest.raises(UserError, match="nothing to explain"):
        controller.explain(None, "else")


def test_a_file_that_begins_with_a_minute_of_silence_is_classified_without_a_picture(tmp_path: Path) -> None:
    sound = np.append(np.zeros(60 * 8000), np.random.default_rng(0).normal(0, 0.2, 60 * 8000))
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    controller = Controller(a_classifier(SPECS["another rate"]), "")
    probabilities, _, _, figure, kept, _, _ = controller.classify(str(tmp_path / "a.wav"))
    assert sum(probabilities.values()) == pytest.approx(1) and figure is kept is None


@pytest.mark.parametrize(("before", "after"), [("", "host"), ("a,.b", "a,.b,host"), ("*", "*")])
def test_hosts_are_reached_without_a_proxy_as_those_before(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", before)
    monkeypatch.delenv("NO_PROXY", raising=False)
    app._spare_from_proxies("host")
    assert os.environ["no_proxy"] == after


def test_what_makes_a_prediction_doubtful_is_shown_beside_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.2, 8000), 2000)
    with pytest.warns(UserWarning, match="^a.wav: .* this is a guess"):  # as Gradio does where no page has asked
        Controller(a_classifier(SPECS["another rate"]), "").classify(str(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "0"), "--port: 0: must be a whole number from 1 to 65535"),
        (("--port", "high"), "--port: high: must be a whole number"),
        (("song.mp3",), "unrecognized arguments: song.mp3"),
        (("--host", "no.such.host.invalid"), "no.such.host.invalid:7860: "),
        (("--host", ""), "--host: an empty name"),
        (("--host", "::1"), "--host ::1: must be a name or an IPv4 address"),
        (("--model", "a.onnx"), "an .onnx file cannot be explained"),
        ((), "tracking mlruns: no store of runs there"),
        (("--model", "worst"), "model worst: no such file"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    for name in app.TEMPORARY:
        monkeypatch.setenv(name, "")  # put back at the end
    done = command(__main__.main, "app", *arguments)
    assert reason in done.mistake and not list(done.folder.iterdir())


def test_a_port_that_is_taken_is_reported_at_once(command: Callable[..., Any], page: Page) -> None:
    mistake = command(app.main, "--port", str(page.port)).mistake
    assert mistake == f"error: 127.0.0.1:{page.port}: address already in use; choose another --port or --host"


def test_without_the_extra_the_command_says_how_to_get_it(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in app.TEMPORARY:
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert f"gradio is not installed; {how_to_install('app')} installs it" in command(app.main).mistake


def test_a_file_named_app_can_still_be_classified(command: Callable[..., Any]) -> None:
    Path("app").touch()
    assert command(__main__.main, "./app").mistake.startswith("error: tracking mlruns: no store of runs")


def test_help_is_quick(quick_help: Callable[[str], str]) -> None:
    assert "--port N" in quick_help("genre_cls.app")


@pytest.mark.slow
def test_in_a_browser_a_dropped_file_is_classified_and_explained(page: Page, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = (next(filter(None, map(shutil.which, names)), None) for names in BROWSERS)
    if not (chromium and driver):
        pytest.skip("no Chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        browser.get(page.address)
        seen(browser, "input[type=file]")[0].send_keys(str(noise(tmp_path / "a.wav", 4)))
        seen(browser, "img[src^='data:image']", 2)
        read(browser, "[data-testid=label-output-value]", GENRES[0])
        next(button for button in seen(browser, "button") if "Show the evidence" in button.text).click()
        seen(browser, "img[src^='data:image']", 3)
        (tmp_path / "diary.wav").write_text("Dear diary")
        seen(browser, "[aria-label=Clear]")[0].click()
        seen(browser, "input[type=file]")[0].send_keys(str(tmp_path / "diary.wav"))
        read(browser, "[data-testid=toast-body]", "diary.wav: Format not recognised")
        seen(browser, "button[role=tab]", 2)[1].click()
        browser.switch_to.frame(seen(browser, "iframe[sandbox]")[0])
        read(browser, "h1", "Which features and which CNN")
        asked = {message["params"]["request"]["url"] for message in messages(browser) if "request" in message["params"]}
        assert asked and all(url.startswith((page.address, "data:", "blob:")) for url in asked)
        assert page.kept == []
    finally:
        browser.quit()


BROWSERS = (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))


def seen(browser: Any, what: str, n: int = 1) -> list[Any]:
    """The elements of a kind, once so many are there."""
    return awaited(browser, lambda: list(browser.find_elements("css selector", what)), n)


def read(browser: Any, what: str, text: str) -> None:
    """Wait until an element of a kind says so."""
    awaited(browser, lambda: [one for one in browser.find_elements("css selector", what) if text in one.text], 1)


def awaited(browser: Any, find: Callable[[], list[Any]], n: int) -> list[Any]:
    for _ in range(600):
        if len(found := find()) >= n:
            return found
        time.sleep(0.1)
    raise AssertionError(f"never came; there was: {browser.find_element('css selector', 'body').text}")


def messages(browser: Any) -> list[Any]:
    return [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]


def rows_of(controller: Controller, probabilities: np.ndarray) -> list[list[str]]:
    """The page's table of all tracks for a file with these probabilities."""
    places = np.arange(1.0)
    prediction = Prediction(controller.classifier.genres, 1.0, places, places + 1, probabilities[None])
    with mock.patch.object(app, "N_SIMILAR", 99):
        return controller._similar(prediction)


def controller_of(*arguments: Any) -> Controller:
    return Controller(mock.Mock(genres=("blues", "rock")), "", *arguments)


def test_the_page_compares_with_each_held_out_track_once_and_shows_its_genre_and_artist() -> None:
    folds = a_result(0.8, 0.6).folds
    controller = controller_of(folds, {folds[1].track_ids[3]: {"artist": "Bessie Smith"}})
    rows = {track: (genre, artist) for _, track, genre, artist in rows_of(controller, np.array([0.1, 0.9]))}
    assert rows.keys() == {*folds[0].track_ids, *folds[1].track_ids} and len(controller.tracks.track_ids) == 40
    assert [rows[track][0] for track in folds[0].track_ids] == ["blues"] * 10 + ["rock"] * 10
    assert {track: artist for track, (_, artist) in rows.items() if artist} == {folds[1].track_ids[3]: "Bessie Smith"}
    first = [controller.tracks.track_ids.index(track) for track in folds[0].track_ids]
    np.testing.assert_array_equal(controller.tracks.probabilities[first], folds[0].probabilities)


def test_the_page_shows_similarity_in_per_cent_the_most_similar_first() -> None:
    (fold,) = a_result(0.8).folds
    rows = rows_of(controller_of((fold,)), fold.probabilities[0])
    shares = [int(row[0].removesuffix(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True) and shares[0] == 100
    assert rows[0][1] == fold.track_ids[0]
