"""`python -m hdet`, for `torchrun ... -m hdet compare ...`."""

from .cli import main

if __name__ == "__main__":
    main()
