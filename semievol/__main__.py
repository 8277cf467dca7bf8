"""`python -m semievol`."""

from semievol.cli import main

if __name__ == "__main__":
    main()
