"""The console script: `genre-cls app` opens the page, `genre-cls song.mp3` classifies a file."""

import sys


def main() -> None:
    """Run the page or the command that predicts; a file or folder named `app` is `./app`."""
    if sys.argv[1:2] == ["app"]:
        from genre_cls import app

        del sys.argv[1]
        app.main()
    else:
        from genre_cls import predict

        predict.main()


if __name__ == "__main__":
    main()
