"""The pictures of docs/concepts/, one for each method, computed by the library itself."""
