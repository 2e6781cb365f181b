"""hdet inside other frameworks: one file each, which imports its framework at its top.

Nothing here is imported by the rest of the library, so `import hdet` needs torch alone.
"""
