"""The command: `genre-cls app` opens a page, on this machine alone, that names the genres of what is dropped on it.

The page asks no other machine for anything, and what is dropped on it is deleted as soon as it has been kept.
"""

import html
import os
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

from genre_cls.commands import OneLineParser, one_line_errors
from genre_cls.errors import UserError, in_one_line, system_reason, without_credentials
from genre_cls.extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genre_cls.classifier import GenreClassifier
    from genre_cls.prediction import Clip, Prediction
    from genre_cls.similarity import Library

LARGEST = 200  # MB, of an upload: a quarter of an hour of a CD's samples are 159
LONGEST = 15.0  # min, of an upload
WAITING = 8  # uploads that may wait for their turn; one is heard at a time
VISITS = 16  # whose last clips are kept in memory, some 6 MB each at the default rate and window
FORGET = 600  # s, after which an unused upload is deleted; a clip that was heard is kept six times as long
N_SIMILAR = 8  # tracks
COLUMNS = ["similarity", "track", "genre", "artist"]
FONTS = ("system-ui", "sans-serif")
# No browser may ask another machine for anything on the page's behalf.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; frame-ancestors 'self'"
LOOPBACK = ("127.0.0.1", "localhost")
SIMILARITY = (
    "Similarity of predicted probabilities: 100 % means the same probability for every genre, however different the "
    "sound. Each track's predictions are by networks that were not trained on it."
)
NO_LIBRARY = "A model file keeps no tracks to compare with; open the page with `--model best` or the id of a run."


def main() -> None:
    """Serve the page until Ctrl-C; the exit code is 2 if the command is wrong."""
    with one_line_errors():
        _serve(_parser().parse_args())


