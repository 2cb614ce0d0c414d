"""`python -m cli` is `qanchor-cli`."""

from cli.app import main

if __name__ == "__main__":
    main()
