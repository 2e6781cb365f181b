"""`python -m hdet`, for `torchrun ... -m python -m benchmarks compare ...`."""

from .cli import main

if __name__ == "__main__":
    main()
