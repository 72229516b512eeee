"""`python -m jaxhand COMMAND …`, the same as `jaxhand COMMAND …`."""

from jaxhand.cli import main

if __name__ == "__main__":
    main()
