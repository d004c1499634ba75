"""The command `genre-cls app`: a page, served on this machine alone, that classifies the files dropped on it.

The page requests nothing from other machines, and deletes an upload as soon as it is classified.
"""

import html
import os
import signal
import socket
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from genre_cls.configuration.arguments import OneLineParser, nonempty, whole_number
from genre_cls.configuration.commands import as_command, find_modules_here
from genre_cls.configuration.settings import Number
from genre_cls.errors import UserError, in_one_line, system_reason, without_credentials
from genre_cls.extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genre_cls.evaluation.predictions import FoldResult, TrackPredictions
    from genre_cls.inference.classifier import GenreClassifier
    from genre_cls.inference.prediction import Clip, Prediction

LARGEST = 200  # MB of an upload; 15 min of CD audio are 159 MB
LONGEST = 15.0  # min of an upload
WAITING = 8  # uploads in the queue; one is classified at a time
VISITS = 16  # sessions whose last clip is kept in memory, some 6 MB each at the default rate and window
FORGET = 600  # s until an unused upload is deleted; the clip of one that was classified is kept six times as long
N_SIMILAR = 8  # tracks
COLUMNS = ["similarity", "track", "genre", "artist"]
TEMPORARY = ("GRADIO_TEMP_DIR", "TORCHINDUCTOR_CACHE_DIR")  # what is left in these folders goes with the page
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
    with as_command():
        _serve(_parser().parse_args())


