"""`hdet bilevel`: one run of a bilevel method on a problem of the paper's kinds."""
