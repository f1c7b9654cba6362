"""`python -m optevolve` is `optevolve`."""

from optevolve.cli import main

if __name__ == "__main__":
    main()