def _serve(arguments: Namespace) -> None:
    """Serve what the arguments ask for; uploads are in a folder that goes when this ends."""
    _check_place(arguments.host, arguments.port)
    with TemporaryDirectory(prefix="genre_cls-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        with needs("app"):
            import gradio  # noqa: F401  # told before a model is loaded for nothing
        page = _page(_controller(arguments.model, arguments.tracking, trust=arguments.trust))
        address = _launch(page, arguments.host, arguments.port)
        with _until_ended() as ended:
            print(f"open {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            ended.wait()  # the server ends with the process; to close it would wait for every open page


def _check_place(host: str, port: int) -> None:
    """Refuse an address that cannot be had, before a model is loaded for nothing."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = system_reason(error).partition(" (")[0]
        raise UserError(f"{host}:{port}: {reason}; choose another --port or --host") from error


@contextmanager
def _until_ended() -> Iterator[Event]:
    """An event that Ctrl-C or a polite kill brings about."""
    ended = Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _controller(model: str, tracking: str, *, trust: bool) -> "Controller":
    from genre_cls.prediction import is_onnx

    if is_onnx(model):
        raise UserError(f"model {model}: an .onnx file cannot be explained; name what it comes from")
    from genre_cls.classifier import GenreClassifier, run_of

    if not (run := run_of(model, tracking)):
        return Controller(GenreClassifier.load(model, trust=trust), None, tracking)
    from genre_cls.similarity import library

    runs, run_id = run
    return Controller(
        GenreClassifier.load(run_id, tracking=tracking, trust=trust), library(*runs.predictions_of(run_id)), tracking
    )


@dataclass(frozen=True, eq=False)
class KeptClip:
    """What is kept of an upload.

    Args:
        name: of the file.
        clip: its beginning.
    """

    name: str
    clip: "Clip"


@dataclass(frozen=True, eq=False)
class Controller:
    """What the page does with what is put on it.

    Args:
        classifier: that judges.
        library: tracks to compare with; None if the model keeps none.
        tracking: the tracking store, whose newest report is shown.
    """

    classifier: "GenreClassifier"
    library: "Library | None"
    tracking: str

    def classify(self, upload: str | None) -> tuple[Any, ...]:
        """Classify an upload and delete it.

        Args:
            upload: path of the file, in a folder of its own.

        Returns:
            Probabilities by genre; a picture of its genres over time; rows of tracks that it is like; a picture of its
            beginning; what is kept of it; its genre; no explanation, since what is drawn is of the last upload.

        Raises:
            UserError: it cannot be judged; the message names the file.
        """
        if not upload:
            raise UserError("no file has come; drop one, or record something")
        path = Path(upload)
        try:
            prediction, kept = self._classify(path)
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()
        from genre_cls import clip_plots

        over_time = clip_plots.genres_over_time(prediction, title="Genres over time")
        alike = self._similar(prediction)
        return dict(prediction.ranked), over_time, alike, _clip_figure(kept), kept, prediction.genre, None

    def _classify(self, path: Path) -> "tuple[Prediction, KeptClip | None]":
        """What is said of a file, and its beginning, if that is not silent."""
        from genre_cls.audio import UnreadableAudio, duration

        name = in_one_line(path.name)
        try:
            if (minutes := duration(path) / 60) > LONGEST:
                raise UnreadableAudio(
                    f"lasts {minutes:.1f} min, more than the {LONGEST:g} min that the page takes; genre-cls takes more"
                )
            prediction = self.classifier.predict(path)
        except (UnreadableAudio, UserError) as error:
            raise UserError(f"{name}: {error}") from error
        with suppress(UnreadableAudio):
            return prediction, KeptClip(name, self.classifier.first_clip(path))
        return prediction, None

    def _similar(self, prediction: "Prediction") -> list[list[str]]:
        alike = self.library.most_similar(prediction.vote, N_SIMILAR) if self.library else []
        return [[f"{100 * one.similarity:.0f} %", one.track, one.genre, one.artist] for one in alike]

    def explain(self, kept: KeptClip | None, genre: str) -> "Figure":
        """Draw what speaks for a genre.

        Args:
            kept: what `classify` has kept.
            genre: to explain.

        Raises:
            UserError: nothing is kept.
        """
        if not kept:
            raise UserError("nothing to explain; drop a file that sounds from its beginning")
        from genre_cls import clip_plots

        said = self.classifier.explain_clip(kept.clip, genre)
        title = f"{kept.name}: evidence for {in_one_line(genre)}"
        return clip_plots.explanation(said, title=title, note=said.note)

    def results(self) -> str:
        """The newest report in a frame in which no script runs, or what is missing, as HTML.

        Raises:
            UserError: the store fails.
        """
        from genre_cls.database import is_store

        report = None
        if is_store(self.tracking):
            from genre_cls.stored_runs import StoredRuns

            runs = StoredRuns.at(self.tracking)
            with runs.failures_in_one_line():
                report = runs.report()
        if report is None:
            where = html.escape(without_credentials(in_one_line(self.tracking)))
            return f"<p>No report in {where}; <code>genre-cls-report</code> writes one.</p>"
        style = "width: 100%; height: 85vh; border: 0; background: white"
        return f'<iframe sandbox title="report" style="{style}" srcdoc="{html.escape(report)}"></iframe>'


def _clip_figure(kept: KeptClip | None) -> "Figure | None":
    from genre_cls import clip_plots

    if not kept:
        return None
    return clip_plots.clip(kept.clip, title=kept.name, note=f"The first {kept.clip.seconds:.0f} s.")


def _page(controller: Controller) -> Any:
    """The page: one tab for uploads, one for the grid's results."""
    import gradio as gr

    with gr.Blocks(title="genre_cls", analytics_enabled=False, delete_cache=(FORGET, FORGET)) as page:
        with gr.Tab("Your music"):
            _music(gr, controller)
        with gr.Tab("Results of the grid") as tab:
            report = gr.HTML()
        tab.select(partial(_errors_shown, controller.results), outputs=report, api_name="results")
    return page


def _music(gr: Any, controller: Controller) -> None:
    """Where a file is dropped, and what is said of it."""
    gr.Markdown(_introduction(controller))
    with gr.Row():
        upload = gr.Audio(type="filepath", label=f"up to {LONGEST:g} min and {LARGEST} MB", editable=False, buttons=[])
        genres = gr.Label(label="genres")
    over_time = gr.Plot(show_label=False)
    alike = gr.Dataframe(
        headers=COLUMNS, label="most similar tracks", interactive=False, visible=controller.library is not None
    )
    gr.Markdown(SIMILARITY if controller.library else NO_LIBRARY)
    sound, kept = gr.Plot(show_label=False), gr.State(time_to_live=6 * FORGET)
    with gr.Row(equal_height=True):
        genre = gr.Dropdown(list(controller.classifier.genres), label="genre to explain")
        button = gr.Button(
            f"Show the evidence (takes some seconds for each of {controller.classifier.n_networks} models)"
        )
    why = gr.Plot(show_label=False)
    classify, explain = partial(_errors_shown, controller.classify), partial(_errors_shown, controller.explain)
    shown = [genres, over_time, alike, sound, kept, genre, why]
    in_turn = {"concurrency_limit": 1, "concurrency_id": "networks"}
    gr.on([upload.upload, upload.stop_recording], classify, upload, shown, api_name="classify", **in_turn)
    button.click(explain, [kept, genre], why, api_name="explain", **in_turn)


def _introduction(controller: Controller) -> str:
    n, data = controller.classifier.n_networks, in_one_line(controller.classifier.dataset)
    if data == "demo":
        data = "the synthetic demo set only, never on real music"
    who, were = (f"{_number(n)} models classify it. They", "were") if n > 1 else ("One model classifies it. It", "was")
    return (
        f"Drop an audio file or record something. {who} {were} trained on {data}. Nothing leaves this machine; the "
        "file is deleted once classified."
    )


def _number(n: int) -> str:
    """As it begins a sentence."""
    words = ("Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
    return words[n - 2] if 2 <= n <= 12 else str(n)


def _errors_shown(action: Callable[..., Any], *arguments: Any) -> Any:
    """Do something; what goes wrong by a user's doing is shown in the page."""
    from gradio import Error

    try:
        return action(*arguments)
    except UserError as error:
        raise Error(html.escape(str(error)), duration=None, print_exception=False) from error


def _launch(page: Any, host: str, port: int) -> str:
    """Serve the page and give its address."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guards = [Middleware(_Fence)]
    if host in LOOPBACK:  # no page from elsewhere that gives this address a name of its own gets in
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    theme = gr.themes.Default(font=FONTS, font_mono=("monospace",))
    _, address, _ = page.queue(max_size=WAITING).launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, show_error=False, share=False,
        max_file_size=LARGEST * 10**6, state_session_capacity=VISITS, ssr_mode=False, footer_links=[], theme=theme,
        app_kwargs={"middleware": guards},
    )  # fmt: skip
    return str(address)


class _Fence:
    """Sends the policy with every answer, and takes nothing that another site's page would have a browser send."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def fenced(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        foreign = (b"sec-fetch-site", b"cross-site") in scope.get("headers", ())
        if foreign and scope.get("method") == "POST":
            from starlette.responses import PlainTextResponse

            await PlainTextResponse("not from here", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, fenced)


def _parser() -> ArgumentParser:
    parser = OneLineParser(prog="genre-cls app", description="Opens a page that names the genres of your own music.")
    take = parser.add_argument
    parser.add_model("as genre_cls.predict takes it, but no .onnx file (default: best)")
    take("--host", default=LOOPBACK[0], metavar="ADDRESS", help="to listen on (default: this machine only)")
    take("--port", type=_port, default=7860, metavar="N", help="default: 7860")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise ArgumentTypeError(f"{text}: must be a whole number from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    main()
