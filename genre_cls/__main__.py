"""The console script: `genre-cls app` opens the page, `genre-cls song.mp3` names genres."""

import sys


def main() -> None:
    """Run the command that is meant; a file or folder of the name `app` is `./app`."""
    if sys.argv[1:2] == ["app"]:
        from genre_cls import app

        del sys.argv[1]
        app.main()
    else:
        from genre_cls import predict

        predict.main()


if __name__ == "__main__":
    main()
