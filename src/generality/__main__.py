"""`python -m generality`."""

from generality.cli import main

if __name__ == "__main__":
    main()