def _serve(arguments: Namespace) -> None:
    """Serve the page; uploads are in a temporary folder."""
    _check_address(arguments.host, arguments.port)
    with TemporaryDirectory(prefix="genre_cls-") as folder:
        os.environ |= dict.fromkeys(TEMPORARY, folder)
        with needs("app"):
            import gradio  # noqa: F401  # so that it is reported before a model is loaded in vain
        controller = _controller(arguments.model, arguments.tracking, arguments.experiment, trust=arguments.trust)
        page = _page(controller)
        address = _launch(page, arguments.host, arguments.port)
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGTERM is heeded as in any command
            print(f"open {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            while True:  # the server ends with the process; closing it would wait for open pages
                time.sleep(FORGET)
                _forget_broken_off(Path(folder))
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # it has come, and need not break off the end


def _forget_broken_off(folder: Path) -> None:
    """Delete what is left of uploads that were broken off, since Gradio deletes whole ones only."""
    for part in folder.glob("tmp*"):
        with suppress(OSError):  # it is whole by now, and has been moved
            if part.is_file() and part.stat().st_mtime < time.time() - FORGET:
                part.unlink()


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be bound, before a model is loaded in vain."""
    if ":" in host:
        raise UserError(f"--host {host}: must be a name or an IPv4 address")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = system_reason(error).partition(" (")[0]
        raise UserError(f"{host}:{port}: {reason}; choose another --port or --host") from error


def _controller(model: str, tracking: str, experiment: str | None, *, trust: bool) -> "Controller":
    from genre_cls.inference.prediction import is_onnx

    if is_onnx(model):
        raise UserError(f"model {model}: an .onnx file cannot be explained; name what it comes from")
    from genre_cls.inference.classifier import GenreClassifier, run_of

    if trust:
        find_modules_here()
    if not (run := run_of(model, tracking, experiment)):
        return Controller(GenreClassifier.load(model, trust=trust), tracking)
    runs, run_id = run
    return Controller(GenreClassifier.of_run(runs, run_id, trust=trust), tracking, *runs.predictions_of(run_id))


@dataclass(frozen=True, eq=False)
class Controller:
    """The actions of the page.

    Args:
        classifier: classifies the uploads.
        tracking: the tracking store, whose newest report is shown.
        folds: held-out predictions for the tracks to compare uploads with; empty if the model keeps none.
        facts: what is known of each of these tracks by its id, such as `artist`.
    """

    classifier: "GenreClassifier"
    tracking: str
    folds: "tuple[FoldResult, ...]" = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def tracks(self) -> "TrackPredictions":
        """Mean predictions for each track of the folds."""
        from genre_cls.evaluation.scoring import ConfigResult

        return ConfigResult({}, self.folds, 0).tracks

    def classify(self, upload: str | None) -> tuple[Any, ...]:
        """Classify an upload and delete it.

        Args:
            upload: path of the file, in a folder of its own.

        Returns:
            Probabilities by genre; a figure of the genres over time; rows of similar tracks; a figure of the first
            clip; that clip; the genre; None, which clears the previous upload's explanation.

        Raises:
            UserError: it cannot be classified; the message names the file.
        """
        if not upload:
            raise UserError("no file was uploaded; drop one, or record something")
        path = Path(upload)
        if not path.exists():  # Gradio keeps uploads of equal content in one place
            raise UserError(
                f"{path.name}: was uploaded twice, and deleted when the first was classified; drop it again"
            )
        try:
            prediction, kept = self._classify(path)
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()
        import gradio

        from genre_cls.inference import clip_plots

        if prediction.note:  # named, as it stays when another file is dropped
            gradio.Warning(html.escape(f"{path.name}: {prediction.note}"), duration=None)
        over_time, similar = clip_plots.genres_over_time(prediction), self._similar(prediction)
        clip = clip_plots.clip(kept) if kept else None
        return dict(prediction.ranked), over_time, similar, clip, kept, prediction.genre, None

    def _classify(self, path: Path) -> "tuple[Prediction, Clip | None]":
        """The prediction for a file, and its first clip unless that is silent."""
        from genre_cls.tracks.audio import UnreadableAudio, header
        from genre_cls.tracks.listing import conversion

        try:
            if (minutes := header(path).seconds / 60) > LONGEST:
                raise UnreadableAudio(
                    f"lasts {minutes:.1f} min, more than the {LONGEST:g} min that the page takes; genre-cls takes more"
                )
            prediction = self.classifier.predict(path)
        except (UnreadableAudio, UserError) as error:
            raise UserError(f"{path.name}: {error}{conversion(path)}") from error
        with suppress(UnreadableAudio):
            return prediction, self.classifier.first_clip(path)
        return prediction, None

    def _similar(self, prediction: "Prediction") -> list[list[str]]:
        if not self.folds:
            return []
        similar = self.tracks.most_similar(prediction.vote, N_SIMILAR)
        return [[f"{100 * similarity:.0f} %", *self._track(index)] for index, similarity in similar]

    def _track(self, index: int) -> tuple[str, str, str]:
        """Id, true genre and artist (empty if unknown) of a track."""
        track, label = self.tracks.track_ids[index], self.tracks.labels[index]
        return track, self.classifier.genres[label], self.facts.get(track, {}).get("artist", "")

    def explain(self, kept: "Clip | None", genre: str) -> "Figure":
        """Plot the evidence for a genre.

        Args:
            kept: the clip from `classify`.
            genre: to explain.

        Raises:
            UserError: nothing is kept.
        """
        if not kept:
            raise UserError("nothing to explain; drop a file whose beginning is not silent")
        from genre_cls.inference import clip_plots

        return clip_plots.explanation(self.classifier.explain_clip(kept, genre))

    def results(self) -> str:
        """Return the newest report as HTML, in a frame that runs no scripts, or how to make one.

        Raises:
            UserError: the store fails.
        """
        from genre_cls.tracking.database import is_store

        report = None
        if is_store(self.tracking):
            from genre_cls.tracking.stored_runs import StoredRuns

            runs = StoredRuns.at(self.tracking)
            with runs.failures_in_one_line():
                report = runs.report()
        if report is None:
            where = html.escape(without_credentials(in_one_line(self.tracking)))
            return f"<p>No report in {where}; <code>python -m genre_cls.report</code> writes one.</p>"
        style = "width: 100%; height: 85vh; border: 0; background: white"
        return f'<iframe sandbox title="report" style="{style}" srcdoc="{html.escape(report)}"></iframe>'


def _page(controller: Controller) -> Any:
    """Build the page: one tab for uploads, one for the grid's results."""
    import gradio as gr

    with gr.Blocks(title="genre_cls", delete_cache=(FORGET, FORGET)) as page:
        with gr.Tab("Your music"):
            _music(gr, controller)
        with gr.Tab("Results of the grid") as tab:
            report = gr.HTML()
        tab.select(partial(_errors_shown, controller.results), outputs=report, api_name="results")
    return page


def _music(gr: Any, controller: Controller) -> None:
    """Build the tab for uploads."""
    gr.Markdown(_introduction(controller))
    with gr.Row():
        upload = gr.Audio(type="filepath", label=f"up to {LONGEST:g} min and {LARGEST} MB", editable=False, buttons=[])
        genres = gr.Label(label="genres")
    _refuse_addresses(gr, upload)
    over_time = gr.Plot(show_label=False)
    similar = gr.Dataframe(
        headers=COLUMNS, label="most similar tracks", interactive=False, visible=bool(controller.folds)
    )
    gr.Markdown(SIMILARITY if controller.folds else NO_LIBRARY)
    clip, kept = gr.Plot(show_label=False), gr.State(time_to_live=6 * FORGET)
    with gr.Row(equal_height=True):
        genre = gr.Dropdown(list(controller.classifier.genres), label="genre to explain")
        button = gr.Button(
            f"Show the evidence (takes some seconds for each of {controller.classifier.n_networks} models)"
        )
    explanation = gr.Plot(show_label=False)
    classify, explain = partial(_errors_shown, controller.classify), partial(_errors_shown, controller.explain)
    outputs = [genres, over_time, similar, clip, kept, genre, explanation]
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "networks"}
    gr.on([upload.upload, upload.stop_recording], classify, upload, outputs, api_name="classify", **one_at_a_time)
    button.click(explain, [kept, genre], explanation, api_name="explain", **one_at_a_time)


