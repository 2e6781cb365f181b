"""Settings of the whole suite."""

from hypothesis import settings

# On a busy machine an example may take any time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
