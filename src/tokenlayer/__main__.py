"""`python -m tokenlayer`: the same as the `tokenlayer` command."""

from tokenlayer.app.cli import main

if __name__ == "__main__":
    main()