def _refuse_addresses(gr: Any, upload: Any) -> None:
    """Let an input take uploads alone: Gradio would fetch an address that a request names instead of a file."""
    move = upload.async_move_resource_to_block_cache

    async def move_unless_address(path: Any) -> Any:
        if "://" in str(path):
            raise gr.Error("only uploads are classified, no addresses", duration=None, print_exception=False)
        return await move(path)

    upload.async_move_resource_to_block_cache = move_unless_address


def _introduction(controller: Controller) -> str:
    n, data = controller.classifier.n_networks, in_one_line(controller.classifier.dataset)
    if data == "demo":
        data = "the synthetic demo set only, never on real music"
    return (
        f"Drop an audio file or record something. It is classified by {n} model{'s' if n > 1 else ''} trained on "
        f"{data}. Nothing leaves this machine; the file is deleted once classified."
    )


def _errors_shown(action: Callable[..., Any], *arguments: Any) -> Any:
    """Run an action; show users' mistakes on the page."""
    from gradio import Error

    try:
        return action(*arguments)
    except UserError as error:
        raise Error(html.escape(str(error)), duration=None, print_exception=False) from error


def _launch(page: Any, host: str, port: int) -> str:
    """Start serving the page and return its address."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(_SameSiteOnly)]
    if host in LOOPBACK:  # against DNS rebinding
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    _spare_from_proxies(*LOOPBACK, host)
    theme = gr.themes.Default(font=FONTS, font_mono=("monospace",))
    _, address, _ = page.queue(max_size=WAITING).launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, show_error=False, share=False,
        max_file_size=LARGEST * 10**6, state_session_capacity=VISITS, ssr_mode=False, footer_links=[], theme=theme,
        app_kwargs={"middleware": middleware},
    )  # fmt: skip
    return address


def _spare_from_proxies(*hosts: str) -> None:
    """Let this process reach hosts directly: Gradio asks the page whether it is there, which no proxy can tell."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if spared != "*":  # which spares all hosts, but none as one of several names
        os.environ["no_proxy"] = ",".join(filter(None, [spared, *hosts]))


class _SameSiteOnly:
    """Sends the policy with every response, and refuses POST requests that a browser sends for another site's page."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        from starlette.requests import ClientDisconnect
        from starlette.responses import PlainTextResponse

        is_cross_site = (b"sec-fetch-site", b"cross-site") in scope.get("headers", ())
        is_refused = is_cross_site and scope.get("method") == "POST"
        answer = PlainTextResponse("not from here", 403) if is_refused else self.app
        with suppress(ClientDisconnect):  # a page that is closed during an upload is no error
            await answer(scope, receive, send_with_policy)


def _parser() -> ArgumentParser:
    parser = OneLineParser(prog="genre-cls app", description="Opens a page that classifies your own music by genre.")
    take = parser.add_argument
    parser.add_model("as genre_cls.predict takes it, but no .onnx file (default: best)")
    take("--host", type=nonempty, default=LOOPBACK[0], metavar="ADDRESS", help="default: this machine only")
    take("--port", type=whole_number(Number(1, 65535, integer=True)), default=7860, metavar="N", help="default: 7860")
    return parser


if __name__ == "__main__":
    main()
